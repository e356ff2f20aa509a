"""Renders translated templates in the sandbox of Jinja, with limits on output and work."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.notification.go_templates.errors import GoError, GoTemplateError
from codomyrmex.integrations.notification.go_templates.escaping import ESCAPERS
from codomyrmex.integrations.notification.go_templates.formatting import text_of, utf8
from codomyrmex.integrations.notification.go_templates.functions import FUNCTIONS
from codomyrmex.integrations.notification.go_templates.nodes import Definition
from codomyrmex.integrations.notification.go_templates.translation import translate
from codomyrmex.integrations.notification.go_templates.values import (
    Data,
    Signature,
    call_method,
    checked,
    checking,
    field,
    type_of,
)
from codomyrmex.integrations.notification.templates import CUT, MAX_RENDERED

try:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError as error:
    raise MissingExtraError("Go templates", "jinja2", "alerts") from error

MAX_STEPS = 500_000  # rounds of all ranges
_CALL = 50  # steps that calling a template counts as
MAX_CALLS = 50  # templates in each other


class _Context:
    """What a compiled template asks for its variables; `jinja2.runtime.Context` takes ten times as long."""

    __slots__ = ("resolve_or_missing",)

    def __init__(self, variables: dict[str, Any]) -> None:
        self.resolve_or_missing = variables.__getitem__


class Unit:
    """A compiled definition."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        template, self.errors = translate(definition)
        try:
            self.template = _environment().from_string(template)
        except (RecursionError, SyntaxError) as error:  # beyond a limit of Python
            raise definition.source.error(0, f"the template cannot be compiled: {error}") from None
        self._root = self.template.root_render_func

    def parts(self, dot: object, run: Run) -> Iterator[str]:
        """Yield the parts of the text."""
        parts: Iterator[str] = self._root(_Context({"dot": dot, "run": run}))
        return parts


class Run:
    """The state of one rendering.

    Args:
        units: the compiled templates by name.
        data: the data of the notification.
    """

    def __init__(self, units: Mapping[str, Unit], data: Data) -> None:
        self.units = units
        self.data = data
        self._steps = 0
        self.calls = 0

    def count(self, steps: int) -> None:
        """Count steps, or raise a `GoError` if there were too many."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise GoError(f"the template takes more than {MAX_STEPS} steps")

    def render(self, name: str) -> str:
        """Return the text of a template, or raise a `GoTemplateError`; a longer text is cut and marked."""
        parts: list[str] = []
        remaining = MAX_RENDERED
        try:
            for part in self.units[name].parts(self.data, self):
                parts.append(part)
                remaining -= len(part)
                if remaining < 0:
                    parts[-1] = f"{part[:remaining]}{CUT}"
                    break
        except Exception as error:  # noqa: BLE001 - a template can fail in any way, but only with this error
            raise self._located(error, name) from None
        text = "".join(parts)
        return text if text.isascii() else utf8(text).decode("utf-8", "replace")

    def _located(self, error: Exception, name: str) -> GoTemplateError:
        """Return an error with the place of the action that failed."""
        if isinstance(error, GoTemplateError):
            return error
        message = str(error) if isinstance(error, GoError) else f"{type(error).__name__}: {error}"
        units = {unit.template: unit for unit in self.units.values()}
        unit, offset = self.units[name], 0
        for frame, line in traceback.walk_tb(error.__traceback__):
            template = frame.f_globals.get("__jinja_template__")
            if template is not None and template in units:
                unit = units[template]
                offset = template.get_corresponding_lineno(line) - 1
        return unit.definition.source.error(offset, message)


def _text(value: Any) -> str:
    if value.__class__ is str:
        return value
    return "<no value>" if value is None else text_of(value)


def _items(value: Any, run: Run) -> Iterable[Any]:
    """Return what a `range` with one variable or none goes through."""
    if isinstance(value, list):
        run.count(len(value))
        return value
    if isinstance(value, dict):
        run.count(len(value))
        return [value[key] for key in sorted(value)]
    if value is None:
        return ()
    if value.__class__ is int:
        run.count(value)
        return range(value)
    raise GoError(f"range needs a list or map, got {type_of(value)}")


def _pairs(value: Any, run: Run) -> Iterable[tuple[Any, Any]]:
    """Return what a `range` with two variables goes through."""
    if isinstance(value, dict):
        run.count(len(value))
        return sorted(value.items())
    return enumerate(_items(value, run))


def _template(dot: Any, name: str, run: Run) -> Iterator[str]:
    """Yield the text of another template."""
    run.count(_CALL)
    run.calls += 1
    if run.calls > MAX_CALLS:
        raise GoError(f"templates must not call each other more than {MAX_CALLS} levels deep")
    if name not in run.units:
        raise GoError(f"the template {name!r} is not defined")
    yield from run.units[name].parts(dot, run)
    run.calls -= 1


def _fail(number: int, name: str, run: Run) -> None:
    raise run.units[name].errors[number]


def _reassign(variable: list[Any], value: Any) -> None:
    variable[0] = value


def _assigned(variable: list[Any]) -> Any:
    return variable[0]


def _route_label(name: Any, run: Run) -> Any:
    (name,) = checked("routeLabels", Signature(str, ("string",)), [name])
    return run.data.get("RouteLabels").get(name, "")


def _without_arguments(signature: Signature) -> Callable[..., Any]:
    return lambda _: signature.function()


@cache
def _environment() -> Any:
    environment = ImmutableSandboxedEnvironment(optimized=False, autoescape=False)
    environment.filters = {
        "text": _text,
        "items": _items,
        "pairs": _pairs,
        "template": _template,
        "fail": _fail,
        "reassign": _reassign,
        "assigned": _assigned,
        "route_label": _route_label,
        "field": field,
        "method": call_method,
        **ESCAPERS,
        **{name: checking(name, signature) for name, signature in FUNCTIONS.items()},
        **{f"{name}()": _without_arguments(each) for name, each in FUNCTIONS.items() if not each.types},
    }
    return environment
