"""Every option of the service, in one table.

A value comes from, first found: the command line, the environment (``LAZARET_PORT=9000``), the
TOML file that ``LAZARET_CONFIG`` names, the default. ``python -m service.settings`` prints the
table as ``docs/settings.md``.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from detectors.bundle import Alpha
from service.decide import Response

CONFIG_VARIABLE = "LAZARET_CONFIG"

KeyHash = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Caller = Annotated[str, Field(pattern=r"^(any|[0-9a-fA-F]{64})$")]


class SettingsProblem(Exception):
    """Settings that the service cannot start with. The message says which and what to do."""


class AlphaOverrides(BaseModel):
    """False-positive rates in place of the bundle's own; None keeps the bundle's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flag: Alpha | None = None
    reject: Alpha | None = None
    quality: Alpha | None = None


class PolicyOverrides(BaseModel):
    """What the operator decides for one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alphas: AlphaOverrides = AlphaOverrides()
    on_detector_failure: Literal["closed", "open"] = "closed"


class Settings(BaseSettings):
    """The table. Every field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix="LAZARET_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port on which the Open Inference Protocol is spoken over gRPC as well; 0 "
        "takes a free one. Needs `pip install 'lazaret[grpc]'`. Default: none.",
    )
    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Bundle folders to serve. In the environment, separated by commas."
    )
    bundle_keys: Path | None = Field(
        None,
        description="File of Ed25519 public keys, PEM: a bundle that none of them signed (`lazaret "
        "bundle sign`) is refused. Needs `pip install 'lazaret[signing]'`. Default: a bundle's "
        "hashes are enough.",
    )
    bundle_seconds: float = Field(
        10.0,
        ge=0,
        description="How often the bundle folders are looked at: another bundle in a folder is "
        "verified and takes the place of the one before it, or is refused. 0: never.",
    )
    database: str = Field(
        "sqlite:///lazaret.sqlite3",
        description="SQLAlchemy URL of the records: SQLite, or PostgreSQL as "
        "`postgresql+psycopg://user:password@host/name` (`pip install 'lazaret[postgres]'`).",
    )
    max_file_bytes: int = Field(
        64 * 2**20, gt=0, description="Largest file, in bytes; a larger one is answered 413."
    )
    max_pixels: int = Field(
        40_000_000, gt=0, description="Most pixels of an image; a larger one is answered 413."
    )
    max_request_images: int = Field(
        256, gt=0, description="Most images of one request; one with more is answered 413."
    )
    max_request_bytes: int = Field(
        256 * 2**20,
        gt=0,
        description="Largest request of several images, in bytes; a larger one is answered 413.",
    )
    max_in_flight: int = Field(
        256,
        gt=0,
        description="Most requests being answered at once; the next is answered 503. A request of "
        "several images counts as many as are worked on at once, at most twice `batch_images`.",
    )
    max_held_bytes: int = Field(
        2**30,
        gt=0,
        description="Largest sum of the bodies and decoded pixels held at once, in bytes; what "
        "does not fit is answered 503.",
    )
    body_seconds: float = Field(
        30.0, gt=0, description="Longest time for a body to arrive; a slower one is answered 408."
    )
    batch_images: int = Field(
        32,
        gt=0,
        description="Most images in one run of the engine. An idle engine waits for no more than "
        "are being decoded, and for 20 ms at most.",
    )
    queue_seconds: float = Field(
        10.0, gt=0, description="Longest wait for the engine; then the answer is 503."
    )
    decode_threads: int = Field(
        os.cpu_count() or 1, gt=0, description="Threads that decode files. Default: one per core."
    )
    workers: int = Field(
        1,
        gt=0,
        le=256,
        description="Processes that answer on one port. Cores (`threads`, `decode_threads`) and "
        "bounds (`max_in_flight`, `max_held_bytes`) are divided among them. On a GPU each has "
        "sessions of its own there.",
    )
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="What runs the graph: `cpu`, `cuda` or `tensorrt`."
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="CPU threads of one run of the engine, in each worker, which has as many runs "
        "at once as its cores have room for: 1 for the most images a second, the default for the "
        "soonest single answer. Default: the cores divided by `workers`.",
    )
    api_keys: dict[str, KeyHash] = Field(
        {},
        description="Client name to the hex SHA-256 of its key. In the environment, as JSON. Make "
        "a key with `openssl rand -hex 32` and its hash with `printf %s KEY | sha256sum`.",
    )
    api_keys_file: Path | None = Field(
        None, description="File of further keys, one `name:sha256` a line; `#` starts a comment."
    )
    anonymous: Literal["loopback", "never"] = Field(
        "loopback",
        description="Without any key: `loopback` answers anyone while `host` is a loopback "
        "address, `never` refuses to start.",
    )
    reviewers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="API clients that may claim, release and confirm held images, and then the "
        "only ones that may read them. Default: every client reads and none decides; without any "
        "API key, anyone on this machine does. In the environment, separated by commas.",
    )
    case_days: float = Field(
        90.0,
        gt=0,
        description="How long a held image's file is kept. A case that nobody has decided on by "
        "then expires.",
    )
    policies: dict[str, PolicyOverrides] = Field(
        {},
        description="Per model name: `alphas` (`flag`, `reject`, `quality`: accepted "
        "false-positive rates, default the bundle's) and `on_detector_failure` (`closed`, the "
        "default, rejects an image that a detector cannot judge; `open` accepts it and counts a "
        "bypass). In the environment, as JSON.",
    )
    pacs_routes: Path | None = Field(
        None,
        description="YAML file of PACS peers and routes; `deploy/pacs.example.yaml` documents "
        "every option in it.",
    )
    dicom_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the DICOM Storage SCP; 0 takes a free one. Needs `pip install "
        "'lazaret[pacs]'`. Default: none.",
    )
    dicom_host: str = Field("127.0.0.1", description="Address on which DICOM is received.")
    dicom_ae_title: str = Field(
        "LAZARET",
        pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$",
        description="The AE title that senders must call.",
    )
    dicom_callers: dict[str, Caller] = Field(
        {},
        description="AE titles that may send, each with the hex SHA-256 of its certificate (DER), "
        "or `any` where the title alone is believed. Without any, every title may while "
        "`dicom_host` is a loopback address. In the environment, as JSON.",
    )
    dicom_tls_certificate: Path | None = Field(
        None, description="Certificate of the Storage SCP, PEM; with it, only TLS is spoken."
    )
    dicom_tls_key: Path | None = Field(
        None, description="Its private key, PEM, if the certificate's file does not hold it."
    )
    dicom_tls_clients: Path | None = Field(
        None,
        description="Authorities of senders' certificates, PEM; with it, every sender must show "
        "one.",
    )
    dicom_associations: int = Field(
        64, gt=0, description="Most DICOM associations at once; the next is told to try again."
    )
    dicom_instance_bytes: int = Field(
        512 * 2**20, gt=0, description="Largest instance that is received over DICOM, in bytes."
    )
    dicom_held_bytes: int = Field(
        2**30,
        gt=0,
        description="Largest sum of the instances that are on their way in, in bytes; what does "
        "not fit is aborted, and its sender tries again.",
    )
    dicom_idle_seconds: float = Field(
        60.0, gt=0, description="Longest silence in an association, and of a PDU on its way."
    )
    dicom_flush: Literal["instance", "association"] = Field(
        "instance",
        description="What waits for the disk: `instance`, every acknowledgement; `association`, "
        "only the answer to its release, which is faster and survives a killed process, but in a "
        "power cut may lose what was acknowledged in the last moments.",
    )
    dicomweb: bool = Field(
        False,
        description="Receive DICOM over HTTP as well: STOW-RS at `/dicomweb/studies`. Needs `pip "
        "install 'lazaret[pacs]'`.",
    )
    spool: Path = Field(
        Path("lazaret-spool"), description="Folder of received instances until they are judged."
    )
    spool_reserve_bytes: int = Field(
        2**30,
        ge=0,
        description="Free space on the spool's disk that is never used: with less, nothing more "
        "is received.",
    )
    delivered_days: float = Field(
        30.0,
        ge=1,
        description="How long the database keeps what was delivered to PACS peers (who got what, "
        "and when; the contents go at once) and the keys of judged instances.",
    )
    query_response: Response = Field(
        "flag",
        description="What happens to the queries of an attack that the query history sees: `flag` "
        "answers and marks them, `reject` withholds the diagnosis, `throttle` answers 429, "
        "`silent` answers as if nothing had happened and holds them all the same, so that the "
        "answer tells the attacker nothing, `off` keeps no history. See docs/query_history.md.",
    )
    query_history_images: int = Field(
        1_000_000,
        ge=1000,
        le=50_000_000,
        description="Most images remembered; a newer one takes the oldest one's place. About 140 "
        "bytes each, of memory that is taken as it fills.",
    )
    query_history_hours: float = Field(
        24.0, gt=0, le=24 * 90, description="How long an image is remembered."
    )
    query_known_senders: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="API clients and DICOM peers, by their configured names, that send variants of "
        "their own images as a matter of course; those weigh a 32nd. In the environment, "
        "separated by commas.",
    )
    query_secret_file: Path | None = Field(
        None,
        description="File of the secret that fixes the history's fingerprints, made if absent. "
        "Needed with `redis`, the same on all replicas; without either it lives as long as the "
        "process. The random views of a bundle's second stage follow from it too.",
    )
    redis: SecretStr | None = Field(
        None,
        description="URL of the Redis through which replicas share the query history: "
        "`redis://:PASSWORD@HOST:6379/0`, `rediss://` with TLS. Default: each process has its own.",
    )
    redis_seconds: float = Field(
        0.25,
        gt=0,
        le=30,
        description="How long an answer waits for Redis. A Redis that takes longer counts as lost: "
        "the process goes on with a history of its own, and tries again five seconds later.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    canary_seconds: float = Field(
        60.0,
        ge=0,
        description="How often the bundles' canaries, files whose verdict is known, are sent "
        "through the real path; 0 sends none.",
    )
    drift_seconds: float = Field(
        10.0, gt=0, description="How often the drift tests read what was recorded since."
    )
    drift_false_alarm: float = Field(
        0.001,
        gt=0,
        lt=1,
        description="Most probability that a source whose images are like the calibration images "
        "is ever called drifted, however long a bundle is served.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OpenTelemetry collector that traces are sent to by OTLP over HTTP, such as "
        "`http://collector:4318` (`pip install 'lazaret[otel]'`). Default: nowhere.",
    )
    trace_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the traces begun here that is sent; a caller's own decision is kept.",
    )
    drain_seconds: float = Field(
        30.0, gt=0, description="After SIGTERM, longest time to answer what was taken."
    )

    @field_validator("bundles", "query_known_senders", "reviewers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, environment, TOML file."""
        config = os.environ.get(CONFIG_VARIABLE)
        toml = TomlConfigSettingsSource(settings_cls, toml_file=config)
        return init_settings, env_settings, toml

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Settings from every source, ``given`` first (what is None was not given).

        Raises:
            SettingsProblem: a source cannot be read or a value does not fit.
        """
        config = os.environ.get(CONFIG_VARIABLE)
        if config is not None and not Path(config).is_file():
            raise SettingsProblem(f"{CONFIG_VARIABLE}: there is no file {config}")
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SettingsProblem(
                f"setting {where}: {first['msg']}; see docs/settings.md"
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsProblem(f"{config}: {error}") from None
        except SettingsError as error:
            raise SettingsProblem(f"{error}; see docs/settings.md") from None

    def keys(self) -> dict[str, str]:
        """All API keys. Raises ``SettingsProblem`` for a file that cannot be read."""
        return dict(self.api_keys) | _read_keys(self.api_keys_file)


def _read_keys(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsProblem(f"{path}: {error}") from None
    keys = {}
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        name, _, digest = entry.partition(":")
        if not name or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise SettingsProblem(f"{path}, line {number}: write name:sha256, the hash in hex")
        keys[name] = digest
    return keys


def as_markdown() -> str:
    """``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Each setting is, first found: an option of `lazaret serve` where there is one, the",
        f"environment variable, the entry in the TOML file that `{CONFIG_VARIABLE}` names, the",
        "default. This page is made by `python -m service.settings > docs/settings.md`.",
        "",
        "| TOML | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        lines.append(
            f"| `{name}` | `LAZARET_{name.upper()}` | {_default(name, field.default)} "
            f"| {field.description} |"
        )
    lines += [
        "",
        "```toml",
        'bundles = ["/srv/bundles/chest-xray"]',
        'host = "0.0.0.0"',
        "",
        "[api_keys]",
        'pacs = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"',
        "",
        "[policies.chest-xray]",
        'on_detector_failure = "closed"',
        "alphas = { flag = 0.02, reject = 0.001 }",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _default(name: str, default: Any) -> str:
    if name == "decode_threads":  # differs by machine, and its description says how
        return ""
    return "" if default in (None, (), {}) else f"`{default}`"


if __name__ == "__main__":
    print(as_markdown(), end="")
