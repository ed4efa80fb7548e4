"""The bundle's card: what a person should know before serving it."""

from __future__ import annotations

from detectors.bundle import Manifest


def card(manifest: Manifest) -> str:
    """Markdown."""
    model = manifest.model

    def level(value: float | None) -> str:
        return "not attainable" if value is None else f"p ≤ {value:.4f}"

    rows = [
        f"| {name} | {cell.images} | {level(cell.flag)} | {level(cell.reject)} | "
        f"{level(cell.quality)} |"
        for name, cell in zip(model.classes, manifest.levels, strict=True)
    ]
    provenance = [
        f"- {key}: {value}" for key, value in sorted(manifest.provenance.items()) if key != "groups"
    ]
    lines = [
        f"# Guard for {model.name} {model.version}",
        "",
        "Guards a demonstration or user-supplied classifier. It is not a medical device, and it "
        "does not claim security against an attacker who knows the model and the guard.",
        "",
        f"Detectors: {', '.join(entry.name for entry in manifest.detectors)}.",
        "",
        f"False-positive rates asked for: flag {manifest.alphas.flag:.2%}, reject "
        f"{manifest.alphas.reject:.2%}, each per predicted class with 95 % confidence; quality "
        f"{manifest.alphas.quality:.2%} on average:",
        "",
        "| predicted class | calibration images | flag | reject | quality |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Fitted with:",
        "",
        *provenance,
        "",
    ]
    return "\n".join(lines)
