"""Evaluations of several guards beside the targets of the project, as one page.

    python benchmarks/detection_summary.py runs/chest runs/fundus ... [--out PAGE]

Each argument is a folder that `lazaret evaluate` wrote. Nothing is computed anew: every cell is a
number of its `evaluation.json`, and a target that is missed says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.evaluation import Estimate
from detectors.wording import percent, titled

KNOWN_EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
STATIC, UNSEEN, AWARE, BENIGN, STRANGE = 0.02, 0.05, 0.10, 0.02, 0.05
AUC, TPR = 0.98, 0.95
FAMILIES = ("fgsm", "bim", "pgd", "cw_linf", "apgd_ce")
SCORE, EITHER = "undetected_harm", "undetected_harm_either"
SECOND_SITES = ("cxr_hannover_covid",)
"""Other hospitals' images of the same kind: benign, not out of distribution."""


@dataclass(frozen=True)
class Judged:
    """One evaluation."""

    folder: Path
    found: dict[str, Any]

    @property
    def name(self) -> str:
        """The guard's."""
        return self.folder.name

    def attacks(self, *knowledge: str) -> list[dict[str, Any]]:
        """Attacks by such attackers."""
        return [a for a in self.found["attacks"] if a["knowledge"] in knowledge]


def share(estimate: dict[str, Any]) -> str:
    """``1.2 % (0.3 to 4.0)``."""
    numbers = (estimate[key] for key in ("value", "low", "high"))
    return percent(Estimate(*(math.nan if n is None else n for n in numbers)))


def value(estimate: dict[str, Any]) -> float:
    """The estimate; NaN where nothing was counted."""
    return math.nan if estimate["value"] is None else float(estimate["value"])


def marked(text: str, met: bool) -> str:
    """Bold where the target is missed."""
    return text if met else f"**{text}**"


def most_harm(attacks: Iterable[dict[str, Any]], counted_by: str) -> dict[str, Any] | None:
    """The attack of most undetected harm."""
    counted = [a for a in attacks if a.get(counted_by, {}).get("value") is not None]
    return max(counted, key=lambda a: value(a[counted_by]), default=None)


def harm_cell(attacks: Iterable[dict[str, Any]], limit: float, counted_by: str = SCORE) -> str:
    """The worst of them, its success beside its harm.

    Args:
        counted_by: the adversarial score alone at a realised 1 %, or either route with 1 % in all.
    """
    found = most_harm(attacks, counted_by)
    if found is None:
        return "not measured"
    harm = found[counted_by]
    text = f"{share(harm)}, {titled(found['attack'], found['epsilon'])}"
    if "success" in found:
        text += f", of {share(found['success'])} that succeed"
    return marked(text, value(harm) <= limit)


def static(judged: Judged, epsilon: float, counted_by: str) -> str:
    """Families that the guard knows and Auto-PGD, by attackers who do not know the guard."""
    known = [a for a in judged.attacks("unaware", "unseen") if a["epsilon"] == epsilon]
    swept = [a for a in known if a["attack"] in FAMILIES]
    return harm_cell(swept, STATIC, counted_by)


def discrimination(judged: Judged) -> str:
    """Least AUC and TPR of the same attacks from one grey level up, successful ones."""
    scores = [
        a["scores"]["fused"]["successful"]
        for a in judged.attacks("unaware", "unseen")
        if a["epsilon"] >= 1 and a["attack"] in FAMILIES
    ]
    aucs = [value(s["auc"]) for s in scores if s["auc"]["value"] is not None]
    tprs = [value(s["tpr"][1]) for s in scores if s["tpr"][1]["value"] is not None]
    if not aucs:
        return "no attack succeeded"
    auc, tpr = min(aucs), min(tprs)
    return marked(f"{auc:.3f} / {tpr:.3f}", auc >= AUC and tpr >= TPR)


def left_out(judged: Judged) -> str:
    """A family or an epsilon that the guard was fitted without, by attackers who do not know it."""
    knowing = {a["attack"] for a in judged.attacks("aware")}
    results = [r for r in judged.found["left_out"] if r["attack"] not in knowing]
    return harm_cell(results, UNSEEN)


def unseen(judged: Judged, counted_by: str) -> str:
    """Each attack of another kind."""
    tried = [a for a in judged.attacks("unseen", "black_box") if a["attack"] != "apgd_ce"]
    others = [a for a in tried if counted_by in a]
    return "<br>".join(harm_cell([a], UNSEEN, counted_by) for a in others) or "not measured"


def aware(judged: Judged, epsilon: float, counted_by: str) -> str:
    """The strongest of those who know the guard."""
    knowing = [a for a in judged.attacks("aware") if a["epsilon"] == epsilon]
    return harm_cell(knowing, AWARE, counted_by)


def by_both(
    row: str, target: str, cell: Callable[[Judged, str], str]
) -> list[tuple[str, str, Callable[[Judged], str]]]:
    """A row by the adversarial score alone and one by either route."""
    return [
        (f"undetected harm, {row}", target, lambda j: cell(j, SCORE)),
        ("– by either route, 1 % of clean images in all", target, lambda j: cell(j, EITHER)),
    ]


