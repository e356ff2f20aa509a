"""The types of steps, each a function from an event to an event or None, and `Steps`, which applies them."""

from __future__ import annotations

import random
import sys
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from inspect import isawaitable
from typing import Annotated, Any, ClassVar

from codomyrmex.integrations.configuration.problems import at
from codomyrmex.integrations.configuration.rates import RateLimit, TokenBucket
from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS, SecretPatterns, describe
from codomyrmex.integrations.logging_monitoring.redaction import DEFAULT_KEYS, redact
from codomyrmex.integrations.pipelines.config import Part
from codomyrmex.integrations.pipelines.fields import (
    ConditionLine,
    TemplateError,
    check_name,
    condition,
    template,
    text_of,
)
from codomyrmex.integrations.pipelines.parts import Context, FieldError, Step, StepConfig, Topic
from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.chain import FLAT_MAP, MAP, SINK, Chain

_MAX_BUCKETS = 10_000


class Filter(StepConfig, frozen=True):
    """Keeps the events that have a topic and meet all matchers and comparisons."""

    topic: Topic = Topic("*")
    matchers: list[ConditionLine] = []

    def build(self, _name: str, _context: Context) -> Step:
        holds = condition(self.topic, [each for line in self.matchers for each in line.conditions])
        if holds is None:
            raise FieldError("matchers", "is required, or `topic`; without both, every event is kept")
        return lambda event: event if holds(event) else None


class Redact(StepConfig, frozen=True):
    """Replaces secrets: the usual ones, and those that are named here."""

    keys: list[str] = []
    patterns: list[str] = []

    def build(self, _name: str, _context: Context) -> Step:
        for number, pattern in enumerate(self.patterns):
            try:
                SecretPatterns([pattern])
            except ValueError as error:
                raise FieldError(f"patterns[{number}]", str(error).removeprefix("patterns: ")) from None
        return redact([*DEFAULT_KEYS, *self.keys], [*DEFAULT_PATTERNS, *self.patterns])


class Set(StepConfig, frozen=True):
    """Sets entries of the metadata, with `{data.status}` replaced, and whether the event is an error."""

    templates: ClassVar[bool] = True
    metadata: dict[str, Any] = {}
    error: bool | None = None

    def build(self, _name: str, _context: Context) -> Step:
        if not self.metadata and self.error is None:
            raise FieldError("metadata", "is required, or `error`; there is nothing to set")
        try:
            values = {name: template(value, at("metadata", name)) for name, value in self.metadata.items()}
        except TemplateError as error:
            raise FieldError(error.path, str(error)) from None
        error_type = None if self.error is None else EventType.ERROR if self.error else EventType.MESSAGE

        def set_metadata(event: Event) -> Event:
            added = {name: value(event) for name, value in values.items()}
            return event.replace(type=error_type or event.type, metadata={**event.metadata, **added})

        return set_metadata


def _checked(by: str | None) -> str | None:
    try:
        check_name("id" if by is None else by)
    except ValueError as error:
        raise FieldError("by", str(error)) from None
    return by


class Sample(StepConfig, frozen=True):
    """Keeps a share of the events; with `by`, all or none of those with the same value."""

    share: float | None = None
    by: str | None = None

    def build(self, _name: str, _context: Context) -> Step:
        share, by = self.share, _checked(self.by)
        if share is None:
            raise FieldError("share", "is required, such as 0.1")
        if not 0 <= share <= 1:
            raise FieldError("share", f"must be from 0 to 1, got {share}")
        if by is None:
            return lambda event: event if random.random() < share else None  # noqa: S311 - not a secret
        limit = round(share * 2**32)
        return lambda event: event if zlib.crc32(text_of(event, by).encode()) < limit else None


