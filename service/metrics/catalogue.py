"""Every metric, in one table. Code counts by these names alone; ``docs/metrics.md`` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.metrics import labels as by
from service.metrics.labels import Label

LATENCY_SLO_SECONDS = 0.5
"""99 of 100 answers come within it. A bucket ends here, so that the ratio to it is exact."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, LATENCY_SLO_SECONDS, 1, 2.5, 5, 10)
# Benign p-values are uniform, so the share below each bound is the bound itself while all is well.
P_VALUES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
BYTES = (2**14, 2**16, 2**18, 2**20, 2**22, 2**24, 2**26, 2**28)
LAGS = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

Across = Literal["livesum", "livemax", "livemin"]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric: its name, what it means, and what its labels may say."""

    name: str
    meaning: str
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Counter(Metric):
    """Only rises. The page adds ``_total`` to its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Gauge(Metric):
    """A present value. ``across`` makes one value of several worker processes'."""

    across: Across = "livemax"


@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Metric):
    """Counts by upper bound. ``exemplars`` carry trace ids."""

    buckets: tuple[float, ...] = SECONDS
    exemplars: bool = False


# Requests
REQUESTS = Counter(
    "lazaret_requests",
    "Requests for a diagnosis by how they ended: `answered` with a verdict, `refused` for what was "
    "sent, `shed` under load, `late` past a deadline, `failed` through our own fault. The error "
    "budget is spent by `failed` and `shed`; a verdict is never an error",
    (by.INTERFACE, by.OUTCOME),
)
REQUEST_SECONDS = Histogram(
    "lazaret_request_seconds",
    "From a request's head to its durable record, of answered requests; a bucket ends at the SLO "
    f"bound of {LATENCY_SLO_SECONDS} s",
    (by.MODEL, by.INTERFACE),
    exemplars=True,
)
STAGE_SECONDS = Histogram(
    "lazaret_stage_seconds", "Time of each stage of a diagnosis", (by.MODEL, by.STAGE)
)
PROBLEMS = Counter(
    "lazaret_problems", "Requests for a diagnosis answered with a problem, by kind", (by.PROBLEM,)
)
SHED = Counter("lazaret_shed", "Requests turned away under load, by what was full", (by.SHED,))
IN_FLIGHT = Gauge("lazaret_in_flight_requests", "Requests being answered", across="livesum")
HELD_BYTES = Gauge("lazaret_held_bytes", "Bytes of bodies and pixels in memory", across="livesum")

# Verdicts and detectors
VERDICTS = Counter(
    "lazaret_verdicts", "Images judged, by verdict and route", (by.MODEL, by.VERDICT, by.ROUTE)
)
DECISIVE = Counter(
    "lazaret_decisive",
    "Held images by the detector that decided: the one with the smallest p-value on the "
    "adversarial route, `quality` on the quality route, `fused` when none gave a finite score",
    (by.MODEL, by.DETECTOR),
)
P_VALUE = Histogram(
    "lazaret_p_value",
    "Conformal p-values by detector; `fused` and `quality` decide. Uniform while traffic is like "
    "the calibration images, so the share below a bucket's bound is that bound",
    (by.MODEL, by.DETECTOR),
    buckets=P_VALUES,
    exemplars=True,
)
SECOND_STAGE = Counter(
    "lazaret_second_stage_images",
    "Images that the second stage looked at, of those in `lazaret_verdicts`",
    (by.MODEL,),
)
BYPASSES = Counter(
    "lazaret_bypasses",
    "Images let by because a detector failed and the policy is open",
    (by.MODEL,),
)

