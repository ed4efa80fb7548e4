"""Every form in which a model arrives gives the same answers, taps and gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detectors.feature_graph import OUTPUTS, feature_graph
from detectors.picture import Picture
from detectors.residual_network import ResidualNetwork
from detectors.side_networks import SideNetworks
from detectors.student import Student
from detectors.synthetic_gradient import SyntheticGradient
from models import zoo
from models.diagnostic import DiagnosticModel
from models.export import export_bare
from models.head import class_logits
from models.load import LoadProblem, OnnxModel, load_model, victim_of
from models.onnx_engine import OnnxEngine
from models.resnet import resnet
from models.spec import Head, ModelSpec, Preprocessing

NARROW = {"widths": [4, 8], "blocks": [1, 1], "channels": 1}


def declared(head: Head, classes: int) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        classes=tuple(f"C{i}" for i in range(classes)),
        head=head,
        preprocessing=Preprocessing(resize=(32, 32)),
    )


def network(logits: int) -> nn.Module:
    torch.manual_seed(0)
    built = resnet([4, 8], [1, 1], 1, logits)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return built.eval()


def write_onnx(folder: Path, spec: ModelSpec, model: nn.Module) -> Path:
    program = torch.onnx.export(model, (torch.zeros(1, 1, 32, 32),), dynamo=True, verbose=False)
    assert program is not None
    program.save(folder / "model.onnx")
    (folder / "model.json").write_text(spec.model_dump_json())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("head", "classes", "logits"),
    [(Head.SOFTMAX, 3, 3), (Head.SIGMOID, 2, 1), (Head.MULTILABEL, 4, 4)],
)
def test_an_onnx_file_reads_as_its_torch_original(
    tmp_path: Path, head: Head, classes: int, logits: int
) -> None:
    spec, original = declared(head, classes), network(logits)
    model = load_model(str(write_onnx(tmp_path, spec, original)))
    assert isinstance(model, OnnxModel)
    torch_model = DiagnosticModel(spec, original)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 1), dtype=np.uint8)
    beside = SideNetworks(
        Student(1, (32, 32), classes),
        ResidualNetwork(1, torch_model.preprocess.gain),
        SyntheticGradient(1, logits),
    ).eval()
    for squeezed, networks, more in (
        (False, None, False),
        (False, None, True),
        (True, beside, True),
    ):
        theirs, ours = (
            OnnxEngine(
                feature_graph(m, squeezed, networks, grain=more, aligned=more).SerializeToString()
            )
            for m in (model, torch_model)
        )
        assert ours.outputs(images, ("grain",))[0].shape == (
            3,
            Picture(torch_model.preprocess).grain_width if more else 0,
        )
        for name, a, b in zip(
            OUTPUTS, theirs.outputs(images, OUTPUTS), ours.outputs(images, OUTPUTS), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)

    x = torch.from_numpy(images).float().requires_grad_()
    victim = victim_of(model)
    (gradient,) = torch.autograd.grad(victim(x)[:, 0].sum() - victim(x)[:, -1].sum(), x)
    wanted = class_logits(torch_model.network(torch_model.preprocess(x)), head)
    (expected,) = torch.autograd.grad(wanted[:, 0].sum() - wanted[:, -1].sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_a_torch_export_program(tmp_path: Path) -> None:
    spec, original = declared(Head.SOFTMAX, 2), network(2)
    program = torch.export.export(original, (torch.zeros(2, 1, 32, 32),))
    torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "model.json").write_text(spec.model_dump_json())
    model = load_model(str(tmp_path / "model.pt2"))
    x = torch.rand(5, 32, 32, 1) * 255
    assert torch.allclose(victim_of(model)(x), DiagnosticModel(spec, original)(x), atol=1e-5)


def test_a_factory_with_safetensors(tmp_path: Path) -> None:
    spec, original = declared(Head.SOFTMAX, 2), network(2)
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "m.json").write_text(
        spec.model_copy(update={"arguments": {**NARROW, "logits": 2}}).model_dump_json()
    )
    model = load_model(
        "models.resnet:resnet", weights=tmp_path / "w.safetensors", spec=tmp_path / "m.json"
    )
    x = torch.rand(2, 32, 32, 1) * 255
    assert torch.allclose(victim_of(model)(x), DiagnosticModel(spec, original)(x))


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(LoadProblem, match="not a zoo model"):
        load_model("no-such-model")
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(LoadProblem, match="declares the model's classes"):
        load_model(str(tmp_path / "model.onnx"))
    (tmp_path / "model.json").write_text(declared(Head.SOFTMAX, 2).model_dump_json())
    with pytest.raises(LoadProblem, match="not a valid ONNX model"):
        load_model(str(tmp_path / "model.onnx"))
    (tmp_path / "model.pt2").write_bytes(b"nonsense")
    with pytest.raises(LoadProblem, match=r"not a torch\.export program"):
        load_model(str(tmp_path / "model.pt2"))
    with pytest.raises(LoadProblem, match="needs --spec"):
        load_model("models.resnet:resnet")


def test_a_graph_with_other_classes_than_declared(tmp_path: Path) -> None:
    path = write_onnx(tmp_path, declared(Head.SOFTMAX, 3), network(2))
    with pytest.raises(LoadProblem, match="returns 2 logits; 3 classes"):
        load_model(str(path))


def test_a_model_folder_imports_only_our_own_factories(tmp_path: Path) -> None:
    spec = declared(Head.SOFTMAX, 2).model_copy(update={"factory": "os:system"})
    (tmp_path / "model.json").write_text(json.dumps(json.loads(spec.model_dump_json())))
    with pytest.raises(LoadProblem, match="not ours to import"):
        load_model(str(tmp_path))


def test_automatic_taps_are_the_stages_and_the_penultimate_layer() -> None:
    model = DiagnosticModel(
        ModelSpec(name="full", classes=("A", "B")), resnet((8, 8, 16, 16), (1, 1, 1, 1))
    )
    _, taps = model.activations(torch.zeros(1, 1, 224, 224))
    assert [tap.shape[1] for tap in taps] == [8, 8, 16, 16, 128]


def test_an_exported_graph_names_no_folder_of_the_machine() -> None:
    model = DiagnosticModel(declared(Head.SOFTMAX, 2), network(2))
    graph = export_bare(model)
    assert str(Path(__file__).parents[2]).encode() not in graph
    assert b"site-packages" not in graph


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoos_onnx_and_safetensors_are_one_model(name: str) -> None:
    model = load_model(name)
    assert isinstance(model, DiagnosticModel)
    images = np.random.default_rng(0).integers(0, 256, (2, 150, 140, 1), dtype=np.uint8)
    found = OnnxEngine(zoo.ZOO / name / "model.onnx").run(images)
    with torch.no_grad():
        np.testing.assert_allclose(found.logits, model(torch.from_numpy(images)), atol=1e-4)
