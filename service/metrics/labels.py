"""What a label may say. Anything else is counted under ``other``: labels stay bounded and say
nothing of patients, whoever writes the code that counts."""

from __future__ import annotations

from dataclasses import dataclass

from detectors.manifest_file import Refusal
from service.case_states import State
from service.decide import Route, Verdict
from service.problems import TITLES

OTHER = "other"
NONE = "none"
MOST_CONFIGURED = 256
"""Most names of one configured label; later ones are counted under ``other``."""


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """A label: its fixed values, or where its values are configured."""

    name: str
    values: tuple[str, ...] = ()
    configured: str = ""
    """Where the names come from, for labels whose values are not fixed: the operator's
    configuration or a bundle's manifest, told to ``Metrics.allow``. Never a request."""


MODEL = Label("model", configured="the models of the served bundles")
VERSION = Label("version", configured="the served models' versions, and this service's")
BUNDLE = Label("bundle", configured="the served bundles' digests")
CLASS = Label("class", configured="the classes of the served models")
DETECTOR = Label(
    "detector", configured="the detectors of the served bundles, `fused` and `quality`"
)
SOURCE = Label("source", configured="API clients and DICOM peers, by their configured names")
PEER = Label("peer", configured="DICOM peers, by their configured names")

INTERFACE = Label("interface", ("diagnose", "inference", "grpc", "dicom", "dicomweb"))
OUTCOME = Label("outcome", ("answered", "refused", "shed", "late", "failed"))
STAGE = Label("stage", ("receive", "decode", "queue", "infer", "decide", "record"))
VERDICT = Label("verdict", tuple(Verdict))
ROUTE = Label("route", (*Route, "malformed", NONE))
LEVEL = Label("level", ("flag", "reject", "quality"))
PROBLEM = Label("kind", tuple(kind for kind, _ in TITLES.values()))
SHED = Label("reason", ("requests", "memory", "queue_full", "queue_slow", "not_ready", "rate"))
REFUSAL = Label("reason", tuple(Refusal))
CASE_STATE = Label("state", tuple(State))
REVIEW = Label("outcome", ("released", "confirmed", "expired"))
DEATH = Label("cause", ("timeout", "memory", "signal"))
STORED = Label(
    "status", ("stored", "not_image", "duplicate", "refused", "malformed", "full", "failed")
)
ASSOCIATION = Label("outcome", ("accepted", "rejected", "aborted"))
REJECTION = Label(
    "reason",
    (
        "called_ae", "calling_ae", "certificate", "limit", "full", "size", "structure", "nesting",
        "geometry", "transfer_syntax", "preamble", "uid", "pixels",
    ),
)  # fmt: skip
SPOOL_STATE = Label("state", ("received", "judging", "judged", "held", "failed"))
OUTBOX_STATE = Label("state", ("waiting", "retrying", "dead"))
OBJECT = Label(
    "object", ("image", "sr", "gsps", "kos", "sc", "commitment", "workitem", "audit", "fhir")
)
DELIVERY = Label("outcome", ("delivered", "retried", "dead"))
CANARY = Label("kind", ("clean", "adversarial"))
CANARY_OUTCOME = Label("outcome", ("seen", "missed", "failed"))
INCIDENT = Label("kind", ("query_attack", "uid_reuse", "calibration_drift", "canary_missed"))
SHARED = Label("store", ("redis", "postgresql", "sqlite"))
CERTIFICATE = Label("use", ("http", "grpc", "dicom_in", "dicom_out", "dicomweb", "oidc"))
JOB = Label(
    "check", ("drift", "canaries", "cases", "reviews", "bundles", "gauges", "spool", "outbox")
)
