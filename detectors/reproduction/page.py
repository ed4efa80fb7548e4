"""A reproduction in words, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from detectors.reproduction import figures
from detectors.reproduction.detection import NAMES
from detectors.reproduction.detection_sections import TITLES, detection_sections
from detectors.reproduction.document import Items, Page, Picture, Section, Table, Text, write
from detectors.reproduction.findings import Attack, ClassCount, Modality, Performance, Reproduction
from detectors.wording import NOTHING, number, percent, plain_percent

FILE = "reproduction"


def write_page(found: Reproduction, folder: Path) -> None:
    """Write ``reproduction.md`` with its figures, ``.html`` and ``.json`` into ``folder``.

    Raises ``EvaluationProblem``, and writes nothing, unless every honest null test passes.
    """
    for modality in found.modalities:
        modality.null.require(modality.classifier.name)
    write(page(found), folder, FILE)
    (folder / f"{FILE}.json").write_text(found.to_json(), encoding="utf-8")


def page(found: Reproduction) -> Page:
    """The whole page, in the order that a sceptic would read it."""
    return Page(
        "Ma et al. (2021), reproduced",
        (
            _opening(found),
            _classifiers(found.modalities),
            *_attacks(found.modalities),
            *detection_sections(found.modalities),
            _class_counts(found.class_counts),
            _why_easy(found.modalities),
            _inside(found.modalities),
            _differences(),
            _provenance(found.provenance),
        ),
    )


def _opening(found: Reproduction) -> Section:
    return Section(
        "",
        (
            Text(
                "The experiments of Ma, Niu, Gu, Wang, Zhao, Bailey and Lu, Understanding "
                "adversarial attacks on deep learning based medical image analysis systems "
                "(Pattern Recognition 110, 2021, 107332), on our own models and data: the paper's "
                "attacks and detectors, its evaluation protocol beside an honest one, and the null "
                "test that tells the two apart. The models are demonstrations, not medical "
                "devices. Intervals are 95 %, over patients."
            ),
            Items(tuple(_in_short(m) for m in found.modalities)),
        ),
    )


def _in_short(m: Modality) -> str:
    worst = min((a for a in m.attacks if a.epsilon <= 1), key=lambda a: a.floats.accuracy.value)
    same = [d for d in m.detections if d.fitted_on == d.attack]
    best = max((d.honest[n].value, TITLES[n], d.attack) for d in same for n in NAMES)
    paper = max((getattr(d.paper, n), TITLES[n], d.attack) for d in same if d.paper for n in NAMES)
    nothing = max((getattr(m.null.paper, n), TITLES[n]) for n in NAMES)
    return (
        f"{m.classifier.name}: diagnoses {percent(m.classifier.clean.accuracy)} of clean test "
        f"images right, and {plain_percent(worst.floats.accuracy.value)} under {worst.name} at "
        f"{worst.epsilon:g}/255 (of {m.attacked_images} images, as many of each class, of which "
        f"{plain_percent(m.attacked_clean.accuracy.value)} when clean). At 1/255 the "
        "released protocol's best detector reaches "
        f"AUC {paper[0]:.3f} ({paper[1]}, {paper[2]}), the honest one's "
        f"{best[0]:.3f} ({best[1]}, {best[2]}). Where nobody attacks, the released protocol finds "
        f"up to {nothing[0]:.3f} ({nothing[1]}), and ours "
        f"{min(r.auc for r in m.null.honest):.3f} to {max(r.auc for r in m.null.honest):.3f}."
    )


def _classifiers(modalities: Sequence[Modality]) -> Section:
    rows = []
    warnings = []
    for m in modalities:
        c = m.classifier
        rows.append(
            (
                c.name,
                c.data,
                ", ".join(c.classes),
                f"{c.images} ({c.patients})",
                percent(c.clean.accuracy),
                plain_percent(c.commonest),
                number(c.clean.auc),
                "; ".join(f"{name} {plain_percent(r.value)}" for name, r in c.recall.items()),
                number(m.reasons.second.accuracy.value),
                c.origin,
            )
        )
        if c.clean.accuracy.low <= c.commonest:
            warnings.append(
                Text(
                    f"{c.name} is a weak classifier: not surely better than always giving the "
                    f"commonest answer, which is right on {plain_percent(c.commonest)}. What "
                    "attacks do to it says little of a good one.",
                    warning=True,
                )
            )
    return Section(
        "How good the classifiers are",
        (
            Text(
                "Before anything else: what is attacked below. Residual networks trained from "
                "scratch on the images of the folders named, none of the test patients among them."
            ),
            *warnings,
            Table(
                "On the clean test images",
                (
                    "model", "data", "classes", "images (patients)", "accuracy",
                    "commonest answer alone", "AUC", "recall", "second model's accuracy", "origin",
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip


def _attacks(modalities: Sequence[Modality]) -> list[Section]:
    sections = [
        Section(
            "Accuracy and AUC under attack",
            (
                Text(
                    "White-box, L-infinity, epsilon in grey levels of 255. Steps as in the "
                    "released code: FGSM one of ε; BIM 20 of ε/20; PGD 20 of ε/10 from a random "
                    "start; CW-Linf 20 of ε/10 on the logit margin with kappa 100 (the best other "
                    "class is masked, not multiplied by 0). FGSM, BIM and PGD leave the predicted "
                    "class, CW-Linf the true one, so an attack may also turn a wrong diagnosis "
                    "right. Every image counts, whether diagnosed right when clean or not. AUC is "
                    "that of the scores; the released code computes it on hard answers."
                ),
                Text(
                    "Float pixels are the paper's; no file carries them. As 8-bit files the same "
                    "images are rounded to the nearest grey level; below ε = 0.5 that gives the "
                    "source back, and from 0.5 to 1 a rounded pixel moves by a whole level or not "
                    "at all."
                ),
            ),
        )
    ]
    for m in modalities:
        name = m.classifier.name
        half = max((a.floats.accuracy.high - a.floats.accuracy.low) / 2 for a in m.attacks)
        sections.append(
            Section(
                name,
                (
                    Text(
                        f"{m.attacked_images} test images, as many of each class and of as many "
                        "patients as there are; each accuracy is sure to "
                        f"{100 * half:.0f} points or better. ε = 0 is the same images, clean."
                    ),
                    Picture(
                        f"attacks-{name}.png",
                        f"{name}: accuracy and score AUC under attack over epsilon, float pixels. "
                        "Dotted grey: the same images, clean",
                        figures.png(partial(figures.attack_curves, m)),
                    ),
                    _grid_table("Float pixels: accuracy / score AUC", m, lambda a: a.floats),
                    _grid_table("As 8-bit files: accuracy / score AUC", m, lambda a: a.files),
                ),
                level=3,
            )
        )
    return sections


def _grid_table(caption: str, m: Modality, of: Callable[[Attack], Performance | None]) -> Table:
    """Epsilons down, attacks across."""
    names = list(dict.fromkeys(a.name for a in m.attacks))
    before = f"{m.attacked_clean.accuracy.value:.3f} / {number(m.attacked_clean.auc)}"
    cells: dict[float, dict[str, str]] = {0.0: dict.fromkeys(names, before)}
    for attack in m.attacks:
        found = of(attack)
        if found is not None:
            shown = f"{found.accuracy.value:.3f} / {number(found.auc)}"
            cells.setdefault(attack.epsilon, {})[attack.name] = shown
    return Table(
        caption,
        ("ε /255", *names),
        tuple(
            (f"{epsilon:g}", *(cells[epsilon].get(name, NOTHING) for name in names))
            for epsilon in sorted(cells)
        ),
    )


def _class_counts(counts: Sequence[ClassCount]) -> Section:
    title = "More classes, easier to attack?"
    if not counts:
        return Section(title, (Text("No data set of this run has three classes.", warning=True),))
    names = list(dict.fromkeys(a.name for c in counts for a in c.attacks))
    epsilons = sorted({a.epsilon for c in counts for a in c.attacks if a.epsilon <= 1})
    rows = []
    for count in counts:
        for name in names:
            at = {a.epsilon: a.floats.accuracy.value for a in count.attacks if a.name == name}
            rows.append(
                (
                    f"{count.data}: {', '.join(count.classes)}",
                    f"{count.judged_on} ({count.images})",
                    name,
                    percent(count.clean.accuracy),
                    *(number(at.get(epsilon, math.nan)) for epsilon in epsilons),
                )
            )
    return Section(
        title,
        (
            Text(
                "The paper compares classifiers of 2, 3 and 4 NIH chest findings, taken by "
                "frequency. Here the classes of one data set by their frequency in its training "
                "split, the same recipe for each. The classifier of most classes is also judged on "
                "the images of the fewest alone, so that only the classifier differs. Chance falls "
                "with the number of classes, and so does clean accuracy: compare slopes."
            ),
            Picture(
                "class_count.png",
                "Accuracy over epsilon by number of classes, float pixels",
                figures.png(partial(figures.class_count_curves, counts)),
            ),
            Table(
                "Accuracy, float pixels",
                (
                    "classifier",
                    "judged on (images)",
                    "attack",
                    "clean",
                    *(f"{epsilon:g}/255" for epsilon in epsilons),
                ),
                tuple(rows),
            ),
        ),
    )


def _why_easy(modalities: Sequence[Modality]) -> Section:
    return Section(
        "Why they are easy to attack: saliency and loss",
        (
            Text(
                "Saliency is the sum over channels of the absolute gradient of the cross-entropy, "
                "in the paper's pixel units; its maps are drawn up to 0.2, these each up to the "
                "number above it. The paper's point is that high gradients cover more than the "
                "lesion. The landscape is the cross-entropy around an image along the sign "
                "gradient of the model and that of a second one, trained independently on other "
                "patients. The comparison with natural images is left out: none are at hand."
            ),
            Picture(
                "saliency.png",
                "Saliency maps of the first test images, one row a model",
                figures.png(partial(figures.saliency_maps, modalities), dpi=80),
            ),
            Picture(
                "loss_landscape.png",
                "Cross-entropy over ε₁ (own sign gradient) and ε₂ (second model's), in grey levels",
                figures.png(partial(figures.loss_landscapes, modalities)),
            ),
            Table(
                "Numbers beside the pictures; every landscape is a mean over images",
                (
                    "model",
                    "pixels that hold half of the saliency",
                    "landscape's images",
                    "loss at 0",
                    "at ε₁ = 1/255",
                    "at ε₂ = 1/255",
                ),
                tuple(
                    (
                        m.classifier.name,
                        plain_percent(m.reasons.spread),
                        str(m.reasons.landscape_images),
                        *(number(loss) for loss in m.reasons.loss),
                    )
                    for m in modalities
                ),
            ),
        ),
    )


def _inside(modalities: Sequence[Modality]) -> Section:
    moved = [m.reasons.grad_cam_moved for m in modalities]
    middle = median([x for x in moved if not math.isnan(x)] or [math.nan])
    return Section(
        "What an attack does inside",
        (
            Text(
                "PGD at 1/255. Grad-CAM of the answered class and the mean of the last stage's "
                "channels, of one test image a model; then the penultimate features of clean and "
                "attacked test images in two dimensions. The paper finds attention moved over wide "
                "regions and almost separable features. Here attention moves by "
                f"{number(middle)} in the median model (0: the same place, 1: elsewhere), and the "
                "honest column above says how separable the features are; t-SNE shows neighbours, "
                "not distances."
            ),
            Picture(
                "class_activation.png",
                "Grad-CAM and mean feature map of the last stage, clean and attacked, on one scale "
                "a pair; one row a model",
                figures.png(partial(figures.class_activations, modalities), dpi=80),
            ),
            Picture(
                "features.png",
                "Penultimate features of clean and attacked test images: PCA above, t-SNE below",
                figures.png(partial(figures.feature_planes, modalities)),
            ),
            Table(
                "Medians over the attacked test images",
                (
                    "model",
                    "Grad-CAM moved",
                    "change of the mean feature map",
                    "variance on two axes of PCA",
                ),
                tuple(
                    (
                        m.classifier.name,
                        number(m.reasons.grad_cam_moved),
                        plain_percent(m.reasons.mean_map_change),
                        plain_percent(m.reasons.explained),
                    )
                    for m in modalities
                ),
            ),
        ),
    )


def _differences() -> Section:
    return Section(
        "What differs from the paper",
        (
            Items(
                (
                    "Networks: small residual networks trained from scratch, not ResNet-50 with "
                    "ImageNet weights. Both have a linear layer of 128 values before the classes.",
                    "Chest X-rays: children, pneumonia or not (Kermany), not NIH pneumothorax. "
                    "Fundus: any retinopathy in 516 images (IDRiD), not Kaggle's set. "
                    "Dermoscopy: melanoma against all else (ISIC 2017). Ultrasound is not in the "
                    "paper.",
                    "Few images: intervals are wide, and say so.",
                    "Patients never straddle splits; the released code splits images at random.",
                    "The paper's own result tables are not repeated here: the comparison is with "
                    "its released code, run on the same features as ours.",
                    "No natural images.",
                )
            ),
        ),
    )


def _provenance(provenance: Mapping[str, object]) -> Section:
    return Section(
        "How it was made",
        (Items(tuple(f"{key}: {value}" for key, value in provenance.items())),),
    )
