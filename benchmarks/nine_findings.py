"""A classifier of nine classes from four kinds of image, for comparing attacks where two are few.

    python benchmarks/nine_findings.py --data $LAZARET_DATA --out runs/nine-findings

Chest X-ray, dermoscopy, fundus and ultrasound, gray, at 64 pixels a side, at most 400 images a
class and split. It is not a medical device and means nothing beyond these comparisons. Images are
linked, not copied.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

FOLDERS = ("cxr_kermany", "derm_isic2017", "fundus_idrid", "us_busi")
MOST = 400


def gather(data: Path, out: Path) -> int:
    """Link the images below ``out`` and list them in ``labels.csv``; how many there are."""
    images = out / "images"
    images.mkdir(parents=True)
    counts: Counter[tuple[str, str]] = Counter()
    with (out / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("filename", "label", "split", "patient"))
        for folder in FOLDERS:
            with (data / folder / "labels.csv").open(newline="") as source:
                for row in csv.DictReader(source):
                    label = f"{folder.partition('_')[0].upper()}_{row['label']}"
                    if counts[label, row["split"]] >= MOST:
                        continue
                    counts[label, row["split"]] += 1
                    path = (data / folder / row["filename"]).resolve()
                    name = f"{folder}-{path.name}"
                    (images / name).symlink_to(path)
                    patient = f"{folder}-{row['patient']}" if row["patient"] else name
                    writer.writerow((f"images/{name}", label, row["split"], patient))
    return counts.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="gets data/ and model/")
    arguments = parser.parse_args()
    print(f"{gather(arguments.data, arguments.out / 'data')} images", flush=True)
    subprocess.run(
        [
            sys.executable, "-m", "service", "train", "--data", arguments.out / "data",
            "--out", arguments.out / "model", "--name", "nine-findings", "--size", "64",
            "--widths", "32,64,96,128", "--blocks", "1,1,1,1", "--epochs", "14",
        ],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