class RateLimited(StepConfig, frozen=True):
    """Keeps as many events as a rate allows; with `by`, for each value separately."""

    rate: Annotated[RateLimit, RateLimit] | None = None
    by: str | None = None

    def build(self, _name: str, _context: Context) -> Step:
        if self.rate is None:
            raise FieldError("rate", "is required, such as 100/1s")
        rate, by = self.rate, _checked(self.by)
        buckets: OrderedDict[str, TokenBucket] = OrderedDict()

        def limit(event: Event) -> Event | None:
            key = "" if by is None else text_of(event, by)
            bucket = buckets.get(key)
            if bucket is None:
                bucket = buckets[key] = TokenBucket(rate.count, rate.seconds)
                if len(buckets) > _MAX_BUCKETS:
                    buckets.popitem(last=False)
            else:
                buckets.move_to_end(key)
            return event if bucket.try_acquire(time.monotonic()) else None

        return limit


class Python(StepConfig, frozen=True):
    """Calls a function, plain or async, that returns an event, several, or None."""

    function: str = ""

    def build(self, _name: str, context: Context) -> Step:
        module, colon, name = self.function.partition(":")
        if not (module and colon and name) or module.startswith("."):
            raise FieldError("function", f"must be package.module:function, got {self.function!r}")
        folder = str(context.folder.resolve())
        if folder not in sys.path:
            sys.path.append(folder)  # last, so that no module beside a pipeline hides an installed one
        try:
            found: Any = import_module(module)
            for attribute in name.split("."):
                found = getattr(found, attribute)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the module may raise anything
            raise FieldError("function", f"{self.function} cannot be imported: {describe(error)}") from None
        if not callable(found):
            raise FieldError("function", f"{self.function} is not callable, it is {type(found).__name__}")
        step: Callable[[Event], Any] = found
        return step


class Steps:
    """The steps of a pipeline.

    Args:
        publish: sends an event to the sinks; returns what to await, if it has to wait.

    Attributes:
        apply: applies the steps to an event and publishes the result; returns what to await, or None.
        added: events that steps returned in addition.
        published: events that were published.
        filtered: events that were dropped on purpose, by step.
        failed: events that were lost because a step raised, by step.
    """

    def __init__(self, publish: Callable[[Event], Awaitable[None] | None]) -> None:
        self.added = self.published = 0
        self.filtered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._publish = publish
        self._steps: list[tuple[Part, Step]] = []
        self.use(self._steps)

    def build(self, parts: Iterable[Part], context: Context) -> list[tuple[Part, Step]]:
        """Build steps; those that exist already are kept, with their state."""
        existing = list(self._steps)
        steps = []
        for part in parts:
            same = next((each for each in existing if each[0].config == part.config), None)
            if same is not None:
                existing.remove(same)
            steps.append((part, part.config.build(part.name, context) if same is None else same[1]))
        return steps

    def use(self, steps: list[tuple[Part, Step]]) -> None:
        """Apply these steps from now on."""
        chain = Chain()
        chain.filtered, chain.errors = self.filtered, self.failed  # they outlast a change of the steps
        for part, step in steps:
            if isinstance(part.config, Python):
                chain.add(FLAT_MAP, self._flat_map(part.name, step), part.name)
            else:
                chain.add(MAP, step, part.name)
        chain.add(SINK, self._count_and_publish, "publish")
        self._steps = steps
        self.apply = chain.apply

    def _flat_map(self, name: str, step: Step) -> Callable[[Event], Awaitable[list[Event]]]:
        async def apply(event: Event) -> list[Event]:
            result = step(event)
            events = _as_events(await result if isawaitable(result) else result)
            if not events:
                self.filtered[name] += 1
            self.added += max(len(events) - 1, 0)
            return events

        return apply

    def _count_and_publish(self, event: Event) -> Awaitable[None] | None:
        waiting = self._publish(event)
        self.published += 1
        return waiting


def _as_events(result: Any) -> list[Event]:
    if result is None:
        return []
    if isinstance(result, Event):
        return [result]
    events = list(result) if isinstance(result, (list, tuple)) else None
    if events is None or not all(isinstance(event, Event) for event in events):
        actual = type(result).__name__
        raise TypeError(f"a step must return an event, a list of events, or None, got {actual}")
    return events
