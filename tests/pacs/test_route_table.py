"""Every instance has a route; a table that says something else than its author meant is refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.decide import Verdict
from service.pacs.attributes import subject_of, traits_of
from service.pacs.route_file import load
from service.pacs.routes import Emitted, Original, RouteTable, Traits, choose
from service.settings import SettingsProblem

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "pacs.example.yaml"
DEMO = ROOT / "models" / "zoo" / "phantom" / "demo" / "clean-2.dcm"
PEER = {"archive": {"kind": "dimse", "ae_title": "A", "host": "h", "port": 104}}


def table(*matches: dict[str, object]) -> RouteTable:
    routes = [{"name": f"r{i}", "match": match} for i, match in enumerate(matches)]
    return RouteTable.model_validate({"routes": routes})


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ({}, True),
        ({"modality": ["DX"]}, True),
        ({"modality": ["CR", " dx "]}, True),
        ({"modality": ["CT"]}, False),
        ({"body_part": ["chest"], "modality": ["DX"]}, True),
        ({"body_part": ["CHEST"], "modality": ["CT"]}, False),
        ({"calling_ae": ["ROOM1"]}, True),
        ({"calling_ae": ["ROOM2"]}, False),
        ({"called_ae": ["GUARD"]}, True),
        ({"sop_class": ["DigitalXRayImageStorageForPresentation"]}, True),
        ({"sop_class": ["1.2.840.10008.5.1.4.1.1.1.1"]}, True),
        ({"sop_class": ["CTImageStorage"]}, False),
    ],
)
def test_all_entries_of_a_match_must_fit(match: dict[str, object], taken: bool) -> None:
    traits = Traits("ROOM1", "GUARD", "DX", "CHEST", "1.2.840.10008.5.1.4.1.1.1.1")
    assert choose(table(match), traits).name == ("r0" if taken else "default")


def test_the_first_of_several_wins_and_every_look_is_explained() -> None:
    routes = table({"modality": ["CT"]}, {"modality": ["DX"]}, {})
    choice = choose(routes, Traits(modality="DX"))
    assert choice.name == "r1"
    assert [(look.route, look.taken, look.why) for look in choice.looks] == [
        ("r0", False, "modality differs"),
        ("r1", True, "matches modality"),
    ]


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1", bytes(128) + b"DICM" + b"\xff" * 64])
def test_what_cannot_be_read_takes_the_default_route(data: bytes) -> None:
    choice = choose(table({"modality": ["DX"]}), traits_of(data, "ROOM1", "GUARD"))
    assert choice.name == "default"


def test_the_example_documents_every_option_and_loads() -> None:
    found = load(EXAMPLE)
    chest = found.routes[0]
    assert chest.original is Original.FORWARD
    assert Emitted.SC in chest.emit.of(Verdict.REJECT)
    text = EXAMPLE.read_text()
    models = [RouteTable, type(found.delivery), type(chest), type(chest.match), type(chest.emit)]
    models += [type(peer) for peer in found.peers.values()] + [type(found.peers["vna"].tls)]
    for model in models:
        for option in model.model_fields:
            assert f"{option}" in text, f"{model.__name__}.{option}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("peers: [", "line 1"),
        ("routes: 3", "routes: Input should be a valid"),
        ("rotes: []", "rotes: Extra inputs"),
        ("default: {destinations: [nowhere]}", "there is no peer nowhere"),
        ("default: {emit: {accept: [kos]}}", "told of by sr only"),
        ("default: {emit: {flag: [rejection-note]}}", "default.emit.flag.0"),
        ("default: {model: a}\ndefault: {model: b}", "default is given twice"),
        ("routes: [{name: a, match: {}}, {name: a, match: {}}]", "two routes are named a"),
        ("routes: [{name: default, match: {}}]", "takes the rest"),
        ("routes: [{name: a, match: {sop_class: [CTimage]}}]", "CTimage is neither"),
        ("peers: {A B: {kind: dimse, ae_title: X, host: h, port: 1}}", "peers"),
        ("peers: {a: {kind: dimse, ae_title: THIS_IS_TOO_LONG_, host: h, port: 1}}", "ae_title"),
        ("peers: {a: {kind: fhir, url: 'ftp://x'}}", "url"),
        (
            "peers: {f: {kind: fhir, url: 'https://x'}}\ndefault: {destinations: [f]}",
            "of kind fhir, which does not fit",
        ),
        ("delivery: {first_wait_seconds: 700}", "longer than"),
    ],
)
def test_a_wrong_table_is_a_sentence_that_says_where(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pacs.yaml"
    path.write_text(text)
    with pytest.raises(SettingsProblem) as found:
        load(path)
    assert words in str(found.value)
    assert str(path) in str(found.value)


def test_routes_test_says_which_route_and_why(tmp_path: Path) -> None:
    path = tmp_path / "pacs.yaml"
    path.write_text("routes: [{name: ct, match: {modality: [CT]}}, {name: rest, match: {}}]")
    said = CliRunner().invoke(app, ["pacs", "routes", "test", str(DEMO), "--routes", str(path)])
    assert said.exit_code == 0, said.output
    words = said.output.split()
    assert words[words.index("passed") :][:4] == ["passed", "ct", "modality", "differs"]
    assert words[words.index("taken") :][:4] == ["taken", "rest", "matches", "anything"]
    missing = CliRunner().invoke(app, ["pacs", "routes", "test", "/none", "--routes", str(path)])
    assert missing.exit_code == 2


def test_nothing_but_the_listed_attributes_is_copied() -> None:
    found = subject_of(DEMO.read_bytes())
    assert found.SOPInstanceUID
    assert found.Rows
    assert "PixelData" not in found
