"""What counts as held when a rate is realised on the clean test images themselves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors.judgement import joint_thresholds, threshold

SCORES = arrays(np.float64, st.shared(st.integers(1, 300), key="n"), elements=st.integers(0, 50))


@given(SCORES, SCORES, st.sampled_from([0.0, 0.01, 0.05, 0.3]))
def test_two_routes_hold_no_more_clean_images_than_they_may(
    adversarial: np.ndarray, quality: np.ndarray, fpr: float
) -> None:
    suspicious, unusual = joint_thresholds(adversarial, quality, fpr)
    held = (adversarial > suspicious) | (quality > unusual)
    assert held.sum() <= fpr * len(adversarial) + 1e-6
    # never looser than one route with the whole rate to itself
    assert suspicious >= threshold(adversarial, fpr)
    assert unusual >= threshold(quality, fpr)


def test_two_routes_share_the_rate_between_them() -> None:
    rising = np.arange(200.0)
    assert joint_thresholds(rising, rising, 0.01) == (197.0, 197.0)  # the same two images
    assert joint_thresholds(rising, -rising, 0.01) == (198.0, -1.0)  # one each
    assert joint_thresholds(rising, -rising, 0.001) == (199.0, 0.0)  # none