def false_alarms(judged: Judged, route: str) -> str:
    """Of clean images, realised at the bundle's own levels."""
    clean, asked = judged.found["clean"][route], judged.found["targets"][route]
    return marked(f"{share(clean)} at a nominal {100 * asked:g} %", clean["low"] <= asked)


def corruptions(judged: Judged) -> str:
    """The worst benign shift of severity 1 or 2, and how many are above the target."""
    mild = [s for s in judged.found["shifts"] if s["severity"] <= 2]
    if not mild:
        return "not measured"
    over = [s for s in mild if value(s["adversarial"]) > BENIGN]
    most = max(mild, key=lambda s: value(s["adversarial"]))
    scored = max(mild, key=lambda s: s["adversarial_at_1pct"])
    text = (
        f"{share(most['adversarial'])}, {most['shift']} {most['severity']:g}; {len(over)} of "
        f"{len(mild)} above; at a realised 1 % of clean ones at most "
        f"{100 * scored['adversarial_at_1pct']:.1f} %, {scored['shift']} {scored['severity']:g}"
    )
    return marked(text, not over)


def second_site(judged: Judged) -> str:
    """Another hospital's images on the adversarial route."""
    sites = [s for s in judged.found["others"] if s["shift"] in SECOND_SITES]
    cells = (marked(share(s["adversarial"]), value(s["adversarial"]) <= BENIGN) for s in sites)
    return "<br>".join(cells) or "none at hand"


def strangers(judged: Judged) -> str:
    """Share accepted of images that are not for the model."""
    cells = []
    for other in judged.found["others"]:
        if other["shift"] not in SECOND_SITES:
            accepted = 1 - value(other["adversarial"]) - value(other["quality"])
            text = f"{100 * accepted:.1f} % of {other['images']}, {other['shift']}"
            cells.append(marked(text, accepted <= STRANGE))
    return "<br>".join(cells) or "not measured"


def null_test(judged: Judged) -> str:
    """Passed by every detector, or there would be no evaluation."""
    results = judged.found["null"] + judged.found["null_refitted"]
    failed = [r["detector"] for r in results if not r["passed"]]
    return marked(f"{len(results) - len(failed)} of {len(results)} passed", not failed)


ROWS: list[tuple[str, str, Callable[[Judged], str]]] = [
    ("clean accuracy", "", lambda j: share(j.found["clean"]["accuracy"])),
    ("test images (patients)", "",
     lambda j: f"{j.found['clean']['images']} ({j.found['clean']['patients']})"),
    *(
        row
        for e in KNOWN_EPSILONS
        for row in by_both(
            f"static attacks at {e:g}/255", "≤ 2 %",
            lambda j, by, e=e: static(j, e, by)  # type: ignore[misc]  # bound now
        )
    ),
    ("least fused AUC / TPR at 1 % FPR of those that succeed, from 1/255", "≥ 0.98 / ≥ 0.95",
     discrimination),
    ("undetected harm, a family or epsilon left out", "≤ 5 %", left_out),
    *by_both("other kinds of attack", "≤ 5 %", unseen),
    *by_both("guard-aware at 1/255", "≤ 10 %", lambda j, by: aware(j, 1, by)),
    *by_both("guard-aware at 2/255", "≤ 10 %", lambda j, by: aware(j, 2, by)),
    *(
        (f"clean images held, {route} route, at the bundle's levels", "nominal within its interval",
         lambda j, route=route: false_alarms(j, route))  # type: ignore[misc]  # bound now
        for route in ("adversarial", "quality")
    ),
    ("worst benign shift of severity 1 to 2, adversarial route", "≤ 2 %", corruptions),
    ("second site, adversarial route", "≤ 2 %", second_site),
    ("accepted, images that are not for the model", "≤ 5 %", strangers),
    ("null test", "all", null_test),
]  # fmt: skip


def page(evaluations: list[Judged], out: Path) -> str:
    """Markdown, with links from ``out``."""
    linked = [
        f"[{e.name}]({os.path.relpath(e.folder / 'evaluation.md', out.parent)})"
        for e in evaluations
    ]
    folders = " ".join(str(e.folder) for e in evaluations)
    lines = [
        "# Detection against its targets",
        "",
        f"`python benchmarks/detection_summary.py {folders}`: "
        "cells are numbers of each guard's own `evaluation.json`, which names its command, sample "
        "and machine. **Bold** cells miss their target. Intervals are 95 %, over patients. "
        "*Undetected harm* is at a realised clean false-positive rate of 1 %: of the adversarial "
        "score alone or, in the rows below, of both routes together. Rows on false alarms "
        "and on images that are not for the model are as served, at the bundle's levels "
        "(docs/evidence.md).",
        "",
        f"| | target | {' | '.join(linked)} |",
        f"|---|---|{'---|' * len(evaluations)}",
    ]
    for name, target, cell in ROWS:
        lines.append(f"| {name} | {target} | {' | '.join(cell(e) for e in evaluations)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print the page; write it if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("evaluation", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="what the evaluations do not say of themselves")
    chosen = parser.parse_args()
    text = page(
        [
            Judged(folder, json.loads((folder / "evaluation.json").read_text()))
            for folder in chosen.evaluation
        ],
        chosen.out or Path("detection.md"),
    )
    text += f"\n{chosen.note}\n" if chosen.note else ""
    print(text)
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
