"""A support vector machine with a Gaussian kernel, as tensors."""

from __future__ import annotations

from typing import Self

import torch
from sklearn.svm import SVC
from torch import Tensor, nn


class RbfMachine(nn.Module):
    """``sum_i a_i exp(-g |x - s_i|^2) + b``, the decision function of a fitted binary SVC.

    One matrix product gives all exponents: ``[x - m, |x - m|^2] . [2 g s_i, -g] - g |s_i|^2``
    with the support vectors centred on their mean ``m``.
    """

    mean: Tensor
    weight: Tensor
    constant: Tensor
    dual: Tensor
    intercept: Tensor

    @classmethod
    def of(cls, machine: SVC) -> Self:
        """Convert an ``SVC(kernel="rbf")``; positive values speak for ``classes_[1]``."""
        gamma = float(machine._gamma)
        support = torch.from_numpy(machine.support_vectors_).double()
        mean = support.mean(dim=0)
        support = support - mean
        module = cls()
        for name, value in {
            "mean": mean,
            "weight": torch.cat(
                [2 * gamma * support, support.new_full((len(support), 1), -gamma)], 1
            ).T,
            "constant": -gamma * support.square().sum(dim=1),
            "dual": torch.from_numpy(machine.dual_coef_[0]),
            "intercept": torch.tensor(float(machine.intercept_[0])),
        }.items():
            module.register_buffer(name, value.float().contiguous())
        return module

    def forward(self, x: Tensor) -> Tensor:
        """``float32[N, D]`` to ``float32[N]``."""
        x = x - self.mean
        x = torch.cat([x, (x * x).sum(dim=1, keepdim=True)], dim=1)
        return torch.addmm(self.constant, x, self.weight).exp() @ self.dual + self.intercept
