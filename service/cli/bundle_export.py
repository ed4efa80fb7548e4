"""``lazaret bundle export``: the guarded model for a server that is not ours."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detectors.bundle import Bundle
from service.cli.sentence import refuse, told

EXAMPLE = "Example: lazaret bundle export bundles/chest-xray --to triton --out models"
MOST_IMAGES = 32


class Target(StrEnum):
    """Who will run it."""

    ONNX = "onnx"
    TRITON = "triton"
    KSERVE = "kserve"


def export(
    folder: Annotated[Path, typer.Argument(help="The bundle folder.")],
    to: Annotated[Target, typer.Option(help="Who will run it.")],
    out: Annotated[Path, typer.Option(help="A folder, which gets the model's own.")],
) -> None:
    """Write the guarded model for ONNX Runtime, Triton or KServe to run without Lazaret.

    One ONNX graph: pixels to probabilities, scores, p-values and a verdict (0 accept, 1 flag,
    2 reject). What is lost: decoding of files, records, cases, keys and bounds. `onnx` writes
    NAME/model.onnx; `triton` a model repository, NAME/1/model.onnx and NAME/config.pbtxt; `kserve`
    the same with NAME/inference_service.yaml.

    Exit status: 0 written, 2 it cannot be.
    """
    with told():
        bundle = Bundle.open(folder)
    try:
        from detectors.standalone import OUTPUTS, standalone
    except ImportError:
        refuse("this needs onnx: pip install 'lazaret[train]'")
    model = bundle.manifest.model
    target = out / model.name
    if target.exists():
        refuse(f"{target}: exists already; choose another folder")
    with told():
        graph = standalone(bundle).SerializeToString()
    place = target if to is Target.ONNX else target / "1"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(graph)
    widths = {"probabilities": len(model.classes), "scores": len(bundle.manifest.detectors)}
    (target / "labels.json").write_text(
        json.dumps({"bundle": bundle.digest, "classes": model.classes,
                    "detectors": [d.name for d in bundle.manifest.detectors],
                    "verdicts": ["accept", "flag", "reject"]}, indent=2) + "\n"
    )  # fmt: skip
    if to is not Target.ONNX:
        config = triton_config(model.name, {name: widths.get(name, 1) for name in OUTPUTS})
        (target / "config.pbtxt").write_text(config)
    if to is Target.KSERVE:
        (target / "inference_service.yaml").write_text(inference_service(model.name))
    Console().print(f"{target}: {bundle.digest}", highlight=False, soft_wrap=True)


def triton_config(name: str, widths: dict[str, int]) -> str:
    """``config.pbtxt``: batches of images of one size, formed by Triton."""
    outputs = ",\n".join(
        f'  {{ name: "{output}" data_type: {_type(output)} dims: [ {width} ] }}'
        for output, width in widths.items()
    )
    return (
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {MOST_IMAGES}\n"
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ] } ]\n'
        f"output [\n{outputs}\n]\n"
        "dynamic_batching { }\n"
    )


def inference_service(name: str) -> str:
    """KServe's resource, which runs the repository in its Triton runtime."""
    label = name.replace("_", "-").replace(".", "-")
    return (
        "apiVersion: serving.kserve.io/v1beta1\n"
        "kind: InferenceService\n"
        "metadata:\n"
        f"  name: {label}\n"
        "spec:\n"
        "  predictor:\n"
        "    model:\n"
        "      modelFormat: {name: triton}\n"
        "      protocolVersion: v2\n"
        "      # the folder that holds this model's folder\n"
        "      storageUri: pvc://models\n"
    )


def _type(output: str) -> str:
    return "TYPE_INT64" if output == "verdict" else "TYPE_FP32"
