"""What ``lazaret attack`` works on: the victim, the attacks, the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from attacks.container import Container
from attacks.generate import Sources, prepare
from attacks.guarded import GuardedModel, load_guarded
from attacks.judge import BundleJudge, Judge, ModelJudge
from attacks.objective import Model
from attacks.oracle import Oracle
from attacks.presets import PRESETS, possible
from attacks.registry import UnknownAttack, methods, parse, split
from attacks.self_check import Finding, self_check
from attacks.spec import Attacker, AttackSpec, Need
from attacks.surrogate import surrogate_loader
from attacks.work import Bench
from detectors.bundle import Bundle
from detectors.guard_data import clean_samples, draw, fitting_examples, test_examples
from models.datasets import Dataset, DatasetProblem
from models.imaging.decode import digest
from models.load import OnnxModel, load_model, model_digest, victim_of
from models.spec import Head, ModelSpec
from service.cli.offline import load

EPSILON = 1.0


@dataclass(frozen=True)
class Opened:
    """A model to attack, with its guard if it came in a bundle."""

    model: Model
    spec: ModelSpec
    digest: str
    judge: Judge
    guard: GuardedModel | None
    without_gradients: str | None
    """Why only black-box attacks remain; None where there are gradients."""
    device: str

    def bench(
        self,
        *,
        seed: int,
        container: Container | None,
        attempts: bool,
        keep_queries: bool,
        aware: bool,
    ) -> Bench:
        """The workers' bench. Raises ``DatasetProblem`` for float pixels before a guard."""
        judge = self.judge
        if container is None and isinstance(judge, BundleJudge):
            judge = ModelJudge(self.model, self.device, self.spec.head is Head.MULTILABEL)
        return Bench(
            self.model,
            self.digest,
            judge,
            seed,
            container,
            attempts,
            keep_queries,
            self.guard if aware else None,
            device=self.device,
        )


def open_victim(
    model: str | None,
    bundle: Path | None,
    *,
    weights: Path | None,
    spec: Path | None,
    device: str,
) -> Opened:
    """From ``--model`` or ``--bundle``. With both, the model must be the one that is guarded; its
    own graph is then differentiated in place of the bundle's."""
    opened = None if bundle is None else Bundle.open(bundle)
    guard = None if opened is None else load_guarded(opened.directory).to(device)
    if model is None:
        assert opened is not None  # one of the two is given
        assert guard is not None
        declared = opened.manifest.model
        return Opened(guard, declared, opened.digest, BundleJudge.of(opened), guard, None, device)
    loaded = load_model(model, weights=weights, spec=spec)
    made = model_digest(loaded)
    if opened is not None and opened.manifest.provenance.get("model") != made:
        raise DatasetProblem(f"{model} is not the model that {bundle} guards; leave --model away")
    reason = loaded.without_gradients if isinstance(loaded, OnnxModel) else None
    victim: Model
    if isinstance(loaded, OnnxModel) and loaded.differentiable is None:
        victim = Oracle.of(loaded)
    else:
        victim, reason = victim_of(loaded, device), None
    judge: Judge = (
        ModelJudge(victim, device, loaded.spec.head is Head.MULTILABEL)
        if opened is None
        else BundleJudge.of(opened)
    )
    name = made if opened is None else opened.digest
    return Opened(victim, loaded.spec, name, judge, guard, reason, device)


def chosen_attacks(
    attacks: str | None,
    preset: str | None,
    epsilons: Sequence[float] | None,
    *,
    surrogate: str | None,
    targeted: bool,
    gradients: bool,
    aware: bool,
) -> list[AttackSpec]:
    """From ``--attacks`` or ``--preset``. Raises ``UnknownAttack``."""
    levels = list(epsilons or [EPSILON])
    if attacks is None:
        name = preset or "paper"
        if name not in PRESETS:
            raise UnknownAttack(f"no preset is called {name!r}; choose from {', '.join(PRESETS)}")
        specs = [_with(spec, surrogate, targeted) for spec in PRESETS[name](levels)]
        specs = possible(specs, gradients=gradients, aware=aware)
    else:
        specs = []
        for text in split(attacks):
            for level in levels:
                spec = _with(parse(text, level), surrogate, targeted)
                if spec.title not in {other.title for other in specs}:
                    specs.append(spec)
    _refuse_impossible(specs, gradients=gradients, aware=aware)
    return specs


def _with(spec: AttackSpec, surrogate: str | None, targeted: bool) -> AttackSpec:
    changes: dict[str, object] = {}
    if surrogate is not None and "surrogate" in type(spec).model_fields:
        changes["surrogate"] = surrogate
    if targeted:
        changes["targeted"] = True
    return spec.model_copy(update=changes)


