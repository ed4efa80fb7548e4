"""How good a model is on images that it never saw, and the card that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from models.datasets import Loaded
from models.diagnostic import DiagnosticModel
from models.spec import ModelSpec
from models.train import Recipe, pixels_of


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, total: int) -> Share:
        """``right`` of ``total``."""
        if total == 0:
            return cls(float("nan"), 0.0, 1.0)
        interval = binomtest(right, total).proportion_ci()
        return cls(right / total, float(interval.low), float(interval.high))

    @property
    def described(self) -> str:
        """``0.94 (0.92 to 0.96)``."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Report:
    """Results on the test split."""

    images: int
    patients: int
    accuracy: Share
    recall: tuple[Share, ...]
    """Per class."""
    auc: float
    """One class against the rest, averaged over classes."""


def judge(model: DiagnosticModel, test: Loaded) -> Report:
    """Run ``model`` over the test images."""
    device = next(model.network.parameters()).device
    with torch.no_grad():
        logits = torch.cat([model(pixels.to(device)).cpu() for pixels in pixels_of(test)])
    labels = np.array([example.label for example in test.examples])
    right = logits.argmax(dim=1).numpy() == labels
    probabilities = torch.softmax(logits, dim=1).numpy()
    classes = range(len(model.spec.classes))
    areas = [roc_auc_score(labels == c, probabilities[:, c]) for c in classes]
    return Report(
        images=len(labels),
        patients=len({example.group for example in test.examples}),
        accuracy=Share.of(int(right.sum()), len(right)),
        recall=tuple(
            Share.of(int(right[labels == c].sum()), int((labels == c).sum())) for c in classes
        ),
        auc=float(np.mean(areas)),
    )


SURROGATE = (
    "A surrogate: an attacker's stand-in for transfer attacks, not a model to be guarded or "
    "served. Its patients are those that a model of `lazaret train --seed {seed}` on the same data "
    "was never shown; that model's guard may be calibrated on them."
)


def model_card(spec: ModelSpec, report: Report, data: str, licence: str, recipe: Recipe) -> str:
    """Markdown."""
    recall = [
        f"| {name} | {share.described} |"
        for name, share in zip(spec.classes, report.recall, strict=True)
    ]
    height, width = spec.preprocessing.size
    steps = ", ".join(
        f"{key} {value}"
        for key, value in asdict(recipe).items()
        if key not in ("surrogate", "hardening", "start")
    )
    hardening = recipe.hardening
    origin = f"trained on from {recipe.start}" if recipe.start else "trained from scratch"
    calibration = "" if recipe.surrogate else "; the guard is never calibrated on them"
    return "\n".join(
        [
            f"# {spec.name} {spec.version}",
            "",
            "**A demonstration. It is no medical device and must not be used for any diagnosis.**",
            "",
            f"A residual network for {height} x {width} pixels that tells "
            f"{' from '.join(spec.classes)}, {origin}.",
            "",
            f"- Data: {data}. Licence of the images: {licence}.",
            f"- Trained on the images of {len(spec.trained_on)} patients (or sources), which "
            f"`model.json` lists as digests{calibration}.",
            f"- Recipe: {steps}.",
            *(
                [
                    f"- Hardened: {hardening.attacked:.0%} of the images were moved against the "
                    f"model by up to {hardening.epsilon:g} grey levels in one step, the others got "
                    f"noise of up to {hardening.noise:g}."
                ]
                if hardening
                else []
            ),
            *(["- " + SURROGATE.format(seed=recipe.seed)] if recipe.surrogate else []),
            "",
            f"On {report.images} test images of {report.patients} patients, none of them seen in "
            "training (95 % Clopper-Pearson intervals over images):",
            "",
            "| | |",
            "|---|---|",
            f"| accuracy | {report.accuracy.described} |",
            f"| area under the ROC curve | {report.auc:.3f} |",
            *(f"| recall, {row[2:]}" for row in recall),
            "",
        ]
    )
