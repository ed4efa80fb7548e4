"""*Detectors and calibration*: do p-values still mean what they say?"""

from __future__ import annotations

from deploy.grafana.board import RATE, SHARE, Board, Panel, Query, Row, query
from deploy.grafana.reasons import DRIFT, SECOND_STAGE

M = 'job="lazaret", model=~"$model"'

BOARD = Board(
    "detectors",
    "Detectors and calibration",
    "Benign p-values are uniform: the share at or below a bound is the bound, while all is well.",
    (
        Row(
            "p-values",
            (
                Panel(
                    "Fused p-values", "Evenly spread while traffic is like the calibration images; a lean "
                    "to the bottom is a shift or an attack.",
                    query(
                        f'sum by (le) (increase(lazaret_p_value_bucket{{{M}, detector="fused"}}[$__rate_interval]))'
                    ),
                    "heat",
                ),
                Panel(
                    "Share at or below 0.01, by detector",
                    "Should be 0.01 for each. One far above: what it looks at has changed. One at 0: it is dead.",
                    query(
                        f'sum by (detector) (increase(lazaret_p_value_bucket{{{M}, le="0.01"}}[1h])) '
                        f"/ sum by (detector) (increase(lazaret_p_value_count{{{M}}}[1h]))",
                        "{{detector}}",
                    ),
                    unit=SHARE, bad=0.05,
                ),
                Panel(
                    "Median p-value by detector", "0.5 while all is well.",
                    query(
                        f"histogram_quantile(0.5, sum by (le, detector) (increase(lazaret_p_value_bucket{{{M}}}[1h])))",
                        "{{detector}}",
                    ),
                ),
                Panel(
                    "Which detector decided", "Of images held.",
                    query(
                        f"sum by (detector) (increase(lazaret_decisive_total{{{M}}}[1h]))",
                        "{{detector}}",
                    ),
                    "stacked",
                ),
            ),
        ),
        Row(
            "The promise",
            (
                Panel(
                    "Held, against what is promised", "Last hour; promised is what benign images stay below.",
                    (
                        Query('lazaret:held:ratio_rate1h{model=~"$model"}', "{{model}} {{route}}"),
                        Query('lazaret:promised:ratio{model=~"$model"}', "promised {{model}} {{route}}"),
                    ),
                    unit=SHARE,
                ),
                Panel(
                    "Looked at again", "Share of images that the second stage looked at; far above what it was "
                    "fitted to: costlier, and the first stage sees something new.",
                    query(
                        f"sum by (model) (increase(lazaret_second_stage_images_total{{{M}}}[1h])) "
                        f"/ sum by (model) (increase(lazaret_verdicts_total{{{M}}}[1h]))"
                    ),
                    unit=SHARE, needs=SECOND_STAGE,
                ),
                Panel(
                    "Held a second", "By verdict and route.",
                    query(
                        f'sum by (verdict, route) (rate(lazaret_verdicts_total{{{M}, verdict=~"flag|reject"}}[$__rate_interval]))',
                        "{{verdict}} {{route}}",
                    ),
                    "stacked", RATE,
                ),
                Panel(
                    "False-positive rate by class and level",
                    "What calibration expects of benign images. 0: too few calibration images, never held.",
                    query(f"max by (model, class, level) (lazaret_calibrated_fpr{{{M}}})"),
                    "table",
                ),
                Panel(
                    "Calibration images", "By class.",
                    query(f"max by (model, class) (lazaret_calibration_images{{{M}}})"), "table",
                ),
            ),
        ),
        Row(
            "Drift",
            (
                Panel(
                    "Evidence of drift", "Decimal logarithm of the test's capital, by source; 3 is a proof.",
                    query(f"max by (model, source) (lazaret_drift_evidence{{{M}}})", "{{model}} {{source}}"),
                    needs=DRIFT, bad=3,
                ),
                Panel(
                    "Images the drift test has seen", "By source.",
                    query(f"max by (model, source) (lazaret_drift_images{{{M}}})", "{{model}} {{source}}"),
                    needs=DRIFT,
                ),
            ),
        ),
    ),
)  # fmt: skip
