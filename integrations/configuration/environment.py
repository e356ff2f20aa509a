"""Values of the environment in a text: `${NAME}` and `${NAME:-default}`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# A `${` that is not the beginning of one of the forms matches as the last and is refused.
_PLACE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}|(?P<bad>\$\{)",
    re.ASCII,
)


class ExpansionError(ValueError):
    """A text with places for values of the environment could not be filled in; the text is not shown."""


class MissingVariableError(ExpansionError):
    """A text names a variable of the environment that is not set, and gives no default.

    Args:
        variable: its name.
    """

    def __init__(self, variable: str) -> None:
        super().__init__(f"the environment variable {variable} is not set")
        self.variable = variable


def expand(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Put values of the environment into a text, as they are: what belongs into a URL is encoded already.

    `${NAME}` is the value of a variable, `${NAME:-default}` the default where it is not set or empty, and
    `$${` stands for `${` itself. A default cannot have another place in it.

    Args:
        text: what holds the places.
        environ: the variables; those of the process if left out.

    Raises:
        MissingVariableError: a variable is not set.
        ExpansionError: a `${` begins none of these forms.
    """
    filled, error = _fill(text, os.environ if environ is None else environ)
    if error is not None:
        del text, environ, filled  # some reports of errors show the variables of a frame
        raise error
    return filled


def _fill(text: str, environ: Mapping[str, str]) -> tuple[str, ExpansionError | None]:
    errors: list[ExpansionError] = []

    def value(place: re.Match[str]) -> str:
        name, default = place["name"], place["default"]
        if place["escaped"]:
            return "${"
        if name is None:
            errors.append(
                ExpansionError("a ${ is not followed by a name and }; write $${ for the characters")
            )
            return ""
        found = environ.get(name)
        if default is not None:
            return found or default
        if found is None:
            errors.append(MissingVariableError(name))
        return found or ""

    filled = _PLACE.sub(value, text)
    return filled, errors[0] if errors else None
