"""The second part of the fused graph: every detector, their fusion and the quality score."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from detectors.agreement import Agreement
from detectors.alignment import Alignment, SyntheticAlignment
from detectors.detector import Detector
from detectors.dfeat import DeepFeatures
from detectors.features import Features
from detectors.fusion import Fusion
from detectors.grain import Grain
from detectors.joint_distances import JointDistances
from detectors.kd import KernelDensity
from detectors.least_significant import LeastSignificant
from detectors.lid import Lid
from detectors.mahalanobis import Mahalanobis
from detectors.margin import Margin
from detectors.neighbour_labels import NeighbourLabels
from detectors.qfeat import QuantisedFeatures
from detectors.quality import Quality, aspects
from detectors.recovery import LayerRecovery
from detectors.relative import RelativeMahalanobis
from detectors.residual import Residual
from detectors.samples import ADDED
from detectors.tle import TightLid
from detectors.witness import Witness
from models.export import export_onnx
from models.onnx_graph import compose

INPUTS = (
    "taps",
    "class_logits",
    "squeezed_logits",
    "squeeze_change",
    "witness_logits",
    "residual",
    "picture",
    "grain",
    "aligned",
)
OUTPUTS = ("scores", "fused", "quality")

DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector
    for detector in (
        KernelDensity, Lid, TightLid, Mahalanobis, DeepFeatures, QuantisedFeatures, Agreement,
        NeighbourLabels, LayerRecovery, LeastSignificant, RelativeMahalanobis,
        Witness, Residual, Grain, Margin, Alignment, SyntheticAlignment,
    )
}  # fmt: skip
IN_FULL = ("kd", "mahalanobis", "agreement", "grain", "alignment")
"""The default, three to four passes of the network: those that earn their place in the fusion
(docs/evidence.md); the others are there to compare with."""
TRIAGE = ("kd", "relative_mahalanobis", "grain", "margin", "synthetic_alignment")
"""The default of a first stage that chooses whom a second one looks at: one pass of the
network."""


def split_taps(joined: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """``[N, sum d]`` to one ``[N, d_l]`` a tap."""
    return tuple(torch.split(joined, list(widths), dim=1))


class Guard(nn.Module):
    """Fitted detectors as one module: features to scores, fused score and quality score.

    ``forward`` takes the feature graph's ``taps [N, sum d]``, ``class_logits [N, K]`` and
    ``squeezed_logits [N, K or 0]``, ``squeeze_change [N]``, ``witness_logits [N, K or 0]``,
    ``residual [N, 1 or 0]``, ``picture [N, P or 0]``, ``grain [N, G or 0]``, ``aligned [N, 2, 3 or
    0]`` and returns ``scores [N, D]``, ``fused [N]``, ``quality [N]``.
    """

    def __init__(self, detectors: Sequence[Detector], widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.detectors = nn.ModuleList(detectors)
        self.widths = tuple(widths)
        self.classes = classes
        self.fusion = Fusion()
        self.quality = Quality()

    @property
    def names(self) -> tuple[str, ...]:
        """Detectors in the order of their columns."""
        return tuple(d.name for d in self.detectors)  # type: ignore[misc]  # Modules to torch

    @property
    def squeezes(self) -> bool:
        """Whether a detector needs the squeezed view."""
        return Agreement.name in self.names

    def scores(self, features: Features) -> Tensor:
        """``float32[N, D]``."""
        return torch.stack([detector(features) for detector in self.detectors], dim=1)

    def read(self, features: Features) -> tuple[Tensor, Tensor]:
        """Scores ``float32[N, D]`` and quality ``float32[N]``."""
        return self.scores(features), self.quality(features)

    def forward(
        self,
        taps: Tensor,
        class_logits: Tensor,
        squeezed_logits: Tensor,
        squeeze_change: Tensor,
        witness_logits: Tensor,
        residual: Tensor,
        picture: Tensor,
        grain: Tensor,
        aligned: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = Features(
            split_taps(taps, self.widths),
            class_logits,
            squeezed_logits,
            squeeze_change,
            witness_logits,
            residual,
            picture,
            grain,
            aligned,
        )
        scores, quality = self.read(features)
        return scores, self.fusion(scores), quality


class _OnePass(Guard):
    """A guard as it is exported: the tap distances of all its parts at once. Acceptance compares it
    with the guard, which stays the plain account."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(list(guard.detectors), guard.widths, guard.classes)  # type: ignore[arg-type]  # Modules to torch
        self.fusion, self.quality = guard.fusion, guard.quality
        self.joined = [
            i for i, detector in enumerate(self.detectors) if isinstance(detector, Mahalanobis)
        ]
        cues = [self.detectors[i].cues for i in self.joined]
        self.distances = JointDistances([*cues, self.quality.distances])  # type: ignore[list-item]  # Modules to torch

    def read(self, features: Features) -> tuple[Tensor, Tensor]:
        z = self.distances(aspects(features))
        *own, strange = torch.split(z, self.distances.counts, dim=1)
        cues = dict(zip(self.joined, own, strict=True))
        scores = [
            detector.of_cues(cues[i]) if i in cues else detector(features)  # type: ignore[operator]  # Modules to torch
            for i, detector in enumerate(self.detectors)
        ]
        return torch.stack(scores, dim=1), self.quality.of_distances(strange, features)


def fuse(features: onnx.ModelProto, guard: Guard) -> onnx.ModelProto:
    """The fused graph: ``features`` (``feature_graph``) followed by the exported ``guard``, with
    the outputs of both, but for those of the views and networks that this guard lacks: ONNX Runtime
    computes every output, whether it is asked for or not."""
    along = {Alignment.name, SyntheticAlignment.name}.intersection(guard.names)
    examples = {
        "taps": torch.randn(3, sum(guard.widths)),
        "class_logits": torch.randn(3, guard.classes),
        "squeezed_logits": torch.randn(3, guard.classes if guard.squeezes else 0),
        "squeeze_change": torch.rand(3),
        "witness_logits": torch.randn(3, guard.classes if Witness.name in guard.names else 0),
        "residual": torch.randn(3, 1 if Residual.name in guard.names else 0),
        "picture": torch.randn(3, guard.quality.picture_width),
        "grain": torch.randn(3, sum(d.width for d in guard.detectors if isinstance(d, Grain))),
        "aligned": torch.rand(3, len(along) + 1 if along else 0),
    }
    lacking = {
        *(() if guard.squeezes else ("squeeze_change",)),
        *(name for name in ADDED if examples[name].numel() == 0),
    }
    made = [output.name for output in features.graph.output]
    tail = onnx.load_from_string(
        export_onnx(_OnePass(guard), examples, OUTPUTS, {name: (0,) for name in INPUTS})
    )
    read = [value.name for value in tail.graph.input]
    return compose(
        {"model": features, "guard": tail},
        {f"guard/{name}": f"model/{name}" for name in read},
        {
            **{name: f"model/{name}" for name in made if name not in lacking},
            **{name: f"guard/{name}" for name in OUTPUTS},
        },
    )
