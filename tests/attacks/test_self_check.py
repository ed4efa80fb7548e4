"""A masked gradient is found, and a healthy model is left in peace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.access import Access
from attacks.ball import Norm
from attacks.registry import named
from attacks.self_check import RunResult, Symptom, compare, probe, self_check

IMAGES = 12


def symptoms(findings) -> set[Symptom]:
    return {finding.symptom for finding in findings}


def checked(task, model, epsilon: float = 2.0):
    return self_check(
        model, task.pixels[:IMAGES], task.labels[:IMAGES], range(IMAGES), epsilon=epsilon
    )


def run(title: str, share: float, **kind) -> RunResult:
    """Of 100 images, the first ``share`` fooled."""
    values = {"norm": Norm.LINF, "epsilon": 1.0, "steps": 20, "gradients": True, **kind}
    return RunResult(title, title.partition("-")[0], np.arange(100) < share * 100, **values)


def test_a_healthy_model_has_no_findings(task):
    assert checked(task, task.model) == ()


def test_healthy_findings_have_no_findings(findings):
    assert checked(findings, findings.model) == ()


def test_a_quantised_input_is_found(task):
    def quantised(pixels: Tensor) -> Tensor:
        return task.model((pixels / 8).round() * 8)

    found = checked(task, quantised, epsilon=8.0)
    assert {Symptom.GRADIENT_ZERO, Symptom.BLACK_BOX_WINS, Symptom.UNBOUNDED_FAILS} <= symptoms(
        found
    )
    zero = next(finding for finding in found if finding.symptom is Symptom.GRADIENT_ZERO)
    assert zero.rows == tuple(range(IMAGES))
    assert "12 of 12 images" in str(zero)
    assert "rounding" in str(zero)


def test_a_saturated_head_is_found(task):
    def saturated(pixels: Tensor) -> Tensor:
        return torch.tanh(task.model(pixels).float() * 1e3)

    assert symptoms(checked(task, saturated)) & {
        Symptom.GRADIENT_ZERO,
        Symptom.UNBOUNDED_FAILS,
        Symptom.BLACK_BOX_WINS,
    }


def test_a_shattered_gradient_is_found_by_its_results_alone(task):
    """The ripple hardly changes an answer, but its slope drowns the model's."""

    def shattered(pixels: Tensor) -> Tensor:
        return task.model(pixels + 0.4 * torch.sin(97.0 * pixels))

    found = checked(task, shattered, epsilon=4.0)
    assert Symptom.BLACK_BOX_WINS in symptoms(found) or Symptom.FEWER_STEPS_WIN in symptoms(found)


def test_a_certain_model_saturates_the_loss_but_not_the_margin(task):
    def certain(pixels: Tensor) -> Tensor:
        return 1e3 * task.model(pixels)

    found = checked(task, certain)
    assert symptoms(found) == {Symptom.LOSS_SATURATED}
    assert "apgd_dlr" in str(found[0])


def test_probabilities_are_told_from_logits(task):
    found = checked(task, lambda pixels: task.model(pixels).softmax(dim=1))
    assert Symptom.PROBABILITIES in symptoms(found)


def test_a_random_model_and_one_that_mixes_images_are_told_apart(task):
    def noisy(pixels: Tensor) -> Tensor:
        return task.model(pixels + torch.randn_like(pixels))

    def mixing(pixels: Tensor) -> Tensor:
        logits = task.model(pixels)
        return logits - logits.mean(dim=0)

    assert Symptom.RANDOM in symptoms(checked(task, noisy))
    assert Symptom.MIXED in symptoms(checked(task, mixing))


def test_broken_logits_end_the_check(task):
    def broken(pixels: Tensor) -> Tensor:
        return task.model(pixels) / (pixels[:, 0, 0] * 0)

    assert Symptom.LOGITS_NOT_FINITE in symptoms(checked(task, broken))


def test_a_detached_model_is_attacked_without_its_gradient(task):
    found = checked(task, lambda pixels: task.model(pixels.detach()), epsilon=8.0)
    assert Symptom.NO_GRADIENT in symptoms(found)


def test_the_probe_counts_on_its_images_and_passes_a_healthy_model(task):
    access = Access(task.model, IMAGES)
    assert probe(access, task.pixels[:IMAGES], task.labels[:IMAGES], range(IMAGES)) == ()
    assert access.forwards.max() < 200


def test_a_black_box_that_reaches_other_images_is_reported_with_them():
    white = run("pgd-1", 0.5)
    black = run("square-1", 0.6, gradients=False)
    (finding,) = compare([white, black])
    assert finding.symptom is Symptom.BLACK_BOX_WINS
    assert finding.rows == tuple(range(50, 60))
    assert str(finding).startswith("square-1 fools 10 of 100 images")
    assert compare([white, run("square-1", 0.51, gradients=False)]) == (), "chance"
    assert compare([white, run("square-4", 0.9, gradients=False, epsilon=4.0)]) == ()
    assert compare([white, run("square-1", 0.9, gradients=False, norm=Norm.L2)]) == ()


def test_fewer_steps_and_smaller_budgets_must_not_win():
    (steps,) = compare([run("pgd-1", 0.4), run("fgsm-1", 0.5, steps=1)])
    assert steps.symptom is Symptom.FEWER_STEPS_WIN
    (budget,) = compare([run("pgd-1", 0.4), run("pgd-2", 0.3, epsilon=2.0)])
    assert budget.symptom is Symptom.SMALLER_BUDGET_WINS
    # different methods may well differ
    assert compare([run("pgd-1", 0.4, steps=20), run("bim-1", 0.5, steps=10)]) == ()


def test_all_grey_levels_must_reach_every_image():
    (finding,) = compare([run("pgd-255", 0.99, epsilon=255.0)])
    assert finding.symptom is Symptom.UNBOUNDED_FAILS
    assert finding.rows == (99,)
    assert compare([run("pgd-255", 0.99, epsilon=255.0), run("cw-255", 1.0, epsilon=255.0)]) == ()


def test_runs_of_other_images_are_refused():
    with pytest.raises(ValueError, match="same images"):
        compare([run("pgd-1", 0.5), RunResult.of(named("pgd", 1.0), np.ones(3, dtype=bool))])


def test_a_result_is_described_by_its_spec():
    fooled = np.ones(3, dtype=bool)
    assert RunResult.of(named("square", 1.0, {"queries": 7}), fooled).steps == 7
    assert not RunResult.of(named("square", 1.0), fooled).gradients
    assert RunResult.of(named("fab"), fooled).epsilon is None
