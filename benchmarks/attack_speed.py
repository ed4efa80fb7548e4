"""How fast attacks are made, beside the libraries that make them and the floor of plain passes.

    python benchmarks/attack_speed.py --out docs/results/attack_speed.md

PGD-20, APGD-CE-20 and CW-L2 (one constant, 20 steps) on ResNet-18 and ResNet-50 for images of
3 x 224 x 224, randomly initialised, two classes, labels = the model's own answers. Everyone is
given the same network in evaluation mode with trainable parameters, as a user has it; a second row
gives torchattacks one with frozen parameters, which is more than it asks for. Ours goes through
``models.victim.Victim``, as ``lazaret attack`` does.

CPU seconds: one thread, the minimum over repeats in alternating order; wall: all cores (theirs by
torch's own threads, ours by one worker a core), the minimum, for networks as given. The floor is
forward and backward passes of the frozen network and nothing else, as many as the attack takes.
Passes are counted by hooks. Success is the share of images that the
unmodified network answers otherwise. adv-lib needs torchvision and visdom only to be imported;
empty modules stand in for them.
"""

from __future__ import annotations

import argparse
import copy
import importlib.abc
import importlib.machinery
import json
import math
import shlex
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from resnets import DEPTHS, build
from torch import Tensor, nn
from torch.nn import functional

from attacks.white_box.apgd import apgd
from attacks.white_box.cw_l2 import cw_l2
from attacks.white_box.pgd import pgd
from models.diagnostic import DiagnosticModel
from models.machine import describe
from models.spec import ModelSpec, Preprocessing
from models.victim import Victim

STEPS = 20
EPSILON = 2.0  # grey levels
ATTACKS = ("PGD-20", "APGD-CE-20", "CW-L2-20")
CW = {"learning_rate": 0.01, "constant": 10.0}

Run = Callable[[], Tensor]
"""Returns ``float32[N, 3, 224, 224]`` in 0 to 1."""


@dataclass(frozen=True)
class Row:
    """One library on one attack and one network."""

    network: str
    attack: str
    library: str
    forwards: float
    backwards: float
    cpu_seconds: float
    wall_seconds: float
    success: float
    note: str = ""


@dataclass(frozen=True)
class Subject:
    """What everybody attacks."""

    network: nn.Module
    """``float32[N, 3, 224, 224]`` in 0 to 1 to logits."""
    victim: Victim
    pixels: Tensor
    """``float32[N, 3, 224, 224]`` in 0 to 1."""
    labels: Tensor


def _subject(name: str, images: int) -> Subject:
    bare = build(name, 2)
    spec = ModelSpec(
        name=name,
        classes=("no", "yes"),
        preprocessing=Preprocessing(channels=3, resize=(224, 224), mean=(0.0,) * 3, std=(1.0,) * 3),
        taps=("layers.7",),
    )
    generator = torch.Generator().manual_seed(1)
    smooth = torch.rand(images, 3, 28, 28, generator=generator)
    pixels = functional.interpolate(smooth, (224, 224), mode="bilinear").mul(255).round() / 255
    with torch.no_grad():
        # a random network answers all images alike; its bias is moved until it does not
        logits = bare(pixels)
        bare.layers[-1].bias -= logits.median(dim=0).values - logits.mean(dim=0) / 1e3
        labels = bare(pixels).argmax(dim=1)
    return Subject(bare, Victim(DiagnosticModel(spec, copy.deepcopy(bare))), pixels, labels)


