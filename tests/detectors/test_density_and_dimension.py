"""KD, LID and Mahalanobis against their formulas, and against the leaks they must not have."""

import numpy as np
import pytest
import torch
from feature_cases import gaussian
from scipy.spatial.distance import cdist, pdist, squareform
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KernelDensity as SklearnDensity

from detectors.bank import subsample
from detectors.detector import Detector
from detectors.features import Features
from detectors.joint_distances import JointDistances
from detectors.kd import KernelDensity, left_out_log_density, likeliest_bandwidth
from detectors.lid import Lid
from detectors.mahalanobis import Mahalanobis, TapDistances
from detectors.quality import Quality
from detectors.tle import TightLid, tight_lid

BENIGN, LABELS = gaussian(300, seed=1)
ATTACKED, _ = gaussian(300, seed=2, shift=1)
FRESH, _ = gaussian(50, seed=3)


def test_paper_density_is_scikit_learns() -> None:
    ours = KernelDensity(bandwidth=1.0).fit(BENIGN, LABELS, ATTACKED)(FRESH).numpy()
    for c in range(3):
        theirs = SklearnDensity(bandwidth=1.0).fit(BENIGN.taps[-1][c == LABELS].numpy())
        rows = (FRESH.predicted == c).numpy()
        difference = ours[rows] + theirs.score_samples(FRESH.taps[-1].numpy()[rows])
        # equal but for the class's typical value, which puts the classes on one scale
        np.testing.assert_allclose(difference, difference[0], atol=2e-3)


@pytest.mark.parametrize("width", [1, 20])
def test_bandwidth_of_two_points_is_known(width: int) -> None:
    # log likelihood -D^2 / 2h^2 - d log h is largest at h = D / sqrt(d)
    squared = np.array([[0.0, 9.0], [9.0, 0.0]])
    own = np.eye(2, dtype=bool)
    assert likeliest_bandwidth(squared, own, width) == pytest.approx(3 / width**0.5, rel=1e-3)


def test_left_out_density_is_scikit_learns_on_the_others() -> None:
    x = BENIGN.taps[0].numpy()[:40].astype(np.float64)
    groups = np.arange(40) // 2
    ours = left_out_log_density(cdist(x, x) ** 2, groups[:, None] == groups, 8, 0.7)
    for i in (0, 7):
        others = SklearnDensity(bandwidth=0.7).fit(x[groups != groups[i]])
        assert ours[i] == pytest.approx(others.score_samples(x[i : i + 1])[0])


def test_copies_of_an_image_do_not_shrink_the_bandwidth() -> None:
    twice = torch.arange(300).repeat(2)
    copies = BENIGN.rows(twice)
    groups = torch.cat([twice, torch.arange(1000, 1300)])
    once = KernelDensity().fit(BENIGN, LABELS, ATTACKED)(FRESH)
    aware = KernelDensity(bank=600).fit(copies, LABELS[twice], ATTACKED, groups)(FRESH)
    blind = KernelDensity(bank=600).fit(copies, LABELS[twice], ATTACKED)(FRESH)
    torch.testing.assert_close(aware, once, atol=0.05, rtol=0.02)
    assert (blind - once).abs().max() > 1


def test_a_class_without_reference_images_is_still_scored() -> None:
    few = KernelDensity().fit(
        BENIGN.rows(LABELS != 2), LABELS[LABELS != 2], ATTACKED.rows(LABELS != 2)
    )
    assert torch.isfinite(few(FRESH)).all()


def test_log_lid_is_the_maximum_likelihood_estimate() -> None:
    k = 10
    detector = Lid(neighbours=k, bank=80, seed=4).fit(BENIGN, LABELS, ATTACKED)
    bank = subsample(LABELS, torch.arange(300), 80, 4)
    ours = detector.log_lid(FRESH).numpy()
    for level, tap in enumerate(FRESH.taps):
        r = np.sort(cdist(tap.numpy(), BENIGN.taps[level][bank].numpy()), axis=1)[:, :k]
        expected = -1 / np.log(r / r[:, -1:]).mean(axis=1)
        np.testing.assert_allclose(ours[:, level], np.log(expected), atol=1e-3)


def test_lid_recovers_the_dimension_of_a_uniform_ball() -> None:
    draw = np.random.default_rng(0)
    for dimension in (2, 5):
        points = draw.normal(size=(4000, dimension))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        points *= draw.random((4000, 1)) ** (1 / dimension)
        near = np.argsort(np.linalg.norm(points, axis=1))[:60]
        u = torch.from_numpy(np.linalg.norm(points[near], axis=1))[None]
        between = torch.from_numpy(squareform(pdist(points[near])))[None]
        assert tight_lid(u, between).item() == pytest.approx(dimension, rel=0.25)


def test_tight_lid_is_the_published_formula() -> None:
    x = np.random.default_rng(1).normal(size=(12, 4))
    u = np.sort(np.linalg.norm(x, axis=1))
    x = x[np.argsort(np.linalg.norm(x, axis=1))]
    r, v = u[-1], cdist(x, x)
    total = 2 * np.log(u / r).sum()
    for i in range(12):
        for j in range(12):
            if i == j:
                continue
            for w2 in (v[i, j] ** 2, 2 * u[i] ** 2 + 2 * u[j] ** 2 - v[i, j] ** 2):
                a, b = u[i] ** 2 + w2 - u[j] ** 2, r**2 - u[i] ** 2
                measure = (
                    r * w2 / (r**2 + w2 - u[j] ** 2)
                    if i == 11
                    else r * ((a**2 + 4 * w2 * b) ** 0.5 - a) / (2 * b)
                )
                total += np.log(measure / r)
    ours = tight_lid(torch.from_numpy(u)[None], torch.from_numpy(v)[None])
    assert ours.item() == pytest.approx(-2 * 12**2 / total, rel=1e-6)


@pytest.mark.parametrize("build", [Lid, TightLid, Mahalanobis])
def test_reference_images_measure_like_strangers_while_fitting(build: type[Detector]) -> None:
    """The released neighbour slice tells reference images from strangers at AUC 0.65. A detector
    that had learnt such a difference would lean towards "attacked" for every fresh image."""
    strangers, _ = gaussian(2000, seed=5)
    reference = BENIGN.rows(torch.arange(120))
    detector = build().fit(reference, LABELS[:120], strangers)
    fresh, _ = gaussian(2000, seed=6)
    assert detector(fresh).mean().item() == pytest.approx(0, abs=0.15)


def test_mahalanobis_is_the_quadratic_form() -> None:
    tap = BENIGN.taps[0]
    distances = TapDistances().fit((tap,), LABELS, torch.arange(300))
    means = torch.stack([tap[c == LABELS].mean(dim=0) for c in range(3)])
    residuals = tap - means[LABELS]
    deviation = residuals.square().mean(dim=0).sqrt()
    precision = np.linalg.inv(
        LedoitWolf(assume_centered=True).fit(residuals / deviation).covariance_
    )
    z = ((FRESH.taps[0][:, None] - means) / deviation).numpy()
    expected = np.log(np.einsum("ncd,de,nce->nc", z, precision, z).min(axis=1))
    ours = distances((FRESH.taps[0],))[:, 0] / distances.scale + distances.location
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_fresh_benign_images_are_typical_to_the_quality_score() -> None:
    """Distances of images inside the fit are too small: standardised by them, every fresh image
    would look degraded."""
    small = BENIGN.rows(torch.arange(60))
    distances = TapDistances().fit(small.taps, LABELS[:60], torch.arange(60))
    fresh, _ = gaussian(400, seed=8)
    assert distances(fresh.taps).mean().item() == pytest.approx(0, abs=0.3)


def test_no_tap_drowns_another_by_its_long_tail() -> None:
    """Quality is 0 where benign images are typical and 1 where a hundredth of them are at their
    farthest, however long an aspect's tail."""
    rng = np.random.default_rng(5)

    def features(n: int) -> Features:
        even = rng.normal(size=(n, 8))
        long = rng.normal(size=(n, 8)) * np.exp(rng.standard_t(3, size=(n, 1)))
        taps = tuple(torch.from_numpy(tap).float() for tap in (even, long))
        return BENIGN.rows(torch.zeros(n, dtype=torch.int64))._replace(
            taps=taps, picture=torch.zeros(n, 0)
        )

    known = features(1500)
    quality = Quality().fit(
        known, torch.arange(1500) % 2, known.rows(torch.arange(0)), torch.arange(1500)
    )
    fresh = quality.distances(features(4000).taps)
    assert fresh.median(dim=0).values.tolist() == pytest.approx([0, 0], abs=0.05)
    for share in (fresh > 1).float().mean(dim=0).tolist():
        assert 0.001 < share < 0.01


def test_one_group_is_no_reference() -> None:
    groups = torch.zeros(600, dtype=torch.int64)
    for detector in (KernelDensity(), Lid(), TightLid(), Mahalanobis()):
        with pytest.raises(ValueError, match="patients"):
            detector.fit(BENIGN, LABELS, ATTACKED, groups)


def test_distances_measured_together_are_each_sets_own() -> None:
    """As a bundle computes them: a detector's and the quality score's in one pass, though one has
    an aspect more and has seen a class less."""
    picture = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 5))).float()
    known = LABELS < 2
    few = TapDistances().fit(
        tuple(tap[known] for tap in BENIGN.taps), LABELS[known], torch.arange(int(known.sum()))
    )
    all_seen = TapDistances().fit((*BENIGN.taps, picture), LABELS, torch.arange(300))
    queries = (*FRESH.taps, picture[:50])
    joint = JointDistances([few, all_seen])
    together = torch.split(joint(queries), joint.counts, dim=1)
    torch.testing.assert_close(together[0], few(FRESH.taps), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1], all_seen(queries), atol=1e-4, rtol=1e-4)
