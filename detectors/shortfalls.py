"""What the images that a bundle was fitted on cannot support, in words. Torch-free."""

from __future__ import annotations

from detectors.bundle import Manifest
from detectors.calibrate import images_needed, images_needed_on_average

WITNESS = "witness follows the model"
"""In a manifest's provenance: ``detectors.side_networks.followed``."""
HELD = "attacks held while fitting"
"""In a manifest's provenance, ``{"held": 50, "of": 60}``: ``detectors.attacks_held``."""
HELD_ENOUGH = 0.8
"""Of the guards in docs/results 0.98 and 1 where attacks hardly harm, 0.77 and less where they do
(docs/evidence.md)."""
SYNTHETIC = "gradient foretold"
"""In a manifest's provenance: ``detectors.side_networks.foresight``."""
FORETOLD_ENOUGH = 0.1
"""At 0.11 it finds every attack of the fit on the hardened chest network; at 0.09 two
stages let attacks of 8 grey levels by on 31 % of the ultrasound network's (docs/evidence.md)."""
FOLLOWS = 0.95
"""Below it a witness's disagreement says more of the witness than of the image."""


def shortfalls(manifest: Manifest) -> list[str]:
    """A sentence for each verdict that the calibration images cannot support, for a guard that
    holds few attacks, and for a witness or a synthetic gradient that has not learnt enough."""
    sentences = []
    for name, level in zip(manifest.model.classes, manifest.levels, strict=True):
        for verdict in ("flag", "reject"):
            alpha = getattr(manifest.alphas, verdict)
            if getattr(level, verdict) is None:
                sentences.append(
                    f"class {name}: {level.images} calibration images cannot assure {verdict} at "
                    f"{alpha:.1%}, so that verdict is never given there; it takes "
                    f"{images_needed(alpha)}"
                )
        alpha = manifest.alphas.quality
        if level.quality is None:
            sentences.append(
                f"class {name}: too few calibration images of all classes together for quality at "
                f"{alpha:.1%}, so no image is held for it there; it takes "
                f"{images_needed_on_average(alpha)}"
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
    attacks = manifest.provenance.get(HELD)
    if attacks is not None and attacks["held"] < HELD_ENOUGH * attacks["of"]:
        sentences.append(
            f"of {attacks['of']} attacks that change a diagnosis only {attacks['held']} are held, "
            "and these are of the images that the detectors were weighed on: new ones are held "
            "less often, so this guard protects little. Give it more images, and see what lazaret "
            "evaluate says"
        )
    foretold = manifest.provenance.get(SYNTHETIC)
    if foretold is not None and foretold < FORETOLD_ENOUGH:
        sentences.append(
            f"the synthetic gradient correlates with the model's own by {foretold:.2f} on images "
            f"that it has not seen, and below {FORETOLD_ENOUGH} it finds too few attacks; let it "
            "learn from more images (the model's own training images in the data, --fit-images), "
            "or choose alignment"
        )
    follows = manifest.provenance.get(WITNESS)
    if follows is not None and follows < FOLLOWS:
        sentences.append(
            f"the witness follows the model with a correlation of {follows:.2f} on images that it "
            f"has not seen, and below {FOLLOWS} it finds few attacks; let it learn from more "
            "images (the model's own training images in the data, --fit-images), or choose "
            "agreement"
        )
    return sentences
