"""What a diagnostic model declares about itself: classes, head, preprocessing, taps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from models.imaging.rendering import RenderingPolicy


class Head(StrEnum):
    """How logits become probabilities.

    ``SOFTMAX`` has one logit per class (two classes and up). ``SIGMOID`` has one logit for
    two classes: its sigmoid is the probability of ``classes[1]``. ``MULTILABEL`` has one
    independent sigmoid per class.
    """

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    MULTILABEL = "multilabel"


Pixels = Annotated[int, Field(gt=0, le=4096)]
Arguments = dict[str, int | float | str | bool | list[int]]
"""What a network's factory is called with."""


class Preprocessing(BaseModel):
    """From decoded pixels, ``uint8[N, H, W, 1 or 3]``, to the network's ``float32[N, C, h, w]``.

    The steps, in order, all inside the graph: channels (gray is the mean over channels, RGB
    repeats a gray one); antialiased bilinear ``resize`` (a pair stretches to ``(height,
    width)``, one number scales the shorter side to it, ``None`` keeps the size); centre
    ``crop`` to ``(height, width)``; scaling ``(x / 255 - mean) / std`` per channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Literal[1, 3] = 1
    resize: tuple[Pixels, Pixels] | Pixels | None = (224, 224)
    crop: tuple[Pixels, Pixels] | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.25,)
    rendering: RenderingPolicy = RenderingPolicy()
    """How files are decoded for it, before the graph."""

    @model_serializer(mode="wrap")
    def _unsaid_is_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if self.rendering == RenderingPolicy():
            del written["rendering"]  # so that older declarations keep their text and digest
        return written

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(
                    f"{name} has {len(values)} values for {self.channels} channel(s); "
                    "give one value per channel"
                )
        if self.crop is None and not isinstance(self.resize, tuple):
            raise ValueError("the network needs a fixed size: give resize=(h, w) or crop=(h, w)")
        if self.crop is not None and self.resize is not None:
            sides = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
            if self.crop[0] > sides[0] or self.crop[1] > sides[1]:
                raise ValueError(f"crop {self.crop} is larger than the resized image {sides}")
        return self

    @model_validator(mode="after")
    def _enough_of_a_jpeg(self) -> Self:
        least = self.rendering.jpeg
        if least is None:
            return self
        if self.resize is None:
            raise ValueError("without a resize, a JPEG decoded to a smaller size would be cropped")
        wanted = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        if least[0] < wanted[0] or least[1] < wanted[1]:
            raise ValueError(
                f"rendering.jpeg {least} has fewer pixels than the model is shown, {wanted}"
            )
        return self

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the network's input."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)  # the validator above allows nothing else
        return self.resize


class ModelSpec(BaseModel):
    """The declaration that travels beside a model's weights as ``model.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")] = "1"
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=1000)]
    head: Head = Head.SOFTMAX
    preprocessing: Preprocessing = Preprocessing()
    taps: tuple[str, ...] | None = None
    """Module paths (torch) or activation names (ONNX) to tap; found automatically if None."""
    factory: str | None = None
    """``package.module:function`` that builds the network, called with ``arguments``."""
    arguments: Arguments = {}
    trained_on: tuple[str, ...] = ()
    """``models.datasets.group_digest`` of every patient or source the weights were trained on."""

    @model_validator(mode="after")
    def _head_fits_classes(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat; every class needs its own name")
        if self.head is Head.SIGMOID and len(self.classes) != 2:
            raise ValueError(f"a sigmoid head has two classes, not {len(self.classes)}")
        return self

    @property
    def logits(self) -> int:
        """Number of logits that the network returns."""
        return 1 if self.head is Head.SIGMOID else len(self.classes)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ``model.json``. Raises ``ValueError`` (pydantic's) when it does not fit."""
        return cls.model_validate_json(path.read_bytes())
