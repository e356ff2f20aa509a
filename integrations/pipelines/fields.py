"""Values of an event by name, for matchers, templates and keys."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from codomyrmex.integrations.configuration.matcher_text import MatcherLine
from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError
from codomyrmex.integrations.configuration.problems import at
from codomyrmex.streaming import Event
from codomyrmex.streaming.topics import EVERYTHING, matches

_CACHEABLE = 100  # characters of a value
_NAME = r"[A-Za-z_][\w-]*(?:\.[\w-]+)*"
_PLACEHOLDER = re.compile(rf"\{{\{{|\}}\}}|\{{({_NAME})\}}|[{{}}]")

# Conditions


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on a number, such as `data.status >= 500`. What is not a number does not meet it.

    Args:
        name: the name of a value, as for `getter`.
        op: `<`, `<=`, `>` or `>=`.
        number: what the value is compared with.
    """

    name: str
    op: str
    number: float

    def holds(self, value: Any) -> bool:
        """Return whether a value, a number or a text that is one, meets the condition."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return False
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        result: bool = _OPERATORS[self.op](value, self.number)
        return result


_OPERATORS: Mapping[str, Callable[[Any, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Condition = Matcher | Comparison


@dataclass(frozen=True, slots=True)
class ConditionLine:
    """One text of `matchers` or `where`, which may hold several conditions, separated by commas.

    Args:
        conditions: matchers and comparisons.
        warning: how the notations of a matcher differ, if they do.
    """

    expects: ClassVar[str] = 'a matcher like severity="critical" or data.status >= 500'
    conditions: list[Condition]
    warning: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        parts = list(_PART.finditer(text))
        if all(_COMPARISON.fullmatch(part[0]) is None for part in parts):
            line = MatcherLine.parse(text)
            _check_names(line.matchers)
            return cls(list[Condition](line.matchers), line.warning)
        conditions: list[Condition] = []
        warning = None
        for part in parts:
            comparison = _COMPARISON.fullmatch(part[0])
            if comparison is not None:
                conditions.append(_comparison(comparison, part.start()))
                continue
            try:
                line = MatcherLine.parse(part[0])
            except MatcherError as error:
                raise MatcherError(str(error), part.start() + error.column) from None
            conditions += line.matchers
            warning = warning or line.warning
        _check_names(conditions)
        return cls(conditions, warning)


_PART = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"|")+', re.DOTALL)  # up to a comma outside quotes
_COMPARISON = re.compile(r'\s*([^\s{}!=~,"\'`<>]+)\s*([<>]=?)(?!~)\s*(.*?)\s*', re.DOTALL)


def _check_names(conditions: Iterable[Condition]) -> None:
    for each in conditions:
        try:
            check_name(each.name)
        except ValueError as error:
            raise MatcherError(str(error)) from None


def _comparison(match: re.Match[str], start: int) -> Comparison:
    name, op, text = match.groups()
    try:
        return Comparison(name, op, float(text))
    except ValueError:
        message = f"{name}: {op} compares with a number, got {text!r}"
        raise MatcherError(message, start + match.start(3)) from None


def condition(topic: str, conditions: Iterable[Condition]) -> Callable[[Event], bool] | None:
    """Return a function that tests events, or None if it would accept all of them.

    Args:
        topic: a topic or a pattern.
        conditions: all of them have to hold; they use the names of `getter`.
    """
    tests = [_test(each) for each in conditions]
    if topic != EVERYTHING:
        tests.insert(0, lambda event: matches(topic, event.topic))
    if len(tests) < 2:  # noqa: PLR2004 - nothing to combine
        return tests[0] if tests else None
    return lambda event: all(test(event) for test in tests)


# RE2 costs more than everything else in a filter, and values such as a status are few.
def _test(condition: Condition) -> Callable[[Event], bool]:
    get, holds = getter(condition.name), condition.holds
    if isinstance(condition, Comparison):
        return lambda event: holds(get(event))
    cached = lru_cache(1_024)(lambda value: holds(as_text(value)))

    def test(event: Event) -> bool:
        value = get(event)
        if value.__class__ is int or (value.__class__ is str and len(value) <= _CACHEABLE):
            return cached(value)
        return holds(as_text(value))

    return test


# Values


def check_name(name: str) -> None:
    """Raise a `ValueError` for a name, as for `getter`, that no value of an event can have."""
    if not name:
        raise ValueError("must not be empty")
    if name.startswith(("data.", "metadata.")) and "" in name.split("."):
        raise ValueError(f"the name {name!r} has an empty part")


@lru_cache(1_024)
def getter(name: str) -> Callable[[Event], Any]:
    """Return a function that returns a value of an event, or None.

    Args:
        name: `topic`, `type`, `id`, `data`, `data.status`, `metadata.host`, or the name of a label or of an
            entry of the metadata, in this order.
    """
    if name in _ATTRIBUTES:
        return _ATTRIBUTES[name]
    first, _, path = name.partition(".")
    keys = tuple(path.split(".")) if path else ()
    if first == "data":
        return lambda event: _inside(event.data, keys)
    if first == "metadata" and path:
        return lambda event: _inside(event.metadata, keys)
    all_keys = tuple(name.split("."))

    def label_or_entry(event: Event) -> Any:
        metadata = event.metadata
        labels = metadata.get("labels")
        if isinstance(labels, Mapping) and name in labels:
            return labels[name]
        return metadata[name] if name in metadata else _inside(metadata, all_keys)

    return label_or_entry


_ATTRIBUTES: Mapping[str, Callable[[Event], Any]] = {
    "topic": lambda event: event.topic,
    "type": lambda event: event.type.value,
    "id": lambda event: event.id,
}


def _inside(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if (value.__class__ is not dict and not isinstance(value, Mapping)) or key not in value:
            return None
        value = value[key]
    return value


def as_text(value: Any) -> str:
    """Return a value as text, empty for None, as matchers and keys use it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "value", value))


