"""The page's sections on the paper's detectors: null test, both protocols, transfer."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.evaluation import Estimate
from detectors.paper_protocol import PaperScores
from detectors.reproduction.detection import NAMES, Detection
from detectors.reproduction.document import Section, Table, Text
from detectors.reproduction.findings import Modality
from detectors.wording import NOTHING, number

TITLES = {"kd": "KD", "lid": "LID", "dfeat": "DFeat", "qfeat": "QFeat"}


def detection_sections(modalities: Sequence[Modality]) -> list[Section]:
    """In the order that a sceptic would read them."""
    sections = [
        Section(
            "The paper's detectors, by two protocols",
            (
                Text(
                    "KD, LID, DFeat and QFeat at ε = 1/255, float pixels, all attacked images that "
                    "are diagnosed right when clean, whether the attack succeeded or not. AUC of "
                    "clean against attacked images. Paper: the released protocol on reference and "
                    "test images together, with what it leaks: densities fitted on the points they "
                    "score, a neighbour dropped for attacked images only, classes oversampled "
                    "before the split, scalers fitted on test data, one layer. Honest: detectors "
                    "fitted on the reference patients, judged on the test patients, neither seen "
                    "in training; LID over all taps."
                ),
            ),
        ),
        Section(
            "The null test: nobody attacks",
            (
                Text(
                    "Benign images play the attacked ones. An honest protocol gives 0.5 within its "
                    "interval; where ours does not, this page is not written. What the released "
                    "protocol finds here is what its numbers below are worth."
                ),
                Table(
                    "AUC of benign against benign images",
                    ("model", "protocol", *(TITLES[n] for n in NAMES)),
                    tuple(row for m in modalities for row in _null_rows(m)),
                ),
            ),
            level=3,
        ),
    ]
    for m in modalities:
        same = [d for d in m.detections if d.fitted_on == d.attack]
        across = [d for d in m.detections if d.fitted_on != d.attack]
        sections.append(
            Section(
                f"Detection, {m.classifier.name}",
                (
                    Text(
                        f"Fitted on {m.fit_images} images, judged on {same[0].images}."
                        if same
                        else "No attack."
                    ),
                    Table(
                        "Fitted on the attack that is to be found",
                        ("attack", "successful", *_protocol_heads()),
                        tuple(
                            (d.attack, f"{d.successful} of {d.images}", *_protocol_cells(d))
                            for d in same
                        ),
                    ),
                    Table(
                        "Honest, against successful attacks alone",
                        ("attack", *(TITLES[n] for n in NAMES)),
                        tuple(
                            (d.attack, *(number(d.honest_successful[n]) for n in NAMES))
                            for d in same
                        ),
                    ),
                    Table(
                        "Transfer: fitted on one attack, asked for another. sign_noise is benign: "
                        "one grey level up or down at random, where 0.5 is right",
                        ("fitted on", "asked for", *_protocol_heads()),
                        tuple((d.fitted_on, d.attack, *_protocol_cells(d)) for d in across),
                    ),
                ),
                level=3,
            )
        )
    return sections


def _null_rows(m: Modality) -> list[tuple[str, ...]]:
    honest = {r.detector: r for r in m.null.honest}

    def cells(scores: PaperScores) -> list[str]:
        return [number(getattr(scores, n)) for n in NAMES]

    return [
        (m.classifier.name, f"paper ({m.null.right} images)", *cells(m.null.paper)),
        (m.classifier.name, "paper, transfer", *cells(m.null.paper_transfer)),
        (
            m.classifier.name,
            f"honest ({m.null.images} images)",
            *(
                f"{honest[n].auc:.3f} (chance: {honest[n].low:.3f} to {honest[n].high:.3f}) "
                f"{'passed' if honest[n].passed else 'FAILED'}"
                for n in NAMES
            ),
        ),
    ]


def _protocol_heads() -> list[str]:
    return [f"{TITLES[n]}, {which}" for n in NAMES for which in ("paper", "honest")]


def _protocol_cells(d: Detection) -> list[str]:
    cells = []
    for n in NAMES:
        cells.append(number(getattr(d.paper, n)) if d.paper else NOTHING)
        cells.append(_interval(d.honest[n]))
    return cells


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})"
