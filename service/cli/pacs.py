"""``lazaret pacs``."""

from __future__ import annotations

import typer

from service.cli import pacs_outbox, pacs_peers, pacs_pull, pacs_routes, pacs_spool

app = typer.Typer(help="The PACS side: instances in, verdicts out.", no_args_is_help=True)
app.command("echo", epilog=pacs_peers.ECHO_EXAMPLE)(pacs_peers.echo)
app.command("send", epilog=pacs_peers.SEND_EXAMPLE)(pacs_peers.send)
app.command("pull", epilog=pacs_pull.EXAMPLE)(pacs_pull.pull)
app.command("spool", epilog=pacs_spool.EXAMPLE)(pacs_spool.spool)
app.add_typer(pacs_routes.app, name="routes")
app.command("outbox", epilog="Example: lazaret pacs outbox")(pacs_outbox.outbox)
app.command("redrive", epilog="Example: lazaret pacs redrive archive")(pacs_outbox.redrive)
