"""What the commands for a store share: its URL, the name of the stream, and their errors."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeVar

import typer
from codomyrmex.integrations.cli.output import discard_stdout, fail, print_message, reporting_errors
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.names import NAME
from codomyrmex.integrations.durable.opening import open_store
from codomyrmex.integrations.durable.store import Store, StoreConfigError, StoreError

T = TypeVar("T")

VARIABLE = "CODOMYRMEX_STORE"
INTERRUPTED = 130  # the exit code after Ctrl-C

Name = Annotated[
    str | None,
    typer.Option(
        help="The stream; by default `events`, or the only one of the store.",
        metavar="NAME",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="The name of the group.", show_default=False)]


def owner() -> str:
    """Return under which name the command leases what it changes."""
    return f"{process_name()}#command"


def make_store(url: str, *, must_exist: bool, hint: str = "URL") -> Store:
    """Return a store that is not open yet.

    Args:
        url: its URL, with references to environment variables.
        must_exist: whether a file that is missing is an error.
        hint: the argument, for the message.

    Raises:
        typer.BadParameter: the URL is wrong.
    """
    try:
        return open_store(expand(url), must_exist=must_exist)
    except (ExpansionError, StoreConfigError) as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


@asynccontextmanager
async def opened(url: str | None, *, must_exist: bool = True, hint: str = "URL") -> AsyncIterator[Store]:
    """Open the store that a URL, or else the environment, names.

    Raises:
        typer.BadParameter: there is no URL, or it is wrong.
        StoreError: the store cannot be opened.
    """
    url = url or os.environ.get(VARIABLE)
    if not url:
        message = f"is required, as in `store sqlite:///events.db info`, or in the variable {VARIABLE}"
        raise typer.BadParameter(message, param_hint=hint)
    async with make_store(url, must_exist=must_exist, hint=hint) as store:
        yield store


async def stream_names(store: Store) -> list[str]:
    """Return the names of the streams of a store."""
    return [log for log in await store.logs() if NAME.fullmatch(log)]  # others have a dot or a slash


async def select(store: Store, name: str | None) -> StreamAdmin:
    """Return a stream of a store: the one with a name, `events`, or the only one.

    Raises:
        StoreError: there is no such stream.
        typer.BadParameter: there are several, and none was named.
    """
    names = await stream_names(store)
    if name is None:
        name = "events" if "events" in names or not names else names[0]
        if name != "events" and len(names) > 1:
            message = f"the store has several streams, choose one of {', '.join(names)}"
            raise typer.BadParameter(message, param_hint="--name")
    if name not in names:
        others = f"there are: {', '.join(names)}" if names else "it has none"
        raise StoreError(f"{store.url}: there is no stream {name!r}; {others}")
    return StreamAdmin(store, name)


@asynccontextmanager
async def selected(ctx: typer.Context, name: str | None) -> AsyncIterator[StreamAdmin]:
    """Open the store of a command, and yield the stream; errors as for `opened` and `select`."""
    async with opened(ctx.obj) as store:
        yield await select(store, name)


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Print an error of a store as a sentence, and exit with the right code."""
    with reporting_errors(as_json=as_json):
        try:
            yield
        except StoreError as error:
            fail(str(error), as_json=as_json)


def run(work: Callable[[], Coroutine[Any, Any, T]], *, as_json: bool = False) -> T:
    """Run the work of a command; errors are those of `reporting`."""
    with reporting(as_json=as_json):
        try:
            result = asyncio.run(work())
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # as with `| head`
            discard_stdout()
            raise typer.Exit(0) from None
        return result


def is_terminal() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone, and end the command unless the answer is yes.

    Raises:
        typer.BadParameter: there is no terminal to ask on, and `--yes` was not given.
        typer.Exit: the answer was no.
    """
    if yes:
        return
    if not is_terminal():
        raise typer.BadParameter(f"{question} Without a terminal, this needs --yes", param_hint="--yes")
    if not typer.confirm(question, err=True):
        print_message("nothing was changed")
        raise typer.Exit(0)
