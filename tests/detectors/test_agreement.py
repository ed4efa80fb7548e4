"""Agreement must fire when squeezing takes the answer back, and stay quiet near the boundary."""

import numpy as np
import pytest
import torch

from detectors.agreement import Agreement
from detectors.benign_line import DEVIATIONS
from detectors.features import Features, concatenate
from detectors.statistics import tpr_at_fpr


def views(n: int, seed: int, *, flipped: bool, classes: int = 2, noisy: float = 0.0) -> Features:
    """Benign: the squeezed margin follows the plain one with noise that grows with it and with how
    far squeezing moved the pixels. Flipped: the squeezed view gives back the class that the
    attack hid."""
    draw = torch.Generator().manual_seed(seed)
    margin = torch.rand(n, generator=draw) * (3 if flipped else 6)
    winner = torch.randint(classes, (n,), generator=draw)
    change = 0.05 * torch.rand(n, generator=draw) + noisy
    noise = torch.randn(n, generator=draw) * (0.1 + 0.1 * margin + 2 * change)
    after = -(1 + 2 * torch.rand(n, generator=draw)) if flipped else 0.8 * margin + noise - 0.1
    plain, squeezed = torch.full((n, classes), -9.0), torch.full((n, classes), -9.0)
    rows, rival = torch.arange(n), (winner + 1) % classes
    plain[rows, winner], plain[rows, rival] = margin, 0.0
    squeezed[rows, winner], squeezed[rows, rival] = after, 0.0
    return Features(
        (torch.zeros(n, 1),),
        plain,
        squeezed,
        change,
        squeezed,
        *[torch.zeros(n, 0)] * 4,
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_flips_are_caught_and_wavering_benign_images_pass(classes: int) -> None:
    benign = views(600, 1, flipped=False, classes=classes)
    labels = benign.predicted
    detector = Agreement().fit(benign, labels, benign)
    fresh = detector(views(2000, 2, flipped=False, classes=classes)).numpy()
    caught = detector(views(500, 3, flipped=True, classes=classes)).numpy()
    assert tpr_at_fpr(fresh, caught, 0.01) > 0.95
    # standardised: about as many large scores as a Gaussian has on both sides
    assert np.mean(fresh > 3) < 0.015
    assert np.mean(fresh**2) ** 0.5 == pytest.approx(1, abs=0.25)


def test_noise_may_change_the_answer_as_far_as_it_changed_the_pixels() -> None:
    benign = concatenate([views(400, 1, flipped=False), views(400, 2, flipped=False, noisy=1.0)])
    detector = Agreement().fit(benign, benign.predicted, benign)
    noisy = detector(views(1000, 3, flipped=False, noisy=1.0)).numpy()
    assert np.mean(noisy > 3) < 0.02
    caught = detector(views(500, 4, flipped=True)).numpy()
    assert tpr_at_fpr(noisy, caught, 0.01) > 0.9


def test_a_smooth_image_is_not_held_to_less_than_benign_images_show() -> None:
    benign = views(800, 1, flipped=False)
    detector = Agreement().fit(benign, benign.predicted, benign)
    fresh = views(1000, 6, flipped=False)
    smooth = fresh._replace(squeeze_change=torch.zeros(1000))
    assert (detector(smooth) > 3).float().mean() < 0.06


def test_a_squeezed_view_that_is_surer_than_the_plain_one_is_suspicious() -> None:
    benign = views(600, 1, flipped=False)
    detector = Agreement().fit(benign, benign.predicted, benign)
    failed = views(100, 5, flipped=False)
    surer = failed._replace(squeezed_logits=failed.squeezed_logits * 6)
    assert (detector(surer) > detector(failed)).float().mean() > 0.9


def test_a_few_benign_flips_do_not_bend_the_line() -> None:
    """Up to the 2 % that the spread leaves out."""
    benign, flips = views(600, 1, flipped=False), views(6, 4, flipped=True)
    mixed = concatenate([benign, flips])
    detector = Agreement().fit(mixed, mixed.predicted, mixed)
    assert detector.expected[:, 1].numpy() == pytest.approx(0.8, abs=0.1)
    assert (detector(flips) > DEVIATIONS).all()


def test_a_guard_without_a_squeezed_view_is_told_so() -> None:
    benign = views(50, 1, flipped=False)
    without = benign._replace(squeezed_logits=torch.zeros(50, 0))
    with pytest.raises(ValueError, match="squeezed view"):
        Agreement().fit(without, benign.predicted, without)
