"""Boards as Grafana's JSON, by way of its own SDK's types."""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.board import Board, Panel

SOURCE = models.DataSourceRef(type_val="prometheus", uid="prometheus")
"""What ``provisioning/datasources`` makes."""
TAG = "lazaret"
HEIGHT = {"number": 4, "lines": 8, "stacked": 8, "heat": 8, "table": 7}
LOADED = 'max by (model, bundle) (lazaret_bundle_loaded_timestamp_seconds{job="lazaret"}) * 1000'


def as_json(board: Board) -> str:
    """One dashboard's file."""
    made: dict[str, Any] = json.loads(json.dumps(_dashboard(board).build(), cls=JSONEncoder))
    for annotation in made["annotations"]["list"]:
        # of the Prometheus data source, and so not among the SDK's fields: the mark stands where
        # the value says, not where the sample was taken
        annotation |= {"useValueForTime": True, "titleFormat": "Bundle loaded",
                       "textFormat": "{{model}}", "step": "60s"}  # fmt: skip
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _dashboard(board: Board) -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard(f"Lazaret: {board.title}")
        .uid(board.uid)
        .description(board.says)
        .tags([TAG])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query('label_values(lazaret_ready{job="lazaret"}, model)')
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Bundles")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("blue")
            .expr(LOADED)
        )
        .link(
            dashboard.DashboardLink("Lazaret")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
    )
    for row in board.rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made.with_panel(_panel(panel))
    return made


def _panel(panel: Panel) -> Any:
    made: Any = {
        "lines": timeseries.Panel,
        "stacked": timeseries.Panel,
        "number": stat.Panel,
        "heat": heatmap.Panel,
        "table": table.Panel,
    }[panel.kind]()
    made.title(panel.title).description(_description(panel)).datasource(SOURCE)
    made.span(panel.width).height(HEIGHT[panel.kind]).unit(panel.unit)
    for index, query in enumerate(panel.queries):
        made.with_target(_target(panel, index, query.expr, query.legend, query.exemplars))
    if panel.bad is not None or panel.good is not None:
        made.thresholds(_thresholds(panel))
    if panel.kind in ("lines", "stacked"):
        made.line_width(1).fill_opacity(30 if panel.kind == "stacked" else 5).min(0)
        made.legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        if panel.kind == "stacked":
            made.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
        elif panel.bad is not None:
            made.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(
                    common_models.GraphThresholdsStyleMode.DASHED
                )
            )
    elif panel.kind == "number":
        made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        made.color_mode(common_models.BigValueColorMode.BACKGROUND).no_value("none yet")
    elif panel.kind == "heat":
        made.calculate(False)
        made.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues"))
        made.y_axis(heatmap.YAxisConfig().unit(panel.unit))
    else:
        made.with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True, "__name__": True, "job": True}},
            )
        )
    return made


def _target(panel: Panel, index: int, expr: str, legend: str, exemplars: bool) -> Any:
    made = prometheus.Dataquery().expr(expr).ref_id(chr(ord("A") + index)).exemplar(exemplars)
    if panel.kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    if panel.kind == "heat":
        return made.range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    if legend:
        made.legend_format(legend)
    return made.instant() if panel.kind == "number" else made.range()


def _description(panel: Panel) -> str:
    return f"{panel.says} Empty until: {panel.needs}." if panel.needs else panel.says


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    if panel.bad is not None:
        steps = [("green", None), ("red", panel.bad)]
    else:
        steps = [("red", None), ("green", panel.good)]
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for color, value in steps])
    )
