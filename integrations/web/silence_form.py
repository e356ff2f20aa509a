"""The form for silences on the live page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import Silence

_MAX_LENGTHS = {"matchers": 4_000, "duration": 50, "comment": 1_000, "created_by": 200}
_YEAR = 365 * 86_400.0


class FormError(HTTPException):
    """A form is invalid; answered with status 400.

    Attributes:
        problems: the problem of each field; the key of problems with the whole form is empty.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        texts = (f"{name}: {problem}" if name else problem for name, problem in problems.items())
        super().__init__(400, "; ".join(texts))
        self.problems = dict(problems)


def parse_silence(form: object, now: float) -> Silence:
    """Return the silence that a form describes with `matchers`, `duration`, `comment` and `created_by`.

    Args:
        form: the decoded JSON.
        now: the start of the silence, in seconds since 1970.

    Raises:
        FormError: a field is invalid; the error names all of them.
    """
    # Imported here: a page without alerts does not need the packages of the `alerts` extra.
    from codomyrmex.integrations.configuration.durations import Duration
    from codomyrmex.integrations.notification import Silence, parse_matchers

    fields = text_fields(form, _MAX_LENGTHS)
    problems: dict[str, str] = {}
    seconds = 0.0
    matchers: Any = ()
    try:
        seconds = Duration.parse(fields["duration"])
        if not 0 < seconds <= _YEAR:
            problems["duration"] = f"must be greater than 0 and at most a year, got {fields['duration']}"
    except ValueError as error:
        problems["duration"] = str(error)
    try:
        matchers = tuple(parse_matchers(fields["matchers"]))
        if not matchers:
            problems["matchers"] = 'at least one matcher is required, such as alertname="DiskFull"'
    except ValueError as error:
        problems["matchers"] = str(error)
    if problems:
        raise FormError(problems)
    try:
        return Silence(matchers, now, now + seconds, fields["created_by"], fields["comment"])
    except ValueError as error:
        raise FormError({"matchers": str(error)}) from None


def text_fields(form: object, max_lengths: Mapping[str, int]) -> dict[str, str]:
    """Return the fields of a form without surrounding spaces; missing fields are empty."""
    if not isinstance(form, Mapping):
        raise FormError({"": "the form must be a JSON object"})
    unknown = sorted(str(name) for name in form.keys() - max_lengths.keys())
    if unknown:
        raise FormError({"": f"unknown field: {', '.join(unknown)[:100]}"})
    problems: dict[str, str] = {}
    for name, value in form.items():
        if not isinstance(value, str):
            problems[name] = "must be text"
        elif len(value) > max_lengths[name]:
            problems[name] = f"too long: at most {max_lengths[name]} characters are allowed"
    if problems:
        raise FormError(problems)
    return {name: form.get(name, "").strip() for name in max_lengths}
