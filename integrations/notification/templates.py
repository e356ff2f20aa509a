"""Templates of texts in plain text, Markdown or HTML, with Jinja in its sandbox.

What a template prints of its values is escaped for the format; `|safe` prints a value as it is. The
sandbox keeps values from being called into, and stops the common mistakes that would take all memory or
time. It is no wall against someone who writes templates to do harm.
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

# What means something anywhere, and what does so only where a line begins (CommonMark 0.31).
_MARKDOWN = re.compile(r"[\\`*_\[\]|~]|^[ \t]*(?:[-+=#]|[0-9]+(?=[.)]))", re.MULTILINE)


class TemplateError(DeliveryError, ValueError):
    """A template is wrong, or did not work with the values it got.

    Args:
        message: what is wrong.
        line: in which line of the template; None where that is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class Template:
    """A compiled template; made by `compile_template`."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def render(self, **values: object) -> str:
        """Fill in values; what is missing is empty, also what would be inside it.

        More than `MAX_RENDERED` characters are cut, with a mark.

        Raises:
            TemplateError: it does not work with these values.
        """
        parts: list[str] = []
        left = MAX_RENDERED
        try:
            for part in self._template.generate(**values):
                parts.append(part[:left])
                left -= len(part)
                if left < 0:
                    parts.append(CUT)
                    break
        except Exception as error:  # noqa: BLE001 - templates can raise anything
            frames = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == "<template>"]
            raise TemplateError(_said(error), frames[-1].lineno if frames else None) from None
        return "".join(parts)


def compile_template(source: str, format: str = "text") -> Template:  # noqa: A002 - as channels call it
    """Compile a Jinja template.

    Args:
        source: the template.
        format: `text`, `markdown` or `html`: what values are escaped for.

    Raises:
        TemplateError: it is no template; with the line.
        MissingExtraError: Jinja is not installed.
        ValueError: the format is unknown.
        TypeError: the source is not a text.
    """
    if not isinstance(source, str):
        raise TypeError(f"a template is a text, not {type(source).__name__}")
    environment = _environment(check_format(format))
    try:
        return Template(environment.from_string(source))
    except Exception as error:  # noqa: BLE001 - mostly a TemplateSyntaxError; a RecursionError, say
        raise TemplateError(_said(error), getattr(error, "lineno", None)) from None


def check_format(format: str) -> str:  # noqa: A002 - as above
    """Give a format back if it is one, and raise a ValueError if not."""
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    return format


def escape(text: str, format: str) -> str:  # noqa: A002 - as above
    """Make a text that reads as it is in a format.

    Args:
        text: plain text.
        format: `text`, `markdown` or `html`.
    """
    if format == "html":
        return html.escape(text)
    if format == "markdown":
        return html.escape(_MARKDOWN.sub(_escaped, text), quote=False)
    return text


def _escaped(special: re.Match[str]) -> str:
    found = special[0]
    return f"{found}\\" if found[-1].isdigit() else f"{found[:-1]}\\{found[-1]}"


def _said(error: Exception) -> str:
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
            if operator == "**":  # 9**9**9 takes all time
                raise jinja2.exceptions.SecurityError("** is not allowed")
            if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
                raise jinja2.exceptions.SecurityError("* is allowed for numbers only")
            return left * right

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, dict) and attribute in obj:  # `data.items` is what is there, not a method
                return obj[attribute]
            return super().getattr(obj, attribute)

    finalize: Callable[[Any], Any] | None = None
    if format == "markdown":
        markup: Any = import_module("markupsafe").Markup

        def finalize(value: Any) -> Any:
            return value if hasattr(value, "__html__") else markup(escape(str(value), format))

    # Markdown is marked as safe once it is escaped; so what a macro gives is not escaped twice.
    return Environment(undefined=jinja2.ChainableUndefined, autoescape=format != "text", finalize=finalize)
