"""Why a panel may be empty although all is well. Checks take these and no other."""

from __future__ import annotations

DICOM = "DICOM is received"
OUTBOX = "results are sent to a DICOM peer"
REVIEWED = "a case was closed"
CANARIES = "the bundle holds canaries"
DRIFT = "enough images were accepted for the drift test to speak"
REDIS = "a shared store is configured"
AUDIT = "the audit trail is switched on"
CERTIFICATES = "TLS is configured"
WORKERS = "several worker processes serve"
GPU = "NVIDIA's dcgm-exporter runs"
NODE = "Prometheus's node-exporter runs"
NO_ALERT = "an alert is pending or firing"
SECOND_STAGE = "a bundle has a second stage, and it looked at an image"
