"""`TimeInterval`: when a route is muted or active, by Alertmanager's rules."""

from __future__ import annotations

import calendar
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
_MINUTES = 24 * 60
_LAST_YEAR = 9998
_YEARS_TO_SEARCH = 41  # within this many years, also around 2100, each date falls on each day of the week
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


class _Range(tuple[int, int]):
    """The first and the last number of a range.

    Attributes:
        expects: what a text should be.
        allowed: the words that may be used.
        names: words for the numbers from `first_name` on.
        numbers: the numbers that may be written as such.
    """

    __slots__ = ()
    expects: ClassVar[str]
    allowed: ClassVar[str]
    names: ClassVar[Sequence[str]] = ()
    first_name: ClassVar[int] = 0
    numbers: ClassVar[Container[int]] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        first, colon, last = (part.strip() for part in text.lower().partition(":"))
        begin = cls._number(first)
        end = cls._number(last) if colon else begin
        if cls._position(begin) > cls._position(end):
            split = (
                f"; write two ranges: {first}:{cls.names[-1]} and {cls.names[0]}:{last}" if cls.names else ""
            )
            raise ValueError(f"{text!r} ends before it begins{split}")
        return cls((begin, end))

    @classmethod
    def _number(cls, word: str) -> int:
        if word in cls.names:
            return cls.names.index(word) + cls.first_name
        if re.fullmatch("-?[0-9]+", word) is not None and int(word) in cls.numbers:
            return int(word)
        raise ValueError(f"{word!r} is not {cls.expects.partition(' or ')[0]}; use {cls.allowed}")

    @classmethod
    def _position(cls, number: int) -> int:
        return number


class WeekdayRange(_Range):
    """Days of the week; 0 is Sunday."""

    __slots__ = ()
    expects = "a weekday or a range like monday:friday"
    allowed = ", ".join(_WEEKDAYS)
    names = _WEEKDAYS


class MonthRange(_Range):
    """Months; 1 is January."""

    __slots__ = ()
    expects = "a month or a range like june:august or 6:8"
    allowed = f"1 to 12, or {', '.join(_MONTHS)}"
    names = _MONTHS
    first_name = 1
    numbers = range(1, 13)


class YearRange(_Range):
    """Years."""

    __slots__ = ()
    expects = "a year or a range like 2026:2027"
    allowed = "a number"
    numbers = range(10_000)


class DayOfMonthRange(_Range):
    """Days of the month from 1, or from -1, the last one, backwards."""

    __slots__ = ()
    expects = "a day of the month or a range like 1:5 or -3:-1"
    allowed = "1 to 31, or -1 to -31 from the end"
    numbers = (*range(-31, 0), *range(1, 32))

    @classmethod
    def parse(cls, text: str) -> Self:
        found = super().parse(text)
        if found[0] < 0 < found[1]:
            raise ValueError(f"{text!r}: what begins with a day from the end must end with one, like -3:-1")
        return found

    @classmethod
    def _position(cls, number: int) -> int:
        return number % 32  # in the longest month, -1 is the 31st

    def holds(self, day: int, length: int) -> bool:
        """Return whether a day is in the range, in a month of this length."""
        first, last = (end if end > 0 else length + end + 1 for end in self)
        return first <= length and max(first, 1) <= day <= min(last, length)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Minutes of a day; the end is not included."""

    start: int
    end: int

    def holds(self, minute: int) -> bool:
        return self.start <= minute < self.end


def time_range(start: str, end: str) -> TimeRange:
    """Return the range between two times like `09:00`; the end may be `24:00`.

    Raises:
        ValueError: one is not a time, or the start is not before the end.
    """
    first, last = _minute(start), _minute(end)
    if first == _MINUTES:
        raise ValueError("start_time: must be before 24:00")
    if first >= last:
        raise ValueError(
            f"start_time: must be before end_time, got {start} and {end}; "
            f"to span midnight, write two ranges: {start} to 24:00 and 00:00 to {end}"
        )
    return TimeRange(first, last)


class Location:
    """A time zone of the IANA database; `Local` is that of the machine."""

    expects: ClassVar[str] = "a time zone like Europe/Vienna"

    @classmethod
    def parse(cls, text: str) -> tzinfo:
        if not text:
            return UTC
        if text == "Local":
            return datetime.now().astimezone().tzinfo or UTC
        try:
            return ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{text!r} is not {cls.expects}") from None


@dataclass(frozen=True, slots=True)
class TimeSpec:
    """One condition on a time: each field that is set must hold, in any of its ranges.

    A field with an empty list of ranges never holds.
    """

    times: Sequence[TimeRange] | None = None
    weekdays: Sequence[WeekdayRange] | None = None
    days_of_month: Sequence[DayOfMonthRange] | None = None
    months: Sequence[MonthRange] | None = None
    years: Sequence[YearRange] | None = None
    location: tzinfo = UTC

    def holds(self, moment: datetime) -> bool:
        """Return whether the condition holds at an aware time."""
        local = moment.astimezone(self.location)
        minute = local.hour * 60 + local.minute
        in_time = self.times is None or any(each.holds(minute) for each in self.times)
        return in_time and self._holds_on(local)

    def _holds_on(self, day: datetime) -> bool:
        if self.days_of_month is not None:
            length = calendar.monthrange(day.year, day.month)[1]
            if not any(each.holds(day.day, length) for each in self.days_of_month):
                return False
        return (
            _contains(self.weekdays, day.isoweekday() % 7)
            and _contains(self.months, day.month)
            and _contains(self.years, day.year)
        )

    def ever_from(self, moment: datetime) -> bool:
        """Return whether the condition holds at any time from a moment on."""
        if self.times is not None and not self.times:
            return False
        first = moment.astimezone(self.location)
        years = [year for year in range(first.year, _LAST_YEAR + 1) if _contains(self.years, year)]
        for year in years[:_YEARS_TO_SEARCH]:
            day = first if year == first.year else datetime(year, 1, 1, tzinfo=self.location)
            while day.year == year:
                if self._holds_on(day):
                    return True
                day += timedelta(days=1)
        return False


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """A name for some conditions on a time, of which one must hold."""

    name: str
    specs: Sequence[TimeSpec]

    def holds(self, moment: datetime) -> bool:
        """Return whether an aware time is in the interval."""
        return any(spec.holds(moment) for spec in self.specs)

    def ever_from(self, moment: datetime) -> bool:
        """Return whether any time from a moment on is in the interval."""
        return any(spec.ever_from(moment) for spec in self.specs)


def _contains(ranges: Sequence[_Range] | None, value: int) -> bool:
    return ranges is None or any(first <= value <= last for first, last in ranges)


def _minute(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time; use HH:MM, from 00:00 to 24:00")
    return _MINUTES if match[1] is None else int(match[1]) * 60 + int(match[2])
