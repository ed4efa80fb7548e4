"""An evaluation as files: JSON, a page for browsers, and one for repositories."""

from __future__ import annotations

import math
from pathlib import Path

from detectors.evaluation import (
    KNOWLEDGE,
    AttackResult,
    Evaluation,
    Knowledge,
    ShiftResult,
    worst,
)
from detectors.plots import harm_over_epsilon
from detectors.report_page import page_html
from detectors.wording import ATTACKERS, budget, number, percent, plain_percent, table, titled
from detectors.worst_cases import WorstCases

FIGURE = "undetected_harm.png"


def write_report(evaluation: Evaluation, cases: WorstCases, folder: Path) -> None:
    """Write ``evaluation.json``, ``.html``, ``.md`` and the latter's figure into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(evaluation.to_json())
    (folder / "evaluation.md").write_text(page(evaluation))
    (folder / "evaluation.html").write_text(page_html(evaluation, cases), encoding="utf-8")
    harm_over_epsilon(evaluation).savefig(folder / FIGURE, dpi=110)


def page(evaluation: Evaluation) -> str:
    """The evaluation as Markdown."""
    clean = evaluation.clean
    return "\n".join(
        [
            f"# Evaluation of the guard for {evaluation.model}",
            "",
            *(_headline(evaluation, knowledge) for knowledge in KNOWLEDGE),
            "",
            "No stateless detector is known to withstand full knowledge. The model is a "
            "demonstration, not a medical device. [The same as a page for a browser, with curves, "
            "worst cases and calibration](evaluation.html).",
            "",
            f"![Attack success (dashed), undetected harm (solid) and target (dotted) over epsilon]"
            f"({FIGURE})",
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
            "at the bundle's own levels and with both routes; *either route*, with both at levels "
            "that together hold 1 % of the clean test images.",
            "",
            *(
                line
                for knowledge in KNOWLEDGE
                for line in _attack_table(knowledge, evaluation.known_as(knowledge))
            ),
            "With failed attacks counted too:",
            "",
            *table(
                ["attack", "ε /255", "fused AUC, all", "TPR at 1 %"],
                [
                    [
                        a.attack,
                        budget(a.epsilon),
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
                        budget(a.epsilon),
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
                ["", "detector", "AUC", "by chance", ""],
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
                        budget(r.epsilon),
                        number(r.auc),
                        percent(r.undetected_harm),
                    ]
                    for r in evaluation.left_out
                ],
            ),
            "## Subgroups of clean images, at the bundle's levels",
            "",
            *table(
                ["", "", "images (patients)", "adversarial route", "quality route", "accuracy"],
                [
                    [
                        g.by,
                        g.name,
                        f"{g.images} ({g.patients})",
                        percent(g.adversarial),
                        percent(g.quality),
                        percent(g.accuracy),
                    ]
                    for g in evaluation.subgroups
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


def _headline(evaluation: Evaluation, knowledge: Knowledge) -> str:
    """One item of a list."""
    found = worst(evaluation.known_as(knowledge))
    if found is None:
        return f"- **Not measured**: an attacker who {ATTACKERS[knowledge]}."
    return (
        f"- **Worst undetected harm {percent(found.undetected_harm)}** "
        f"({titled(found.attack, found.epsilon)}), at a realised clean false-positive rate of 1 %, "
        f"by an attacker who {ATTACKERS[knowledge]}."
    )


def _attack_table(knowledge: Knowledge, results: tuple[AttackResult, ...]) -> list[str]:
    return [
        f"### An attacker who {ATTACKERS[knowledge]}",
        "",
        *(
            table(
                [
                    "attack",
                    "ε /255",
                    "images",
                    "success",
                    "before rounding",
                    "undetected harm",
                    "either route",
                    "served",
                    "fused AUC, successful",
                    "TPR at 0.1 %",
                    "TPR at 1 %",
                    "TPR at 5 %",
                ],
                [_attack_row(a) for a in results],
            )
            if results
            else ["**Not measured.**", ""]
        ),
    ]


def _attack_row(a: AttackResult) -> list[str]:
    fused = a.scores["fused"].successful
    return [
        a.attack,
        budget(a.epsilon),
        str(a.images),
        percent(a.success),
        plain_percent(a.success_float),
        percent(a.undetected_harm),
        percent(a.undetected_harm_either),
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
    return [a.attack, budget(a.epsilon), *cells]


def _shift_table(shifts: tuple[ShiftResult, ...]) -> list[str]:
    return table(
        ["shift", "severity", "images", "accuracy", "adversarial route", "at 1 % clean FPR",
         "quality route"],
        [
            [s.shift, f"{s.severity:g}", str(s.images), f"{s.accuracy:.3f}", percent(s.adversarial),
             plain_percent(s.adversarial_at_1pct), percent(s.quality)]
            for s in shifts
        ],
    )  # fmt: skip
