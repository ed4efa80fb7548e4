"""A real bundle whose verdicts a test can choose by the pixels it sends.

The graph: the predicted class is ``bright`` when the top-left pixel is 128 or more; the fused
score is the mean brightness in ``[0, 1]``, NaN when the largest pixel is 7; the quality score is
the range of brightness. Both classes share one calibration of 999 evenly spaced scores: fused up
to 0.5, quality up to 0.9. So a flat gray image is

- accepted up to 126 (mean below 0.4951), flagged at 127, rejected from 128 on;
- not judged at 7.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save

from detectors.bundle import (
    CALIBRATION,
    GRAPH,
    Bundle,
    CellLevels,
    DetectorEntry,
    Manifest,
    calibration_arrays,
    sha256,
    write_manifest,
)
from detectors.calibrate import Calibration, Cell
from models.spec import ModelSpec, Preprocessing

ACCEPTED, FLAGGED, REJECTED, UNJUDGED = 100, 127, 200, 7


def flat(gray: int, side: int = 32, form: str = "PNG") -> bytes:
    """A file with one brightness."""
    return encode(np.full((side, side), gray, np.uint8), form)


def degraded() -> bytes:
    """A dark image with one white pixel: accepted but for its range of brightness."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[16, 16] = 255
    return encode(pixels)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_bundle(directory: Path, name: str = "tiny") -> Path:
    """Write the bundle and check that it opens."""
    directory.mkdir(parents=True, exist_ok=True)
    fused = np.linspace(0, 0.5, 999, dtype=np.float32)
    quality = np.linspace(0, 0.9, 999, dtype=np.float32)
    detectors = np.stack([fused, quality], axis=1)
    # quality scores are of all classes, so more than a class has images
    cells = 2 * (Cell(fused, np.repeat(quality, 2), detectors),)
    contents = {
        GRAPH: graph(),
        CALIBRATION: save(calibration_arrays(Calibration(cells))),
    }
    for file, data in contents.items():
        (directory / file).write_bytes(data)
    levels = CellLevels(images=999, flag=0.01, reject=0.001, quality=0.005)
    write_manifest(
        directory,
        Manifest(
            model=ModelSpec(
                name=name,
                classes=("dark", "bright"),
                preprocessing=Preprocessing(resize=(32, 32)),
            ),
            detectors=(DetectorEntry(name="mean"), DetectorEntry(name="range")),
            tap_widths=(1,),
            levels=(levels, levels),
            files={file: sha256(data) for file, data in contents.items()},
        ),
    )
    Bundle.open(directory)
    return directory


def graph() -> bytes:
    """The fused graph of the module's docstring."""
    constants = {
        "hundredths": np.float32(255),
        "half": np.float32(127.5),
        "seven": np.float32(7),
        "nothing": np.float32(0),
        "one": np.float32(1),
        "pixel_axes": np.array([1, 2, 3], np.int64),
        "origin": np.array([0, 0, 0], np.int64),
        "next": np.array([1, 1, 1], np.int64),
        "row": np.array([-1, 1], np.int64),
        "sides": np.array([[-0.1, 0.1]], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "pixel_axes"], ["mean255"], keepdims=0),
        helper.make_node("ReduceMax", ["x", "pixel_axes"], ["largest"], keepdims=0),
        helper.make_node("ReduceMin", ["x", "pixel_axes"], ["smallest"], keepdims=0),
        helper.make_node("Div", ["mean255", "hundredths"], ["mean"]),
        helper.make_node("Sub", ["largest", "seven"], ["from_seven"]),
        helper.make_node("Div", ["one", "from_seven"], ["inverse"]),
        helper.make_node("Mul", ["nothing", "inverse"], ["zero_or_nan"]),
        helper.make_node("Add", ["mean", "zero_or_nan"], ["fused"]),
        helper.make_node("Sub", ["largest", "smallest"], ["range255"]),
        helper.make_node("Div", ["range255", "hundredths"], ["quality"]),
        helper.make_node("Reshape", ["fused", "row"], ["fused_column"]),
        helper.make_node("Reshape", ["quality", "row"], ["quality_column"]),
        helper.make_node("Concat", ["fused_column", "quality_column"], ["scores"], axis=1),
        helper.make_node("Slice", ["x", "origin", "next", "pixel_axes"], ["corner"]),
        helper.make_node("Reshape", ["corner", "row"], ["corner_column"]),
        helper.make_node("Sub", ["corner_column", "half"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "sides"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    n = "N"
    outputs = {
        "logits": [n, 2],
        "probabilities": [n, 2],
        "scores": [n, 2],
        "fused": [n],
        "quality": [n],
    }
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [n, "H", "W", "C"])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(made)
    return made.SerializeToString()
