"""A reproduction's figures. Each function draws one; ``png`` makes it a small file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from detectors.plots import COLOURS, MARKERS, Draw, literal
from detectors.reproduction.findings import Attack, ClassCount, Modality
from detectors.reproduction.loss_landscape import EPSILONS

STYLE: dict[str, Any] = {
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "font.size": 8.5,
    "legend.frameon": False,
}


def png(draw: Draw, dpi: int = 100) -> bytes:
    """At most 256 colours: a fifth of the size, and nothing that a reader would miss."""
    stream = io.BytesIO()
    with rc_context(cast("Any", STYLE)):
        draw().savefig(stream, format="png", dpi=dpi)
    image = Image.open(stream).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="PNG", optimize=True)
    return small.getvalue()


def attack_curves(modality: Modality) -> Figure:
    """Accuracy and score AUC over epsilon: up to one grey level, and FGSM beyond."""
    attacks, clean = modality.attacks, modality.attacked_clean
    far = any(a.epsilon > 1 for a in attacks)
    drawing = Figure(figsize=(9.2, 3.3), layout="constrained")
    panels = drawing.subplots(1, 3 if far else 2)
    near = [a for a in attacks if a.epsilon <= 1]
    names = list(dict.fromkeys(a.name for a in attacks))
    for axes, of in ((panels[0], "accuracy"), (panels[1], "score AUC")):
        for i, name in enumerate(names):
            rows = _sorted(near, name)
            _line(axes, rows, of, i, name)
        axes.set_title(f"{of}, ε up to 1")
    if far:
        rows = [a for a in _sorted(attacks, "fgsm") if a.epsilon >= 1]
        for i, of in enumerate(("accuracy", "score AUC")):
            _line(panels[2], rows, of, i, of)
            files = [a for a in rows if a.files is not None]
            panels[2].plot(
                [a.epsilon for a in files],
                [_of(a, of, file=True) for a in files],
                ":",
                color=COLOURS[i],
                label=f"{of}, as 8-bit files",
            )
        panels[2].set_title("fgsm, ε from 1")
        panels[2].legend(fontsize=7)
    panels[0].axhline(clean.accuracy.value, color=COLOURS[6], linewidth=0.8, linestyle=":")
    panels[1].axhline(clean.auc, color=COLOURS[6], linewidth=0.8, linestyle=":")
    panels[0].legend(fontsize=7)
    for axes in panels:
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("ε, grey levels of 255")
    drawing.suptitle(literal(modality.classifier.name), fontsize=10)
    return drawing


def _sorted(attacks: Sequence[Attack], name: str) -> list[Attack]:
    return sorted((a for a in attacks if a.name == name), key=lambda a: a.epsilon)


def _of(attack: Attack, what: str, *, file: bool = False) -> float:
    found = attack.files if file else attack.floats
    assert found is not None
    return found.accuracy.value if what == "accuracy" else found.auc


def _line(axes: Axes, rows: Sequence[Attack], of: str, place: int, label: str) -> None:
    axes.plot(
        [a.epsilon for a in rows],
        [_of(a, of) for a in rows],
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=3.5,
        linewidth=1.2,
        label=literal(label),
    )


def class_count_curves(counts: Sequence[ClassCount]) -> Figure:
    """Accuracy over epsilon, one line a classifier, one panel an attack."""
    names = list(dict.fromkeys(a.name for count in counts for a in count.attacks))
    drawing = Figure(figsize=(4.6 * len(names), 3.4), layout="constrained")
    for axes, name in zip(drawing.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for i, count in enumerate(counts):
            rows = [a for a in _sorted(count.attacks, name) if a.epsilon <= 1]
            label = f"{len(count.classes)} classes, {count.judged_on}"
            axes.plot(
                [0.0, *(a.epsilon for a in rows)],
                [count.clean.accuracy.value, *(a.floats.accuracy.value for a in rows)],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                markersize=3.5,
                label=literal(label),
            )
        axes.set_title(literal(name))
        axes.set_xlabel("ε, grey levels of 255")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize=7)
    drawing.axes[0].set_ylabel("accuracy")
    return drawing


def saliency_maps(modalities: Sequence[Modality]) -> Figure:
    """A row a modality; each map up to its own 99.5th percentile, beside the paper's 0.2."""
    across = max(len(m.views.saliency) for m in modalities)
    drawing = Figure(figsize=(2.1 * across + 0.9, 2.1 * len(modalities)), layout="constrained")
    grid = drawing.subplots(len(modalities), across, squeeze=False)
    for row, modality in zip(grid, modalities, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, values in zip(row, modality.views.saliency, strict=False):
            top = float(np.quantile(values, 0.995))
            axes.imshow(values, cmap="inferno", vmin=0, vmax=max(top, 1e-12))
            axes.set_title(f"up to {top:.2g}", fontsize=8)
        row[0].text(-0.02, 0.5, literal(modality.classifier.name), rotation=90, ha="right",
                    va="center", transform=row[0].transAxes)  # fmt: skip
    return drawing


def loss_landscapes(modalities: Sequence[Modality]) -> Figure:
    """One panel a modality, on one scale."""
    top = max(float(m.views.landscape.max()) for m in modalities)
    drawing = Figure(figsize=(2.6 * len(modalities) + 1, 2.9), layout="constrained")
    grid = drawing.subplots(1, len(modalities), squeeze=False)[0]
    step = EPSILONS[1] - EPSILONS[0]
    reach = (EPSILONS[0] - step / 2, EPSILONS[-1] + step / 2)
    for axes, modality in zip(grid, modalities, strict=True):
        shown = axes.imshow(
            modality.views.landscape,
            origin="lower",
            extent=(*reach, *reach),
            cmap="viridis",
            vmin=0,
            vmax=top,
        )
        axes.set_title(literal(modality.classifier.name))
        axes.set_xlabel("ε₂, second model's gradient")
    grid[0].set_ylabel("ε₁, own gradient")
    drawing.colorbar(shown, ax=grid, shrink=0.8, label="mean cross-entropy")
    return drawing


def class_activations(modalities: Sequence[Modality]) -> Figure:
    """A row a modality: Grad-CAM and mean feature map, clean and attacked."""
    with_image = any(m.views.pixels is not None for m in modalities)
    across = 4 + with_image
    drawing = Figure(figsize=(2.1 * across, 2.2 * len(modalities)), layout="constrained")
    grid = drawing.subplots(len(modalities), across, squeeze=False)
    for row, modality in zip(grid, modalities, strict=True):
        views = modality.views
        panels = row[1:] if with_image else row
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
        if views.pixels is not None:
            row[0].imshow(np.asarray(views.pixels).mean(axis=2), cmap="gray", vmin=0, vmax=255)
        for pair, (clean, attacked), colours in (
            (panels[:2], views.grad_cam, "inferno"),
            (panels[2:], views.mean_map, "viridis"),
        ):
            low, high = min(clean.min(), attacked.min()), max(clean.max(), attacked.max())
            for axes, values in zip(pair, (clean, attacked), strict=True):
                axes.imshow(values, cmap=colours, vmin=low, vmax=high)
        row[0].set_ylabel(literal(modality.classifier.name))
    titles = ("Grad-CAM, clean", "Grad-CAM, PGD 1/255", "mean map, clean", "mean map, PGD 1/255")
    for axes, title in zip(grid[0][-4:], titles, strict=True):
        axes.set_title(title)
    return drawing


def feature_planes(modalities: Sequence[Modality]) -> Figure:
    """A column a modality: PCA above, t-SNE below."""
    drawing = Figure(figsize=(2.7 * len(modalities) + 0.4, 5.2), layout="constrained")
    grid = drawing.subplots(2, len(modalities), squeeze=False)
    for column, modality in zip(grid.T, modalities, strict=True):
        views = modality.views
        for axes, points in zip(column, (views.plane.pca, views.plane.tsne), strict=True):
            for attacked, label, colour in ((False, "clean", 0), (True, "PGD 1/255", 1)):
                chosen = points[views.attacked == attacked]
                axes.scatter(
                    chosen[:, 0], chosen[:, 1], s=9, marker=MARKERS[colour], linewidths=0,
                    alpha=0.65, color=COLOURS[colour], label=label,
                )  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
        column[0].set_title(literal(modality.classifier.name))
    grid[0, 0].set_ylabel("PCA")
    grid[1, 0].set_ylabel("t-SNE")
    grid[0, 0].legend(fontsize=7)
    return drawing
