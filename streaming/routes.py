"""The index from a topic to its route: the subscriptions that receive its events, in order."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from itertools import count
from typing import Any

from codomyrmex.streaming.mailbox import Mailbox
from codomyrmex.streaming.subscriptions import Subscription
from codomyrmex.streaming.topics import EVERYTHING, is_pattern

_MAX_ROUTES = 16_384
_MAX_KEPT = 1_000  # characters; the routes of longer topics are computed each time
_MAX_TOKENS = 100  # the tokens behind these are matched as one


def _ignore(_: Any) -> None:
    """Do nothing, in place of the handler of a subscription that has ended."""


class RouteEntry:
    """One subscription, shared by all routes, with the event loop and the context that it was made in."""

    __slots__ = ("call", "context", "loop", "mailbox", "subscription")

    def __init__(
        self,
        subscription: Subscription,
        call: Callable[[Any], object],
        loop: AbstractEventLoop | None = None,
        context: Context | None = None,
    ) -> None:
        self.subscription = subscription
        self.call = call  # the handler, behind its filter; replaced when the subscription ends
        self.loop = loop
        self.context = context
        self.mailbox: Mailbox | None = None  # the calls that no publisher waits for


Route = tuple[RouteEntry, ...]
_Path = tuple[str, ...]  # the tokens of a topic or a pattern


class TopicIndex:
    """Finds the route of a topic. It is not thread-safe: the stream's lock guards it."""

    def __init__(self) -> None:
        self.routes: dict[str | None, Route] = {}  # found so far; read without the lock
        self._members: dict[_Path, dict[RouteEntry, int]] = {}  # with their position in the order
        self._beginnings: Counter[_Path] = Counter()  # how many subscriptions begin with these tokens
        self._order = count()
        self._version = 0

    def has_exact(self, topic: str) -> bool:
        return tuple(topic.split(".")) in self._members

    def add(self, entry: RouteEntry) -> None:
        path = tuple(entry.subscription.topic.split("."))
        self._members.setdefault(path, {})[entry] = next(self._order)
        self._beginnings.update(path[:length] for length in range(1, len(path) + 1))
        self._forget(entry.subscription.topic)

    def remove(self, entry: RouteEntry) -> None:
        """Remove a subscription, from dispatches in progress too."""
        entry.call = _ignore
        path = tuple(entry.subscription.topic.split("."))
        members = self._members.get(path, {})
        if members.pop(entry, None) is None:
            return
        if not members:
            del self._members[path]
        for length in range(1, len(path) + 1):
            self._beginnings[path[:length]] -= 1
            if not self._beginnings[path[:length]]:
                del self._beginnings[path[:length]]
        self._forget(entry.subscription.topic)

    def route(self, topic: str | None) -> Route:
        """Return the route of a topic and keep it for the topic's next event."""
        route = self.routes.get(topic)
        if route is not None:
            return route
        version = None
        while version != self._version:  # a finalizer may change the tables meanwhile
            version = self._version
            found = dict(self._members.get((EVERYTHING,), {}))
            if topic is not None:
                self._collect(topic.split(".", _MAX_TOKENS), found)
            route = tuple(sorted(found, key=found.__getitem__))
        if len(self.routes) >= _MAX_ROUTES:
            self.routes.clear()
        if topic is None or len(topic) <= _MAX_KEPT:
            self.routes[topic] = route or ()
        return route or ()

    def _collect(self, tokens: list[str], found: dict[RouteEntry, int]) -> None:
        paths: list[_Path] = [()]
        for token in tokens:
            for path in paths:
                found.update(self._members.get((*path, ">"), {}))
            longer = [(*path, name) for path in paths for name in {token, "*"}]
            paths = [path for path in longer if path in self._beginnings]
        for path in paths:
            found.update(self._members.get(path, {}))

    def _forget(self, pattern: str) -> None:
        """Drop the routes that a change of this pattern makes outdated."""
        self._version += 1
        if is_pattern(pattern):
            self.routes.clear()
        else:
            self.routes.pop(pattern, None)
