"""Locates the state of alerts for the commands that read or change it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from codomyrmex.integrations.cli.output import printable, reporting_errors
from codomyrmex.integrations.cli.store_access import owner, stream_names
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.durable.names import NAME, encode_name
from codomyrmex.integrations.durable.opening import open_store, sqlite_path
from codomyrmex.integrations.durable.store import Store, StoreError
from codomyrmex.integrations.notification import load_alert_config
from codomyrmex.integrations.notification.alerts.config import StateConfig
from codomyrmex.integrations.notification.alerts.old_state import find_old_state, move_old_state
from codomyrmex.integrations.notification.alerts.state_admin import (
    State,
    StateAdmin,
    StateName,
    find_states,
)
from codomyrmex.integrations.notification.alerts.state_config import VARIABLE, state_at, state_of

StatePlace = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="PATH|URL",
        help="Where the state is: a path, or the URL of a store, with ${NAME} for environment variables; "
        f"{VARIABLE} by default.",
        show_default=False,
    ),
]
StreamName = Annotated[
    str | None,
    typer.Option(
        "--stream",
        metavar="NAME",
        help="The log in the store from which the alerts come, if there are several.",
        show_default=False,
    ),
]
SinkName = Annotated[
    str | None,
    typer.Option("--sink", metavar="NAME", help="The name of the alert sink.", show_default=False),
]
StateOfConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Use the `state:` of this configuration.",
        exists=True,
        dir_okay=False,
    ),
]


class Place(NamedTuple):
    """The location of a state.

    Attributes:
        url: the URL of the store.
        option: the option or variable that named it, for messages.
        stream: the name of its log; None if it has to be found.
        trusted: whether the log need not exist yet.
        sink: the name of the sink; None if it has to be found.
    """

    url: str
    option: str
    stream: str | None
    trusted: bool
    sink: str | None


def place_of(
    state: str | None, config: Path | None, stream: str | None, sink: str | None, *, as_json: bool
) -> Place:
    """Return the location of the state from the options of a command.

    Raises:
        typer.BadParameter: the options are wrong, or do not name a state.
    """
    if state is not None and config is not None:
        raise typer.BadParameter("only one of --state and --config is possible")
    if config is not None:
        with reporting_errors(as_json=as_json):
            found = state_of(load_alert_config(config))
        if found is None:
            problem = f"{printable(str(config))} has no `state:`; add it, or use --state"
            raise typer.BadParameter(problem, param_hint="--config")
        return _place(found, "--config", stream or found.name, sink, trusted=stream is None)
    text = os.environ.get(VARIABLE) if state is None else state
    if not text:
        problem = f"the path or URL of the state is required, with --state, --config or {VARIABLE}"
        raise typer.BadParameter(problem, param_hint="--state")
    option = VARIABLE if state is None else "--state"
    try:
        found = state_at(text if state is None else expand(text), Path())
    except (ExpansionError, StoreError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return _place(found, option, stream, sink, trusted=False)


def _place(state: StateConfig, option: str, stream: str | None, sink: str | None, *, trusted: bool) -> Place:
    if stream is not None and not NAME.fullmatch(stream):
        problem = f"must be 1 to 64 of A-Z, a-z, 0-9, - and _, got {printable(stream)!r}"
        raise typer.BadParameter(problem, param_hint="--stream")
    if sink is not None:
        try:
            encode_name(sink)
        except ValueError as error:
            problem = str(error).removeprefix("group: ")
            raise typer.BadParameter(problem, param_hint="--sink") from None
    return Place(str(state.url), option, stream, trusted, sink)


def check_path(place: Place, *, must_exist: bool) -> Path | None:
    """Return the path of a state in a file; None if it is in another store.

    Raises:
        typer.BadParameter: there can be no state at the path.
    """
    path = sqlite_path(place.url)
    if path is None:
        return None
    name = printable(_relative(path))
    problem = None
    if path.suffix in {".yaml", ".yml"}:
        problem = f"{name} is a configuration by its name; pass the file of its `state:`"
    elif path.is_dir():
        problem = f"{name} is a directory"
    elif must_exist and not os.path.lexists(path) and find_old_state(path) is None:
        problem = f"the state {name} does not exist"
    elif not path.parent.is_dir():
        problem = f"the folder of the state {name} does not exist"
    if problem is not None:
        raise typer.BadParameter(problem, param_hint=place.option)
    return path


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


async def read_state(place: Place) -> State:
    """Return the state without changing anything.

    Raises:
        typer.BadParameter: there is none, or there are several and none was named.
        StoreError: it cannot be read.
    """
    path = check_path(place, must_exist=True)
    old = None if path is None else find_old_state(path)
    if old is not None and (old.path == path or path is None or not path.exists()):
        return old.load()
    async with open_store(place.url, must_exist=True) as store:
        return await StateAdmin(store, await _select(store, place, create=False), owner(), old).load()


@asynccontextmanager
async def changing(place: Place, *, create: bool) -> AsyncIterator[StateAdmin]:
    """Open the state in order to change it; a state file of an earlier version is continued.

    Args:
        place: its location.
        create: whether to create it if it does not exist.

    Raises:
        typer.BadParameter: there is none, or there are several and none was named.
        StoreError: it cannot be opened.
    """
    path = check_path(place, must_exist=not create)
    old = None if path is None else move_old_state(path)
    async with open_store(place.url, must_exist=not create and old is None) as store:
        name = await _select(store, place, create=create or old is not None)
        yield StateAdmin(store, name, owner(), old)


async def _select(store: Store, place: Place, *, create: bool) -> StateName:
    """Return the names of the state that a place selects among those in a store."""
    states = await find_states(store)
    stream, sink = place.stream, place.sink
    found = [each for each in states if stream in {None, each.stream} and sink in {None, each.sink}]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        problem = (
            f"{store.url}: there are several states of alerts, choose one with --stream or --sink: {names}"
        )
        raise typer.BadParameter(problem, param_hint="--stream")
    streams = sorted({*await stream_names(store), *(each.stream for each in states)})
    there_are = f"there are: {', '.join(streams)}" if streams else "it is empty"
    if not create:
        of = "" if stream is None else f" of stream {stream!r}"
        known = ", ".join(map(str, states)) or "none"
        raise StoreError(f"{store.url}: there is no state of alerts{of}; there are: {known}")
    if stream is None and streams:
        problem = f"is required, as no alert sink has used {store.url} yet; {there_are}"
        raise typer.BadParameter(problem, param_hint="--stream")
    if stream is not None and streams and stream not in streams and not place.trusted:
        raise StoreError(f"{store.url}: there is no stream {stream!r}; {there_are}")
    return StateName(stream or "alerts", sink or "alerts")
