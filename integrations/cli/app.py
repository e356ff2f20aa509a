"""The subcommands. Each is imported when it is used, and a new one is one line in a table here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar

from codomyrmex.integrations._extras import MissingExtraError

try:
    import rich  # noqa: F401 - the modules of the subcommands need it
    import typer
    from typer.core import TyperCommand, TyperGroup
except ImportError as error:
    package = (error.name or "typer").split(".")[0]
    raise MissingExtraError("the command codomyrmex-streaming", package, "cli") from error

_HELP = {"help_option_names": ["-h", "--help"]}
EXIT_CODES = "Exit code: 0 for success, 1 for problems, 2 for wrong usage or a file that cannot be read."


class _LazyGroup(TyperGroup):
    """A group of subcommands that are imported when they are used, not when help is shown."""

    lazy: ClassVar[Mapping[str, tuple[str, str]]] = {}  # the function and the summary of each subcommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        summaries = {name: TyperCommand(name, short_help=text) for name, (_, text) in self.lazy.items()}
        self.commands = {**summaries, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # also for shell completion
        name, command, remaining = super().resolve_command(ctx, args)
        if name is not None and name in self.lazy:
            command = _import_command(name, self.lazy[name][0])
        return name, command, remaining


def _import_command(name: str, path: str) -> Any:
    module, _, function = path.partition(":")
    try:
        found = getattr(import_module(f"{__package__}.{module}"), function)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_HELP)
    single.command(name)(found)
    return typer.main.get_command(single)


def _group(commands: Mapping[str, tuple[str, str]]) -> type[_LazyGroup]:
    class Group(_LazyGroup):
        lazy = commands

    return Group


app = typer.Typer(
    cls=_group(
        {
            "run": ("pipelines:run", "Run a pipeline until its sources end or it is stopped."),
            "check": ("pipelines:check", "Check the file of a pipeline and the alert files that it names."),
            "tail": ("tail:tail", "Show the events of a server as they happen, until Ctrl-C."),
            "mcp": ("mcp:mcp", "Serve tools for an assistant over stdin and stdout (MCP)."),
            "demo": ("demo:demo", "Watch a shop whose backend fails now and then."),
        }
    ),
    help=f"Send events from streams to logs, traces and alerts. {EXIT_CODES}",
    context_settings=_HELP,
    rich_markup_mode=None,  # plain text: no boxes
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
alerts = typer.Typer(
    cls=_group(
        {
            "check": ("alerts:check", "Check alert configurations."),
            "import": (
                "alert_import:import_",
                "Convert an alertmanager.yml to the format used here, and print it.",
            ),
            "show": ("alerts:show", "Show the routing tree."),
            "route": ("alerts:route", "Show the receivers of an alert."),
            "explain": ("alerts:explain", "Explain which receivers an alert reaches, and why."),
            "test": ("alert_runs:run", "Run the `tests:` of configurations in virtual time."),
            "send-test": (
                "alert_trial:send_test",
                "Show what a receiver would send for a test alert, or send it.",
            ),
            "replay": ("alert_runs:replay", "Show the notifications for recorded events, in virtual time."),
            "serve": (
                "alert_server:serve",
                "Serve Alertmanager's API, and send notifications as an alertmanager.yml says.",
            ),
        }
    ),
    help=f"Check, test and serve a configuration of alert routing. {EXIT_CODES}",
)
silence = typer.Typer(
    cls=_group(
        {
            "add": ("silences:add", "Add a silence and print its id."),
            "list": ("silences:list_", "List the silences that are active or pending."),
            "expire": ("silences:expire", "End silences now."),
        }
    ),
    help="Mute alerts for some time. All alert sinks that share the state follow within a second.",
)


class _StoreGroup(_LazyGroup):
    """The commands for a store, whose URL comes before them."""

    lazy: ClassVar[Mapping[str, tuple[str, str]]] = {
        "info": ("store:info", "Show the streams of a store."),
        "tail": ("store_tail:tail", "Show the newest events, or those after a cursor."),
        "groups": ("store:groups", "Show who reads a stream, and how far behind."),
        "dead": ("store:dead", "Show the events that were given up, and why."),
        "verify": ("store:verify", "Read everything, and report what is missing or damaged."),
        "replay": ("store_changes:replay", "Deliver dead letters again."),
        "drop": ("store_changes:drop", "Forget dead letters."),
        "seek": ("store_changes:seek", "Let a group continue from another place."),
        "delete": ("store_changes:delete", "Delete a group that is not needed any more."),
        "trim": ("store_changes:trim", "Remove old events."),
        "copy": ("store_changes:copy", "Copy a stream to another store."),
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and ("://" in args[0] or args[0].startswith("$")):
            ctx.obj = args[0]
            args = args[1:]
        remaining: list[str] = super().parse_args(ctx, args)
        return remaining


store = typer.Typer(
    cls=_StoreGroup,
    subcommand_metavar="[URL] COMMAND [ARGS]...",
    help="Look into the store of a durable stream, and manage it. The URL is that of the store, such as "
    "sqlite:///events.db; ${NAME} in it is an environment variable. By default it is that of "
    f"CODOMYRMEX_STORE, so that no password appears in a list of processes. {EXIT_CODES}",
)
app.add_typer(store, name="store", no_args_is_help=True)
app.add_typer(alerts, name="alerts", no_args_is_help=True)
alerts.add_typer(silence, name="silence", no_args_is_help=True)


def _show_version(requested: bool) -> None:  # noqa: FBT001 - typer calls it
    if requested:
        from codomyrmex.streaming import __version__

        typer.echo(f"codomyrmex-streaming {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass
