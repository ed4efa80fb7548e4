"""The small networks that read the image beside the diagnostic model, and how they are taught."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detectors.aligned import Aligned, Seed
from detectors.residual import Residual
from detectors.residual_network import (
    BATCH,
    CROP,
    EPOCHS,
    STEPS,
    ResidualNetwork,
    noise_like,
)
from detectors.samples import Floats, Measured, Pixels, Samples
from detectors.student import Student
from detectors.synthetic_gradient import SyntheticGradient, correlation
from detectors.witness import Witness
from models.diagnostic import DiagnosticModel
from models.preprocess import Preprocess
from models.spec import ModelSpec
from models.train import Recipe, augment

Taught = Callable[[str, int, int], None]
"""Told, while networks learn: which, how many of how many steps."""
QUALITIES = (95, 90, 75)
CHUNK = 32
NOISE = 3.0
"""Grey levels: most deviation of the noise on a view."""
VIEWS, EACH = 6000, 24
"""Views that the gradient is learnt from: at most so many, and so many of an image."""
SEEN_ANEW = Recipe(rotation=15.0, scale=0.15, shift=0.05, contrast=0.0, orientation="mirrored")
"""How they are turned, zoomed, moved and mirrored: a gradient can be had of any picture, and a few
hundred patients as they lie teach a network their own gradients alone (docs/evidence.md)."""
MOST_NUMBERS = 300_000_000
"""Of the images that the gradient is foretold from, at once in memory, and as many of gradients;
two bytes each."""


class SideNetworks(nn.Module):
    """The network's input ``float32[N, C, h, w]`` to ``witness_logits [N, K or 0]`` and
    ``residual [N, 1 or 0]``: empty where there is no such network. ``gradient`` waits for the
    network's answer (``detectors.feature_graph``)."""

    def __init__(
        self,
        student: Student | None = None,
        residual: ResidualNetwork | None = None,
        gradient: SyntheticGradient | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.residual = residual
        self.gradient = gradient

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        nothing = x[:, :0, 0, 0]
        return (
            nothing if self.student is None else self.student(x),
            nothing if self.residual is None else self.residual(x),
        )

    @property
    def present(self) -> bool:
        """Whether there is one that reads the input alone."""
        return self.student is not None or self.residual is not None

    def read(self, preprocess: Preprocess, images: Sequence[Pixels]) -> tuple[Floats, Floats]:
        """``forward`` of images of any sizes."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), CHUNK):
                parts.append(self(inputs_of(preprocess, images[start : start + CHUNK])))
        witness, residual = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        return witness, residual

    def complete(self, preprocess: Preprocess, samples: Samples, measured: Measured) -> Measured:
        """What the feature graph without these networks said, with what they say."""
        witness, residual = self.read(preprocess, samples.images)
        return replace(measured, witness_logits=witness, residual=residual)


def teach(
    names: Collection[str],
    spec: ModelSpec,
    benign: Sequence[tuple[Samples, Measured]],
    attacked: Sequence[Samples],
    seed: int,
    taught: Taught = lambda *_: None,
) -> SideNetworks:
    """The networks that the detectors ``names`` need and that learn from the model's answers.

    Args:
        benign: of the reference split, the clean images first, with the model's answers; then
            benign shifts of them, and any further images.
        attacked: made from the reference split, for the residual network alone.
    """
    preprocess = Preprocess(spec.preprocessing)
    channels, size = spec.preprocessing.channels, spec.preprocessing.size
    networks = SideNetworks()
    if Witness.name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = Student(channels, size, len(spec.classes))
        with torch.no_grad():
            views = torch.cat(
                [
                    student.smoothed(inputs_of(preprocess, samples.images[i : i + CHUNK]))
                    for samples, _ in benign
                    for i in range(0, len(samples), CHUNK)
                ]
            )
        answers = torch.from_numpy(np.concatenate([m.class_logits for _, m in benign]))
        student.teach(views, answers, preprocess, seed, partial(taught, "teaching the witness"))
        networks.student = student
    if Residual.name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            grey = preprocess.gain.expand(1, channels, 1, 1)
            residual = ResidualNetwork(channels, grey)
        material = _Material(preprocess, [samples for samples, _ in benign], attacked)
        told = partial(taught, "teaching the residual network")
        residual.teach(material.batch, seed, material.steps, told)
        networks.residual = residual
    return networks.eval()


def teach_gradient(
    model: DiagnosticModel,
    images: Sequence[Pixels],
    seed: int,
    taught: Taught = lambda *_: None,
) -> SyntheticGradient:
    """The network that foretells the model's gradient, from views of images that are not attacked,
    or fewer where these fill the memory: each turned, zoomed and moved a little,
    mirrored or not, and with noise, where an attack would have moved it to."""
    preprocess, head = model.preprocess, model.spec.head
    channels, size = model.spec.preprocessing.channels, model.spec.preprocessing.size
    fitting = max(CHUNK, MOST_NUMBERS // (2 * channels * size[0] * size[1]))
    views = min(VIEWS, EACH * len(images), fitting)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(images), (views,), generator=generator).tolist()
    aligned, answered = Aligned(preprocess.gain), Seed(head)
    grey = preprocess.gain.expand(1, channels, 1, 1)
    seen, seeds, steps = [], [], []
    for start in range(0, views, CHUNK):
        x = inputs_of(preprocess, [images[i] for i in drawn[start : start + CHUNK]])
        x = augment(x, SEEN_ANEW, generator)
        height = NOISE * torch.rand(len(x), 1, 1, 1, generator=generator)
        x = x + height * grey * torch.randn(x.shape, generator=generator)
        raw, gradient = gradient_of(model, x, answered)
        with torch.no_grad():
            seen.append(x.half())
            seeds.append(answered(raw))
            steps.append(aligned.step(gradient).half())
        taught("following the gradient", min(start + CHUNK, views), views)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SyntheticGradient(channels, model.spec.logits)
    x = torch.cat(seen)
    seen.clear()  # these are large
    pictures = torch.cat(steps)
    steps.clear()
    network.teach(x, torch.cat(seeds), pictures, seed, partial(taught, "teaching the gradient"))
    return network


def foresight(
    network: SyntheticGradient, model: DiagnosticModel, images: Sequence[Pixels]
) -> float:
    """How well the gradient is foretold on images that the network has not seen: the mean
    correlation of what it paints with a step along the model's own."""
    aligned, answered = Aligned(model.preprocess.gain), Seed(model.spec.head)
    found = []
    for start in range(0, len(images), CHUNK):
        x = inputs_of(model.preprocess, images[start : start + CHUNK])
        raw, gradient = gradient_of(model, x, answered)
        with torch.no_grad():
            found.append(correlation(network(x, answered(raw)), aligned.step(gradient)))
    return round(float(torch.cat(found).mean()), 3)


@torch.enable_grad()
def gradient_of(model: DiagnosticModel, x: Tensor, weights: Seed) -> tuple[Tensor, Tensor]:
    """Raw logits ``[N, L]`` at the network's inputs ``[N, C, h, w]``, and the gradient there of
    their sum with ``weights``. No gradients of either follow."""
    seen = x.detach().requires_grad_()
    raw, _ = model.activations(seen)
    (gradient,) = torch.autograd.grad(raw, seen, weights(raw.detach()))
    return raw.detach(), gradient


def followed(measured: Measured) -> float:
    """How well the student follows the model on images that it has not seen: the correlation of
    all their centred logits; 0 where one of them does not vary."""
    own, theirs = (
        (logits - logits.mean(axis=1, keepdims=True)).ravel()
        for logits in (measured.witness_logits, measured.class_logits)
    )
    if not (own.std() > 0 and theirs.std() > 0):
        return 0.0
    return round(float(np.corrcoef(own, theirs)[0, 1]), 3)


class _Material:
    """What the residual network is trained on. Half of a batch is attacked; of the other half two
    thirds are clean images with noise as large as the attacks, the rest benign shifts. A part of
    either half was saved as JPEG afterwards: files made on the way must not tell the halves apart.
    """

    def __init__(
        self, preprocess: Preprocess, benign: Sequence[Samples], attacked: Sequence[Samples]
    ) -> None:
        self._preprocess = preprocess
        self._clean = benign[0].images
        self._benign = [image for samples in benign for image in samples.images]
        self._attacked = [(image, s.level) for s in attacked for image in s.images if s.level >= 1]

    @property
    def steps(self) -> int:
        """How long to train on so much."""
        return min(STEPS, EPOCHS * -(-2 * len(self._attacked) // BATCH))

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        half = BATCH // 2

        def drawn(count: int) -> int:
            return int(torch.randint(0, count, (1,), generator=generator))

        images: list[Tensor] = []
        for i in range(BATCH):
            image, level = self._attacked[drawn(len(self._attacked))]
            again = drawn(5) == 0
            quality = QUALITIES[drawn(len(QUALITIES))]
            if i >= half:
                noisy = i % 3 != 0
                pool = self._clean if noisy else self._benign
                image = pool[drawn(len(pool))]
                if noisy:
                    moved = noise_like(
                        torch.tensor(image).permute(2, 0, 1)[None].float(), level, generator
                    )
                    image = moved[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
            images.append(self._input(_jpeg(image, quality) if again else image))
        side = [min(CROP, *(x.shape[axis] for x in images)) for axis in (2, 3)]
        crops = []
        for x in images:
            top, left = (drawn(x.shape[axis] - s + 1) for axis, s in zip((2, 3), side, strict=True))
            # the stride of network and filters meets windows at even places alone
            top, left = top - top % 2, left - left % 2
            crops.append(x[:, :, top : top + side[0], left : left + side[1]])
        wanted = (torch.arange(BATCH) < half).float()
        return torch.cat(crops), wanted

    def _input(self, image: Pixels) -> Tensor:
        return inputs_of(self._preprocess, [image])


def inputs_of(preprocess: Preprocess, images: Sequence[Pixels]) -> Tensor:
    """``float32[N, C, h, w]``: the network's input, without the work of resizing where there is
    none."""
    pixels = [torch.tensor(image)[None] for image in images]
    kept = [preprocess.keeps(*image.shape[1:3]) for image in pixels]
    with torch.no_grad():
        return torch.cat(
            [
                preprocess.unresized(image) if keeps else preprocess(image)
                for image, keeps in zip(pixels, kept, strict=True)
            ]
        )


def _jpeg(image: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    mode = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(mode).save(file, "JPEG", quality=quality)
    read: Pixels = np.asarray(Image.open(file))
    return read.reshape(image.shape)
