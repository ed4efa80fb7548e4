"""*Review*: what is held, how long it waits, and whether holding it was right."""

from __future__ import annotations

from deploy.grafana.board import SECONDS, SHARE, WHEN, Board, Panel, Query, Row, query
from deploy.grafana.reasons import AUDIT, REVIEWED

BOARD = Board(
    "review",
    "Review",
    "Held images and what people decided on them.",
    (
        Row(
            "Cases",
            (
                Panel(
                    "Cases by state", "On record.",
                    query('max by (state) (lazaret_cases{job="lazaret"})', "{{state}}"), "stacked",
                ),
                Panel(
                    "Oldest case by state", "An open one older than a day is a ticket.",
                    query(
                        'max by (state) (lazaret_case_oldest_seconds{job="lazaret", state=~"open|claimed"})',
                        "{{state}}",
                    ),
                    unit=SECONDS, bad=86400,
                ),
                Panel(
                    "Opened", "Images held in an hour, by route.",
                    query(
                        "sum by (route) (increase(lazaret_verdicts_total"
                        '{job="lazaret", model=~"$model", verdict=~"flag|reject", route!="none"}[1h]))',
                        "{{route}}",
                    ),
                    "stacked",
                ),
                Panel(
                    "Closed", "In an hour, by outcome.",
                    query(
                        "sum by (outcome) "
                        '(increase(lazaret_reviews_total{job="lazaret", model=~"$model"}[1h]))',
                        "{{outcome}}",
                    ),
                    "stacked",
                ),
                Panel(
                    "Was holding them right?",
                    "Of cases decided in 30 days, the share confirmed: the live positive predictive value.",
                    query(
                        'sum(increase(lazaret_reviews_total{job="lazaret", outcome="confirmed"}[30d])) '
                        '/ sum(increase(lazaret_reviews_total{job="lazaret", outcome=~"confirmed|released"}[30d]))'
                    ),
                    "number", SHARE, REVIEWED, width=6,
                ),
                Panel(
                    "Last audit message", "When.",
                    query('max(lazaret_audit_last_timestamp_seconds{job="lazaret"}) * 1000'),
                    "number", WHEN, AUDIT, width=6,
                ),
                Panel(
                    "Not recorded, not audited", "In five minutes.",
                    (
                        Query('sum(increase(lazaret_record_failures_total{job="lazaret"}[5m]))', "records"),
                        Query('sum(increase(lazaret_audit_failures_total{job="lazaret"}[5m]))', "audit"),
                    ),
                    bad=1,
                ),
            ),
        ),
    ),
)  # fmt: skip
