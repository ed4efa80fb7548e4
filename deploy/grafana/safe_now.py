"""*Is it safe now*: the first page, and where most pages lead."""

from __future__ import annotations

from deploy.grafana.board import COUNT, RATE, SECONDS, SHARE, WHEN, Board, Panel, Query, Row, query
from deploy.grafana.reasons import CANARIES, DICOM, NO_ALERT, REDIS

BOARD = Board(
    "safe-now",
    "Is it safe now",
    "Does the guard answer, does it still see attacks, and does it keep its promise?",
    (
        Row(
            "At a glance",
            (
                Panel(
                    "Replicas answering", "Replicas that Prometheus reaches.",
                    query('sum(up{job="lazaret"})'), "number", good=1, width=4,
                ),
                Panel(
                    "Models ready", "0: some model has no warm engine on some replica.",
                    query('min(lazaret_ready{job="lazaret", model=~"$model"})'),
                    "number", good=1, width=4,
                ),
                Panel(
                    "Alerts that page", "Firing now.",
                    query('count(ALERTS{alertstate="firing", severity="page"}) or vector(0)'),
                    "number", bad=1, width=4,
                ),
                Panel(
                    "Let by unjudged, last hour", "Bypasses: a detector failed and the policy is open.",
                    query('sum(increase(lazaret_bypasses_total{job="lazaret"}[1h]))'),
                    "number", bad=0.5, width=4,
                ),
                Panel(
                    "Canaries missed", "Of the last round: known images judged wrong.",
                    query('sum(lazaret_canaries_missed{job="lazaret"})'),
                    "number", needs=CANARIES, bad=1, width=4,
                ),
                Panel(
                    "Oldest instance unjudged", "Received, acknowledged, not yet judged.",
                    query('max(lazaret_spool_oldest_seconds{job="lazaret"})'),
                    "number", SECONDS, DICOM, bad=300, width=4,
                ),
            ),
        ),
        Row(
            "Verdicts",
            (
                Panel(
                    "Verdicts", "Images judged a second, by verdict and route.",
                    query(
                        "sum by (verdict, route) "
                        '(rate(lazaret_verdicts_total{job="lazaret", model=~"$model"}[$__rate_interval]))',
                        "{{verdict}} {{route}}",
                    ),
                    "stacked", RATE,
                ),
                Panel(
                    "Held, against what calibration promises",
                    "Share of images held in the last hour, by route; dashed, the rate that benign "
                    "images stay below. Far above: an attack or a shift. Zero for long: see "
                    "LazaretSilentlyPassing.",
                    (
                        Query('lazaret:held:ratio_rate1h{model=~"$model"}', "{{model}} {{route}}"),
                        Query('lazaret:promised:ratio{model=~"$model"}', "promised {{model}} {{route}}"),
                    ),
                    unit=SHARE,
                ),
                Panel(
                    "Requests by how they ended",
                    "`failed` and `shed` spend the error budget; a verdict never does.",
                    query(
                        'sum by (outcome) (rate(lazaret_requests_total{job="lazaret"}[$__rate_interval]))',
                        "{{outcome}}",
                    ),
                    "stacked", RATE,
                ),
                Panel(
                    "Alerts", "Firing or about to.",
                    query('ALERTS{alertname!="LazaretWatchdog"}'), "table", needs=NO_ALERT,
                ),
            ),
        ),
        Row(
            "What is served",
            (
                Panel(
                    "Models and bundles", "To the byte.",
                    query(
                        "max by (model, version, bundle) "
                        '(lazaret_model_info{job="lazaret", model=~"$model"} == 1)'
                    ),
                    "table",
                ),
                Panel(
                    "Bundle loaded", "When.",
                    query(
                        "max by (model) "
                        '(lazaret_bundle_loaded_timestamp_seconds{job="lazaret", model=~"$model"}) * 1000',
                        "{{model}}",
                    ),
                    "number", WHEN, width=6,
                ),
                Panel(
                    "Bundles refused, last day", "By why. `hash` and `signature` page.",
                    query(
                        'sum by (reason) (increase(lazaret_bundle_refusals_total{job="lazaret"}[1d]))',
                        "{{reason}}",
                    ),
                    "number", bad=0.5, width=6,
                ),
            ),
        ),
        Row(
            "Watching the watchers",
            (
                Panel(
                    "Canaries", "Known images sent through the real path, by what came of them.",
                    query(
                        "sum by (kind, outcome) "
                        '(increase(lazaret_canaries_total{job="lazaret", model=~"$model"}[1h]))',
                        "{{kind}} {{outcome}}",
                    ),
                    needs=CANARIES,
                ),
                Panel(
                    "Last good round of canaries", "How long ago all were seen.",
                    query(
                        'time() - max by (model) (lazaret_canary_last_timestamp_seconds{job="lazaret"})',
                        "{{model}}",
                    ),
                    unit=SECONDS, needs=CANARIES, bad=7200,
                ),
                Panel(
                    "Withheld, unaudited, unchecked",
                    "Answers that could not be recorded, audit messages lost, checks that failed, "
                    "in five minutes.",
                    (
                        Query('sum(increase(lazaret_record_failures_total{job="lazaret"}[5m]))', "records"),
                        Query('sum(increase(lazaret_audit_failures_total{job="lazaret"}[5m]))', "audit"),
                        Query(
                            'sum by (check) (increase(lazaret_job_failures_total{job="lazaret"}[5m]))',
                            "{{check}}",
                        ),
                    ),
                    unit=COUNT, bad=1,
                ),
                Panel(
                    "Incidents", "Raised in an hour, by kind.",
                    query(
                        'sum by (kind) (increase(lazaret_incidents_total{job="lazaret"}[1h]))',
                        "{{kind}}",
                    ),
                ),
                Panel(
                    "Shared state", "1 while a store answers every replica; what it did not answer in five minutes.",
                    (
                        Query('min by (store) (lazaret_shared_state_up{job="lazaret"})', "{{store}} answers"),
                        Query(
                            'sum by (store) (increase(lazaret_shared_state_failures_total{job="lazaret"}[5m]))',
                            "{{store}} failures",
                        ),
                    ),
                    needs=REDIS,
                ),
            ),
        ),
    ),
)  # fmt: skip
