"""What a bundle's calibration images cannot support, in words. Torch-free."""

from __future__ import annotations

from detectors.bundle import Manifest
from detectors.calibrate import images_needed


def shortfalls(manifest: Manifest) -> list[str]:
    """A sentence for each verdict that the calibration images cannot support."""
    sentences = []
    for name, level in zip(manifest.model.classes, manifest.levels, strict=True):
        for verdict in ("flag", "reject", "quality"):
            alpha = getattr(manifest.alphas, verdict)
            if getattr(level, verdict) is None:
                sentences.append(
                    f"class {name}: {level.images} calibration images cannot assure {verdict} at "
                    f"{alpha:.1%}, so that verdict is never given there; it takes "
                    f"{images_needed(alpha)}"
                )
    least = images_needed(manifest.alphas.flag)
    for source, levels in manifest.source_levels.items():
        few = [c for c, own in zip(manifest.model.classes, levels, strict=True) if own is None]
        if few:
            sentences.append(
                f"source {source}: fewer than {least} calibration images of {', '.join(few)}, so "
                "there it is judged by the calibration of all sources together, whose rate holds "
                "on average over them"
            )
    return sentences
