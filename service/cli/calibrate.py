"""``lazaret calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: lazaret calibrate --bundle bundles/chest-xray --from-records "
    "--out bundles/chest-xray-2"
)


def calibrate(
    bundle: Annotated[Path, typer.Option(help="The bundle that judged the traffic.")],
    out: Annotated[Path, typer.Option(help="Folder for the new bundle; must not exist.")],
    from_records: Annotated[
        bool, typer.Option("--from-records", help="On traffic that is on record.")
    ] = False,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of the records. Default: the settings'.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How far to look back.")] = 30,
    source: Annotated[
        list[str] | None, typer.Option(help="Only this client's images; repeat for more.")
    ] = None,
    by_source: Annotated[
        bool,
        typer.Option("--by-source", help="Own levels for every client that sent images enough."),
    ] = False,
    assume_benign: Annotated[
        bool, typer.Option("--assume-benign", help="Take unreviewed held images for benign.")
    ] = False,
) -> None:
    """Calibrate a bundle again on recent benign traffic, as a new bundle.

    Takes the scores on record of images that were accepted, and of held ones that a reviewer
    released; never what a reviewer confirmed. Prints the false-positive rate of the levels in use
    on this traffic, and that of new levels on images that they were not calibrated on. The guard
    itself is not changed, nor is the old bundle. Compare the table, then serve the new one.

    An attack that was accepted unnoticed is on record as accepted: calibrate on traffic that you
    trust.

    Exit status: 0 written, 2 could not be done.
    """
    from datetime import UTC, datetime, timedelta

    from rich.console import Console
    from rich.table import Column, Table

    from detectors.bundle import Bundle
    from detectors.canaries import canaries_of, check
    from detectors.recalibrate import RecalibrationProblem, Share, recalibrate, write
    from detectors.shortfalls import shortfalls
    from service.cli.sentence import refuse, told
    from service.guard import bundle_engine
    from service.records import Records
    from service.reviewed import reviewed
    from service.settings import Settings

    def shown(share: Share) -> str:
        low, high = share.interval()
        return f"{share.value:.2%} ({low:.2%} to {high:.2%})" if share.images else "-"

    console = Console(soft_wrap=True, highlight=False)
    if not from_records:
        refuse("say what to calibrate on: --from-records")
    if out.exists():
        refuse(f"{out}: exists already; choose another folder")
    with told():
        settings = Settings.load(database=database)
        opened = Bundle.open(bundle)
        records = Records(settings.database)
        records.open()
        since = datetime.now(UTC) - timedelta(days=days)
        found = reviewed(records.engine, opened, since, source or (), assume_benign=assume_benign)
        records.close()
        console.print(
            f"{found.accepted} accepted, {found.released} released, {found.confirmed} confirmed "
            f"(left out), {found.unreviewed} held and not reviewed, {found.repeated} repeats (left "
            "out)"
        )
        if found.unreviewed and not assume_benign:
            refuse(
                f"{found.unreviewed} held images of this period are not reviewed; without them the "
                "highest benign scores would be missing. Review them, or take them for benign with "
                "--assume-benign"
            )
        try:
            new = recalibrate(opened, found.scores, by_source=by_source)
        except RecalibrationProblem as problem:
            refuse(str(problem))
        table = Table(
            "predicted class",
            Column("images", justify="right"),
            Column("flagged before", justify="right"),
            Column("flagged after", justify="right"),
            title="false-positive rate of the adversarial route, with 95 % intervals",
        )
        for row in new.rows:
            after = "too few images; keeps its calibration" if row.kept else shown(row.after)
            table.add_row(row.name, str(row.before.images), shown(row.before), after)
        console.print(table)
        written = write(
            opened,
            new,
            out,
            {
                "recalibrated_on": {
                    "images": len(found.scores),
                    "released": found.released,
                    "assumed_benign": found.unreviewed if assume_benign else 0,
                    "first": found.first.date().isoformat() if found.first else None,
                    "last": found.last.date().isoformat() if found.last else None,
                    "sources": sorted(source or ()) or "all",
                }
            },
        )
        engine = bundle_engine(written, settings)
        for sentence in check(canaries_of(written), engine, written):
            console.print(f"{sentence}: known images get another verdict now", style="yellow")
        for sentence in shortfalls(written.manifest):
            console.print(sentence, style="yellow", markup=False)
    console.print(f"{out}: {written.digest}; serve it in place of {opened.digest}")
