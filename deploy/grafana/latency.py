"""*Latency and SLO*: are the two promises kept, and where does the time go?"""

from __future__ import annotations

from deploy.grafana.board import BYTES, RATE, SECONDS, SHARE, Board, Panel, Query, Row, query

QUANTILES = (0.5, 0.95, 0.99)
WINDOWS = ("5m", "1h", "6h", "1d", "3d")


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """PromQL of a histogram's quantile."""
    selector = f'{{job="lazaret", model=~"$model"{where}}}'
    return (
        f"histogram_quantile({q}, sum by (le{by}) "
        f"(rate({metric}_bucket{selector}[$__rate_interval])))"
    )


BOARD = Board(
    "latency",
    "Latency and SLO",
    "99.9 % of requests are not failed by us, and 99 % of answers come within 0.5 s, over 30 days.",
    (
        Row(
            "The promises",
            (
                Panel(
                    "Error budget left", "Of 30 days; 1 is all of it, below 0 it is spent.",
                    query(
                        '1 - (sum(increase(lazaret_requests_total{job="lazaret", outcome=~"failed|shed"}[30d])) '
                        '/ sum(increase(lazaret_requests_total{job="lazaret"}[30d]))) / 0.001'
                    ),
                    "number", SHARE, good=0, width=4,
                ),
                Panel(
                    "Latency budget left", "Of 30 days.",
                    query(
                        '1 - (1 - sum(increase(lazaret_request_seconds_bucket{job="lazaret", le="0.5"}[30d])) '
                        '/ sum(increase(lazaret_request_seconds_count{job="lazaret"}[30d]))) / 0.01'
                    ),
                    "number", SHARE, good=0, width=4,
                ),
                Panel(
                    "Burn rate of the error budget",
                    "1 spends it in 30 days. Above 14.4 for an hour, or 6 for six hours, pages.",
                    tuple(
                        Query(f"lazaret:errors:ratio_rate{window} / 0.001", window)
                        for window in WINDOWS
                    ),
                    bad=14.4, width=8,
                ),
                Panel(
                    "Burn rate of the latency budget", "As beside it.",
                    tuple(
                        Query(f"lazaret:slow:ratio_rate{window} / 0.01", window)
                        for window in WINDOWS
                    ),
                    bad=14.4, width=8,
                ),
            ),
        ),
        Row(
            "Time",
            (
                Panel(
                    "Time to an answer", "From the request's head to its durable record. A point is one "
                    "request: it leads to its trace.",
                    tuple(
                        Query(quantile(q, "lazaret_request_seconds"), f"p{round(100 * q)}", exemplars=True)
                        for q in QUANTILES
                    ),
                    unit=SECONDS, bad=0.5,
                ),
                Panel(
                    "Answers by time", "How many took how long.",
                    query(
                        "sum by (le) (increase(lazaret_request_seconds_bucket"
                        '{job="lazaret", model=~"$model"}[$__rate_interval]))'
                    ),
                    "heat", SECONDS,
                ),
                Panel(
                    "Time by stage", "95th percentile of each.",
                    query(quantile(0.95, "lazaret_stage_seconds", ", stage"), "{{stage}}"),
                    unit=SECONDS,
                ),
                Panel(
                    "Share of time by stage", "Where the seconds go, on average.",
                    query(
                        "sum by (stage) (rate(lazaret_stage_seconds_sum"
                        '{job="lazaret", model=~"$model"}[$__rate_interval]))',
                        "{{stage}}",
                    ),
                    "stacked", SECONDS,
                ),
            ),
        ),
        Row(
            "Load",
            (
                Panel(
                    "Requests", "A second, by interface.",
                    query(
                        'sum by (interface) (rate(lazaret_requests_total{job="lazaret"}[$__rate_interval]))',
                        "{{interface}}",
                    ),
                    "stacked", RATE, width=8,
                ),
                Panel(
                    "Shed", "Turned away a second, by what was full.",
                    query(
                        'sum by (reason) (rate(lazaret_shed_total{job="lazaret"}[$__rate_interval]))',
                        "{{reason}}",
                    ),
                    "stacked", RATE, width=8,
                ),
                Panel(
                    "Problems", "Answered a second, by kind.",
                    query(
                        'sum by (kind) (rate(lazaret_problems_total{job="lazaret"}[$__rate_interval]))',
                        "{{kind}}",
                    ),
                    "stacked", RATE, width=8,
                ),
                Panel(
                    "Waiting and in flight", "Images that wait for the engine; requests being answered.",
                    (
                        Query(
                            'sum by (model) (lazaret_queue_images{job="lazaret", model=~"$model"})',
                            "waiting for {{model}}",
                        ),
                        Query('sum(lazaret_in_flight_requests{job="lazaret"})', "in flight"),
                    ),
                    width=8,
                ),
                Panel(
                    "Images a run", "How well batching fills.",
                    query(
                        'sum by (model) (rate(lazaret_batch_images_sum{job="lazaret", model=~"$model"}[$__rate_interval])) '
                        '/ sum by (model) (rate(lazaret_batch_images_count{job="lazaret", model=~"$model"}[$__rate_interval]))',
                        "{{model}}",
                    ),
                    width=8,
                ),
                Panel(
                    "Held in memory", "Bodies and pixels of requests being answered.",
                    query('sum(lazaret_held_bytes{job="lazaret"})', "held"), unit=BYTES, width=8,
                ),
            ),
        ),
    ),
)  # fmt: skip
