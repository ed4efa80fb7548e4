"""Load a diagnostic model from whatever its owner has."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models import zoo
from models.diagnostic import DiagnosticModel
from models.export import export_program
from models.onnx_graph import automatic_taps, make_batch_dynamic, with_taps
from models.onnx_to_torch import ConversionProblem, convert
from models.preprocess import Preprocess
from models.spec import ModelSpec
from models.victim import Victim

SPEC, WEIGHTS, GRAPH = "model.json", "weights.safetensors", "model.onnx"


class LoadProblem(Exception):
    """A model that cannot be loaded. The message says which part and what to do."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A diagnostic model known only as an ONNX graph."""

    spec: ModelSpec
    graph: onnx.ModelProto
    """``float32[N, C, h, w]`` to raw logits ``[N, L]`` followed by every tap."""
    differentiable: DiagnosticModel | None
    """The graph converted to torch, for attacks that need gradients."""
    without_gradients: str
    """Why there is no such conversion; empty when there is."""
    tap_widths: tuple[int, ...]
    """Width of every pooled tap."""


class ConvertedNetwork(nn.Module):
    """A converted ONNX graph whose outputs after the first are taps."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return self.all_outputs(x)[0]

    def all_outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raw logits, then the taps."""
        outputs: tuple[Tensor, ...] = self.graph(x)
        return outputs


class ConvertedModel(DiagnosticModel):
    """A diagnostic model over a converted graph, tapped at named activations."""

    network: ConvertedNetwork

    def __init__(self, spec: ModelSpec, network: ConvertedNetwork) -> None:
        nn.Module.__init__(self)
        assert spec.taps is not None
        self.spec = spec
        self.preprocess = Preprocess(spec.preprocessing)
        self.network = network
        self.taps = spec.taps
        self.eval()

    def activations(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, *taps = self.network.all_outputs(x)
        return logits, tuple(taps)


def load_model(
    reference: str, *, weights: Path | None = None, spec: Path | None = None
) -> DiagnosticModel | OnnxModel:
    """Load a diagnostic model.

    Args:
        reference: a zoo name, a folder that ``lazaret train`` wrote, an ``.onnx`` file, a
            ``torch.export`` ``.pt2``, or ``package.module:factory``.
        weights: safetensors for a factory.
        spec: the declaration; by default ``model.json`` beside the file.

    Raises ``LoadProblem``.
    """
    path = zoo.folder(reference) or Path(reference)
    try:
        if path.suffix == ".onnx":
            return _from_onnx(_spec(spec or path.with_name(SPEC)), _read_onnx(path))
        if path.suffix == ".pt2":
            return _from_program(_spec(spec or path.with_name(SPEC)), path)
        if path.is_dir():
            declared = _spec(spec or path / SPEC)
            if declared.factory is None:
                return _from_onnx(declared, _read_onnx(path / GRAPH))
            if not declared.factory.startswith("models."):
                raise LoadProblem(
                    f"{path / SPEC}: names {declared.factory}, which is not ours to import; if you "
                    f"trust it, say --model {declared.factory} --weights {path / WEIGHTS}"
                )
            return _from_factory(declared, declared.factory, weights or path / WEIGHTS)
        if ":" in reference:
            if spec is None or weights is None:
                raise LoadProblem(
                    f"{reference}: a factory needs --spec model.json and --weights x.safetensors"
                )
            return _from_factory(_spec(spec), reference, weights)
    except OSError as error:
        raise LoadProblem(f"{error.filename}: {error.strerror}") from None
    raise LoadProblem(
        f"{reference}: not a zoo model ({', '.join(zoo.names())}), a model folder, an .onnx or "
        ".pt2 file, or package.module:factory"
    )


def _spec(path: Path) -> ModelSpec:
    if not path.is_file():
        raise LoadProblem(
            f"{path}: missing; it declares the model's classes, head and preprocessing "
            "(see docs/models.md)"
        )
    try:
        return ModelSpec.read(path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise LoadProblem(f"{path}: {where}: {first['msg']}") from None


def _from_factory(spec: ModelSpec, factory: str, weights: Path) -> DiagnosticModel:
    module, _, name = factory.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise LoadProblem(f"{factory}: {error}; give package.module:function") from None
    network = build(**spec.arguments)
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise LoadProblem(f"{weights}: does not fit {factory}: {first}") from None
    network.requires_grad_(False)
    model = DiagnosticModel(spec, network)
    shape = (1, spec.preprocessing.channels, *spec.preprocessing.size)
    _check_logits(spec, network(torch.zeros(shape)).shape[1], factory)
    return model


def _from_program(spec: ModelSpec, path: Path) -> OnnxModel:
    try:
        program = torch.export.load(path)
    except Exception as error:  # whatever a hostile archive makes the loader raise
        raise LoadProblem(f"{path}: not a torch.export program ({type(error).__name__})") from None
    return _from_onnx(spec, onnx.load_from_string(export_program(program)))


def _read_onnx(path: Path) -> onnx.ModelProto:
    try:
        graph = onnx.load(path)
        onnx.checker.check_model(graph)
    except OSError:
        raise
    except Exception as error:  # protobuf and the checker have no common base
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LoadProblem(f"{path}: not a valid ONNX model: {first}") from None
    return graph


def _from_onnx(spec: ModelSpec, graph: onnx.ModelProto) -> OnnxModel:
    graph = make_batch_dynamic(graph)
    taps = spec.taps or automatic_taps(graph)
    spec = spec.model_copy(update={"taps": taps})
    graph = with_taps(graph, taps)
    shape = (2, spec.preprocessing.channels, *spec.preprocessing.size)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    try:
        outputs = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    except Exception as error:  # the runtime's errors have no common base
        raise LoadProblem(
            f"the ONNX graph does not run on float32{list(shape)}, which model.json declares: "
            f"{str(error).splitlines()[0]}"
        ) from None
    _check_logits(spec, outputs[0].shape[1], "the ONNX graph")
    widths = tuple(output.shape[1 if output.ndim != 3 else 2] for output in outputs[1:])
    try:
        converted = ConvertedModel(spec, ConvertedNetwork(convert(graph)))
    except ConversionProblem as problem:
        return OnnxModel(spec, graph, None, str(problem), widths)
    return OnnxModel(spec, graph, converted, "", widths)


def victim_of(model: DiagnosticModel | OnnxModel, device: str = "cpu") -> Victim:
    """The model as attacks need it. Raises ``LoadProblem`` for an ONNX graph that could not be
    converted to torch."""
    if isinstance(model, OnnxModel):
        if model.differentiable is None:
            raise LoadProblem(
                f"the ONNX graph has no gradients ({model.without_gradients}); only black-box "
                "attacks remain for it"
            )
        model = model.differentiable
    return Victim(model, device)


def without_gradients(model: DiagnosticModel | OnnxModel) -> str:
    """Why torch cannot follow the model; empty where it can."""
    return "" if isinstance(model, DiagnosticModel) else model.without_gradients


def model_digest(model: DiagnosticModel | OnnxModel) -> str:
    """``sha256:`` of the weights: which model was attacked or guarded."""
    if isinstance(model, OnnxModel):
        return f"sha256:{hashlib.sha256(model.graph.SerializeToString()).hexdigest()}"
    digest = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _check_logits(spec: ModelSpec, found: int, source: str) -> None:
    if found != spec.logits:
        raise LoadProblem(
            f"{source} returns {found} logits; {len(spec.classes)} classes with a "
            f"{spec.head} head need {spec.logits}"
        )