def _ours(subject: Subject, attack: str, rows: slice) -> Tensor:
    pixels = subject.pixels[rows].permute(0, 2, 3, 1).contiguous() * 255
    labels = subject.labels[rows]
    seeds = range(*rows.indices(len(subject.pixels)))
    victim, quiet = subject.victim, lambda _: None
    if attack == "PGD-20":
        found = pgd(
            victim, pixels, labels, epsilon=EPSILON, step=EPSILON / 10, steps=STEPS, seeds=seeds,
            on_finding=quiet,
        )  # fmt: skip
    elif attack == "APGD-CE-20":
        found = apgd(
            victim, pixels, labels, epsilon=EPSILON, steps=STEPS, seeds=seeds, on_finding=quiet
        )
    else:
        found = cw_l2(
            victim, pixels, labels, steps=STEPS, search_steps=1, abort_early=False,
            initial_constant=CW["constant"], learning_rate=CW["learning_rate"], on_finding=quiet,
        )  # fmt: skip
    return found.permute(0, 3, 1, 2) / 255


def _torchattacks(subject: Subject, network: nn.Module, attack: str) -> Run:
    import torchattacks

    epsilon = EPSILON / 255
    made = {
        "PGD-20": lambda: torchattacks.PGD(network, eps=epsilon, alpha=epsilon / 10, steps=STEPS),
        "APGD-CE-20": lambda: torchattacks.APGD(network, eps=epsilon, steps=STEPS),
        "CW-L2-20": lambda: torchattacks.CW(
            network, c=CW["constant"], steps=STEPS, lr=CW["learning_rate"]
        ),
    }[attack]()
    return lambda: made(subject.pixels, subject.labels)


def _foolbox(subject: Subject, network: nn.Module, attack: str) -> Run | None:
    import foolbox

    epsilon = EPSILON / 255
    made = {
        "PGD-20": lambda: foolbox.attacks.LinfProjectedGradientDescentAttack(
            rel_stepsize=0.1, steps=STEPS
        ),
        "CW-L2-20": lambda: foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=1, steps=STEPS, stepsize=CW["learning_rate"],
            initial_const=CW["constant"], abort_early=False,
        ),
    }.get(attack)  # fmt: skip
    if made is None:
        return None
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    criterion = foolbox.criteria.Misclassification(subject.labels)
    run = partial(made().run, model, subject.pixels, criterion)
    return partial(run, epsilon=epsilon) if attack == "PGD-20" else run


def _art(subject: Subject, network: nn.Module, attack: str) -> Run:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    epsilon = EPSILON / 255
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (3, 224, 224), 2, clip_values=(0.0, 1.0)
    )
    shared = {"batch_size": len(subject.pixels), "verbose": False}
    made = {
        "PGD-20": lambda: evasion.ProjectedGradientDescentPyTorch(
            classifier, eps=epsilon, eps_step=epsilon / 10, max_iter=STEPS, num_random_init=1,
            **shared,
        ),
        "APGD-CE-20": lambda: evasion.AutoProjectedGradientDescent(
            classifier, eps=epsilon, eps_step=2 * epsilon, max_iter=STEPS, nb_random_init=1,
            loss_type="cross_entropy", **shared,
        ),
        "CW-L2-20": lambda: evasion.CarliniL2Method(
            classifier, binary_search_steps=1, max_iter=STEPS, initial_const=CW["constant"],
            learning_rate=CW["learning_rate"], **shared,
        ),
    }[attack]()  # fmt: skip
    pixels, labels = subject.pixels.numpy(), subject.labels.numpy()
    return lambda: torch.from_numpy(np.asarray(made.generate(pixels, labels), dtype=np.float32))


def _adv_lib(subject: Subject, network: nn.Module, attack: str) -> Run:
    _stand_in("torchvision", "visdom")
    from adv_lib.attacks.auto_pgd import apgd as their_apgd
    from adv_lib.attacks.carlini_wagner import carlini_wagner_l2
    from adv_lib.attacks.projected_gradient_descent import pgd_linf

    epsilon = EPSILON / 255
    given = network, subject.pixels, subject.labels
    return {
        "PGD-20": partial(
            pgd_linf, *given, epsilon, steps=STEPS, relative_step_size=0.1
        ),
        "APGD-CE-20": partial(
            their_apgd, *given, epsilon, norm=float("inf"), n_iter=STEPS, loss_function="ce",
            best_loss=True,
        ),
        "CW-L2-20": partial(
            carlini_wagner_l2, *given, binary_search_steps=1, max_iterations=STEPS,
            initial_const=CW["constant"], learning_rate=CW["learning_rate"], abort_early=False,
        ),
    }[attack]  # fmt: skip


