"""Attacks by name, as a user writes them, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.ball import Norm
from attacks.catalogue import markdown
from attacks.presets import PRESETS, possible
from attacks.registry import (
    UnknownAttack,
    category,
    from_document,
    methods,
    named,
    needs_epsilon,
    norms,
    parse,
    split,
)
from attacks.spec import Need

ROOT = Path(__file__).parents[2]


def test_a_255th_is_a_grey_level_and_short_names_are_understood():
    spec = parse("pgd:eps=1/255,steps=40,norm=l2")
    assert (spec.epsilon, spec.norm, spec.title) == (1.0, Norm.L2, "pgd-l2-1")
    assert spec == parse("pgd:epsilon=1,steps=40,norm=l2")
    assert parse("fgsm:eps=0.1/255").epsilon == 0.1
    assert parse("bim", 2.0).epsilon == 2.0
    assert parse("bim:eps=3", 2.0).epsilon == 3.0


def test_commas_part_attacks_and_their_parameters():
    text = "fgsm,pgd:eps=1,steps=3,bim,cw_l2:steps=9"
    assert split(text) == ("fgsm", "pgd:eps=1,steps=3", "bim", "cw_l2:steps=9")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pdg:eps=1", "choose from"),
        ("pgd", "write pgd:eps=1/255"),
        ("pgd:eps=1,stepps=3", "has no parameter 'stepps'; it has"),
        ("pgd:eps=1,steps=0", "steps: Input should be greater than 0"),
        ("pgd:eps=x/255", "x/255 is not a number"),
        ("pgd:eps", "name=value"),
        ("fgsm:eps=300", "above 255"),
        ("fgsm:eps=1,norm=l2", "norm"),
    ],
)
def test_mistakes_are_named(text, sentence):
    with pytest.raises(UnknownAttack, match=sentence):
        parse(text)


def test_every_attack_says_what_it_is_and_survives_json():
    assert len(methods()) >= 34
    for name, method in methods().items():
        assert method.__doc__
        assert method.citation
        assert norms(method)
        spec = named(name, 2.0 if needs_epsilon(method) else None)
        assert from_document(spec.model_dump(mode="json")) == spec
        assert spec.title.startswith(name)


def test_presets_hold_what_they_say():
    assert [spec.title for spec in PRESETS["paper"]([0.1, 1.0])][:4] == [
        "fgsm-0.1", "bim-0.1", "pgd-0.1", "cw_linf-0.1"
    ]  # fmt: skip
    full = {spec.method for spec in PRESETS["full"]([1.0])}
    assert full == set(methods()), "full is everything"
    blind = possible(PRESETS["full"]([1.0]), gradients=False, aware=False)
    assert blind
    for spec in blind:
        assert Need.GRADIENTS not in spec.needs
        assert category(type(spec)) != "guard_aware"


def test_the_page_of_attacks_is_what_the_code_says():
    assert (ROOT / "docs" / "attack_list.md").read_text() == markdown(), "run `make docs`"
