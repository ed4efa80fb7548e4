"""An evaluation's plots. Each function draws one figure; ``inline`` makes it part of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from detectors.evaluation import KNOWLEDGE, Curve, Evaluation
from detectors.statistics import Vector

COLOURS = ("#0f7fbf", "#d55e00", "#109870", "#c2629b", "#b98a00", "#7a6fd0", "#808a94", "#8c564b")
"""Told apart by most colour-blind readers, and legible on white and on black."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "osD^vPX*"
INK = "#010203"
"""Stands for the text's colour until the page gives its own."""
STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
Draw = Callable[[], Figure]

ACROSS = 4
FLOOR = 0.0005
"""Where detection-error axes end; they have no place for 0."""
TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)


def inline(draw: Draw, title: str, name: str) -> str:
    """SVG to stand inside a page: it takes the page's colour and font, and its identifiers begin
    with ``name``."""
    with rc_context(cast("Any", {**STYLE, "svg.hashsalt": name})):
        figure = draw()
        stream = io.StringIO()
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    width = 96 * figure.get_figwidth()
    opening = f'<svg role="img" aria-label="{escape(title)}" style="max-width:{width:.0f}px"'
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', lambda _: opening, text, count=1)


def literal(name: str) -> str:
    """A name as a label: no dollar sign in it begins a formula."""
    return name.replace("$", r"\$")


def harm_over_epsilon(evaluation: Evaluation) -> Figure:
    """Attack success and undetected harm, one panel for each kind of attacker that has a budget."""
    panels = {
        knowledge: rows
        for knowledge in KNOWLEDGE
        if (rows := [a for a in evaluation.attacks if a.knowledge == knowledge and a.epsilon > 0])
    }
    drawing = Figure(figsize=(max(6.5, 4.2 * len(panels)), 4), layout="constrained")
    every = drawing.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
    for axes, (knowledge, results) in zip(every, panels.items(), strict=False):
        for i, attack in enumerate(dict.fromkeys(a.attack for a in results)):
            rows = sorted((a for a in results if a.attack == attack), key=lambda a: a.epsilon)
            x = [a.epsilon for a in rows]
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axes.plot(
                x, [a.success.value for a in rows], "--", color=colour, marker=marker,
                markerfacecolor="none", markersize=4, linewidth=1,
            )  # fmt: skip
            harm = [a.undetected_harm for a in rows]
            axes.errorbar(
                x,
                [h.value for h in harm],
                yerr=[
                    [max(h.value - h.low, 0) for h in harm],
                    [max(h.high - h.value, 0) for h in harm],
                ],
                color=colour,
                marker=marker,
                markersize=4,
                capsize=2.5,
                linewidth=1.4,
                label=literal(attack),
            )
        axes.set_title(knowledge.replace("_", " "))
        axes.set_xlabel("ε, grey levels of 255")
        epsilons = sorted({a.epsilon for a in results})
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.legend(fontsize=8)
    for axes in every:
        axes.axhline(
            evaluation.targets.undetected_harm, color=COLOURS[6], linewidth=0.9, linestyle=":"
        )
        axes.set_ylim(0, 1.02)
    every[0].set_ylabel("share of images")
    return drawing


def roc_and_det(columns: Sequence[Sequence[tuple[str, Curve]]]) -> Figure:
    """ROC above, detection error trade-off below; side by side where there is one column.

    Args:
        columns: for each column of panels its curves with their names. All of one epsilon.
    """
    names = list(dict.fromkeys(name for column in columns for name, _ in column))
    alone = len(columns) == 1
    drawing = Figure(
        figsize=(7.0, 3.4) if alone else (0.7 + 2.35 * len(columns), 5.4), layout="constrained"
    )
    grid = (
        drawing.subplots(1, 2).reshape(2, 1)
        if alone
        else drawing.subplots(2, len(columns), sharex="row", sharey="row")
    )
    for j, column in enumerate(columns):
        roc, det = grid[0, j], grid[1, j]
        for name, curve in column:
            i = names.index(name)
            fused = name == "fused"
            look: dict[str, Any] = {
                "color": INK if fused else COLOURS[i % len(COLOURS)],
                "linestyle": "-" if fused else DASHES[i % len(DASHES)],
                "linewidth": 2.2 if fused else 1.5,
                "label": literal(name),
            }
            fpr, tpr = np.array(curve.fpr), np.array(curve.tpr)
            roc.plot(fpr, tpr, drawstyle="steps-post", clip_on=False, **look)
            det.plot(_probit(fpr), _probit(1 - tpr), drawstyle="steps-post", **look)
        epsilon = column[0][1].epsilon
        roc.set_title(f"ε = {epsilon:g}/255" if epsilon > 0 else "no budget")
        roc.plot([0, 1], [0, 1], color=COLOURS[6], linewidth=0.6, linestyle=":")
        roc.set_xlabel("false-positive rate")
        _probit_axes(det)
    grid[0, 0].set_ylabel("detected (ROC)")
    grid[1, 0].set_ylabel("missed (DET)")
    handles = {
        str(line.get_label()): line
        for axes in grid[0]
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    drawing.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 7 if len(columns) > 2 else 4),
    )
    return drawing


def _probit(share: Vector) -> Vector:
    quantile: Vector = norm.ppf(np.clip(share, FLOOR, 1 - FLOOR))
    return quantile


def _probit_axes(axes: Axes) -> None:
    places = _probit(np.array(TICKS)).tolist()
    labels = [f"{100 * tick:g}" for tick in TICKS]
    axes.set_xticks(places, labels)
    axes.set_yticks(places, labels)
    low, high = _probit(np.array([FLOOR, 0.97]))
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_xlabel("false-positive rate, %")


def calibration(evaluation: Evaluation) -> Figure:
    """How often p-values are at most alpha: the whole range, and where thresholds lie."""
    drawing = Figure(figsize=(7.6, 3.7), layout="constrained")
    whole, near = drawing.subplots(1, 2)
    for axes, end in ((whole, 1.0), (near, 0.05)):
        top = end
        for i, check in enumerate(evaluation.calibration):
            kept = [k for k, alpha in enumerate(check.alpha) if alpha <= end + 1e-9]
            x = [0.0, *(check.alpha[k] for k in kept)]
            realised = [check.realised[k] for k in kept]
            top = max(top, *(r.value for r in realised), 0.0)
            name = check.predicted or "all images"
            axes.plot(
                x,
                [0.0, *(r.value for r in realised)],
                color=COLOURS[i % len(COLOURS)],
                linestyle=DASHES[i % len(DASHES)],
                linewidth=2 if check.predicted is None else 1.3,
                label=literal(f"{name} ({check.images})"),
            )
            if check.predicted is None:
                axes.fill_between(
                    x,
                    [0.0, *(r.low for r in realised)],
                    [0.0, *(r.high for r in realised)],
                    color=COLOURS[i],
                    alpha=0.15,
                    linewidth=0,
                )
        axes.plot([0, end], [0, end], color=COLOURS[6], linewidth=0.8, linestyle=":")
        axes.set_xlim(0, end)
        axes.set_ylim(0, 1.05 * top)
        axes.set_xlabel("nominal level α")
    whole.set_ylabel("share of clean images with p ≤ α")
    whole.set_title("whole range")
    near.set_title("where thresholds lie")
    near.axvline(evaluation.targets.adversarial, color=COLOURS[6], linewidth=0.8)
    drawing.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing
