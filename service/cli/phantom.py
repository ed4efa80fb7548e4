"""``lazaret phantom``: the procedural chest radiographs that demo and tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make chest phantoms: procedural radiographs of nobody.")

DEMO_SEED = 77  # patients that no training or fitting run of the zoo has seen
CLEAN, EACH_ATTACK = 6, 2
DEGRADED = (("jpeg", 2), ("faint_noise", 1), ("contrast_down", 1), ("rotation", 2))
ATTACKS = (("fgsm", 4.0), ("bim", 2.0), ("pgd", 1.0), ("pgd", 2.0), ("cw_linf", 2.0))


@app.command("dataset", epilog="Example: lazaret phantom dataset --out phantoms --images 2000")
def dataset(
    out: Annotated[Path, typer.Option(help="Folder for images/ and labels.csv.")],
    images: Annotated[int, typer.Option(help="How many.")] = 1000,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed, other patients.")] = 0,
) -> None:
    """Write a labelled data set of phantoms, split by patient."""
    from models.phantom import write_dataset

    print(write_dataset(out, images, seed, size))


@app.command("demo-images", epilog="Example: lazaret phantom demo-images --out demo")
def demo_images(
    out: Annotated[Path, typer.Option(help="Folder for the files and demo.json.")],
    model: Annotated[str, typer.Option(help="The model to attack.")] = "phantom",
) -> None:
    """Make the demo's files: clean, degraded and attacked phantoms as PNG and DICOM.

    The attacked ones are the first that change the model's answer, whatever a guard says.
    """
    from service.cli.offline import workshop

    with workshop():
        import json

        import numpy as np
        import torch

        from attacks.campaign import as_samples, attacked, shifted
        from attacks.generate import bench_of
        from detectors.samples import CLEAN as ORIGIN
        from detectors.samples import Samples
        from models.imaging.encode import dicom, png
        from models.load import load_model, victim_of
        from models.phantom import radiograph

        victim = victim_of(load_model(model))
        size = victim.spec.preprocessing.size[0]
        numbers = range(24)
        patients = [DEMO_SEED * 1_000_000 + i for i in numbers]
        clean = Samples(
            tuple(
                radiograph(p, 0, opacities=bool(i % 2), size=size) for i, p in enumerate(patients)
            ),
            np.array([i % 2 for i in numbers], dtype=np.int64),
            tuple(str(p) for p in patients),
            tuple(str(p) for p in patients),
            ORIGIN,
        )
        classes = victim.spec.classes

        def answers(samples: Samples) -> list[str]:
            with torch.no_grad():
                logits = victim(torch.from_numpy(np.stack(samples.images)))
            return [classes[c] for c in logits.argmax(dim=1)]

        before = answers(clean)
        chosen: list[tuple[str, str, np.ndarray, str, str]] = [
            ("clean", "clean", clean.images[i], before[i], before[i]) for i in range(CLEAN)
        ]
        for j, (name, severity) in enumerate(DEGRADED):
            made = shifted(clean, name, severity, 0)
            i = CLEAN + j
            what = f"{name.replace('_', ' ')} {severity}"
            chosen.append(("degraded", what, made.images[i], before[i], answers(made)[i]))
        used: set[int] = set()
        for family, epsilon in ATTACKS:
            (hit,) = attacked(bench_of(victim), clean, [family], [epsilon])
            after = answers(as_samples(hit))
            hits = [int(i) for i in np.flatnonzero(hit.success) if int(i) not in used]
            for i in hits[:EACH_ATTACK]:
                used.add(i)
                image = np.asarray(hit.pixels[i], dtype=np.uint8)
                chosen.append(("attacked", f"{family} {epsilon:g}/255", image, before[i], after[i]))
        out.mkdir(parents=True, exist_ok=True)
        images = []
        counts: dict[str, int] = {}
        for kind, what, pixels, was, now in chosen:
            counts[kind] = counts.get(kind, 0) + 1
            as_dicom = counts[kind] == 2
            name = f"{kind}-{counts[kind]}.{'dcm' if as_dicom else 'png'}"
            (out / name).write_bytes(dicom(pixels) if as_dicom else png(pixels))
            images.append({"file": name, "kind": kind, "what": what, "before": was, "after": now})
        (out / "demo.json").write_text(json.dumps({"images": images}, indent=1) + "\n")
        print(f"{out}: {len(images)} files")
