"""``lazaret bundle canaries``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXAMPLE = (
    "Example: lazaret bundle canaries bundles/chest-xray --clean a.png --adversarial b.png "
    "--out bundles/chest-xray-2"
)


def canaries(
    folder: Annotated[Path, typer.Argument(help="The bundle folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the new bundle; must not exist.")],
    clean: Annotated[
        list[Path] | None, typer.Option(help="A file that must be accepted; repeat it.")
    ] = None,
    adversarial: Annotated[
        list[Path] | None, typer.Option(help="A file that must be held; repeat it.")
    ] = None,
) -> None:
    """Seal canaries into a copy of a bundle, in place of those it has.

    A canary is a file whose verdict is known. `lazaret serve` sends them through the real path on a
    schedule and says so, by metric and log, when one gets another verdict. The files are kept as
    they are: give PNG, or DICOM without patient data. The new bundle has another digest; sign it
    again where bundles are signed.

    Exit status: 0 written, 2 a file does not get its verdict, or another thing to be mended.
    """
    from detectors.bundle import Bundle
    from detectors.canaries import MOST, MOST_BYTES, Canary, Kind, check, seal
    from detectors.manifest_file import SIGNATURE
    from service.cli.sentence import refuse, told
    from service.guard import bundle_engine
    from service.settings import Settings

    files = [
        *((Kind.CLEAN, path) for path in clean or ()),
        *((Kind.ADVERSARIAL, path) for path in adversarial or ()),
    ]
    if not files or len(files) > MOST:
        refuse(f"{len(files)} canaries: give 1 to {MOST} files with --clean and --adversarial")
    if out.exists():
        refuse(f"{out}: exists already; choose another folder")
    with told():
        bundle = Bundle.open(folder)
        found = []
        for kind, path in files:
            try:
                data = path.read_bytes()
            except OSError as error:
                refuse(f"{path}: {error.strerror or error}")
            if len(data) > MOST_BYTES:
                refuse(f"{path}: {len(data):,} bytes; a canary has at most {MOST_BYTES:,}")
            found.append(Canary(kind, data))
        if wrong := check(found, bundle_engine(bundle, Settings.load()), bundle):
            refuse("\n".join(wrong))
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(SIGNATURE))
        seal(partial, bundle.manifest, found)
        partial.rename(out)
        digest = Bundle.open(out).digest
    Console(soft_wrap=True, highlight=False).print(f"{out}: {len(found)} canaries, {digest}")
