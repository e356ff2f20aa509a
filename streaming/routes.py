"""The index from a topic to its route: the subscriptions that receive its events, in order."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from itertools import count
from typing import Any

from codomyrmex.streaming.mailbox import Mailbox
from codomyrmex.streaming.subscriptions import Subscription
from codomyrmex.streaming.topics import EVERYTHING, is_pattern

_MAX_ROUTES = 16_384
_TAIL = ">"


class RouteEntry:
    """One subscription in the routes of a stream; all routes share it.

    Attributes:
        call: called with each event: the handler, behind its filter if it has one. When the subscription
            ends, it is replaced, which takes effect on dispatches in progress too.
        loop: the event loop that the subscription was made on.
        context: the context that it was made in.
        mailbox: the calls of its async handler that no publisher waits for.
    """

    __slots__ = ("call", "context", "loop", "mailbox", "subscription")

    def __init__(
        self,
        subscription: Subscription,
        call: Callable[[Any], object],
        loop: AbstractEventLoop | None = None,
        context: Context | None = None,
    ) -> None:
        self.subscription = subscription
        self.call = call
        self.loop = loop
        self.context = context
        self.mailbox: Mailbox | None = None

    def end(self) -> None:
        """Call the handler no more."""
        self.call = _ignore


Route = tuple[RouteEntry, ...]


def _ignore(_: Any) -> None:
    """Stand in for the handler of a subscription that has ended."""


class _Node:
    """The place of one token in the tree of patterns."""

    __slots__ = ("children", "ending", "tail")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.ending: dict[RouteEntry, int] = {}  # patterns that end here
        self.tail: dict[RouteEntry, int] = {}  # patterns that continue with ">"


class TopicIndex:
    """Finds the route of a topic. It is not thread-safe: the stream's lock guards it.

    Attributes:
        routes: the routes found so far, by topic, to be read without the lock.
    """

    def __init__(self) -> None:
        self.routes: dict[str | None, Route] = {}
        self._order = count()
        self._exact: dict[str, dict[RouteEntry, int]] = {}
        self._everything: dict[RouteEntry, int] = {}
        self._root = _Node()
        self._version = 0

    def has_exact(self, topic: str) -> bool:
        """Return whether there is a subscription to exactly this topic."""
        return topic in self._exact

    def add(self, entry: RouteEntry) -> None:
        """Add a subscription."""
        topic = entry.subscription.topic
        if topic == EVERYTHING:
            members = self._everything
        elif is_pattern(topic):
            members = self._members(topic.split("."))
        else:
            members = self._exact.setdefault(topic, {})
        members[entry] = next(self._order)
        self._forget(topic)

    def remove(self, entry: RouteEntry) -> None:
        """Remove a subscription, from dispatches in progress too."""
        entry.end()
        topic = entry.subscription.topic
        if topic == EVERYTHING:
            self._everything.pop(entry, None)
        elif is_pattern(topic):
            self._remove_pattern(topic.split("."), entry)
        elif members := self._exact.get(topic):
            members.pop(entry, None)
            if not members:
                del self._exact[topic]
        self._forget(topic)

    def route(self, topic: str | None) -> Route:
        """Return the route of a topic and keep it for the topic's next event."""
        route = self.routes.get(topic)
        if route is not None:
            return route
        version = None
        while version != self._version:  # a finalizer may change the tables meanwhile
            version = self._version
            found = dict(self._everything)
            if topic is not None:
                found.update(self._exact.get(topic, {}))
                self._collect(topic.split("."), found)
            route = tuple(sorted(found, key=found.__getitem__))
        if len(self.routes) >= _MAX_ROUTES:
            self.routes.clear()
        self.routes[topic] = route or ()
        return route or ()

    def _members(self, path: list[str]) -> dict[RouteEntry, int]:
        """Return the subscriptions of a pattern, making its place in the tree if it has none."""
        node = self._root
        for token in path:
            if token == _TAIL:
                return node.tail
            node = node.children.setdefault(token, _Node())
        return node.ending

    def _remove_pattern(self, path: list[str], entry: RouteEntry) -> None:
        self._members(path).pop(entry, None)
        nodes = [self._root]
        for token in path:
            if token != _TAIL:
                nodes.append(nodes[-1].children[token])
        for parent, token in zip(reversed(nodes[:-1]), reversed(path[: len(nodes) - 1]), strict=True):
            child = parent.children[token]
            if child.children or child.ending or child.tail:
                break
            del parent.children[token]

    def _collect(self, tokens: list[str], found: dict[RouteEntry, int]) -> None:
        level = [self._root]
        for token in tokens:
            next_level = []
            for node in level:
                found.update(node.tail)
                next_level += [node.children[name] for name in {token, "*"} if name in node.children]
            level = next_level
        for node in level:
            found.update(node.ending)

    def _forget(self, pattern: str) -> None:
        """Drop the routes that a change of this pattern makes outdated."""
        self._version += 1
        if is_pattern(pattern):
            self.routes.clear()
        else:
            self.routes.pop(pattern, None)
