"""The fixtures `place`, `served` and `store`, which run a test once for each kind of store.

The environment variable `STORE_KINDS` names the kinds; the default leaves out Valkey, which speaks Redis, and
whose tests are run by `make proof`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from codomyrmex.integrations.durable import Store
from codomyrmex.integrations.durable.opening import STORES
from durable.servers import PASSWORD, Server, Servers

KINDS = os.environ.get("STORE_KINDS", "sqlite,postgres,redis,nats").split(",")


class Place(NamedTuple):
    """Where a store can be opened that nothing else uses.

    Attributes:
        kind: one of `KINDS`.
        url: the URL for `open_store`.
        server: the server, which the test may kill and pause; None for SQLite.
    """

    kind: str
    url: str
    server: Server | None

    def store(self, timeout: float = 5.0, url: str | None = None) -> Store:
        """Make a store that gives up after some seconds; `open_store` makes those of the usual ones."""
        module, name = STORES[(url or self.url).partition(":")[0]]
        kind = getattr(import_module(f"codomyrmex.integrations.durable.stores.{module}"), name)
        return kind(url or self.url, timeout=timeout)


def make_place(kind: str, servers: Servers, folder: Path) -> Place:
    if kind == "sqlite":
        return Place(kind, f"sqlite:///{folder}/store.db", None)
    server = servers.get(kind)
    return Place(kind, server.fresh_url(), server)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Place:
    return make_place(request.param, servers, tmp_path)


@pytest.fixture(params=[kind for kind in KINDS if kind != "sqlite"])
def served(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Place:
    """Return a place that is on a server."""
    return make_place(request.param, servers, tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with place.store() as store:
        yield store


def leaks(text: str) -> list[str]:
    """Find the password in a text, as it is or as a URL quotes it."""
    return re.findall(f"{re.escape(PASSWORD)}|{re.escape(quote(PASSWORD, safe=''))}|{PASSWORD[:6]}", text)
