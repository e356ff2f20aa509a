"""The form for a silence: what is written in it, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import Silence

_LONGEST = {"matchers": 4_000, "duration": 50, "comment": 1_000, "created_by": 200}
_YEAR = 365 * 86_400.0


class FormError(ValueError):
    """Something in a form is wrong.

    Attributes:
        problems: what, by field; that of the whole form stands under an empty name.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {said}" if name else said for name, said in problems.items()))
        self.problems = dict(problems)


def read_silence(form: object, now: float) -> Silence:
    """Make a silence of a form: `matchers`, `duration`, `comment` and `created_by`, all of them text.

    Args:
        form: what was sent.
        now: when the silence begins, in seconds since 1970.

    Raises:
        FormError: it has mistakes; all of them.
    """
    fields = read_fields(form, _LONGEST)
    # Who gave the sink whose silences these are has all that it needs; nobody else comes here.
    from codomyrmex.integrations.configuration.durations import Duration
    from codomyrmex.integrations.notification import Silence, parse_matchers

    problems: dict[str, str] = {}
    seconds = 0.0
    matchers: Any = ()
    try:
        seconds = Duration.parse(fields["duration"])
        if not 0 < seconds <= _YEAR:
            problems["duration"] = "a silence lasts longer than nothing, and a year at most"
    except ValueError as error:
        problems["duration"] = str(error)
    try:
        matchers = tuple(parse_matchers(fields["matchers"]))
        if not matchers:
            problems["matchers"] = 'at least one matcher is needed, such as alertname="DiskFull"'
    except ValueError as error:
        problems["matchers"] = str(error)
    if problems:
        raise FormError(problems)
    try:
        return Silence(matchers, now, now + seconds, fields["created_by"], fields["comment"])
    except ValueError as error:
        raise FormError({"matchers": str(error)}) from None


def read_fields(form: object, longest: Mapping[str, int]) -> dict[str, str]:
    """Give the fields of a form, without spaces around; one that is left out is empty.

    Raises:
        FormError: it is no form, or has fields that are unknown, too long, or no text.
    """
    if not isinstance(form, Mapping):
        raise FormError({"": "a JSON object is expected"})
    unknown = sorted(str(name) for name in form.keys() - longest.keys())
    if unknown:
        raise FormError({"": f"there is no field {', '.join(unknown)[:100]}"})
    problems: dict[str, str] = {}
    for name, value in form.items():
        if not isinstance(value, str):
            problems[name] = "text is expected"
        elif len(value) > longest[name]:
            problems[name] = f"that is too long; {longest[name]} characters at most"
    if problems:
        raise FormError(problems)
    return {name: form.get(name, "").strip() for name in longest}
