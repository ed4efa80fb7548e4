"""An evaluation as a page and a figure."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from detectors.evaluation import AttackResult, Estimate, Evaluation, ShiftResult

FIGURE = "undetected_harm.png"


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write ``evaluation.json``, ``evaluation.md`` and the figure into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(evaluation.to_json())
    (folder / "evaluation.md").write_text(page(evaluation))
    figure(evaluation).savefig(folder / FIGURE, dpi=110)


def percent(estimate: Estimate) -> str:
    """``1.2 % (0.4 to 2.8)``."""
    if math.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})".replace(
        "%", " %"
    )


def number(value: float) -> str:
    """Three decimals, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def page(evaluation: Evaluation) -> str:
    """The evaluation as Markdown."""
    clean = evaluation.clean
    worst = max(
        (a for a in evaluation.attacks), key=lambda a: a.undetected_harm.value, default=None
    )
    headline = (
        f"**Worst undetected harm: {percent(worst.undetected_harm)}, {worst.attack} at "
        f"{worst.epsilon:g}/255**, at a realised clean false-positive rate of 1 %."
        if worst
        else "No attack was evaluated."
    )
    return "\n".join(
        [
            f"# Evaluation of the guard for {evaluation.model}",
            "",
            headline,
            "",
            "These attackers do not know the guard. One who does can do better, and no stateless "
            "detector is known to withstand full knowledge. The model is a demonstration, not a "
            "medical device.",
            "",
            f"![Undetected harm over epsilon]({FIGURE})",
            "",
            "Intervals are 95 %, over patients. *Undetected harm* is the share of images diagnosed "
            "right when clean that the attack turns into a wrong diagnosis and that are accepted.",
            "",
            "## Clean images",
            "",
            *table(
                ["", ""],
                [
                    ["images (patients)", f"{clean.images} ({clean.patients})"],
                    ["accuracy", percent(clean.accuracy)],
                    [
                        "flagged, adversarial route, at the bundle's levels",
                        percent(clean.adversarial),
                    ],
                    *(
                        [f"– of those predicted {name}", percent(share)]
                        for name, share in clean.adversarial_by_class.items()
                    ),
                    ["flagged, quality route", percent(clean.quality)],
                    ["diagnosed wrong and accepted", percent(clean.errors_accepted)],
                ],
            ),
            "## Attacks, as 8-bit files",
            "",
            "*Success before rounding* is that of the float pixels, which no file carries; at half "
            "a grey level the source is the only 8-bit image in reach. *Served* is undetected harm "
            "at the bundle's own levels and with both routes.",
            "",
            *table(
                [
                    "attack",
                    "ε /255",
                    "images",
                    "success",
                    "before rounding",
                    "undetected harm",
                    "served",
                    "fused AUC, successful",
                    "TPR at 0.1 %",
                    "TPR at 1 %",
                    "TPR at 5 %",
                ],
                [_attack_row(a) for a in evaluation.attacks],
            ),
            "With failed attacks counted too:",
            "",
            *table(
                ["attack", "ε /255", "fused AUC, all", "TPR at 1 %"],
                [
                    [
                        a.attack,
                        f"{a.epsilon:g}",
                        a.scores["fused"].attempted.auc.described,
                        a.scores["fused"].attempted.tpr[1].described,
                    ]
                    for a in evaluation.attacks
                ],
            ),
            "### Each detector alone: AUC / TPR at 1 % FPR, successful attacks",
            "",
            *table(
                ["attack", "ε /255", *evaluation.detectors, "fused"],
                [
                    [
                        a.attack,
                        f"{a.epsilon:g}",
                        *(
                            f"{number(j.auc.value)} / {number(j.tpr[1].value)}"
                            for name in (*evaluation.detectors, "fused")
                            for j in (a.scores[name].successful,)
                        ),
                    ]
                    for a in evaluation.attacks
                ],
            ),
            "## The paper's protocol beside ours",
            "",
            "AUC by the released protocol of Ma et al. (2021): one layer, failed attacks counted, "
            "oversampling before the split, densities fitted on the points they score. Ours: all "
            "attacked images, detectors fitted on other patients. The first row is the null test: "
            "benign images in the place of attacked ones, where an honest protocol gives 0.5.",
            "",
            *table(
                ["attack", "ε /255"]
                + [f"{n}, {w}" for n in ("kd", "lid", "dfeat", "qfeat") for w in ("paper", "ours")],
                [_null_row(evaluation), *(_paper_row(a) for a in evaluation.attacks if a.paper)],
            ),
            "## Null test",
            "",
            *table(
                ["", "detector", "AUC", "99 % interval", ""],
                [
                    [
                        kind,
                        r.detector,
                        number(r.auc),
                        f"{r.low:.3f} to {r.high:.3f}",
                        "passed" if r.passed else "FAILED",
                    ]
                    for kind, results in (
                        ("bundle's scores", evaluation.null),
                        ("fitted anew", evaluation.null_refitted),
                    )
                    for r in results
                ],
            ),
            "## Attacks that the guard was not fitted on",
            "",
            *table(
                ["left out of fitting", "attack", "ε /255", "AUC, successful", "undetected harm"],
                [
                    [
                        r.left_out,
                        r.attack,
                        f"{r.epsilon:g}",
                        number(r.auc),
                        percent(r.undetected_harm),
                    ]
                    for r in evaluation.left_out
                ],
            ),
            "## Benign shifts",
            "",
            "They must not raise the adversarial route; the quality route may take them.",
            "",
            *_shift_table(evaluation.shifts),
            *(
                ["## Images that are not for this model", "", *_shift_table(evaluation.others)]
                if evaluation.others
                else []
            ),
            "## How it was made",
            "",
            f"- bundle: `{evaluation.bundle}`",
            *(f"- {key}: {value}" for key, value in evaluation.provenance.items()),
            *(f"- {key}: {value:,.6g}" for key, value in evaluation.cost.items()),
            "",
        ]
    )


