"""Scikit-learn models rewritten as tensors must give scikit-learn's numbers, in torch and ONNX."""

import numpy as np
import pytest
import torch
from feature_cases import assert_exports
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from detectors.forest import Forest
from detectors.logistic import Logistic
from detectors.svm import RbfMachine

RNG = np.random.default_rng(0)
X = RNG.normal(1, 2, (300, 10)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] + RNG.normal(0, 1, 300) > 1).astype(int)
FRESH = RNG.normal(1, 2, (500, 10)).astype(np.float32)


def rows(n: int) -> tuple[torch.Tensor, ...]:
    return (torch.from_numpy(FRESH[:n]),)


def test_logistic_folds_the_standardisation() -> None:
    ours = Logistic().fit(torch.from_numpy(X[Y == 0]), torch.from_numpy(X[Y == 1]))
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    ).fit(X.astype(np.float64), Y)
    np.testing.assert_allclose(
        ours(torch.from_numpy(FRESH)), theirs.decision_function(FRESH), atol=1e-5
    )
    assert_exports(ours, rows)


def test_logistic_ignores_a_constant_feature_and_names_a_missing_side() -> None:
    constant = torch.from_numpy(np.c_[X, np.full(len(X), 5.0, np.float32)])
    ours = Logistic().fit(constant[Y == 0], constant[Y == 1])
    assert ours.weight[-1] == 0
    with pytest.raises(ValueError, match="0 attacked"):
        Logistic().fit(constant, constant[:0])


@pytest.mark.parametrize("leaves", [2, 32, None])
def test_forest_is_exact_even_on_the_thresholds(leaves: int | None) -> None:
    theirs = RandomForestClassifier(
        30, max_leaf_nodes=leaves, class_weight="balanced", random_state=0
    ).fit(X, Y)
    ours = Forest.of(theirs)
    on_threshold = FRESH.copy()
    tree = theirs.estimators_[0].tree_
    on_threshold[:, tree.feature[0]] = tree.threshold[0]
    for x in (X, FRESH, on_threshold):
        expected = theirs.predict_proba(x)[:, 1]
        np.testing.assert_allclose(ours(torch.from_numpy(x)), expected, atol=1e-5)
    assert_exports(ours, rows)


def test_forest_of_trees_that_found_nothing_to_split() -> None:
    theirs = RandomForestClassifier(3).fit(np.ones((20, 10), np.float32), Y[:20])
    ours = Forest.of(theirs)
    np.testing.assert_allclose(
        ours(torch.from_numpy(FRESH)), theirs.predict_proba(FRESH)[:, 1], atol=1e-6
    )


def test_support_vector_machine() -> None:
    theirs = SVC(gamma=0.1, class_weight="balanced").fit(X.astype(np.float64), Y)
    ours = RbfMachine.of(theirs)
    np.testing.assert_allclose(
        ours(torch.from_numpy(FRESH)), theirs.decision_function(FRESH), atol=1e-5
    )
    assert_exports(ours, rows)
