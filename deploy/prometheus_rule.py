"""The rules as the Prometheus operator takes them.

``python -m deploy.prometheus_rule > deploy/kubernetes/components/monitoring/prometheusrule.yaml``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent / "prometheus" / "rules"


def manifest() -> dict[str, Any]:
    """A PrometheusRule that holds every group of ``deploy/prometheus/rules``."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "lazaret"},
        "spec": {"groups": [group for file in files for group in file["groups"]]},
    }


if __name__ == "__main__":
    sys.stdout.write("# Made from deploy/prometheus/rules by `make docs`.\n")
    yaml.safe_dump(manifest(), sys.stdout, sort_keys=False, width=10_000)
