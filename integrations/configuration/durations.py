"""`Duration`: a time span as Prometheus writes it, such as `30s` or `1h30m`."""

from __future__ import annotations

import re
from typing import ClassVar, Self

_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PATTERN = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS))
_MOST = 292 * 31_536_000.0  # what Go can hold


class Duration(float):
    """Seconds, read from and shown as text like `1h30m` (Prometheus, `model.ParseDuration`)."""

    __slots__ = ()
    expects: ClassVar[str] = "a duration like 30s, 5m or 1h30m"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a duration: whole numbers with y, w, d, h, m, s, ms, in this order; or 0.

        Raises:
            ValueError: it is none.
        """
        if text == "0":
            return cls(0)
        match = _PATTERN.fullmatch(text)
        if not text or match is None:
            hint = f", such as {text}s" if re.fullmatch("[0-9]+", text) else ""
            if re.fullmatch(r"[0-9]+\.[0-9]+[a-z]+", text):
                hint = "; there are no fractions, so 1500ms and not 1.5s"
            raise ValueError(f"{text!r} is not {cls.expects}{hint}")
        seconds = sum(
            int(number) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True) if number
        )
        if seconds > _MOST:
            raise ValueError(f"{text!r} is longer than 292 years")
        return cls(seconds)

    def __str__(self) -> str:
        left = round(self * 1000)
        if left == 0:
            return "0s"
        text = ""
        for unit, size in _UNITS.items():
            number, rest = divmod(left, round(size * 1000))
            if number and (unit not in {"y", "w"} or not rest):  # 8d rather than 1w1d
                text, left = f"{text}{number}{unit}", rest
        return text

    __repr__ = __str__
