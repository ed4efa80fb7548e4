"""*DICOM*: what comes in, what waits, what is sent."""

from __future__ import annotations

from deploy.grafana.board import BYTES, RATE, SECONDS, Board, Panel, Query, Row, query
from deploy.grafana.reasons import DICOM, OUTBOX

BOARD = Board(
    "dicom",
    "DICOM",
    "Peers by their configured names; whoever is not configured is `other`.",
    (
        Row(
            "In",
            (
                Panel(
                    "Associations", "A second, by peer and outcome.",
                    query(
                        'sum by (peer, outcome) (rate(lazaret_dicom_associations_total{job="lazaret"}[$__rate_interval]))',
                        "{{peer}} {{outcome}}",
                    ),
                    "stacked", RATE, DICOM,
                ),
                Panel(
                    "Instances", "Received a second, by peer and status.",
                    query(
                        'sum by (peer, status) (rate(lazaret_dicom_instances_total{job="lazaret"}[$__rate_interval]))',
                        "{{peer}} {{status}}",
                    ),
                    "stacked", RATE, DICOM,
                ),
                Panel(
                    "Turned away", "A second, by why.",
                    query(
                        'sum by (reason) (rate(lazaret_dicom_rejections_total{job="lazaret"}[$__rate_interval]))',
                        "{{reason}}",
                    ),
                    "stacked", RATE,
                ),
                Panel(
                    "Size of instances", "How many are how large.",
                    query(
                        'sum by (le) (increase(lazaret_dicom_instance_bytes_bucket{job="lazaret"}[$__rate_interval]))'
                    ),
                    "heat", BYTES, DICOM,
                ),
                Panel(
                    "Objects not built", "In 15 minutes, by kind: a verdict that the archive shows less of.",
                    query(
                        'sum by (object) (increase(lazaret_object_failures_total{job="lazaret"}[15m]))',
                        "{{object}}",
                    ),
                    bad=1,
                ),
                Panel(
                    "Decoders lost", "In 15 minutes, by cause: one refused file each.",
                    query(
                        'sum by (cause) (increase(lazaret_decoder_deaths_total{job="lazaret"}[15m]))',
                        "{{cause}}",
                    ),
                    bad=5,
                ),
            ),
        ),
        Row(
            "Waiting for a verdict",
            (
                Panel(
                    "Spool", "Instances by state.",
                    query('max by (state) (lazaret_spool_items{job="lazaret"})', "{{state}}"),
                    "stacked", needs=DICOM, width=8,
                ),
                Panel(
                    "Oldest unjudged", "Above five minutes pages.",
                    query('max(lazaret_spool_oldest_seconds{job="lazaret"})', "oldest"),
                    unit=SECONDS, needs=DICOM, bad=300, width=8,
                ),
                Panel(
                    "Spool's disk", "Used by the spool, and left.",
                    (
                        Query('max(lazaret_spool_bytes{job="lazaret"})', "spool"),
                        Query('min(lazaret_spool_free_bytes{job="lazaret"})', "free"),
                    ),
                    unit=BYTES, needs=DICOM, width=8,
                ),
            ),
        ),
        Row(
            "Out",
            (
                Panel(
                    "Outbox", "Objects to be sent, by peer and state.",
                    query('max by (peer, state) (lazaret_outbox_items{job="lazaret"})', "{{peer}} {{state}}"),
                    "stacked", needs=OUTBOX,
                ),
                Panel(
                    "Oldest not sent", "By peer; above 15 minutes is a ticket.",
                    query('max by (peer) (lazaret_outbox_oldest_seconds{job="lazaret"})', "{{peer}}"),
                    unit=SECONDS, needs=OUTBOX, bad=900,
                ),
                Panel(
                    "Deliveries", "A second, by peer, object and outcome.",
                    query(
                        "sum by (peer, object, outcome) "
                        '(rate(lazaret_outbox_deliveries_total{job="lazaret"}[$__rate_interval]))',
                        "{{peer}} {{object}} {{outcome}}",
                    ),
                    "stacked", RATE, OUTBOX,
                ),
                Panel(
                    "From verdict to delivery", "95th percentile by peer.",
                    query(
                        "histogram_quantile(0.95, sum by (le, peer) "
                        '(rate(lazaret_outbox_lag_seconds_bucket{job="lazaret"}[$__rate_interval])))',
                        "{{peer}}",
                    ),
                    unit=SECONDS, needs=OUTBOX,
                ),
            ),
        ),
    ),
)  # fmt: skip
