"""Reads `state:` of a configuration, and the environment variable `CODOMYRMEX_STATE`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.environment import ExpansionError, Secret, expand
from codomyrmex.integrations.configuration.problems import ProblemList, at
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.durable.names import NAME
from codomyrmex.integrations.durable.opening import open_store, resolve_url, sqlite_path, sqlite_url
from codomyrmex.integrations.durable.store import StoreError
from codomyrmex.integrations.durable.stream import DurableStream
from codomyrmex.integrations.notification.alerts.config import AlertConfig, StateConfig
from codomyrmex.integrations.notification.alerts.config_file import StateFile
from codomyrmex.integrations.notification.alerts.old_state import OldState, move_old_state

VARIABLE = "CODOMYRMEX_STATE"


def state_at(place: str, folder: Path, **options: Any) -> StateConfig:
    """Return where the state is, from a path or the URL of a store.

    Raises:
        StoreError: the URL is wrong.
        MissingExtraError: the package of the store is not installed.
    """
    url = Secret(resolve_url(place, folder) if "://" in place else sqlite_url(folder / place))
    open_store(url)
    return StateConfig(url, **options)


def read_state(
    data: Any, reader: Reader, problems: ProblemList, environ: Mapping[str, str]
) -> StateConfig | None:
    """Return the value of `state:`; None if there is none, or if it has problems."""
    if data is None:
        return None
    is_text = isinstance(data, str)
    if not is_text and not isinstance(data, Mapping):
        problems.add("state", f"must be a path, the URL of a store or a mapping, got {type(data).__name__}")
        return None
    known = len(problems.found)
    file = reader.struct({"url": data} if is_text else data, StateFile, "state")
    if len(problems.found) > known:
        return None
    path = "state" if is_text else at("state", "url")
    if not NAME.fullmatch(file.name):
        problems.add(at("state", "name"), f"must be 1 to 64 of A-Z, a-z, 0-9, - and _, got {file.name!r}")
    if file.lease <= 0:
        problems.add(at("state", "lease"), f"must be greater than 0, got {file.lease}")
    try:
        place = expand(file.url, environ)
        if not place:
            problems.add(path, "the path or URL must not be empty")
        elif len(problems.found) == known:
            folder = Path(problems.file or "").parent
            return state_at(place, folder, name=file.name, lease=float(file.lease))
    except (StoreError, ExpansionError) as error:
        problems.add(path, str(error))
    return None


def state_of(config: AlertConfig, *, shares_stream: bool = False) -> StateConfig | None:
    """Return where the state of a configuration is.

    Args:
        config: the configuration.
        shares_stream: whether there is a durable stream that has the state if the configuration does not say
            where it is.

    Raises:
        StoreError: `CODOMYRMEX_STATE` is wrong.
    """
    if config.state is not None or shares_stream:
        return config.state
    place = os.environ.get(VARIABLE)
    return state_at(place, Path()) if place else None


def open_log(state: StateConfig) -> DurableStream:
    """Return the log of alerts of a shared state, which is not open yet."""
    return DurableStream(open_store(state.url), state.name, lease=state.lease)


def old_state_at(state: StateConfig) -> OldState | None:
    """Return the state of an earlier version, if there was one at this place."""
    path = sqlite_path(state.url)
    return None if path is None else move_old_state(path)
