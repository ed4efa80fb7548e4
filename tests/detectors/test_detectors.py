"""What every detector owes: it tells attacked from benign images that it has not seen, it gives
the same answer inside the exported graph, and an attacker's gradient passes through it."""

import pytest
import torch
from feature_cases import assert_detector_exports, gaussian, input_gradient

from detectors.agreement import Agreement
from detectors.alignment import Alignment
from detectors.detector import Detector
from detectors.dfeat import DeepFeatures
from detectors.grain import Grain
from detectors.kd import KernelDensity
from detectors.least_significant import LeastSignificant
from detectors.lid import Lid
from detectors.mahalanobis import Mahalanobis
from detectors.margin import Margin
from detectors.neighbour_labels import NeighbourLabels
from detectors.qfeat import QuantisedFeatures
from detectors.quality import Quality
from detectors.recovery import LayerRecovery
from detectors.relative import RelativeMahalanobis
from detectors.residual import Residual
from detectors.statistics import auc
from detectors.tle import TightLid
from detectors.witness import Witness

DETECTORS = {
    "kd": lambda: KernelDensity(),
    "lid": lambda: Lid(neighbours=10, bank=60),
    "tle": lambda: TightLid(neighbours=10, size=60),
    "mahalanobis": lambda: Mahalanobis(),
    "quality": lambda: Quality(),
    "dfeat": lambda: DeepFeatures(),
    "qfeat": lambda: QuantisedFeatures(),
    "agreement": lambda: Agreement(),
    "neighbour_labels": lambda: NeighbourLabels(bank=150),
    "recovery": lambda: LayerRecovery(),
    "least_significant": lambda: LeastSignificant(),
    "relative_mahalanobis": lambda: RelativeMahalanobis(),
    "witness": lambda: Witness(),
    "residual": lambda: Residual(),
    "grain": lambda: Grain(),
    "margin": lambda: Margin(),
    "alignment": lambda: Alignment(),
}
VIEWS = ("agreement", "witness", "residual", "margin")  # which look at no tap


@pytest.fixture(scope="module")
def fitted() -> dict[str, Detector]:
    benign, labels = gaussian(400, seed=1)
    adversarial, _ = gaussian(200, seed=2, shift=2)
    return {name: build().fit(benign, labels, adversarial) for name, build in DETECTORS.items()}


@pytest.mark.parametrize("name", DETECTORS)
def test_exports(fitted: dict[str, Detector], name: str) -> None:
    assert fitted[name].name == name
    assert_detector_exports(fitted[name])


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in VIEWS])
def test_separates_moved_features_that_it_has_not_seen(
    fitted: dict[str, Detector], name: str
) -> None:
    with torch.no_grad():
        benign = fitted[name](gaussian(300, seed=3)[0]).numpy()
        moved = fitted[name](gaussian(300, seed=4, shift=2)[0]).numpy()
    # one layer's dimension alone is a weak cue
    assert auc(benign, moved) > (0.6 if name == "tle" else 0.7)


STEPS = ("dfeat", "qfeat", "neighbour_labels")  # trees, bits and counts have no gradient


@pytest.mark.parametrize("name", [n for n in DETECTORS if n not in STEPS])
def test_passes_gradients(fitted: dict[str, Detector], name: str) -> None:
    features, _ = gaussian(20, seed=5, shift=1)
    gradients = input_gradient(fitted[name], features)
    assert gradients
    largest = torch.stack(gradients).amax(dim=0)
    assert torch.isfinite(largest).all()
    # quality is flat where every tap looks typical, grain where it rather looks benign
    assert (largest > 0).float().mean() > {"quality": 0.8, "grain": 0.3}.get(name, 0.99)


@pytest.mark.parametrize("name", DETECTORS)
def test_survives_duplicates_dead_units_and_the_absurd(name: str) -> None:
    benign, labels = gaussian(400, seed=1)
    taps = list(benign.taps)
    for tap in taps:
        tap[:, 0] = 0.0
        tap[100:150] = tap[:50]
    labels[100:150] = labels[:50]
    detector = DETECTORS[name]().fit(benign, labels, gaussian(200, seed=2, shift=2)[0])
    zeros = benign._replace(taps=tuple(torch.zeros_like(tap) for tap in taps))
    far = benign._replace(taps=tuple(1e4 * tap for tap in taps))
    for features in (benign, zeros, far):
        assert torch.isfinite(detector(features)).all()


def test_a_batch_changes_nobodys_score(fitted: dict[str, Detector]) -> None:
    features, _ = gaussian(30, seed=6)
    for detector in fitted.values():
        alone = torch.cat([detector(features.rows(torch.tensor([i]))) for i in range(30)])
        torch.testing.assert_close(detector(features), alone, rtol=1e-4, atol=1e-4)


def test_margin_is_minus_1_where_typical_and_0_on_the_boundary() -> None:
    """Each class by its own typical margin, here 2 and 8."""
    benign, labels = gaussian(6, seed=7, classes=2)
    logits = torch.tensor([[1.0, 0], [2, 0], [3, 0], [0, 7], [0, 8], [0, 9]])
    detector = Margin().fit(benign._replace(logits=logits), labels, benign)
    asked = torch.tensor([[2.0, 0], [5, 5], [1, 0], [0, 2], [0, 16]])
    scores = detector(benign.rows(torch.arange(5))._replace(logits=asked))
    torch.testing.assert_close(scores, torch.tensor([-1, 0, -0.5, -0.25, -2]))
