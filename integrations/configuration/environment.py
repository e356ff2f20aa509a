"""`expand`: references to environment variables in a text; and `Secret`, text that is never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar, Self
from urllib.parse import quote

# The last alternative matches a `${` that starts none of the valid forms.
_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_]\w*)(?P<url>:url)?(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}"
    r"|(?P<invalid>\$\{)",
    re.ASCII,
)


def is_header_text(text: str) -> bool:
    """Return whether every client can send a text in an HTTP header: whether it is printable ASCII."""
    return text.isascii() and text.isprintable()


class Secret(str):
    """Text that its `repr` does not show."""

    __slots__ = ()
    expects: ClassVar[str] = "text"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(text)

    def __repr__(self) -> str:
        return "Secret(...)"


class ExpansionError(ValueError):
    """A text could not be expanded; the message does not show the text."""


class MissingVariableError(ExpansionError):
    """A text refers to an environment variable that is not set, without a default."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"the environment variable {variable} is not set")
        self.variable = variable


def expand(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Replace references to environment variables by their values, which are not expanded again.

    `${NAME}` is the value of a variable, `${NAME:-default}` the default if it is unset or empty, and
    `$${` a literal `${`. A default cannot contain a reference. `${NAME:url}` and `${NAME:url:-default}`
    encode the value for a place in a URL, as a password like `p@ss` needs it; the others do not.

    Args:
        text: the text.
        environ: the variables; `os.environ` if None.

    Raises:
        MissingVariableError: a variable is not set.
        ExpansionError: a `${` starts none of these forms.
    """
    expanded, error = _expand(text, os.environ if environ is None else environ)
    if error is not None:
        del text, environ, expanded  # some error reports show the variables of a frame
        raise error
    return expanded


def _expand(text: str, environ: Mapping[str, str]) -> tuple[str, ExpansionError | None]:
    errors: list[ExpansionError] = []

    def value_of(reference: re.Match[str]) -> str:
        name, default = reference["name"], reference["default"]
        if reference["escaped"]:
            return "${"
        if name is None:
            errors.append(ExpansionError("a ${ is not followed by a name and }; write $${ for a literal ${"))
            return ""
        value = environ.get(name)
        if value is None and default is None:
            errors.append(MissingVariableError(name))
        text = value or default or ""
        return quote(text, safe="") if reference["url"] else text

    expanded = _REFERENCE.sub(value_of, text)
    return expanded, errors[0] if errors else None
