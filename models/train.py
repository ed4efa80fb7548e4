"""The training recipe: a residual network from scratch on a labelled folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.datasets import Loaded, group_digest
from models.diagnostic import DiagnosticModel
from models.hardening import Hardening, harden
from models.head import class_logits
from models.resnet import resnet
from models.spec import ModelSpec

Tensors = tuple[Tensor, ...] | list[Tensor]
Orientation = Literal["upright", "mirrored", "any"]
"""How an image may lie: as it is, since left and right are anatomy; or either way round, as
ultrasound; or turned as well, as skin under a dermatoscope."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What varies between training runs."""

    epochs: int = 18
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    patience: int = 8
    """Epochs without a lower validation loss after which training stops."""
    validation: float = 0.12
    """Share of the training patients that choose the epoch to keep."""
    held_back: float = 0.4
    """Share of the training patients never shown to the model, so that the guard can be fitted
    and calibrated on images as unseen as those that it will meet."""
    rotation: float = 10.0  # degrees; Ma et al. rotate by 20, Finlayson et al. by 45
    scale: float = 0.1
    shift: float = 0.05
    contrast: float = 0.2
    averaging: float = 0.98
    """What is judged and kept is a running average of the weights, of which each step leaves so
    much: with few images the weights themselves jump about (Izmailov et al. 2018, arXiv
    1803.05407), and more so when hardened."""
    orientation: Orientation = "upright"
    seed: int = 0
    hardening: Hardening | None = None
    start: str = ""
    """The name of the model whose weights training goes on from, for the card."""
    surrogate: bool = False
    """An attacker's model: trained on exactly the patients that a model of the same seed and
    ``held_back`` is never shown, from weights of its own."""


FACTORY = "models.resnet:resnet"
SURROGATE_WEIGHTS = 1_000_003
"""Added to the seed of a surrogate's weights, order and augmentation, which nothing ties to those
of the model it stands in for."""


def shown_and_fitted(
    groups: Sequence[str], recipe: Recipe
) -> tuple[list[int], list[int], list[int]]:
    """Places in ``groups`` of the images that training sees: all, those that fit the weights and
    those that choose the epoch. No patient is in both of the last two."""
    places = [bucket(group, recipe.seed) for group in groups]
    low, high = (0.0, recipe.held_back) if recipe.surrogate else (recipe.held_back, 1.0)
    edge = low + recipe.validation * (high - low)
    shown = [i for i, place in enumerate(places) if low <= place < high]
    return (
        shown,
        [i for i in shown if places[i] >= edge],
        [i for i in shown if places[i] < edge],
    )


@dataclass(frozen=True, slots=True)
class Epoch:
    """Progress after one epoch, on the validation patients."""

    number: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    best: bool


def bucket(group: str, seed: int) -> float:
    """A stable place in ``[0, 1)`` for a patient: adding images never moves another patient."""
    return int(group_digest(f"{seed}:{group}"), 16) / 2**64


def pixels_of(loaded: Loaded) -> list[Tensor]:
    """``uint8[1, H, W, C]`` tensors."""
    return [torch.tensor(image.pixels).unsqueeze(0) for image in loaded.images]


