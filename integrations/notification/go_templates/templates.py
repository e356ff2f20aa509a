"""`GoTemplates`: the templates of the `templates:` files of an alertmanager.yml, and of its fields."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from codomyrmex.integrations.configuration.problems import ConfigError, Problem, did_you_mean
from codomyrmex.integrations.notification.go_templates.defaults import DEFAULT_TEMPLATES
from codomyrmex.integrations.notification.go_templates.errors import GoTemplateError, LaterError, Source
from codomyrmex.integrations.notification.go_templates.field_checks import FieldChecker
from codomyrmex.integrations.notification.go_templates.functions import NAMES
from codomyrmex.integrations.notification.go_templates.html import IN_HTML, HtmlRewriter
from codomyrmex.integrations.notification.go_templates.nodes import Body, Branch, Call, Definition
from codomyrmex.integrations.notification.go_templates.parser import parse
from codomyrmex.integrations.notification.go_templates.rendering import Run, Unit
from codomyrmex.integrations.notification.go_templates.values import Data

MAX_SIZE = 1_048_576  # bytes of a file


class GoTemplate:
    """A compiled text with Go templates, made by `GoTemplates.compile`.

    Args:
        units: the compiled templates by name.
        name: the name of the first one.
        errors: the places that will fail when the template comes to them.
    """

    def __init__(self, units: Mapping[str, Unit], name: str, errors: Iterable[GoTemplateError]) -> None:
        self.errors = tuple(errors)
        self._units = units
        self._name = name

    def render(self, data: Mapping[str, Any]) -> str:
        """Return the text for a notification, or raise a `GoTemplateError`.

        More than `MAX_RENDERED` characters are cut and marked.

        Args:
            data: the notification with the keys of Alertmanager's webhook, as of `Notification.to_dict()`.
        """
        if not self._units:
            raise self.errors[0]
        return Run(self._units, Data(data)).render(self._name)


class GoTemplates:
    """Named Go templates: those of files, and Alertmanager's default names with texts of our own.

    Args:
        files: the files that they were read from.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self.files = tuple(files)
        self._definitions = dict(_defaults())
        self._units: dict[str, Unit] = {}

    @classmethod
    def load(cls, patterns: Iterable[str], folder: Path | str = ".") -> Self:
        """Read the files of `templates:`.

        Args:
            patterns: the paths, which may contain `*`, `?` and `[...]`; no match is no problem.
            folder: what relative paths are relative to.

        Raises:
            ConfigError: files are invalid; it holds the problems of all of them.
        """
        found = [
            Path(path)
            for pattern in patterns
            for path in sorted(glob.glob(str(Path(folder) / pattern)))  # noqa: PTH207 - may be absolute
        ]
        templates = cls(dict.fromkeys(found))
        problems: list[Problem] = []
        for path in templates.files:
            try:
                templates._add(Source(_read(path), str(path)), path.name)
            except GoTemplateError as error:
                problems.append(error.problem)
            except (OSError, ValueError) as error:
                problems.append(Problem(f"cannot be read: {error}", file=str(path)))
        if problems:
            raise ConfigError(problems)
        return templates

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Self:
        """Return the templates of texts by their names, as those of files, or raise a `GoTemplateError`."""
        templates = cls()
        for name, text in texts.items():
            templates._add(Source(text, name), name)
        return templates

    @property
    def names(self) -> frozenset[str]:
        """The names of all templates."""
        return frozenset(self._definitions)

    def compile(self, text: str, *, html: bool = False) -> GoTemplate:
        """Translate the text of a field, and all templates that it calls.

        What Alertmanager accepts, although it fails with each notification, or with some, is accepted here
        too; it is in the `errors` of the result. A field or a template that does not exist is an example.

        Args:
            text: the text, in which `{{ ... }}` are actions.
            html: whether it is HTML, so that values are escaped.

        Raises:
            GoTemplateError: the text, or a template that it calls, is invalid or not supported. Its `file` is
                None if the error is in the text itself; `line` and `column` are then those in the text.
        """
        *own, main = parse(Source(text), "", NAMES)
        definitions = _merged(self._definitions, own)
        errors: list[GoTemplateError] = []
        if html:
            rewriter = HtmlRewriter(lambda call: definitions.get(call.name))
            try:
                name = rewriter.rewrite(main)
            except LaterError as error:
                return GoTemplate({}, "", [error])
            units = {key: Unit(each) for key, each in rewriter.definitions.items()}
        else:
            name = main.name
            units = {each.name: self._unit(each) for each in _reachable(main, definitions)}
        for unit in units.values():
            errors += unit.errors
            errors += _undefined(unit.definition, definitions)
        checker = FieldChecker(lambda call: definitions.get(call.name))
        checker.check(main)
        errors += checker.errors
        return GoTemplate(units, name, {str(error): error for error in errors}.values())

    def _unit(self, definition: Definition) -> Unit:
        """Return a definition compiled, once for all texts that call it."""
        if _defaults().get(definition.name) is definition:
            return _default_unit(definition.name)
        if self._definitions.get(definition.name) is not definition:
            return Unit(definition)
        unit = self._units.get(definition.name)
        if unit is None:
            unit = self._units[definition.name] = Unit(definition)
        return unit

    def _add(self, source: Source, name: str) -> None:
        *own, main = parse(source, name, NAMES)
        self._definitions = _merged(self._definitions, [*own, main] if name else own)


@cache
def _defaults() -> Mapping[str, Definition]:
    """Return the default templates by name; they are parsed once for all files."""
    *definitions, _ = parse(Source(DEFAULT_TEMPLATES, "the default templates"), "", NAMES)
    return _merged({}, definitions)


@cache
def _default_unit(name: str) -> Unit:
    return Unit(_defaults()[name])


def _merged(definitions: Mapping[str, Definition], new: Iterable[Definition]) -> dict[str, Definition]:
    """Return definitions with new ones, which replace others unless they are blank."""
    merged = dict(definitions)
    for definition in new:
        if definition.name not in merged or not definition.is_blank:
            merged[definition.name] = definition
    return merged


def _reachable(main: Definition, definitions: Mapping[str, Definition]) -> Iterable[Definition]:
    """Yield a definition and all that it calls."""
    waiting, found = [main], {main.name}
    while waiting:
        definition = waiting.pop()
        yield definition
        called = {call.name for call in _calls(definition.body)} - found
        found |= called
        waiting += [definitions[name] for name in sorted(called) if name in definitions]


def _undefined(definition: Definition, definitions: Mapping[str, Definition]) -> Iterable[LaterError]:
    """Yield an error for each call of a template that does not exist."""
    for call in _calls(definition.body):
        if call.name.split(IN_HTML)[0] not in definitions:
            hint = did_you_mean(call.name, definitions)
            message = f"the template {call.name!r} is not defined{hint}"
            yield definition.source.later_error(call.offset, message)


def _calls(body: Body) -> Iterable[Call]:
    for node in body:
        if isinstance(node, Call):
            yield node
        elif isinstance(node, Branch):
            yield from _calls(node.body)
            yield from _calls(node.otherwise)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has more than {MAX_SIZE} bytes")
    return data.decode("utf-8", "surrogateescape")
