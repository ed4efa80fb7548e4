"""Guards for four modalities, from training to judgement, each step by `lazaret` itself.

    python benchmarks/modalities.py --data $LAZARET_DATA --work runs/modalities
        [--only chest-128,fundus] [--images 100] [--aware-images 24] [--harden]
        [--out docs/results/modalities]

Small networks for 128 x 128 pixels, so that two cores can attack them. Steps whose output is there
are not done again. `benchmarks/detection_summary.py` sets the evaluations beside the targets.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ATTACKS = "fgsm,bim,pgd,cw_linf,apgd_ce:steps=50"
EPSILONS = ("0.5", "1", "2", "4", "8")
ALSO = "autoattack:eps=4/255,queries=500,universal:eps=4/255,patch,spatial"
HARDENED = "-hard"
HARDEN, HARDEN_EPOCHS = "6", "8"
"""Grey levels, and epochs from the weights that were trained without."""


@dataclass(frozen=True)
class Modality:
    """A data set, how its network is trained, and what is not for it."""

    name: str
    data: str
    channels: int
    epochs: int
    orientation: str
    licence: str
    others: tuple[str, ...]


MODALITIES = (
    Modality("chest-128", "cxr_kermany", 1, 14, "upright", "CC BY 4.0",
             ("cxr_hannover_covid", "derm_isic2017", "fundus_idrid", "us_busi")),
    Modality("fundus", "fundus_idrid", 3, 80, "any", "CC BY 4.0",
             ("derm_isic2017", "cxr_kermany")),
    Modality("dermoscopy", "derm_isic2017", 3, 40, "any", "CC0", ("fundus_idrid", "us_busi")),
    Modality("ultrasound", "us_busi", 1, 60, "mirrored", "CC BY 4.0",
             ("cxr_kermany", "derm_isic2017")),
)  # fmt: skip


def lazaret(*arguments: str | Path) -> None:
    """One command; stops everything when it fails."""
    subprocess.run([sys.executable, "-m", "service", *map(str, arguments)], check=True)


def train(modality: Modality, data: Path, out: Path, start: Path | None = None) -> None:
    """A network from scratch, or hardened from ``start`` on."""
    epochs = str(modality.epochs) if start is None else HARDEN_EPOCHS
    harder = [] if start is None else ["--harden", HARDEN, "--start", start]
    lazaret(
        "train", "--data", data, "--size", "128", "--channels", str(modality.channels),
        "--widths", "24,48,96,144", "--epochs", epochs, "--patience", epochs, "--orientation",
        modality.orientation, "--licence", modality.licence, "--name", out.name, *harder,
        "--out", out,
    )  # fmt: skip


def main() -> None:
    """Everything that is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=",".join(m.name for m in MODALITIES))
    parser.add_argument("--harden", action="store_true", help="and a hardened model of each")
    parser.add_argument("--images", default="100")
    parser.add_argument("--attack-images", default="100")
    parser.add_argument("--aware-images", default="24")
    parser.add_argument("--out", type=Path, default=Path("docs/results/modalities"))
    chosen = parser.parse_args()
    for modality in MODALITIES:
        if modality.name not in chosen.only.split(","):
            continue
        data, plain = chosen.data / modality.data, chosen.work / "models" / modality.name
        models = [plain]
        if not plain.exists():
            train(modality, data, plain)
        if chosen.harden:
            models.append(plain.with_name(plain.name + HARDENED))
            if not models[-1].exists():
                train(modality, data, models[-1], plain)
        for model in models:
            bundle, out = chosen.work / "bundles" / model.name, chosen.out / model.name
            if not bundle.exists():
                lazaret(
                    "fit", "--model", model, "--data", data, "--attack-images",
                    chosen.attack_images, "--out", bundle,
                )  # fmt: skip
            if out.exists():
                continue
            others = [word for name in modality.others for word in ("--other", chosen.data / name)]
            lazaret(
                "evaluate", "--bundle", bundle, "--model", model, "--data", data, "--attacks",
                ATTACKS, *(word for e in EPSILONS for word in ("--epsilon", e)), "--also", ALSO,
                "--images", chosen.images, "--aware-images", chosen.aware_images, "--severity", "2",
                *others, "--out", out,
            )  # fmt: skip
            shutil.copy(model / "card.md", out / "model.md")


if __name__ == "__main__":
    main()
