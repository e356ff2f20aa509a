"""Go's times and durations: their texts, methods and layouts, such as `2006-01-02 15:04`."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Self
from zoneinfo import ZoneInfo

from codomyrmex.integrations.notification.go_templates.errors import GoError

SECOND = 1_000_000_000  # nanoseconds
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_MONTHS = list(calendar.month_name)
_DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
_MAX_DURATION = 2**63 - 1
_NOON = 12


class Duration(int):
    """A duration in nanoseconds."""

    def __str__(self) -> str:
        size = abs(self)
        if size < SECOND:
            for unit, name in ((1_000_000, "ms"), (1_000, "µs"), (1, "ns")):
                if size >= unit:
                    return f"{'-' if self < 0 else ''}{_decimal(size, unit)}{name}"
            return "0s"
        minutes, nanoseconds = divmod(size, 60 * SECOND)
        hours, minutes = divmod(minutes, 60)
        text = f"{_decimal(nanoseconds, SECOND)}s"
        if hours or minutes:
            text = f"{minutes}m{text}"
        return f"{'-' if self < 0 else ''}{f'{hours}h' if hours else ''}{text}"

    def truncate(self, unit: int) -> Duration:
        """Return the duration without what is left over from whole units."""
        return Duration(self) if unit <= 0 else Duration(abs(self) // unit * unit * (-1 if self < 0 else 1))

    def round(self, unit: int) -> Duration:
        """Return the duration rounded to whole units, halves away from zero."""
        if unit <= 0:
            return Duration(self)
        return Duration((abs(self) + unit // 2) // unit * unit * (-1 if self < 0 else 1))


class Month(int):
    """A month, from 1."""

    def __str__(self) -> str:
        return _MONTHS[self]


class Weekday(int):
    """A day of the week, from 0 for Sunday."""

    def __str__(self) -> str:
        return _DAYS[self]


@dataclass(frozen=True, slots=True)
class Time:
    """A time with nanoseconds.

    Args:
        moment: the time without its fraction of a second, with a time zone.
        nanoseconds: the fraction.
    """

    moment: datetime
    nanoseconds: int = 0

    @classmethod
    def now(cls) -> Self:
        """Return the time of the system's clock."""
        now = datetime.now(UTC)
        return cls(now.replace(microsecond=0), now.microsecond * 1_000)

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def format(self, layout: str) -> str:
        """Return the time in a layout of Go."""
        return "".join([part if print_ is None else print_(self) for part, print_ in _parts_of(layout)])

    def zone(self) -> str:
        """Return the abbreviation of the time zone, or its offset if it has none."""
        name = self.moment.tzname() or ""
        return _offset(self, "-0700") if name.startswith("UTC") and len(name) > len("UTC") else name

    def unix(self) -> int:
        """Return the seconds since 1970."""
        return (self.moment - _EPOCH) // timedelta(seconds=1)

    def unix_nano(self) -> int:
        """Return the nanoseconds since 1970."""
        return self.unix() * SECOND + self.nanoseconds

    def in_zone(self, zone: tzinfo | None) -> Time:
        """Return the time in another time zone; None for that of the machine."""
        try:
            return Time(self.moment.astimezone(zone), self.nanoseconds)
        except OverflowError:  # the zero time west of Greenwich
            return self

    def add(self, duration: int) -> Time:
        """Return a later time, or raise a `GoError`."""
        seconds, nanoseconds = divmod(self.nanoseconds + duration, SECOND)
        try:
            zone = self.moment.tzinfo
            moment = (self.moment.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(zone)
        except OverflowError:
            raise GoError(f"the time {self} cannot be moved by {Duration(duration)}") from None
        return Time(moment, nanoseconds)

    def add_date(self, years: int, months: int, days: int) -> Time:
        """Return the time some years, months and days later, or raise a `GoError`."""
        total = self.moment.month - 1 + months + 12 * years
        try:
            moment = self.moment.replace(year=self.moment.year + total // 12, month=total % 12 + 1, day=1)
            return Time(moment + timedelta(days=self.moment.day - 1 + days), self.nanoseconds)
        except (OverflowError, ValueError):
            raise GoError(f"the time {self} cannot be moved that far") from None

    def since(self, earlier: Time) -> Duration:
        """Return the time that has passed since an earlier one."""
        difference = self.unix_nano() - earlier.unix_nano()
        return Duration(max(min(difference, _MAX_DURATION), -_MAX_DURATION - 1))

    def truncate(self, unit: int) -> Time:
        """Return the time rounded down to whole units since the year 1."""
        return self if unit <= 0 else self.add(-(self.since_zero() % unit))

    def round(self, unit: int) -> Time:
        """Return the time rounded to whole units since the year 1, halves up."""
        if unit <= 0:
            return self
        rest = self.since_zero() % unit
        return self.add(unit - rest if rest * 2 >= unit else -rest)

    def since_zero(self) -> int:
        """Return the nanoseconds since the year 1."""
        return (self.moment - _ZERO) // timedelta(seconds=1) * SECOND + self.nanoseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO = datetime(1, 1, 1, tzinfo=UTC)


@lru_cache(4096)
def parse_time(text: object) -> Time:
    """Return the time of a text like `2026-01-02T03:04:05Z`; Go's zero time for anything else."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return Time(_ZERO)
    zone: tzinfo = UTC
    if match[4]:
        offset = timedelta(hours=int(match[5]), minutes=int(match[6]))
        zone = timezone(offset if match[4] == "+" else -offset)
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=zone)
    except ValueError:
        return Time(_ZERO)
    return Time(moment, int((match[3] or "0").ljust(9, "0")))


def zone_of(name: str) -> tzinfo | None:
    """Return a time zone by its name, or raise a `GoError`; None for that of the machine."""
    if name in {"", "UTC"}:
        return UTC
    if name == "Local":
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise GoError(f"unknown time zone {name}") from None


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(unit + rest)[1:].rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


_LAYOUT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|_2006|2006|__2|_2|002|0[1-6]|15|[1-5]|PM|pm"
    r"|[Z-]07:00:00|[Z-]070000|[Z-]07:00|[Z-]0700|[Z-]07|[.,](?:0+|9+)(?![0-9])"
)
_PARTS: dict[str, Callable[[datetime], str]] = {
    "January": lambda at: _MONTHS[at.month],
    "Jan": lambda at: _MONTHS[at.month][:3],
    "1": lambda at: str(at.month),
    "01": lambda at: f"{at.month:02}",
    "Monday": lambda at: _DAYS[at.isoweekday() % 7],
    "Mon": lambda at: _DAYS[at.isoweekday() % 7][:3],
    "2": lambda at: str(at.day),
    "_2": lambda at: f"{at.day:2}",
    "02": lambda at: f"{at.day:02}",
    "__2": lambda at: f"{at.timetuple().tm_yday:3}",
    "002": lambda at: f"{at.timetuple().tm_yday:03}",
    "15": lambda at: f"{at.hour:02}",
    "3": lambda at: str(at.hour % 12 or 12),
    "03": lambda at: f"{at.hour % 12 or 12:02}",
    "4": lambda at: str(at.minute),
    "04": lambda at: f"{at.minute:02}",
    "5": lambda at: str(at.second),
    "05": lambda at: f"{at.second:02}",
    "2006": lambda at: f"{at.year:04}",
    "_2006": lambda at: f"_{at.year:04}",
    "06": lambda at: f"{at.year % 100:02}",
    "PM": lambda at: "PM" if at.hour >= _NOON else "AM",
    "pm": lambda at: "pm" if at.hour >= _NOON else "am",
}


@lru_cache(256)
def _parts_of(layout: str) -> list[tuple[str, Callable[[Time], str] | None]]:
    """Return the parts of a layout, with functions that print those that stand for a time."""
    parts: list[tuple[str, Callable[[Time], str] | None]] = []
    end = 0
    for match in _LAYOUT.finditer(layout):
        parts += [(layout[end : match.start()], None), (match[0], _printer_of(match[0]))]
        end = match.end()
    return [*parts, (layout[end:], None)]


def _printer_of(part: str) -> Callable[[Time], str]:
    if part in _PARTS:
        print_ = _PARTS[part]
        return lambda time: print_(time.moment)
    if part == "MST":
        return Time.zone
    if part[0] in "Z-":
        return lambda time: _offset(time, part)
    return lambda time: _fraction(time, part)


def _fraction(time: Time, part: str) -> str:
    """Return the fraction of a second like `.000` or, without zeros at the end, like `.999`."""
    digits = f"{time.nanoseconds:09}"[: len(part) - 1].ljust(len(part) - 1, "0")
    if part[1] == "9":
        digits = digits.rstrip("0")
    return f"{part[0]}{digits}" if digits else ""


def _offset(time: Time, part: str) -> str:
    """Return the offset from UTC like `-0700`, or like `Z0700`, which is `Z` for UTC."""
    offset = round((time.moment.utcoffset() or timedelta()).total_seconds())
    if part[0] == "Z" and not offset:
        return "Z"
    minutes, seconds = divmod(abs(offset), 60)
    hours, minutes = divmod(minutes, 60)
    colon = ":" if ":" in part else ""
    digits = part[1:].replace(":", "")
    texts = [f"{hours:02}", f"{minutes:02}", f"{seconds:02}"][: len(digits) // 2]
    return f"{'-' if offset < 0 else '+'}{colon.join(texts)}"