def train(
    spec: ModelSpec,
    loaded: Loaded,
    recipe: Recipe,
    device: str = "cpu",
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_batch: Callable[[int], None] = lambda _: None,
    start: DiagnosticModel | None = None,
) -> DiagnosticModel:
    """Train on the patients that ``recipe`` does not hold back (a surrogate: on those that it does)
    and return the best epoch's model: the one of lowest loss on the validation patients, and with
    hardening of lowest loss on their hardened images.

    Args:
        start: a model whose weights to go on from, of the same stages (``begin_from``).

    Its ``spec.trained_on`` lists the patients whose images it saw. Deterministic for a seed on one
    machine and number of threads.
    """
    seed = recipe.seed + (SURROGATE_WEIGHTS if recipe.surrogate else 0)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    shown, fitted, validated = shown_and_fitted(
        [example.group for example in loaded.examples], recipe
    )
    spec = spec.model_copy(
        update={
            "factory": FACTORY,
            "arguments": {
                **spec.arguments,
                "channels": spec.preprocessing.channels,
                "logits": spec.logits,
            },
        }
    )
    network = resnet(**spec.arguments)  # type: ignore[arg-type]  # JSON values, checked by use
    if start is not None:
        begin_from(start, network, spec.classes)
    model = DiagnosticModel(spec, network).to(device)
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    with torch.no_grad():
        inputs = torch.cat([model.preprocess(p.to(device)) for p in pixels_of(loaded)])
    labels = torch.tensor([example.label for example in loaded.examples], device=device)
    counts = torch.bincount(labels[fitted], minlength=len(spec.classes)).float()
    weights = counts.sum() / (len(spec.classes) * counts.clamp(min=1))
    optimiser = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(fitted) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.15
    )

    def hardened(
        x: Tensor, index: Tensor, draws: torch.Generator, against: nn.Module = network
    ) -> Tensor:
        if recipe.hardening is None:
            return x

        def gradient_at(moved: Tensor) -> Tensor:
            moved.requires_grad_()
            loss = _loss(model, against(moved), labels[index], weights)
            return torch.autograd.grad(loss, moved)[0]

        return harden(x, gradient_at, model.preprocess, recipe.hardening, draws)

    def running(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        # A young average forgets faster: else the untrained weights in it outlast patience.
        left = min(recipe.averaging, (1 + int(steps)) / (10 + int(steps)))
        get_ema_multi_avg_fn(left)(averaged, current, steps)  # type: ignore[no-untyped-call]  # torch's stub

    average = AveragedModel(network, multi_avg_fn=running)
    best_loss, best_state, since = float("inf"), network.state_dict(), 0
    for number in range(1, recipe.epochs + 1):
        network.train()
        order = torch.tensor(fitted)[torch.randperm(len(fitted), generator=generator)]
        losses = []
        for index in torch.split(order, recipe.batch):
            batch = hardened(augment(inputs[index], recipe, generator), index, generator)
            loss = _loss(model, network(batch), labels[index], weights)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type here
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
            losses.append(float(loss.detach()))
            on_batch(len(index))
        average.eval()
        same_draws = torch.Generator().manual_seed(seed)
        parts = torch.split(torch.tensor(validated), 64)
        seen_by_it = [hardened(inputs[i], i, same_draws, average) for i in parts]
        with torch.no_grad():
            logits = torch.cat([average(x) for x in seen_by_it])
            loss_now = float(_loss(model, logits, labels[validated], weights))
            right = model_predictions(model, logits) == labels[validated]
        better = loss_now < best_loss
        since = 0 if better else since + 1
        if better:
            best_loss = loss_now
            best_state = {k: v.clone() for k, v in average.module.state_dict().items()}
        on_epoch(
            Epoch(number, float(np.mean(losses)), loss_now, float(right.float().mean()), better)
        )
        if since >= recipe.patience:
            break
    network.load_state_dict(best_state)
    seen = {group_digest(loaded.examples[i].group) for i in shown}
    seen |= set(start.spec.trained_on) if start is not None else set()
    model.spec = spec.model_copy(update={"trained_on": tuple(sorted(seen)), "taps": model.taps})
    return model.eval()


def begin_from(start: DiagnosticModel, network: nn.Module, classes: Sequence[str]) -> None:
    """Give ``network`` the weights of ``start``, which has the same stages.

    For other classes the classifying layer stays as it was drawn; a stem for gray images serves one
    for colour, each channel a third, and the other way round. What was hardened on many images
    helps a network for few to be robust (Hendrycks, Lee and Mazeika 2019, arXiv 1901.09960).
    """
    weights = dict(start.network.state_dict())
    own = network.state_dict()
    if start.spec.classes != tuple(classes):
        weights |= {name: own[name] for name in own if name.startswith("classify.")}
    stem = "stem.0.weight"
    channels = own[stem].shape[1]
    if weights[stem].shape[1] != channels:
        weights[stem] = weights[stem].sum(dim=1, keepdim=True).expand_as(own[stem]) / channels
    network.load_state_dict(weights)


def model_predictions(model: DiagnosticModel, raw_logits: Tensor) -> Tensor:
    """``int64[N]`` predicted classes from the network's raw logits."""
    return class_logits(raw_logits, model.spec.head).argmax(dim=1)


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Random rotation, scale, shift and contrast of ``float32[N, C, h, w]``, mirrored and turned
    where the recipe's orientation allows."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    turn = 180.0 if recipe.orientation == "any" else recipe.rotation
    angle, zoom = torch.deg2rad(uniform(turn)), 1 + uniform(recipe.scale)
    if recipe.orientation != "upright":
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.to(x.device).reshape(-1, 1, 1, 1), x.flip(3), x)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = torch.stack(
        [
            torch.stack([cosine, -sine, uniform(2 * recipe.shift)], dim=1),
            torch.stack([sine, cosine, uniform(2 * recipe.shift)], dim=1),
        ],
        dim=1,
    ).to(x.device)
    grid = functional.affine_grid(rows, list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gain = (1 + uniform(recipe.contrast)).to(x.device).reshape(-1, 1, 1, 1)
    offset = uniform(recipe.contrast).to(x.device).reshape(-1, 1, 1, 1)
    return (moved * gain + offset).contiguous(memory_format=torch.channels_last)


def _loss(model: DiagnosticModel, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    # one label an image, so even a multi-label head is trained on a one-hot row
    if model.spec.head.value == "multilabel":
        rows = nn.functional.one_hot(labels, len(model.spec.classes)).float()
        return functional.binary_cross_entropy_with_logits(logits, rows)
    return functional.cross_entropy(class_logits(logits, model.spec.head), labels, weight=weights)
