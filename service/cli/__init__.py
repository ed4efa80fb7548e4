"""The command line: one file a command, imported only when it runs."""

from __future__ import annotations

import typer

from service.cli import (
    attack,
    bundle,
    calibrate,
    cases,
    demo,
    doctor,
    evaluate,
    fit,
    gate,
    pacs,
    phantom,
    reproduce,
    retrain,
    score,
    serve,
    train,
    tune,
)

app = typer.Typer(
    name="lazaret",
    help="A guard in front of diagnostic imaging models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold an image or a key
)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.command("score", epilog=score.EXAMPLE)(score.score)
app.command("tune", epilog=tune.EXAMPLE)(tune.tune)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("attack", epilog=attack.EXAMPLE)(attack.attack)
app.command("fit", epilog=fit.EXAMPLE)(fit.fit)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("calibrate", epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command("gate", epilog=gate.EXAMPLE)(gate.gate)
app.command("retrain", epilog=retrain.EXAMPLE)(retrain.retrain)
app.command("reproduce", epilog=reproduce.EXAMPLE)(reproduce.reproduce)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
app.add_typer(bundle.app, name="bundle")
app.add_typer(cases.app, name="cases")
app.add_typer(pacs.app, name="pacs")
app.add_typer(phantom.app, name="phantom")