# Models, bundles, calibration
READY = Gauge("lazaret_ready", "1 when the model's engine is warm", (by.MODEL,), across="livemin")
MODEL_INFO = Gauge(
    "lazaret_model_info",
    "1 for the model and bundle being served, 0 for those served before",
    (by.MODEL, by.VERSION, by.BUNDLE),
)
BUILD_INFO = Gauge("lazaret_build_info", "1; the version of this service", (by.VERSION,))
BUNDLE_LOADED = Gauge(
    "lazaret_bundle_loaded_timestamp_seconds",
    "When the bundle being served was loaded, in seconds since 1970",
    (by.MODEL,),
)
BUNDLE_REFUSALS = Counter(
    "lazaret_bundle_refusals",
    "Bundles that were to take a served one's place and were refused, by why",
    (by.REFUSAL,),
)
CALIBRATED_FPR = Gauge(
    "lazaret_calibrated_fpr",
    "False-positive rate expected of each level by predicted class; 0: the class has too few "
    "calibration images for the level, so it never fires",
    (by.MODEL, by.CLASS, by.LEVEL),
)
CALIBRATED_FPR_BOUND = Gauge(
    "lazaret_calibrated_fpr_bound",
    "What that rate stays below: with 95 % confidence over calibration sets, for `quality` on "
    "average over them",
    (by.MODEL, by.CLASS, by.LEVEL),
)
CALIBRATION_IMAGES = Gauge(
    "lazaret_calibration_images", "Calibration images by predicted class", (by.MODEL, by.CLASS)
)

# Engine
BATCH_IMAGES = Histogram(
    "lazaret_batch_images", "Images in the run that judged an image", (by.MODEL,), buckets=BATCHES
)
QUEUE_IMAGES = Gauge(
    "lazaret_queue_images", "Images that wait for the engine", (by.MODEL,), across="livesum"
)
DECODER_DEATHS = Counter(
    "lazaret_decoder_deaths",
    "Decoder processes killed or lost, one refused image each",
    (by.DEATH,),
)
WORKERS = Gauge("lazaret_workers", "Worker processes that answer", across="livesum")
WORKER_RESTARTS = Counter("lazaret_worker_restarts", "Worker processes that died and were replaced")

# Records and review
RECORD_FAILURES = Counter(
    "lazaret_record_failures", "Answers withheld because they could not be recorded"
)
AUDIT_FAILURES = Counter(
    "lazaret_audit_failures", "Attempts to deliver an audit message that failed"
)
AUDIT_LAST = Gauge(
    "lazaret_audit_last_timestamp_seconds",
    "When the last audit message was delivered, in seconds since 1970",
)
CASES = Gauge("lazaret_cases", "Cases on record, by state", (by.CASE_STATE,))
CASE_OLDEST = Gauge(
    "lazaret_case_oldest_seconds", "Age of the oldest case of each state", (by.CASE_STATE,)
)
REVIEWS = Counter("lazaret_reviews", "Cases closed, by outcome", (by.MODEL, by.REVIEW))

# DICOM
DICOM_ASSOCIATIONS = Counter(
    "lazaret_dicom_associations", "DICOM associations by configured peer", (by.PEER, by.ASSOCIATION)
)
DICOM_INSTANCES = Counter(
    "lazaret_dicom_instances", "DICOM instances received, by configured peer", (by.PEER, by.STORED)
)
DICOM_REJECTIONS = Counter(
    "lazaret_dicom_rejections", "DICOM associations and instances turned away", (by.REJECTION,)
)
DICOM_BYTES = Histogram(
    "lazaret_dicom_instance_bytes", "Size of received DICOM instances", (by.PEER,), buckets=BYTES
)
SPOOL_ITEMS = Gauge("lazaret_spool_items", "Received instances in the spool", (by.SPOOL_STATE,))
SPOOL_BYTES = Gauge("lazaret_spool_bytes", "Bytes in the spool")
SPOOL_FREE_BYTES = Gauge("lazaret_spool_free_bytes", "Bytes left on the spool's disk")
SPOOL_OLDEST = Gauge("lazaret_spool_oldest_seconds", "Age of the oldest instance not yet judged")
OUTBOX_ITEMS = Gauge(
    "lazaret_outbox_items", "Objects to be sent, by configured peer", (by.PEER, by.OUTBOX_STATE)
)
OUTBOX_OLDEST = Gauge(
    "lazaret_outbox_oldest_seconds", "Age of the oldest object not yet sent", (by.PEER,)
)
OUTBOX_DELIVERIES = Counter(
    "lazaret_outbox_deliveries",
    "Attempts to send an object, by configured peer",
    (by.PEER, by.OBJECT, by.DELIVERY),
)
OBJECT_FAILURES = Counter(
    "lazaret_object_failures",
    "Objects for the PACS that could not be built; the verdict is on record without them",
    (by.OBJECT,),
)
OUTBOX_LAG = Histogram(
    "lazaret_outbox_lag_seconds", "From a verdict to its delivered object", (by.PEER,), buckets=LAGS
)

