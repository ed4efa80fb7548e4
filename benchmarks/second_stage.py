"""Two stages: whom triage picks, what slips by both, and what they cost.

    python benchmarks/second_stage.py --bundle B [--bundle C ...] --data D [--model M]
        [--images 100] [--aware joint_pgd,orthogonal_pgd,selective_pgd,hfc] [--aware-images 24]
        [--steps 100] [--out docs/results/second_stage.md]

Bundles of one model, fitted on one data set with one seed: today's guard, one with a second stage,
and so on. All meet the same unaware attacks; each meets attackers who hold it. "Picked" is the
share of successful attacks that the first stage sends to the second: in a bundle without one, the
share above the score that the same share of clean test images exceeds. Harm is as served, at the
bundle's own levels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from attacks.campaign import attack_as_delivered
from attacks.generate import bench_of
from attacks.guarded import GuardedModel
from attacks.opponent import Opponent
from detectors.bundle import Bundle
from detectors.guard_data import clean_samples, draw, fitting_examples, test_examples
from detectors.judgement import Attacked, Judgement, fates, judge
from detectors.speed import cost
from detectors.staged_engine import open_engine
from models.datasets import load_images, read_dataset
from models.diagnostic import DiagnosticModel
from models.export import export_bare
from models.load import load_model, victim_of
from models.machine import describe
from models.onnx_engine import OnnxEngine

SHARES = (0.05, 0.1)


class Candidate:
    """A bundle before the clean test images."""

    def __init__(self, bundle: Bundle, clean_images: object) -> None:
        self.bundle = bundle
        self.engine = open_engine(bundle)
        self.first = OnnxEngine(bundle.graph)
        self.clean: Judgement = judge(bundle, self.engine, clean_images)  # type: ignore[arg-type]  # Samples
        scores = self.scores(self.clean.samples.images)
        self.limits = [float(np.quantile(scores, 1 - share)) for share in SHARES]

    def scores(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """First-stage scores."""
        return np.array([self.first.outputs(image[None], ("fused",))[0][0] for image in images])

    def row(self, found: Attacked) -> str:
        """Of one attack, as a table's row."""
        judged = judge(self.bundle, self.engine, found.samples)
        fate = fates(self.clean, judged)
        eligible = max(int(fate.eligible.sum()), 1)
        wrong = np.flatnonzero(fate.wrong)
        scores = self.scores([found.samples.images[i] for i in wrong])
        picked = [f"{np.mean(scores > limit):.3f}" if len(wrong) else "-" for limit in self.limits]
        cells = [
            self.bundle.directory.name, found.samples.title, str(len(wrong)),
            f"{len(wrong) / eligible:.3f}", *picked, f"{fate.harmed_served.sum() / eligible:.3f}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print; write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="the guarded model; default: the zoo's of that name")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--families", default="fgsm,pgd,cw_linf")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--aware", default="joint_pgd,orthogonal_pgd,selective_pgd,hfc")
    parser.add_argument("--aware-images", type=int, default=24)
    parser.add_argument("--aware-epsilons", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bundles = [Bundle.open(path) for path in chosen.bundle]
    spec = bundles[0].manifest.model
    model = load_model(chosen.model or spec.name)
    dataset = read_dataset(chosen.data, spec.classes)
    tests = clean_samples(load_images(test_examples(dataset, chosen.seed)))
    clean = draw(tests, chosen.images, chosen.seed)
    few = draw(clean, chosen.aware_images, chosen.seed)
    own = clean_samples(load_images(fitting_examples(dataset, spec, chosen.seed)[:60]))
    candidates = [Candidate(bundle, clean) for bundle in bundles]
    bench = bench_of(victim_of(model), seed=chosen.seed, attempts=True)
    header = [
        "| guard | attack | successful | success | picked at 5 % | picked at 10 % | harm |",
        "|---|---|---|---|---|---|---|",
    ]
    quiet = lambda *_: None  # noqa: E731  a name for the table's sake
    unaware = attack_as_delivered(
        bench, clean, chosen.families.split(","), chosen.epsilons, progress=quiet
    )
    rows = [candidate.row(found) for found in unaware for candidate in candidates]
    print("\n".join([*header, *rows]), flush=True)
    aware_rows = []
    names = [name for name in chosen.aware.split(",") if name]
    specs = tuple(f"{name}:steps={chosen.steps}" for name in names)
    for candidate in candidates if specs else []:
        guard = GuardedModel(candidate.bundle)
        knowing = Opponent(bench).knowing(guard, candidate.bundle.digest, specs)
        ready = replace(knowing, epsilons=tuple(chosen.aware_epsilons)).instructed(own)
        for found in ready.deliver(few, quiet, None):
            aware_rows.append(candidate.row(found))
            print(aware_rows[-1], flush=True)
    costs = ["| guard | first stage over bare | looked at, of clean | held, of clean |"]
    costs.append("|---|---|---|---|")
    for candidate in candidates:
        ratio = "-"
        if isinstance(model, DiagnosticModel):
            spent = cost(export_bare(model), candidate.bundle.graph, clean.images[0])
            ratio = f"{spent.ratio.value:.3f} ({spent.ratio.low:.3f} to {spent.ratio.high:.3f})"
        entry = candidate.bundle.manifest.second_stage
        scores = candidate.scores(clean.images)
        again = "-" if entry is None else f"{np.mean(scores >= entry.threshold):.3f}"
        held = f"{np.mean(~candidate.clean.accepted):.3f}"
        costs.append(f"| {candidate.bundle.directory.name} | {ratio} | {again} | {held} |")
    knowing_section = [
        "## Attackers who know the guard, by views of their own drawing", "",
        *header, *aware_rows, "",
    ]  # fmt: skip
    page = [
        "# Two stages", "",
        f"`python benchmarks/second_stage.py --bundle {' --bundle '.join(map(str, chosen.bundle))} "
        f"--data {chosen.data.name} --model {chosen.model or spec.name} --images {chosen.images} "
        f"--families {chosen.families} --epsilons {' '.join(f'{e:g}' for e in chosen.epsilons)} "
        f"--aware '{chosen.aware}' --aware-images {chosen.aware_images} --steps {chosen.steps}`; "
        f"{spec.name}, {len(clean)} test images ({len(few) if names else 0} by those who know the "
        f"guard); {describe()}.", "",
        "## Attackers who know the model", "", *header, *rows, "",
        *(knowing_section if names else ()),
        "## Cost", "", *costs, "",
    ]  # fmt: skip
    print("\n".join(page))
    if chosen.out:
        chosen.out.write_text("\n".join(page))


if __name__ == "__main__":
    main()
