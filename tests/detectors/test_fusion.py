"""The fused score must be no worse than its best part, and must not be steered by a broken one."""

import numpy as np
import pytest
import torch
from feature_cases import assert_exports, session, to_onnx
from sklearn.linear_model import LogisticRegression

from detectors.fusion import CLIP, Fusion
from detectors.statistics import auc

DRAW = torch.Generator().manual_seed(0)
BENIGN = torch.randn(500, 3, generator=DRAW) * torch.tensor([1.0, 100.0, 1e-3])
ATTACKED = torch.randn(400, 3, generator=DRAW) * torch.tensor([1.0, 100.0, 1e-3])
ATTACKED[:, 0] += 2.0
ATTACKED[:, 1] += 150.0


def test_fusion_beats_its_parts_on_every_scale() -> None:
    fusion = Fusion().fit(BENIGN[:250], ATTACKED[:200])
    fused = auc(fusion(BENIGN[250:]).numpy(), fusion(ATTACKED[200:]).numpy())
    parts = [auc(BENIGN[250:, d].numpy(), ATTACKED[200:, d].numpy()) for d in range(3)]
    assert fused > max(parts)


def test_weights_are_logistic_regressions_when_free() -> None:
    fusion = Fusion(nonnegative=False, penalty=1e-6).fit(BENIGN, ATTACKED)
    x = torch.cat([BENIGN, ATTACKED])
    z = ((x - fusion.median) * fusion.inverse_spread).clamp(*CLIP).numpy()
    theirs = LogisticRegression(C=1e6, class_weight="balanced", tol=1e-8, max_iter=1000)
    theirs.fit(z, np.r_[np.zeros(500), np.ones(400)])
    np.testing.assert_allclose(fusion(x), theirs.decision_function(z), atol=0.01)


def test_a_more_suspicious_detector_never_lowers_suspicion() -> None:
    inverted = ATTACKED.clone()
    inverted[:, 2] -= 5e-3
    assert Fusion(nonnegative=False).fit(BENIGN, inverted).weight.min() < 0
    fusion = Fusion().fit(BENIGN, inverted)
    assert fusion.weight.min() == 0
    assert (fusion(BENIGN + torch.rand(500, 3, generator=DRAW)) >= fusion(BENIGN)).all()


def test_huge_scores_count_as_certain_and_no_answer_stays_no_answer() -> None:
    fusion = Fusion().fit(BENIGN, ATTACKED)
    odd = torch.zeros(5, 3)
    odd[0, 0], odd[1, 0], odd[2, 0], odd[3, 2] = 3e38, -3e38, torch.inf, torch.nan
    fused = fusion(odd)
    assert torch.isfinite(fused[:3]).all()
    assert fused[0] > fusion(ATTACKED).max()
    assert fused[3].isnan()
    loaded = session(to_onnx(fusion, (odd,)))
    (answer,) = loaded.run(None, {loaded.get_inputs()[0].name: odd.numpy()})
    np.testing.assert_allclose(answer, fused, rtol=1e-5)
    assert_exports(fusion, lambda n: (BENIGN[:n],))


def test_constant_scores_and_unanswered_ones() -> None:
    constant = torch.cat([BENIGN, torch.ones(500, 1)], dim=1)
    assert torch.isfinite(
        Fusion().fit(constant, torch.cat([ATTACKED, torch.ones(400, 1)], 1))(constant)
    ).all()
    with pytest.raises(ValueError, match="did not answer"):
        Fusion().fit(BENIGN * torch.nan, ATTACKED)


def test_a_murmur_of_a_detector_that_is_silent_about_benign_images_is_no_certainty() -> None:
    quiet = torch.zeros(500, 1)
    quiet[:3] = 0.01
    loud = 1 + torch.rand(400, 1, generator=DRAW)
    fusion = Fusion().fit(torch.cat([BENIGN, quiet], dim=1), torch.cat([ATTACKED, loud], dim=1))
    silent, murmur, shout = (fusion(torch.tensor([[0.0, 0, 0, q]])) for q in (0.0, 0.01, 1.5))
    assert float(murmur - silent) < 0.02 * float(shout - silent)
