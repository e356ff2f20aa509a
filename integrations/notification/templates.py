"""Templates for plain text, Markdown and HTML, with Jinja in its sandbox.

Values are escaped for the format; `|safe` prints a value as it is. The sandbox prevents calls into values
and the common mistakes that would exhaust memory or time. It is no protection against malicious templates.
"""

from __future__ import annotations

import html
import re
import traceback
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DeliveryError

FORMATS = ("text", "markdown", "html")
MAX_RENDERED = 65_536  # characters
CUT = " [cut]"
_MAX_DEPTH = 30  # of the syntax tree; the time that Jinja takes grows with its square

# Special anywhere, or only at the start of a line (CommonMark 0.31).
_MARKDOWN = re.compile(r"[\\`*_\[\]|~]|^[ \t]*(?:[-+=#]|[0-9]+(?=[.)]))", re.MULTILINE)


class TemplateError(DeliveryError, ValueError):
    """A template is invalid, or failed with the given values; `line` is None if unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class Template:
    """A compiled template, made by `compile_template`."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def render(self, **values: object) -> str:
        """Return the text, or raise a `TemplateError`.

        Missing values, and attributes of missing values, are empty. More than `MAX_RENDERED` characters are
        cut and marked.
        """
        parts: list[str] = []
        remaining = MAX_RENDERED
        try:
            for part in self._template.generate(**values):
                parts.append(part[:remaining])
                remaining -= len(part)
                if remaining < 0:
                    parts.append(CUT)
                    break
        except Exception as error:  # noqa: BLE001 - templates can raise anything
            frames = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == "<template>"]
            raise TemplateError(_describe(error), frames[-1].lineno if frames else None) from None
        return "".join(parts)


def compile_template(source: str, format: str = "text") -> Template:  # noqa: A002 - the term of channels
    """Compile a Jinja template.

    Args:
        source: the template.
        format: `text`, `markdown` or `html`; values are escaped for it.

    Raises:
        TemplateError: the template is invalid.
        MissingExtraError: Jinja is not installed.
        ValueError: the format is unknown.
        TypeError: the source is not a str.
    """
    if not isinstance(source, str):
        raise TypeError(f"template: must be a string, got {type(source).__name__}")
    environment = _environment(check_format(format))
    try:
        parsed = environment.parse(source, filename="<template>")
        _check_depth(parsed)
        return Template(environment.from_string(parsed))
    except TemplateError:
        raise
    except Exception as error:  # noqa: BLE001 - mostly TemplateSyntaxError, but also RecursionError
        raise TemplateError(_describe(error), getattr(error, "lineno", None)) from None


def _check_depth(parsed: Any) -> None:
    """Raise an error if a template is nested so deeply that Python would take long to compile it."""
    level = [parsed]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise TemplateError(f"must not be nested deeper than {_MAX_DEPTH}", level[0].lineno)


def check_format(format: str) -> str:  # noqa: A002 - as above
    """Return a format, or raise a ValueError if it is unknown."""
    if format not in FORMATS:
        raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {format!r}")
    return format


def escape(text: str, format: str) -> str:  # noqa: A002 - as above
    """Return plain text escaped for a format: `text`, `markdown` or `html`."""
    if format == "html":
        return html.escape(text)
    if format == "markdown":
        return html.escape(_MARKDOWN.sub(_escape_markdown, text), quote=False)
    return text


def _escape_markdown(match: re.Match[str]) -> str:
    special = match[0]
    return f"{special}\\" if special[-1].isdigit() else f"{special[:-1]}\\{special[-1]}"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


@lru_cache
def _environment(format: str) -> Any:  # noqa: A002 - as above
    try:
        jinja2: Any = import_module("jinja2")
        sandbox: Any = import_module("jinja2.sandbox")
    except ImportError as error:
        raise MissingExtraError("templates", "jinja2", "alerts") from error

    class Environment(sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc]
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
            if operator == "**":  # 9**9**9 would never finish
                raise jinja2.exceptions.SecurityError("** is not allowed")
            if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
                raise jinja2.exceptions.SecurityError("* is only allowed for numbers")
            return left * right

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, dict) and attribute in obj:  # `data.items` is the key, not the method
                return obj[attribute]
            return super().getattr(obj, attribute)

    finalize: Callable[[Any], Any] | None = None
    if format == "markdown":
        markup: Any = import_module("markupsafe").Markup

        def finalize(value: Any) -> Any:
            return value if hasattr(value, "__html__") else markup(escape(str(value), format))

    # Escaped Markdown is marked as safe, so that the output of a macro is not escaped twice.
    return Environment(undefined=jinja2.ChainableUndefined, autoescape=format != "text", finalize=finalize)
