"""Named attacks with published parameters, and ``run`` to carry one out.

Parameters: Ma et al. (2021), arXiv 1907.10456, as in the authors' released code, where FGSM, BIM
and PGD leave the *predicted* class (cleverhans without labels) and CW-Linf the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from attacks.bim import BIM
from attacks.cw_linf import CWLinf
from attacks.fgsm import FGSM
from attacks.gradient import OnFinding, refuse
from attacks.objective import Model
from attacks.pgd import PGD
from attacks.spec import AttackSpec, Labels

AnySpec = Annotated[FGSM | BIM | PGD | CWLinf, Field(discriminator="method")]
"""Every spec, told apart by ``method``: the type to use in a document."""

SPECS: TypeAdapter[AnySpec] = TypeAdapter(AnySpec)

PRESETS: dict[str, Callable[[float], AttackSpec]] = {
    "fgsm": lambda ε: FGSM(name="fgsm", epsilon=ε, labels=Labels.PREDICTED),
    "bim": lambda ε: BIM(name="bim", epsilon=ε, labels=Labels.PREDICTED),
    "pgd": lambda ε: PGD(name="pgd", epsilon=ε, labels=Labels.PREDICTED),
    "cw_linf": lambda ε: CWLinf(name="cw_linf", epsilon=ε),
    "cw_linf_released": lambda ε: CWLinf(name="cw_linf_released", epsilon=ε, masked=False),
}


def preset(name: str, epsilon: float) -> AttackSpec:
    """The named attack at ``epsilon`` grey levels. Raises ``ValueError`` for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"no attack is called {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name](epsilon)


def run(
    spec: AttackSpec,
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    *,
    predicted: Tensor | None = None,
    on_finding: OnFinding = refuse,
) -> Tensor:
    """Carry out ``spec`` on one batch.

    Args:
        pixels: ``float32[N, H, W, C]`` in grey levels 0 to 255.
        labels: ``int64[N]``: true classes, or the targets if ``spec.targeted``.
        seeds: one non-negative integer an image; attacks without randomness ignore them.
        predicted: ``int64[N]``, the classes of the clean images if the caller already knows
            them; saves a forward pass when ``spec.labels`` is ``predicted``.

    Returns ``float32[N, H, W, C]`` in ``[x - ε, x + ε] ∩ [0, 255]``.
    """
    if spec.labels is Labels.PREDICTED and not spec.targeted:
        if predicted is None:
            with torch.no_grad():
                predicted = model(pixels).argmax(dim=1)
        labels = predicted
    return spec.attack(model, pixels, labels, seeds, on_finding)
