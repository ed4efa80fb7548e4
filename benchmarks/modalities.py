"""Guards for four modalities, from training to judgement, each step by `lazaret` itself.

    python benchmarks/modalities.py --data $LAZARET_DATA --work runs/modalities
        [--only chest-xray,fundus] [--images 200] [--aware-images 200] [--device cuda]
        [--guards plain,hard,staged] [--out docs/results/modalities]

A model of each modality, the same hardened, and an attacker's stand-in for transfer attacks: for
chest X-rays the zoo's networks at 224 x 224 pixels, else small ones at 128 x 128, which go on from
the zoo's hardened one where images are few. Three guards: of the plain and of the hardened model
with the default detectors, and of the hardened one in two stages. Steps whose output is there are
not done again, so a run that was cut off goes on.
`benchmarks/detection_summary.py` sets the evaluations beside the targets.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models.zoo import names as zoo_names

ATTACKS = "fgsm,bim,pgd,cw_linf,apgd_ce:steps=50"
EPSILONS = ("0.5", "1", "2", "4", "8")
ALSO = "autoattack:eps=4/255,queries=500,universal:eps=4/255,patch,spatial"
AWARE = "hfc:steps=100,feature_matching:steps=100,joint_pgd:steps=100,orthogonal_pgd:steps=100"
STAGED_AWARE = "joint_pgd:steps=100,orthogonal_pgd:steps=100,selective_pgd:steps=100"
HARDEN, HARDEN_EPOCHS = "6", "30"
"""Grey levels, and epochs from the weights that were trained without."""
GUARDS = ("plain", "hard", "staged")
SURROGATE = "-surrogate"


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
    flag: str = "0.01"
    """The guard's level: where a class has fewer than 299 images to calibrate it, 1 % cannot be
    assured and the guard would hold nothing."""
    again: tuple[str, ...] = ()
    """Other copies of the same images, of another history, on which the plain and the hardened
    model's guard are judged as well."""
    size: str = "128"
    widths: str = "32,64,128,192"
    start: str = ""
    """The zoo's hardened model that both networks go on from, where images are too few for one from
    scratch. Trained without hardening in between, a network forgets what it withstood."""


MODALITIES = (
    Modality("chest-xray", "cxr_kermany", 1, 14, "upright", "CC BY 4.0",
             ("cxr_hannover_covid", "derm_isic2017", "fundus_idrid", "us_busi"),
             again=("cxr_kermany_png",), size="224"),
    Modality("fundus", "fundus_idrid", 3, 120, "any", "CC BY 4.0",
             ("derm_isic2017", "cxr_kermany"), flag="0.08", widths="24,48,96,144"),
    Modality("dermoscopy", "derm_isic2017", 3, 80, "any", "CC0", ("fundus_idrid", "us_busi"),
             flag="0.015", widths="24,48,96,144"),
    Modality("ultrasound", "us_busi", 1, 60, "mirrored", "CC BY 4.0",
             ("cxr_kermany", "derm_isic2017"), flag="0.08", start="chest-xray-hard"),
)  # fmt: skip


def lazaret(*arguments: str | Path) -> None:
    """One command; stops everything when it fails."""
    subprocess.run([sys.executable, "-m", "service", *map(str, arguments)], check=True)


@dataclass(frozen=True)
class Run:
    """What the command line says."""

    data: Path
    work: Path
    out: Path
    images: str
    aware_images: str
    attack_images: str
    device: str

    def model(self, modality: Modality, kind: str) -> Path | str:
        """A model's folder, or its name where the zoo has it; trained if it is missing."""
        name = modality.name + {"plain": "", "hard": "-hard", "surrogate": SURROGATE}[kind]
        if name in zoo_names():
            return name
        out = self.work / "models" / name
        if out.exists():
            return out
        words: list[str | Path] = ["--size", modality.size, "--channels", str(modality.channels)]
        epochs = str(modality.epochs)
        if kind == "surrogate":
            words.append("--surrogate")
        elif modality.start:
            words += ["--start", modality.start]
        elif kind == "plain":
            words += ["--widths", modality.widths]
        else:
            epochs = HARDEN_EPOCHS
            words += ["--start", self.model(modality, "plain")]
        if kind == "hard":
            words += ["--harden", HARDEN]
        lazaret(
            "train", "--data", self.data / modality.data, "--epochs", epochs, "--patience", epochs,
            "--orientation", modality.orientation, "--licence", modality.licence, "--name",
            out.name, "--device", self.device, *words, "--out", out,
        )  # fmt: skip
        return out

    def judge(self, modality: Modality, guard: str, data: str) -> None:
        """Fit one guard and evaluate it on the images that it was fitted for or a copy of them."""
        name = modality.name + {"plain": "", "hard": "-hard", "staged": "-hard-staged"}[guard]
        model = self.model(modality, "plain" if guard == "plain" else "hard")
        bundle = self.work / "bundles" / name
        if not bundle.exists():
            views = 3 if guard == "staged" else 0
            lazaret(
                "fit", "--model", model, "--data", self.data / modality.data, "--attack-images",
                self.attack_images, "--flag", modality.flag, "--quality", modality.flag,
                "--device", self.device, "--second-stage", views, "--out", bundle,
            )  # fmt: skip
        out = self.out / (name if data == modality.data else f"{name}-{data}")
        if not out.exists():
            self.evaluate(modality, model, bundle, self.data / data, out)

    def evaluate(
        self, modality: Modality, model: Path | str, bundle: Path, data: Path, out: Path
    ) -> None:
        """One evaluation."""
        aware = STAGED_AWARE if bundle.name.endswith("staged") else AWARE
        stranger = self.model(modality, "surrogate")
        others = [word for o in modality.others for word in ("--other", self.data / o)]
        lazaret(
            "evaluate", "--bundle", bundle, "--model", model, "--data", data, "--attacks", ATTACKS,
            *(word for e in EPSILONS for word in ("--epsilon", e)),
            "--also", f"{ALSO},transfer:surrogate={stranger},eps=4/255",
            "--aware-attacks", aware,
            "--images", self.images, "--aware-images", self.aware_images, "--severity", "2",
            "--device", self.device, *others, "--out", out,
        )  # fmt: skip
        if isinstance(model, Path):
            shutil.copy(model / "card.md", out / "model.md")


def main() -> None:
    """Everything that is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=",".join(m.name for m in MODALITIES))
    parser.add_argument("--guards", default=",".join(GUARDS), help="by comma, in this order")
    parser.add_argument("--images", default="200")
    parser.add_argument("--attack-images", default="400")
    parser.add_argument("--aware-images", default="200")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/results/modalities"))
    chosen = parser.parse_args()
    run = Run(
        chosen.data, chosen.work, chosen.out, chosen.images, chosen.aware_images,
        chosen.attack_images, chosen.device,
    )  # fmt: skip
    for modality in MODALITIES:
        if modality.name in chosen.only.split(","):
            for data in (modality.data, *modality.again):
                for guard in chosen.guards.split(","):
                    if data == modality.data or guard != "staged":
                        run.judge(modality, guard, data)


if __name__ == "__main__":
    main()