def _refuse_impossible(specs: Sequence[AttackSpec], *, gradients: bool, aware: bool) -> None:
    if not gradients:
        blocked = [spec.name for spec in specs if Need.GRADIENTS in spec.needs]
        if blocked or not specs:
            everything = [parse(name, EPSILON) for name in methods()]
            remaining = possible(everything, gradients=False, aware=aware)
            raise UnknownAttack(
                f"this model has no gradients, which {', '.join(dict.fromkeys(blocked))} follow; "
                f"what remains is {', '.join(spec.name for spec in remaining)}"
            )
    if not aware and (blind := [s.name for s in specs if Need.GUARD in s.needs]):
        raise UnknownAttack(f"{blind[0]} evades a guard: give --bundle BUNDLE --aware")
    for spec in specs:
        if Need.SURROGATE in spec.needs and not getattr(spec, "surrogate", ""):
            raise UnknownAttack(
                f"{spec.name} needs the attacker's own model: train one with `lazaret train "
                "--surrogate` and give --surrogate MODEL"
            )


def to_attack(
    bars: Progress,
    dataset: Dataset,
    spec: ModelSpec,
    images: int,
    seed: int,
    target: str | None,
    *,
    fitting: bool = False,
) -> Sources:
    """The test images, at most ``images``; towards a target, those that are not of that class.

    Args:
        fitting: those that a guard learns from instead.
    """
    examples = (
        fitting_examples(dataset, spec, seed)
        if fitting
        else test_examples(dataset, seed) or dataset.examples
    )
    if not examples:
        raise DatasetProblem(f"{dataset.folder}: no image that a guard would be fitted on")
    clean = draw(clean_samples(load(bars, examples, spec)), images, seed)
    if spec.head is Head.MULTILABEL:
        if target is not None:
            raise DatasetProblem("a multi-label model has findings, not one class to reach")
        unknown = np.zeros((len(clean), len(spec.classes)), dtype=np.bool_)
        return Sources(clean.images, unknown, clean.groups, clean.keys)
    if target is None:
        return Sources(clean.images, clean.labels, clean.groups, clean.keys)
    if target not in spec.classes:
        raise DatasetProblem(
            f"no class is called {target!r}; choose from {', '.join(spec.classes)}"
        )
    goal = spec.classes.index(target)
    others = clean.rows(np.flatnonzero(clean.labels != goal))
    goals = np.full(len(others), goal)
    return Sources(others.images, others.labels, others.groups, others.keys, goals)


def prepared(
    bars: Progress,
    bench: Bench,
    specs: Sequence[AttackSpec],
    dataset: Dataset,
    spec: ModelSpec,
    images: int,
    attacked: Sequence[str],
) -> Bench:
    """The bench with what its attacks learn from images of patients who are not ``attacked``."""
    learns = {Need.IMAGES, Need.SURROGATE}
    if not any((s.needs | s.uses) & learns for s in specs):
        return bench
    tested = {example.group for example in test_examples(dataset, bench.seed) or dataset.examples}
    tested.update(attacked)
    own = [e for e in dataset.examples if e.group not in tested and e.split != "train"]
    own = own or [e for e in dataset.examples if e.group not in tested]
    if not own and not any(s.needs & learns for s in specs):
        return bench
    if not own:
        raise DatasetProblem(
            f"{dataset.folder}: every patient is attacked, and none is left for the attacker to "
            "learn from; add images, or a column `split` with val and test"
        )
    samples = draw(clean_samples(load(bars, own, spec)), images, bench.seed)
    labels = torch.from_numpy(samples.labels)
    pixels = tuple(
        torch.tensor(image, dtype=torch.float32, device=bench.device) for image in samples.images
    )
    if spec.head is Head.MULTILABEL:
        with torch.no_grad():
            labels = torch.cat([bench.model(image[None]) > 0 for image in pixels])
    attacker = Attacker(
        bench.model,
        pixels,
        labels.to(bench.device),
        bench.seed,
        bench.guard,
        surrogate_loader(spec, bench.device),
    )
    names_of = "".join(digest(image) for image in samples.images)
    task = bars.add_task("preparing attacks", total=1)
    made = prepare(replace(bench, attacker=names_of), specs, attacker)
    bars.update(task, completed=1)
    return made


def look_for_masking(bench: Bench, sources: Sources, images: int = 8) -> list[Finding]:
    """Self-checks on the first images of the commonest size."""
    shapes = [image.shape for image in sources.images]
    commonest = max(set(shapes), key=shapes.count)
    rows = [i for i, shape in enumerate(shapes) if shape == commonest][:images]
    pixels = torch.from_numpy(np.stack([sources.images[i] for i in rows])).to(bench.device).float()
    labels = torch.from_numpy(sources.labels[rows]).to(bench.device)
    return list(self_check(bench.model, pixels, labels, [bench.seed + row for row in rows]))
