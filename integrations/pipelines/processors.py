"""The steps between sources and sinks, each a function from an event to an event, to several, or to None."""

from __future__ import annotations

import random
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.rates import TokenBucket
from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS, describe
from codomyrmex.integrations.logging_monitoring.redaction import DEFAULT_KEYS, redact
from codomyrmex.integrations.pipelines.fields import condition, fill, text_of
from codomyrmex.integrations.pipelines.file import Filter, Limit, Python, Redact, Sample, Set
from codomyrmex.streaming import Event, EventType

Step = Callable[[Event], Any]

_MAX_KEYS = 10_000  # of a rate limit


def make_step(file: Any, folder: Path) -> Step:
    """Make the function of a processor.

    Args:
        file: what stands in the configuration.
        folder: where modules of Python are looked for too.

    Raises:
        ValueError: it cannot be made; the message says why.
    """
    return _python(file, folder) if isinstance(file, Python) else _MAKERS[type(file)](file)


def _filter(file: Filter) -> Step:
    passes = condition(file.topic, [matcher for line in file.matchers for matcher in line.matchers])
    if passes is None:
        return lambda event: event
    return lambda event: event if passes(event) else None


def _redact(file: Redact) -> Step:
    return redact([*DEFAULT_KEYS, *file.keys], [*DEFAULT_PATTERNS, *file.patterns])


def _set(file: Set) -> Step:
    fills = {name: _value(value) for name, value in file.metadata.items()}

    def set_metadata(event: Event) -> Event:
        added = {name: value(event) for name, value in fills.items()}
        kind = event.type
        if file.error is not None:
            kind = EventType.ERROR if file.error else EventType.MESSAGE
        return event.replace(type=kind, metadata={**event.metadata, **added})

    return set_metadata


def _value(value: Any) -> Callable[[Event], Any]:
    """Make a function that gives a value with its places filled, however deep they are."""
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, dict):
        inner = {name: _value(each) for name, each in value.items()}
        return lambda event: {name: each(event) for name, each in inner.items()}
    if isinstance(value, list):
        items = [_value(each) for each in value]
        return lambda event: [each(event) for each in items]
    return lambda _: value


def _sample(file: Sample) -> Step:
    if not 0 <= file.share <= 1:
        raise ValueError(f"share is a number from 0 to 1, not {file.share}")
    by = file.by
    if by is None:
        return lambda event: event if random.random() < file.share else None  # noqa: S311 - no secret
    limit = round(file.share * 2**32)
    # The same key always has the same luck: all events of a trace, say, or none.
    return lambda event: event if zlib.crc32(text_of(event, by).encode()) < limit else None


def _rate_limit(file: Limit) -> Step:
    if file.rate is None:
        raise ValueError("a rate limit has a rate, such as 100/1s")
    rate, by = file.rate, file.by
    buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def limit(event: Event) -> Event | None:
        key = "" if by is None else text_of(event, by)
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = TokenBucket(rate.count, rate.seconds)
            if len(buckets) > _MAX_KEYS:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(key)
        return event if bucket.take(time.monotonic()) else None

    return limit


def _python(file: Python, folder: Path) -> Step:
    module, colon, name = file.function.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{file.function!r} is not package.module:function")
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)  # last: a module beside a pipeline hides none that is installed
    try:
        found: Any = import_module(module)
        for step in name.split("."):
            found = getattr(found, step)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is somebody's
        raise ValueError(f"{file.function} cannot be imported: {describe(error)}") from None
    if not callable(found):
        raise ValueError(f"{file.function} is no function but {type(found).__name__}")  # noqa: TRY004 - of the file
    step_function: Step = found
    return step_function


_MAKERS: dict[type, Callable[[Any], Step]] = {
    Filter: _filter,
    Redact: _redact,
    Set: _set,
    Sample: _sample,
    Limit: _rate_limit,
}


def as_events(result: Any) -> list[Event]:
    """Give the events that a step gave.

    Raises:
        TypeError: it gave something else.
    """
    if result is None:
        return []
    if isinstance(result, Event):
        return [result]
    events = list(result) if isinstance(result, (list, tuple)) else None
    if events is None or not all(isinstance(event, Event) for event in events):
        raise TypeError(f"a step gives an event, a list of events, or None, not {type(result).__name__}")
    return events
