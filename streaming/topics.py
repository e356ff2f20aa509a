"""Topics: patterns as in NATS, and the index from a topic to its audience.

A topic is tokens split by `.`. In a pattern `*` stands for one token and `>`, as the last one, for one
or more. Unlike in NATS the single pattern `"*"` is everything, events without a topic included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from operator import length_hint
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from codomyrmex.streaming.errors import TopicError, shorten

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from contextvars import Context

    from codomyrmex.streaming.counters import DeliveryCounters
    from codomyrmex.streaming.mailbox import Mailbox
    from codomyrmex.streaming.subscriptions import Subscription

EVERYTHING = "*"

_MAX_AUDIENCES = 16_384


def check_pattern(pattern: object) -> str:
    """Give the pattern back if it is well-formed.

    Raises:
        TopicError: it is not a string, has an empty token, or a `>` that is not last.
    """
    if not isinstance(pattern, str):
        raise TopicError(f"a topic pattern is a string, not {type(pattern).__name__}")
    tokens = pattern.split(".")
    if "" in tokens:
        raise TopicError(f"topic pattern {shorten(pattern)} has an empty token")
    if ">" in tokens[:-1]:
        raise TopicError(f"topic pattern {shorten(pattern)} has a '>' that is not its last token")
    return pattern


def check_topic(topic: object) -> str:
    """Give the topic back if an event can be published under it.

    Raises:
        TopicError: as for a pattern, and where it has wildcards.
    """
    checked = check_pattern(topic)
    if is_pattern(checked):
        raise TopicError(f"{shorten(topic)} is a pattern; an event needs a topic without wildcards")
    return checked


def is_pattern(pattern: str) -> bool:
    """Tell whether the pattern has a wildcard, so that it stands for more than one topic."""
    return "*" in pattern.split(".") or pattern == ">" or pattern.endswith(".>")


def matches(pattern: str, topic: str | None) -> bool:
    """Tell whether a well-formed pattern takes a topic; None is the topic of an event without one."""
    if pattern == EVERYTHING:
        return True
    if topic is None:
        return False
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    return all(w in ("*", g) for w, g in zip(wanted, given, strict=False))


class Recipient:
    """One subscription in the tables of its stream.

    Attributes:
        entry: called with each event of its topics: the handler, behind the filter if there is one.
        loop: the event loop that it was subscribed on.
        context: the context that it was subscribed in.
        mailbox: what its async handler has still to do for publishers that did not wait.
        handler: the handler of someone who subscribed; None for queues, sinks and listeners.
        queued: it has a queue, which counts what becomes of an event, whatever the handler does.
    """

    __slots__ = ("context", "entry", "handler", "loop", "mailbox", "queued", "subscription", "topic")

    def __init__(
        self,
        subscription: Subscription,
        entry: Callable[[Any], object],
        loop: AbstractEventLoop | None,
        context: Context,
        queued: bool,  # noqa: FBT001 - made in one place
    ) -> None:
        self.subscription = subscription
        self.topic = subscription.topic
        self.entry = entry
        self.loop = loop
        self.context = context
        self.queued = queued
        self.mailbox: Mailbox | None = None
        self.handler: Callable[[Any], object] | None = None


class Audience:
    """Those who get the events of one topic, in the order of subscription.

    A dispatch walks the list `calls`, which holds one callable for each subscription and nothing else,
    so that a thousand handlers cost what a plain loop over them costs. A subscription that ends while
    a dispatch is under way is taken out by overwriting its place in the list.
    """

    __slots__ = ("__weakref__", "calls", "filtered", "published", "recipients")

    def __init__(self, recipients: list[Recipient], published: count[int]) -> None:
        self.recipients = recipients
        self.calls: list[Callable[[Any], object]] = [r.entry for r in recipients]
        self.filtered = [r for r in recipients if r.subscription.filter_fn is not None]
        self.published = published

    def recipient_at(self, calls: Iterator[object]) -> Recipient:
        """Tell whose call an iterator over `calls` gave last, from how much it has left."""
        return self.recipients[len(self.recipients) - length_hint(calls) - 1]

    def remove(self, recipient: Recipient, skip: Callable[[Any], object]) -> None:
        """Let the dispatches under way pass over a recipient."""
        for place, member in enumerate(self.recipients):
            if member is recipient:
                self.calls[place] = skip


class _Node:
    """One token's place in the tree of patterns."""

    __slots__ = ("children", "here", "tail")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.here: dict[Recipient, int] = {}  # patterns that end here
        self.tail: dict[Recipient, int] = {}  # patterns that go on with ">"

    def empty(self) -> bool:
        return not (self.children or self.here or self.tail)