def text_of(event: Event, name: str) -> str:
    """Return a value of an event as text, empty if there is none."""
    return as_text(getter(name)(event))


# Templates


class TemplateError(ValueError):
    """A brace in a template has no meaning.

    Args:
        path: where the template is.
        brace: the brace.
        character: its position in the template, from 1.
    """

    def __init__(self, path: str, brace: str, character: int) -> None:
        super().__init__(
            f"{brace!r} at character {character} is not part of a name like {{data.status}}; "
            f"write {brace * 2} for a brace"
        )
        self.path = path


def template(value: Any, path: str = "") -> Callable[[Event], Any]:
    """Return a function that replaces the placeholders of a value, such as `{data.status}`.

    A text that is nothing but one placeholder becomes the value as it is, not its text. `{{` and `}}` are
    braces.

    Args:
        value: a text, or a list or mapping of values; any other value stays as it is.
        path: where the value is, for the error.

    Raises:
        TemplateError: a brace is neither doubled nor part of a placeholder.
    """
    if isinstance(value, dict):
        fields = {name: template(each, at(path, str(name))) for name, each in value.items()}
        return lambda event: {name: each(event) for name, each in fields.items()}
    if isinstance(value, list):
        items = [template(each, at(path, number)) for number, each in enumerate(value)]
        return lambda event: [each(event) for each in items]
    if not isinstance(value, str) or _PLACEHOLDER.search(value) is None:
        return lambda _: value
    for place in _PLACEHOLDER.finditer(value):
        if place[0] in {"{", "}"}:
            raise TemplateError(path, place[0], place.start() + 1)
    whole = _PLACEHOLDER.fullmatch(value)
    if whole is not None and whole[1] is not None:
        return getter(whole[1])
    return lambda event: _PLACEHOLDER.sub(
        lambda place: place[0][0] if place[1] is None else text_of(event, place[1]), value
    )


def escape(text: str) -> str:
    """Return a text that `template` leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")
