"""Write a trained model as a folder that ``load_model`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from models.diagnostic import DiagnosticModel
from models.export import export_bare
from models.load import GRAPH, SPEC, WEIGHTS
from models.model_card import Report, model_card
from models.train import Recipe


def save_model(
    model: DiagnosticModel, out: Path, report: Report, *, data: str, licence: str, recipe: Recipe
) -> None:
    """Write ``model.json``, ``weights.safetensors``, ``model.onnx`` and ``card.md``."""
    model = model.cpu()
    out.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(state, out / WEIGHTS)
    (out / GRAPH).write_bytes(export_bare(model))
    (out / SPEC).write_text(json.dumps(json.loads(model.spec.model_dump_json()), indent=1) + "\n")
    (out / "card.md").write_text(model_card(model.spec, report, data, licence, recipe))
