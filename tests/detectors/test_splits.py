"""If a patient straddles two splits, every number in the report is too good."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.splits import assign

FRACTIONS = {"reference": 0.4, "fusion": 0.2, "calibration": 0.2, "test": 0.2}


@given(st.lists(st.text(max_size=8), max_size=60), st.lists(st.text(max_size=8)), st.integers())
def test_a_group_stays_in_one_split_whatever_else_is_added(
    groups: list[str], more: list[str], seed: int
) -> None:
    alone = assign(groups, FRACTIONS, seed)
    together = assign([*more, *groups], FRACTIONS, seed)
    assert together[len(more) :] == alone
    place = dict(zip(groups, alone, strict=True))
    assert all(place[group] == split for group, split in zip(groups, alone, strict=True))


def test_shares_are_as_asked_and_depend_on_the_seed() -> None:
    groups = [f"patient-{i}" for i in range(5000)]
    first, second = assign(groups, FRACTIONS, 0), assign(groups, FRACTIONS, 1)
    for name, count in Counter(first).items():
        assert count / len(groups) == pytest.approx(FRACTIONS[name], abs=0.025)
    assert first != second


def test_fractions_that_are_no_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="shares of one"):
        assign(["a"], {"reference": 0.5, "test": 0.4}, 0)
