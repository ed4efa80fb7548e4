"""``python -m service.metrics`` prints ``docs/metrics.md``."""

from __future__ import annotations

from service.metrics.catalogue import ALL, THEMES, Counter, Gauge, Histogram, Metric
from service.metrics.labels import OTHER, Label

ACROSS = {"livesum": "summed", "livemax": "the largest", "livemin": "the smallest"}


def as_markdown() -> str:
    """``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "What `/metrics` says, in Prometheus's text format or, where `Accept` names it, in",
        "OpenMetrics with exemplars: the trace id of a request that fell into the bucket. This",
        "page is made by `python -m service.metrics > docs/metrics.md`.",
        "",
        "Durations are in seconds, sizes in bytes. A histogram `X` is written as `X_bucket`,",
        "`X_sum` and `X_count`. With several worker processes counters and histograms are summed;",
        "a gauge says how its workers' values become one. Of a single process there are also",
        "prometheus-client's `process_*` (memory, CPU seconds, open files, start time).",
    ]
    for theme, metrics in THEMES.items():
        lines += ["", f"## {theme}", "", "| metric | type | labels | meaning |"]
        lines.append("|---|---|---|---|")
        lines += [_row(metric) for metric in metrics]
    lines += [
        "",
        "## Labels",
        "",
        "A label says one of its fixed values, or a name that the operator or a bundle's manifest",
        f"configured; anything else is counted as `{OTHER}`. No value comes from a request.",
        "",
        "| label | of | values |",
        "|---|---|---|",
    ]
    for label in dict.fromkeys(label for metric in ALL for label in metric.labels):
        lines.append(f"| `{label.name}` | {_users(label)} | {_values(label)} |")
    return "\n".join(lines) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label.name}`" for label in metric.labels)
    name, kind = metric.name, "gauge"
    if isinstance(metric, Counter):
        name, kind = f"{name}_total", "counter"
    elif isinstance(metric, Histogram):
        bounds = " ".join(f"{bound:g}" for bound in metric.buckets)
        exemplars = ", exemplars" if metric.exemplars else ""
        kind = f"histogram{exemplars}: {bounds}"
    elif isinstance(metric, Gauge):
        kind = f"gauge, {ACROSS[metric.across]}"
    return f"| `{name}` | {kind} | {labels} | {metric.meaning}. |"


def _users(label: Label) -> str:
    users = [metric.name for metric in ALL if label in metric.labels]
    return ", ".join(f"`{name}`" for name in users) if len(users) < 4 else f"{len(users)} metrics"


def _values(label: Label) -> str:
    if label.configured:
        return label.configured
    return ", ".join(f"`{value}`" for value in label.values)


if __name__ == "__main__":
    print(as_markdown(), end="")
