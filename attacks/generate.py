"""Run attacks over a set of images and judge each result as delivered."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attacks.adversarial import AdversarialSet, Classes, Unguided
from attacks.deliver import Container, Grid, Norms, Pixels, as_delivered, norms, to_grid
from attacks.gradient import Ailment, GradientFinding, refuse
from attacks.objective import Model
from attacks.spec import AttackSpec, Scene, carry_out
from models.imaging.decode import digest

Progress = Callable[[int, int], None]
"""Called with images attacked so far, and images to attack over all specs."""


def image_seed(seed: int, key: str) -> int:
    """The seed of one image: the same whatever else is attacked, in whatever order or batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


def generate(
    model: Model,
    images: Sequence[Grid],
    labels: npt.ArrayLike,
    groups: Sequence[str],
    keys: Sequence[str],
    specs: Sequence[AttackSpec],
    *,
    targets: npt.ArrayLike | None = None,
    container: Container | None = Container.PNG8,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[AdversarialSet, ...]:
    """Attack every image with every spec; one ``AdversarialSet`` a spec, images in their order.

    The same images, keys and seed give the same set. With another ``batch`` a float32 model may
    round differently and turn the sign of a gradient that is nearly zero: a few pixels change.

    Args:
        model: in evaluation mode, on ``device``.
        images: ``uint8[H, W, C]`` each. Images of one shape share batches.
        labels: ``int[N]``, true classes.
        groups: patient or source of each image.
        keys: unique names; an image's random numbers follow from its key and ``seed``.
        targets: ``int[N]``, for targeted specs; each must differ from the label.
        container: the file format that carries the result, or None to keep float pixels.
        batch: images in one forward pass.

    Raises ``GradientProblem`` if the model has no gradient at all; images whose gradients are
    zero or not finite are listed in the set's ``findings``. Raises ``ValueError`` on arguments
    that do not fit together and on logits that are not finite.
    """
    truth = np.asarray(labels, dtype=np.int64)
    goals = None if targets is None else np.asarray(targets, dtype=np.int64)
    _check(images, truth, goals, groups, keys, specs)
    seeds = [image_seed(seed, key) for key in keys]
    clean_predicted = np.empty(len(images), dtype=np.int64)
    results = [_Results(len(images)) for _ in specs]
    done, total = 0, len(images) * len(specs)

    with ThreadPoolExecutor() as pool:
        for rows in _batches(images, batch):
            sources = [images[i] for i in rows]
            pixels = torch.from_numpy(np.stack(sources)).to(device).float()
            predicted = _predict(model, pixels, [keys[i] for i in rows])
            clean_predicted[rows] = predicted.cpu().numpy()
            for spec, result in zip(specs, results, strict=True):
                aim = goals if spec.targeted and goals is not None else truth
                floats = carry_out(
                    spec,
                    Scene(
                        model,
                        pixels,
                        torch.from_numpy(aim[rows]).to(device),
                        [seeds[i] for i in rows],
                        result.recorder(rows),
                    ),
                    predicted=predicted,
                )
                finished = list(
                    pool.map(_finish(container, spec.budget), floats.cpu().numpy(), sources)
                )
                judged = torch.from_numpy(np.stack([final for final, _ in finished]))
                answers = _predict(model, judged.to(device).float(), [keys[i] for i in rows])
                result.predicted[rows] = answers.cpu().numpy()
                for i, (final, size) in zip(rows, finished, strict=True):
                    result.pixels[i] = final
                    result.norms[i] = size
                done += len(rows)
                if progress is not None:
                    progress(done, total)

    digests = tuple(digest(image) for image in images)
    return tuple(
        AdversarialSet(
            spec=spec,
            seed=seed,
            container=container,
            keys=tuple(keys),
            groups=tuple(groups),
            sources=digests,
            pixels=tuple(result.pixels[i] for i in range(len(images))),
            labels=truth,
            targets=goals if spec.targeted else None,
            clean_predicted=clean_predicted,
            predicted=result.predicted,
            linf=result.column(lambda size: size.linf),
            l2=result.column(lambda size: size.l2),
            mean_abs=result.column(lambda size: size.mean_abs),
            findings=result.findings(keys),
        )
        for spec, result in zip(specs, results, strict=True)
    )


class _Results:
    """One spec's results as they come in, by image index."""

    def __init__(self, images: int) -> None:
        self.predicted: Classes = np.empty(images, dtype=np.int64)
        self.pixels: dict[int, Pixels] = {}
        self.norms: dict[int, Norms] = {}
        self._unguided: dict[Ailment, set[int]] = defaultdict(set)

    def recorder(self, rows: list[int]) -> Callable[[GradientFinding], None]:
        def record(finding: GradientFinding) -> None:
            if finding.ailment is Ailment.NONE:
                refuse(finding)
            self._unguided[finding.ailment].update(rows[row] for row in finding.rows)

        return record

    def column(self, of: Callable[[Norms], float]) -> npt.NDArray[np.float32]:
        return np.array([of(self.norms[i]) for i in range(len(self.norms))], dtype=np.float32)

    def findings(self, keys: Sequence[str]) -> tuple[Unguided, ...]:
        return tuple(
            Unguided(ailment, tuple(keys[i] for i in sorted(indices)))
            for ailment, indices in sorted(self._unguided.items())
        )


def _finish(
    container: Container | None, epsilon: float
) -> Callable[[npt.NDArray[np.float32], Grid], tuple[Pixels, Norms]]:
    def finish(floats: npt.NDArray[np.float32], source: Grid) -> tuple[Pixels, Norms]:
        if container is None:
            return floats, norms(floats, source)
        final = as_delivered(to_grid(floats, source, epsilon), container)
        return final, norms(final, source)

    return finish


def _batches(images: Sequence[Grid], batch: int) -> Iterator[list[int]]:
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        by_shape[image.shape].append(i)
    for rows in by_shape.values():
        for start in range(0, len(rows), batch):
            yield rows[start : start + batch]


def _predict(model: Model, pixels: Tensor, keys: list[str]) -> Tensor:
    with torch.no_grad():
        logits = model(pixels)
    broken = (~logits.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(f"{keys[broken[0]]}: the model's logits are not finite")
    return logits.argmax(dim=1)


def _check(
    images: Sequence[Grid],
    labels: Classes,
    targets: Classes | None,
    groups: Sequence[str],
    keys: Sequence[str],
    specs: Sequence[AttackSpec],
) -> None:
    lengths = {"labels": len(labels), "groups": len(groups), "keys": len(keys)}
    if targets is not None:
        lengths["targets"] = len(targets)
    for name, length in lengths.items():
        if length != len(images):
            raise ValueError(f"{length} {name} for {len(images)} images; give one each")
    for key, image in zip(keys, images, strict=True):
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"{key}: {image.dtype}{list(image.shape)} is not uint8[H, W, C]")
    if len(set(keys)) != len(keys):
        raise ValueError(
            "keys repeat; every image needs its own, its random numbers follow from it"
        )
    if len({spec.title for spec in specs}) != len(specs):
        raise ValueError("two attacks share a name and an epsilon; name them apart")
    if any(spec.targeted for spec in specs):
        if targets is None:
            raise ValueError("a targeted attack needs targets, one class an image")
        if (targets == labels).any():
            raise ValueError("a target equals its label; there would be nothing to attack")