PEERS = {
    "torchattacks": (_torchattacks, "torchattacks"),
    "foolbox": (_foolbox, "foolbox"),
    "adv-lib": (_adv_lib, "adv-lib"),
    "ART": (_art, "adversarial-robustness-toolbox"),
}


class _Empty(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name)


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _stand_in(*names: str) -> None:
    if not any(isinstance(finder, _StandIn) for finder in sys.meta_path):
        sys.meta_path.append(_StandIn(names))


def _warm(subject: Subject, network: nn.Module) -> None:
    """What a network does once only must not count against whoever uses it first."""
    shape = (1, 224, 224, 3) if network is subject.victim else (1, 3, 224, 224)
    x = torch.zeros(shape, requires_grad=True)
    torch.autograd.grad(network(x).sum(), x)


def _floor(subject: Subject, network: nn.Module, passes: int) -> Tensor:
    """Forward and backward passes with nothing around them."""
    x = subject.pixels
    for _ in range(passes):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).logsumexp(dim=1).sum(), x)
    return gradient


def _victim_floor(subject: Subject, passes: int) -> Tensor:
    x = subject.pixels.permute(0, 2, 3, 1).contiguous() * 255
    for _ in range(passes):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(subject.victim(x).logsumexp(dim=1).sum(), x)
    return gradient


def _on_all_cores(subject: Subject, attack: str, cores: int) -> Tensor:
    """As ``lazaret attack`` works: one worker a core, each with its share of the images."""
    each = math.ceil(len(subject.pixels) / cores)
    parts = [slice(i * each, (i + 1) * each) for i in range(cores)]
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return torch.cat(list(pool.map(partial(_ours, subject, attack), parts)))


