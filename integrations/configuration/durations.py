"""`Duration`, a time span in Prometheus notation such as `1h30m`, and checks of plain seconds."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Self

_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PATTERN = re.compile("".join(rf"(?:([0-9]{{1,18}}){unit})?" for unit in _UNITS))
_MAX_SECONDS = 292 * 31_536_000.0  # the range of Go's time.Duration


class Duration(float):
    """Seconds, parsed from and shown as text like `1h30m` (Prometheus, `model.ParseDuration`)."""

    __slots__ = ()
    expects: ClassVar[str] = "a duration like 30s, 5m or 1h30m"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse whole numbers with the units y, w, d, h, m, s and ms, in this order; or `0`.

        Raises:
            ValueError: the text is not a duration.
        """
        if text == "0":
            return cls(0)
        match = _PATTERN.fullmatch(text)
        if not text or match is None:
            hint = f"; write {text}s for seconds" if re.fullmatch("[0-9]+", text) else ""
            if re.fullmatch(r"[0-9]+\.[0-9]+[a-z]+", text):
                hint = "; fractions are not supported, write 1500ms and not 1.5s"
            raise ValueError(f"{text!r} is not {cls.expects}{hint}")
        counts = zip(match.groups(), _UNITS.values(), strict=True)
        seconds = sum(int(count) * unit for count, unit in counts if count)
        if seconds > _MAX_SECONDS:
            raise ValueError(f"{text!r} is longer than 292 years")
        return cls(seconds)

    def __str__(self) -> str:
        milliseconds = round(self * 1000)
        if milliseconds == 0:
            return "0s"
        text = ""
        for unit, size in _UNITS.items():
            count, remainder = divmod(milliseconds, round(size * 1000))
            if count and (unit not in {"y", "w"} or not remainder):  # 8d rather than 1w1d
                text, milliseconds = f"{text}{count}{unit}", remainder
        return text

    __repr__ = __str__


def check_seconds(name: str, value: object, *, zero: bool = False, finite: bool = False) -> None:
    """Raise an error unless a value is a number of seconds.

    Args:
        name: the location of the value, for the message.
        value: the value to check.
        zero: whether 0 is allowed.
        finite: whether infinity is refused.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, not a number (NaN), or one of the values that are not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: must be a number of seconds, got {value!r}")
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: must be {'at least' if zero else 'greater than'} 0, got {value}s")
    if finite and math.isinf(value):
        raise ValueError(f"{name}: must be finite, got {value}s")
