"""What is measured: counters, gauges and histograms that Prometheus reads at ``/metrics``.

``catalogue`` declares every metric, ``labels`` what each label may say, ``registry`` keeps the
values and bounds the labels, ``gateway`` counts what the walk tells, ``exposition`` writes the
page. ``python -m service.metrics`` prints the catalogue as ``docs/metrics.md``.
"""

from service.metrics.gateway import GatewayMetrics
from service.metrics.registry import Metrics

__all__ = ["GatewayMetrics", "Metrics"]