def _attack_row(a: AttackResult) -> list[str]:
    fused = a.scores["fused"].successful
    before = "–" if math.isnan(a.success_float) else f"{a.success_float:.1%}".replace("%", " %")
    return [
        a.attack,
        f"{a.epsilon:g}",
        str(a.images),
        percent(a.success),
        before,
        percent(a.undetected_harm),
        percent(a.undetected_harm_served),
        fused.auc.described,
        *(tpr.described for tpr in fused.tpr),
    ]


def _null_row(evaluation: Evaluation) -> list[str]:
    ours = {r.detector: r.auc for r in evaluation.null_refitted}
    cells = []
    for name in ("kd", "lid", "dfeat", "qfeat"):
        cells += [number(getattr(evaluation.null_paper, name)), number(ours.get(name, math.nan))]
    return ["*none (null test)*", "0", *cells]


def _paper_row(a: AttackResult) -> list[str]:
    cells = []
    for name in ("kd", "lid", "dfeat", "qfeat"):
        ours = a.scores[name].attempted.auc.value if name in a.scores else math.nan
        cells += [number(getattr(a.paper, name)), number(ours)]
    return [a.attack, f"{a.epsilon:g}", *cells]


def _shift_table(shifts: tuple[ShiftResult, ...]) -> list[str]:
    return table(
        ["shift", "severity", "images", "accuracy", "adversarial route", "at 1 % clean FPR",
         "quality route"],
        [
            [s.shift, f"{s.severity:g}", str(s.images), f"{s.accuracy:.3f}", percent(s.adversarial),
             f"{s.adversarial_at_1pct:.1%}".replace("%", " %"), percent(s.quality)]
            for s in shifts
        ],
    )  # fmt: skip


def figure(evaluation: Evaluation) -> Figure:
    """Attack success and undetected harm over epsilon."""
    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    for i, attack in enumerate(sorted({a.attack for a in evaluation.attacks})):
        rows = sorted(
            (a for a in evaluation.attacks if a.attack == attack), key=lambda a: a.epsilon
        )
        x = [a.epsilon for a in rows]
        colour = f"C{i}"
        axes.plot(x, [a.success.value for a in rows], "--", color=colour, alpha=0.5)
        axes.errorbar(
            x,
            [a.undetected_harm.value for a in rows],
            yerr=[
                [max(a.undetected_harm.value - a.undetected_harm.low, 0) for a in rows],
                [max(a.undetected_harm.high - a.undetected_harm.value, 0) for a in rows],
            ],
            color=colour,
            marker="o",
            capsize=3,
            label=attack,
        )
    axes.axhline(0.02, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("ε, grey levels of 255")
    axes.set_ylabel("share of images")
    axes.set_ylim(0, 1.02)
    axes.set_title("Attack success (dashed), undetected harm (solid), target 2 % (dotted)")
    axes.legend()
    return drawing
