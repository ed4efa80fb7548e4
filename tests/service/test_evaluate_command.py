"""What ``lazaret evaluate`` says of its attackers."""

import pytest

from service.cli.evaluate import knowledge_of


@pytest.mark.parametrize(
    ("attack", "fitted", "knowledge"),
    [
        ("pgd", {"pgd"}, "unaware"),
        ("pgd", {"fgsm"}, "unseen"),
        ("gamma", {"pgd"}, "unseen"),
        ("square", {"square"}, "black_box"),
        ("joint_pgd", {"joint_pgd"}, "aware"),
    ],
)
def test_attacks_are_told_apart_by_what_they_know(
    attack: str, fitted: set[str], knowledge: str
) -> None:
    assert knowledge_of(attack, frozenset(fitted)) == knowledge
