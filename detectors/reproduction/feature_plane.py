"""Features of many dimensions drawn in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

Points = npt.NDArray[np.floating[Any]]

LEARNING_RATE, PERPLEXITY = 100.0, 30.0  # Ma et al. 2021, released code; scikit-learn's default


@dataclass(frozen=True, slots=True)
class FeaturePlane:
    """``float[N, 2]`` each."""

    pca: Points
    explained: float
    """Share of the variance on the two principal axes."""
    tsne: Points


def feature_plane(features: Points, seed: int = 0) -> FeaturePlane:
    """PCA and t-SNE of ``float[N, d]``, clean and attacked rows together; N at least 4."""
    pca = PCA(2, random_state=seed)
    linear = pca.fit_transform(features)
    tsne = TSNE(
        learning_rate=LEARNING_RATE,
        perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
        init="pca",
        random_state=seed,
    )
    return FeaturePlane(
        linear, float(pca.explained_variance_ratio_.sum()), tsne.fit_transform(features)
    )