# Watching
DRIFT = Gauge(
    "lazaret_drift",
    "1 once the p-values of a source's accepted traffic are proven not to be uniform: recalibrate; "
    "stays 1 until another bundle is served",
    (by.MODEL, by.SOURCE),
)
DRIFT_EVIDENCE = Gauge(
    "lazaret_drift_evidence",
    "Decimal logarithm of the test martingale's capital; 3 is a proof that is wrong for one source "
    "in a thousand",
    (by.MODEL, by.SOURCE),
)
DRIFT_IMAGES = Gauge(
    "lazaret_drift_images", "Accepted images that the drift test has seen", (by.MODEL, by.SOURCE)
)
CANARIES = Counter(
    "lazaret_canaries",
    "Canaries sent through the real path: `seen` as they should be, `missed` (a clean one held, an "
    "adversarial one accepted) or `failed` (not judged)",
    (by.MODEL, by.CANARY, by.CANARY_OUTCOME),
)
CANARY_MISSED = Gauge(
    "lazaret_canaries_missed",
    "Canaries of the last round that were missed or not judged",
    (by.MODEL, by.CANARY),
)
CANARY_LAST = Gauge(
    "lazaret_canary_last_timestamp_seconds",
    "When all canaries were last seen as they should be, in seconds since 1970",
    (by.MODEL,),
)
INCIDENTS = Counter("lazaret_incidents", "Incidents raised, by kind", (by.INCIDENT,))
INCIDENTS_OPEN = Gauge("lazaret_incidents_open", "Incidents that nobody has closed", (by.INCIDENT,))
SHARED_UP = Gauge(
    "lazaret_shared_state_up", "1 while the store answers", (by.SHARED,), across="livemin"
)
SHARED_FAILURES = Counter(
    "lazaret_shared_state_failures", "Operations that the store did not answer", (by.SHARED,)
)
CERTIFICATE_EXPIRY = Gauge(
    "lazaret_certificate_expiry_timestamp_seconds",
    "When the certificate in use expires, in seconds since 1970",
    (by.CERTIFICATE,),
    across="livemin",
)
JOB_FAILURES = Counter("lazaret_job_failures", "Background checks that failed", (by.JOB,))

THEMES: dict[str, tuple[Metric, ...]] = {
    "Requests": (
        REQUESTS, REQUEST_SECONDS, STAGE_SECONDS, PROBLEMS, SHED, IN_FLIGHT, HELD_BYTES,
    ),
    "Verdicts and detectors": (VERDICTS, DECISIVE, P_VALUE, SECOND_STAGE, BYPASSES),
    "Models, bundles, calibration": (
        READY, MODEL_INFO, BUILD_INFO, BUNDLE_LOADED, BUNDLE_REFUSALS, CALIBRATED_FPR,
        CALIBRATED_FPR_BOUND, CALIBRATION_IMAGES,
    ),
    "Engine": (BATCH_IMAGES, QUEUE_IMAGES, DECODER_DEATHS, WORKERS, WORKER_RESTARTS),
    "Records and review": (
        RECORD_FAILURES, AUDIT_FAILURES, AUDIT_LAST, CASES, CASE_OLDEST, REVIEWS,
    ),
    "DICOM": (
        DICOM_ASSOCIATIONS, DICOM_INSTANCES, DICOM_REJECTIONS, DICOM_BYTES, SPOOL_ITEMS,
        SPOOL_BYTES, SPOOL_FREE_BYTES, SPOOL_OLDEST, OUTBOX_ITEMS, OUTBOX_OLDEST,
        OUTBOX_DELIVERIES, OBJECT_FAILURES, OUTBOX_LAG,
    ),
    "Watching": (
        DRIFT, DRIFT_EVIDENCE, DRIFT_IMAGES, CANARIES, CANARY_MISSED, CANARY_LAST, INCIDENTS,
        INCIDENTS_OPEN, SHARED_UP, SHARED_FAILURES, CERTIFICATE_EXPIRY, JOB_FAILURES,
    ),
}  # fmt: skip
"""What ``docs/metrics.md`` prints, in its order."""

ALL: tuple[Metric, ...] = tuple(metric for theme in THEMES.values() for metric in theme)
