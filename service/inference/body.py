"""An inference over HTTP: JSON, with tensors in it or in binary behind it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.body import Source, Upload
from service.inference.images import (
    check_input,
    files_of,
    malformed,
    pixels_of,
    pixels_of_numbers,
)
from service.inference.outputs import Output, Parameter, check_names

HEADER_LENGTH = "Inference-Header-Content-Length"
LONGEST_TEXT = 128
_UNSUPPORTED = ("classification", "shared_memory_region", "sequence_id")

Name = Annotated[str, Field(max_length=LONGEST_TEXT)]
Parameters = dict[Name, Any]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class InputDocument(_Document):
    """One input tensor."""

    name: Name
    shape: Annotated[list[int], Field(max_length=16)]
    datatype: Name
    parameters: Parameters = {}
    data: list[Any] | None = None


class OutputDocument(_Document):
    """One requested output."""

    name: Name
    parameters: Parameters = {}


class RequestDocument(_Document):
    """``$inference_request``."""

    id: Name | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[InputDocument], Field(max_length=16)]
    outputs: Annotated[list[OutputDocument], Field(max_length=64)] = []


@dataclass(frozen=True, slots=True)
class Inference:
    """What is asked of a model."""

    id: str | None
    """The caller's, given back as it came."""
    images: list[Source]
    names: tuple[str, ...]
    """Outputs asked for; none means all."""
    seconds: float | None
    """How long the caller will wait."""
    binary: bool = False
    """Whether outputs are sent in binary unless they say otherwise."""
    binary_by_name: Mapping[str, bool] = field(default_factory=dict)


def read_inference(body: bytes, header_length: str | None, most: int) -> Inference:
    """Take a request apart. Pixels stay views into ``body``.

    Args:
        header_length: ``Inference-Header-Content-Length``: where the JSON ends.
        most: most images.

    Raises:
        ServiceProblem: 400, it is not what the protocol says or does not fit the model; 413.
    """
    json_bytes = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 12:
            raise malformed(f"{HEADER_LENGTH} is the number of bytes of the JSON part.")
        json_bytes = int(header_length)
        if json_bytes > len(body):
            raise malformed(f"{HEADER_LENGTH} is {json_bytes}, but the body has {len(body)} bytes.")
    document = _document(body[:json_bytes] if json_bytes < len(body) else body)
    if len(document.inputs) != 1:
        raise malformed(f"The model has one input, not {len(document.inputs)}.")
    images = _images(document.inputs[0], memoryview(body)[json_bytes:], most)
    names = tuple(output.name for output in document.outputs)
    check_names(names)
    for parameters in (document.parameters, *(output.parameters for output in document.outputs)):
        for name in _UNSUPPORTED:
            if parameters.get(name):
                raise malformed(f"The extension {name} is not offered; leave it out.")
    return Inference(
        id=document.id,
        images=images,
        names=names,
        seconds=seconds_of(document.parameters.get("timeout")),
        binary=_flag(document.parameters, "binary_data_output", False),
        binary_by_name={
            output.name: _flag(output.parameters, "binary_data", False)
            for output in document.outputs
            if "binary_data" in output.parameters
        },
    )


def seconds_of(timeout: object) -> float | None:
    """The ``timeout`` parameter, in microseconds as Triton's clients send it; 0 means none."""
    if timeout is None or timeout == 0:
        return None
    if not isinstance(timeout, int) or not 0 < timeout <= 3600 * 10**6:
        raise malformed("The parameter timeout is a whole number of microseconds, at most an hour.")
    return timeout / 1e6


def _document(text: bytes) -> RequestDocument:
    try:
        return RequestDocument.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise malformed("The request is not JSON, or is cut short.") from None
        # Places, but not keys that the sender made up.
        where = ".".join(
            str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS
        )
        raise malformed(f"The request's {where or 'form'}: {first['msg']}.") from None


_FIELDS = frozenset(("id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data"))


def _images(given: InputDocument, binary: memoryview, most: int) -> list[Source]:
    check_input(given.name, given.datatype, given.shape, most)
    size = given.parameters.get("binary_data_size")
    if "shared_memory_region" in given.parameters:
        raise malformed("Shared memory is not offered; send the tensor in the request.")
    if size is None:
        if len(binary):
            raise malformed(
                f"{len(binary)} bytes follow the JSON, but no input has a binary_data_size."
            )
        if given.data is None:
            raise malformed("The input has neither data nor a binary_data_size.")
        if given.datatype == "BYTES":
            return _files(given.data, given.shape[0])
        return pixels_of_numbers(given.data, given.shape)
    if given.data is not None:
        raise malformed("The input has both data and a binary_data_size; send one of them.")
    if size != len(binary) or isinstance(size, bool):
        raise malformed(
            f"The input's binary_data_size is not the {len(binary)} bytes that follow the JSON."
        )
    if given.datatype == "BYTES":
        return files_of(binary, given.shape[0])
    return pixels_of(binary, given.shape)


def _files(data: Sequence[object], count: int) -> list[Source]:
    if len(data) != count or not all(isinstance(text, str) for text in data):
        raise malformed(f"The data of the input must be {count} files, each in base64.")
    try:
        return [Upload(base64.b64decode(str(text), validate=True), None) for text in data]
    except (binascii.Error, ValueError):
        raise malformed("A file in the input's data is not base64; or send it in binary.") from None


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"The parameter {name} is true or false.")
    return value


def write_answer(
    head: Mapping[str, Any],
    outputs: Sequence[Output],
    parameters: Mapping[str, Parameter],
    asked: Inference,
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where tensors follow in binary."""
    listed: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for output in outputs:
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        }
        if asked.binary_by_name.get(output.name, asked.binary):
            raw = output.raw()
            tensors.append(raw)
            entry["parameters"] = {"binary_data_size": len(raw)}
        else:
            entry["data"] = output.listed()
        listed.append(entry)
    document = {**head, "parameters": dict(parameters), "outputs": listed}
    text = json.dumps(document, allow_nan=False).encode()
    return b"".join([text, *tensors]), len(text) if tensors else None