@contextmanager
def _counting(network: nn.Module) -> Iterator[list[int]]:
    """Forward and backward passes so far, over all images."""
    counted = [0, 0]

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counted[0] += len(inputs[0])

    def backward(gradient: Tensor) -> None:
        counted[1] += len(gradient)

    def after(_: nn.Module, __: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(backward)

    handles = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _seconds(run: Run, clock: Callable[[], float]) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    start = clock()
    found = run()
    return clock() - start, found


def _success(subject: Subject, found: Tensor) -> float:
    with torch.no_grad():
        answers = subject.network(found).argmax(dim=1)
    return float((answers != subject.labels).float().mean())


def measure(name: str, attacks: Sequence[str], images: int, repeats: int) -> list[Row]:
    """Every library and both floors on one network."""
    subject = _subject(name, images)
    frozen = copy.deepcopy(subject.network).requires_grad_(False)
    cores = torch.get_num_threads()
    rows = []
    for attack in attacks:
        runs: dict[str, tuple[Run, Run, nn.Module]] = {
            "lazaret": (
                partial(_ours, subject, attack, slice(0, images)),
                partial(_on_all_cores, subject, attack, cores),
                subject.victim,
            )
        }
        for library, (make, package) in PEERS.items():
            kinds = [(copy.deepcopy(subject.network), "")]
            if library == "torchattacks":
                kinds.append((frozen, ", frozen"))
            for network, kind in kinds:
                run = make(subject, network, attack)
                if run is not None:
                    runs[f"{library} {version(package)}{kind}"] = (run, run, network)
        floors = {
            "floor: frozen network": partial(_floor, subject, frozen, STEPS),
            "floor: our copy of it": partial(_victim_floor, subject, STEPS),
        }
        for floor, run in floors.items():
            runs[floor] = (run, run, frozen)
        order = list(runs)
        cpu: dict[str, list[float]] = {library: [] for library in runs}
        wall: dict[str, list[float]] = {library: [] for library in runs}
        found: dict[str, Tensor] = {}
        passes: dict[str, list[int]] = {}
        for _alone, _together, network in runs.values():
            _warm(subject, network)
        for _ in range(repeats):
            for library in order:
                alone, together, network = runs[library]
                torch.set_num_threads(1)
                with _counting(network) as passes[library]:
                    seconds, found[library] = _seconds(alone, time.process_time)
                cpu[library].append(seconds)
                torch.set_num_threads(cores)
                if ", frozen" not in library:
                    wall[library].append(_seconds(together, time.perf_counter)[0])
            order.reverse()
        for library in runs:
            floor = library.startswith("floor")
            forwards, backwards = (
                (float(STEPS),) * 2 if floor else (count / images for count in passes[library])
            )
            success = float("nan") if floor else _success(subject, found[library])
            rows.append(
                Row(
                    name,
                    attack,
                    library,
                    forwards,
                    backwards,
                    min(cpu[library]),
                    min(wall[library], default=math.nan),
                    success,
                )
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with ratios to ours."""
    lines = [
        "| network | attack | library | forward / backward | CPU s | CPU, ratio | wall s | "
        "wall, ratio | success |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        (ours,) = (
            other
            for other in rows
            if (other.network, other.attack, other.library) == (row.network, row.attack, "lazaret")
        )
        lines.append(
            f"| {row.network} | {row.attack} | {row.library} "
            f"| {row.forwards:.0f} / {row.backwards:.0f} "
            f"| {row.cpu_seconds:.2f} | {row.cpu_seconds / ours.cpu_seconds:.2f} "
            f"| {_number(row.wall_seconds)} | {_number(row.wall_seconds / ours.wall_seconds)} "
            f"| {_number(row.success)} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def verdicts(rows: Sequence[Row]) -> str:
    """For each network and attack, the fastest peer that did the whole work."""
    lines = []
    for network, attack in dict.fromkeys((row.network, row.attack) for row in rows):
        these = [row for row in rows if (row.network, row.attack) == (network, attack)]
        (ours,) = (row for row in these if row.library == "lazaret")
        (floor,) = (row for row in these if row.library == "floor: frozen network")
        peers = [
            row
            for row in these
            if row is not ours
            and not row.library.startswith("floor")
            and row.backwards >= STEPS - 1
        ]
        given = min(
            (row for row in peers if "frozen" not in row.library), key=lambda row: row.cpu_seconds
        )
        best = min(peers, key=lambda row: row.cpu_seconds)
        lines.append(
            f"- {network}, {attack}: {given.cpu_seconds / ours.cpu_seconds:.2f} x the fastest "
            f"as given ({given.library}), {best.cpu_seconds / ours.cpu_seconds:.2f} x the fastest "
            f"of all ({best.library}), {floor.cpu_seconds / ours.cpu_seconds:.2f} x the floor of "
            "plain passes."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=DEPTHS, default=list(DEPTHS))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        rows += measure(name, arguments.attacks, arguments.images, arguments.repeats)
    print(table(rows), verdicts(rows), sep="\n\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.out is not None:
        description = (__doc__ or "").split("\n\n", 2)[2].strip()
        arguments.out.write_text(
            f"# Speed of attacks beside other libraries\n\n{description}\n\n"
            f"`{shlex.join(['python', *sys.argv])}`; {arguments.images} images, "
            f"{arguments.repeats} repeats; torch {torch.__version__}; {describe()}.\n\n"
            "A ratio is a library's time by ours; above 1 we are faster.\n\n"
            f"{verdicts(rows)}\n\n{table(rows)}\n\n"
            "torchattacks' CW ends early, when the loss of the whole batch rises; a library that "
            "made fewer than 19 backward passes is left out of the lines above.\n"
        )


if __name__ == "__main__":
    main()
