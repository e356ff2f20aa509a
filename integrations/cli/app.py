"""The command and what is below it; each group of subcommands is one more line here."""

from __future__ import annotations

from typing import Annotated

from codomyrmex.integrations._extras import MissingExtraError

try:
    import rich  # noqa: F401 - the modules below need it
    import typer
except ImportError as error:
    raise MissingExtraError(
        "the command codomyrmex-streaming", (error.name or "typer").split(".")[0], "cli"
    ) from error

from codomyrmex.integrations.cli import (
    alerts_reading,
    alerts_running,
    alerts_silences,
    demo_command,
    pipeline_commands,
    tail_command,
)

CODES = "Exit code: 0 if all is good, 1 if there are problems, 2 if the command was used wrongly."

app = typer.Typer(
    help=f"Events from streams to logs, traces and alerts. {CODES}",
    add_completion=False,
    rich_markup_mode=None,  # plain: a sentence is not broken into a box
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
alerts = typer.Typer(help=f"Check, understand and test a configuration of alert routing. {CODES}")
silence = typer.Typer(
    help="Keep alerts back for some time. A running sink with the state sees it in seconds."
)

app.command("run")(pipeline_commands.run)
app.command("check")(pipeline_commands.check)
app.command("tail")(tail_command.tail)
app.command("demo")(demo_command.demo)
app.add_typer(alerts, name="alerts", no_args_is_help=True)
alerts.command("check")(alerts_reading.check)
alerts.command("show")(alerts_reading.show)
alerts.command("route")(alerts_reading.route)
alerts.command("explain")(alerts_reading.explain)
alerts.command("test")(alerts_running.run)
alerts.command("replay")(alerts_running.replay)
alerts.add_typer(silence, name="silence", no_args_is_help=True)
silence.command("add")(alerts_silences.add)
silence.command("list")(alerts_silences.list_)
silence.command("expire")(alerts_silences.expire)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from importlib.metadata import version  # slow to import

        typer.echo(version("codomyrmex-streaming"))
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass
