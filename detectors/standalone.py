"""A bundle's graph with its calibration and levels inside: a guarded model for another server.

Needs ``onnx``; serving does not import it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from detectors.bundle import Bundle
from detectors.second_stage import SecondStage
from detectors.standalone_stage import judged_twice

OUTPUTS = ("probabilities", "scores", "p_value", "quality_p_value", "verdict")
"""``float32[N, K]``, ``float32[N, D]``, ``float32[N, 1]`` twice, and ``int64[N, 1]``: 0 accept,
1 flag, 2 reject."""


def standalone(bundle: Bundle) -> onnx.ModelProto:
    """``image: uint8[N, H, W, C]`` to ``OUTPUTS``.

    P-values and levels are those of ``detectors.calibrate`` and of the manifest. An image with a
    score that is not finite is rejected, as the closed policy has it; its p-value is 0.
    Probabilities are given with every verdict: whoever serves the graph withholds them. A second
    stage draws its views anew at every look. Raises ``BundleProblem``.
    """
    model = onnx.load_from_string(bundle.graph)
    graph = model.graph
    cells, levels = bundle.calibration.cells, bundle.manifest.levels
    constants: dict[str, npt.NDArray[np.generic]] = {
        "fused_table": _table([cell.fused for cell in cells]),
        "quality_table": _table([cell.quality for cell in cells]),
        "fused_images": np.array([[len(cell.fused) + 1] for cell in cells], np.float32),
        "quality_images": np.array([[len(cell.quality) + 1] for cell in cells], np.float32),
        "flag": _levels([level.flag for level in levels]),
        "reject": _levels([level.reject for level in levels]),
        "quality": _levels([level.quality for level in levels]),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "two": np.array(2, np.int64),
        "last": np.array([1], np.int64),
    }
    stage, judged = SecondStage.of(bundle), "fused"
    if stage is not None:
        judged = _own("both")
        graph.node.extend(judged_twice(bundle, stage, judged))
    nodes = [
        helper.make_node("ArgMax", ["probabilities"], [_own("class")], axis=1, keepdims=0),
        *(
            helper.make_node("Gather", [_own(name), _own("class")], [_own(f"{name}_of")], axis=0)
            for name in ("fused_images", "quality_images", "flag", "reject", "quality")
        ),
        *_p_value(judged, "fused", "p_value"),
        *_p_value("quality", "quality", "quality_p_value"),
        *_reached("p_value", "flag"),
        *_reached("p_value", "reject"),
        *_reached("quality_p_value", "quality"),
        helper.make_node("Add", [_own("at_flag"), _own("at_reject")], [_own("adversarial")]),
        helper.make_node("Max", [_own("adversarial"), _own("at_quality")], [_own("judged")]),
        *_unjudged(),
        helper.make_node("Where", [_own("unjudged"), _own("two"), _own("judged")], ["verdict"]),
    ]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), _own(name)) for name, value in constants.items()
    )
    shapes = {
        "p_value": (TensorProto.FLOAT, 1),
        "quality_p_value": (TensorProto.FLOAT, 1),
        "verdict": (TensorProto.INT64, 1),
    }
    known = {output.name: output for output in graph.output}
    del graph.output[:]
    for name in OUTPUTS:
        if name in shapes:
            kind, width = shapes[name]
            known[name] = helper.make_tensor_value_info(name, kind, ["N", width])
        graph.output.append(known[name])
    onnx.checker.check_model(model)
    return model


def _own(name: str) -> str:
    """A name that no node of the bundle's graph has."""
    return f"standalone/{name}"


def _table(columns: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """``float32[classes, most images]``, filled up with what no score is below."""
    table = np.full((len(columns), max(1, *map(len, columns))), -np.inf, np.float32)
    for row, column in zip(table, columns, strict=True):
        row[: len(column)] = column
    return table


def _levels(levels: Sequence[float | None]) -> npt.NDArray[np.float32]:
    """``float32[classes, 1]``; a level that is never reached is below every p-value."""
    return np.array([[-1.0 if level is None else level] for level in levels], np.float32)


def _p_value(value: str, score: str, name: str) -> list[onnx.NodeProto]:
    """``(1 + #{calibration scores >= score}) / (n + 1)`` of the predicted class; 0 for a score that
    is not finite."""
    part = {key: _own(f"{name}_{key}") for key in (
        "column", "table", "above", "ones", "count", "plus", "p", "null", "finite",
    )}  # fmt: skip
    return [
        helper.make_node("Unsqueeze", [value, _own("last")], [part["column"]]),
        helper.make_node(
            "Gather", [_own(f"{score}_table"), _own("class")], [part["table"]], axis=0
        ),
        helper.make_node("GreaterOrEqual", [part["table"], part["column"]], [part["above"]]),
        helper.make_node("Cast", [part["above"]], [part["ones"]], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", [part["ones"], _own("last")], [part["count"]], keepdims=1),
        helper.make_node("Add", [part["count"], _own("one")], [part["plus"]]),
        helper.make_node("Div", [part["plus"], _own(f"{score}_images_of")], [part["p"]]),
        # x - x is 0 for what is finite and NaN for what is not
        helper.make_node("Sub", [part["column"], part["column"]], [part["null"]]),
        helper.make_node("Equal", [part["null"], _own("zero")], [part["finite"]]),
        helper.make_node("Where", [part["finite"], part["p"], _own("zero")], [name]),
    ]


def _unjudged() -> list[onnx.NodeProto]:
    """Whether the fused score is not finite, or the quality score where its class has a level."""
    own = {key: _own(key) for key in ("no_fused", "no_quality", "asked", "no_answer", "unjudged")}
    return [
        helper.make_node("Not", [_own("p_value_finite")], [own["no_fused"]]),
        helper.make_node("Not", [_own("quality_p_value_finite")], [own["no_quality"]]),
        helper.make_node("GreaterOrEqual", [_own("quality_of"), _own("zero")], [own["asked"]]),
        helper.make_node("And", [own["no_quality"], own["asked"]], [own["no_answer"]]),
        helper.make_node("Or", [own["no_fused"], own["no_answer"]], [own["unjudged"]]),
    ]


def _reached(p_value: str, level: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("LessOrEqual", [p_value, _own(f"{level}_of")], [_own(f"{level}_reached")]),
        helper.make_node(
            "Cast", [_own(f"{level}_reached")], [_own(f"at_{level}")], to=TensorProto.INT64
        ),
    ]