class TopicIndex:
    """Finds the subscriptions of a topic. Not thread-safe: the stream's lock guards it.

    Attributes:
        audiences: the answers already worked out, by topic, for reading without the lock.
    """

    def __init__(self, counters: DeliveryCounters) -> None:
        self.audiences: dict[str | None, Audience] = {}
        self._counters = counters
        self._order = count()
        self._exact: dict[str, dict[Recipient, int]] = {}
        self._everything: dict[Recipient, int] = {}
        self._root = _Node()
        self._size = 0
        self._version = 0
        # Audiences that are not handed out any more. One stays in here only while a dispatch still
        # walks it, as nobody else holds it.
        self._retired: WeakSet[Audience] = WeakSet()

    def __len__(self) -> int:
        return self._size

    def has_exact(self, topic: str) -> bool:
        """Tell whether somebody subscribed to this very topic."""
        return topic in self._exact

    def add(self, recipient: Recipient) -> None:
        topic = recipient.topic
        if topic == EVERYTHING:
            members = self._everything
        elif is_pattern(topic):
            members = self._members(topic)
        else:
            members = self._exact.setdefault(topic, {})
        members[recipient] = next(self._order)
        self._size += 1
        self._forget(topic)

    def remove(self, recipient: Recipient) -> bool:
        """Take a subscription out, also from the dispatches under way; False if it was not in."""
        topic = recipient.topic
        if topic == EVERYTHING:
            found = self._everything.pop(recipient, None)
        elif is_pattern(topic):
            found = self._remove_pattern(self._root, topic.split("."), recipient)
        else:
            members = self._exact.get(topic, {})
            found = members.pop(recipient, None)
            if found is not None and not members:
                del self._exact[topic]
        if found is None:
            return False
        self._size -= 1
        self._forget(topic)
        for audience in tuple(self._retired):
            audience.remove(recipient, self._skip)
        return True

    def audience(self, topic: str | None) -> Audience:
        """Give the audience of a topic and remember it for the next event of the topic."""
        known = self.audiences.get(topic)
        if known is not None:
            return known
        version = None
        while version != self._version:  # a finalizer may change the tables in the midst of this
            version = self._version
            found = dict(self._everything)
            if topic is not None:
                found.update(self._exact.get(topic, {}))
                self._collect(topic.split("."), found)
            members = sorted(found, key=found.__getitem__)
            audience = Audience(members, self._counters.published_to(len(members)))
        if len(self.audiences) >= _MAX_AUDIENCES:
            self._retire_all()
        self.audiences[topic] = audience
        return audience

    def rebuild(self) -> None:
        """Work all audiences out anew, as the entries of recipients have changed."""
        self._version += 1
        self._retire_all()

    def _skip(self, _: Any) -> None:
        """Stand in for a recipient that has left."""
        self._counters.skipped.tick()

    def _members(self, pattern: str) -> dict[Recipient, int]:
        tokens = pattern.split(".")
        tail = tokens[-1] == ">"
        node = self._root
        for token in tokens[:-1] if tail else tokens:
            node = node.children.setdefault(token, _Node())
        return node.tail if tail else node.here

    def _remove_pattern(self, node: _Node, tokens: list[str], recipient: Recipient) -> int | None:
        if tokens == [">"]:
            return node.tail.pop(recipient, None)
        if not tokens:
            return node.here.pop(recipient, None)
        child = node.children.get(tokens[0])
        if child is None:
            return None
        found = self._remove_pattern(child, tokens[1:], recipient)
        if child.empty():
            del node.children[tokens[0]]
        return found

    def _collect(self, tokens: list[str], found: dict[Recipient, int]) -> None:
        level = [self._root]
        for token in tokens:
            below = []
            for node in level:
                found.update(node.tail)
                for name in {token, "*"}:
                    child = node.children.get(name)
                    if child is not None:
                        below.append(child)
            level = below
        for node in level:
            found.update(node.here)

    def _forget(self, pattern: str) -> None:
        """Drop the remembered audiences that a change of this pattern makes wrong."""
        self._version += 1
        if is_pattern(pattern):
            self._retire_all()
        else:
            audience = self.audiences.pop(pattern, None)
            if audience is not None:
                self._retired.add(audience)

    def _retire_all(self) -> None:
        self._retired.update(self.audiences.values())
        self.audiences.clear()
