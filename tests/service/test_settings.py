"""Settings come from three places; a wrong one is a sentence before anything listens."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from service.auth import Auth
from service.settings import Settings, SettingsProblem, as_markdown
from service.settings_example import as_toml

HASH = hashlib.sha256(b"key").hexdigest()


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAZARET_CONFIG", raising=False)


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == as_markdown(), "run: python -m service.settings > docs/settings.md"


def test_command_line_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lazaret.toml"
    file.write_text(
        f"port = 1\nhost = '::1'\nlog_level = 'error'\n[api_keys]\npacs = '{HASH}'\n"
        "[policies.tiny]\non_detector_failure = 'open'\nalphas = {flag = 0.02}\n"
    )
    monkeypatch.setenv("LAZARET_CONFIG", str(file))
    monkeypatch.setenv("LAZARET_PORT", "2")
    monkeypatch.setenv("LAZARET_HOST", "127.0.0.2")
    monkeypatch.setenv("LAZARET_BUNDLES", "a,b")
    settings = Settings.load(port=3, host=None)
    assert (settings.port, settings.host, settings.log_level) == (3, "127.0.0.2", "error")
    assert settings.bundles == (Path("a"), Path("b"))
    assert settings.keys() == {"pacs": HASH}
    assert settings.policies["tiny"].alphas.flag == 0.02


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "prot"),
        ("port = 'x'", "port"),
        ("port = ", "toml"),
        ("[api_keys]\nana = 'key'", "api_keys.ana"),
        ("[policies.tiny]\nalphas = {flag = 2}", "policies.tiny.alphas.flag"),
    ],
)
def test_a_wrong_file_is_a_sentence(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lazaret.toml"
    file.write_text(text)
    monkeypatch.setenv("LAZARET_CONFIG", str(file))
    with pytest.raises(SettingsProblem, match=words):
        Settings.load()


def test_a_missing_file_and_a_wrong_variable_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZARET_API_KEYS", "not json")
    with pytest.raises(SettingsProblem, match="api_keys"):
        Settings.load()
    monkeypatch.setenv("LAZARET_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsProblem, match=r"nowhere\.toml"):
        Settings.load()


def test_keys_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\npacs:{HASH}  # the archive\n\n")
    assert Settings(api_keys_file=file).keys() == {"pacs": HASH}
    file.write_text("pacs:key")
    with pytest.raises(SettingsProblem, match="line 1"):
        Settings(api_keys_file=file).keys()


@pytest.mark.parametrize(
    ("keys", "host", "anonymous", "starts"),
    [
        ({}, "127.0.0.1", "loopback", True),
        ({}, "::1", "loopback", True),
        ({}, "localhost", "loopback", True),
        ({}, "0.0.0.0", "loopback", False),
        ({}, "gateway.example", "loopback", False),
        ({}, "127.0.0.1", "never", False),
        ({"pacs": HASH}, "0.0.0.0", "never", True),
    ],
)
def test_without_keys_only_the_loopback_is_served(
    keys: dict[str, str], host: str, anonymous: str, starts: bool
) -> None:
    if starts:
        Auth(keys, host, anonymous)
    else:
        with pytest.raises(SettingsProblem, match="API keys"):
            Auth(keys, host, anonymous)


def test_the_example_file_says_every_option() -> None:
    page = Path(__file__).parents[2] / "deploy" / "lazaret.example.toml"
    assert page.read_text() == as_toml(), "run: make docs"
    assert tomllib.loads(page.read_text()) == {}  # as it is, it changes nothing
    spoken = re.sub(r"^# (?=[a-z_]+ = )", "", page.read_text(), flags=re.MULTILINE)
    given = tomllib.loads(spoken)
    assert list(given) == list(Settings.model_fields)
    assert Settings(**given).port == 8000
