"""Time intervals: when a route is muted or active, with Alertmanager's rules."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
_MINUTES = 24 * 60
_LAST_YEAR = 9998
_ALL_CALENDARS = 41  # so many years have every day of the week on every date, also around 2100
_NUMBER = re.compile("[0-9]+")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


class _Range(tuple[int, int]):
    """From the first to the last, both included."""

    __slots__ = ()
    expects: ClassVar[str]

    @classmethod
    def _ends(cls, text: str, number: Callable[[str], int]) -> Self:
        first, colon, last = text.strip().lower().partition(":")
        begin = number(first.strip())
        end = number(last.strip()) if colon else begin
        return cls((begin, end))


class WeekdayRange(_Range):
    """Days of the week, 0 is Sunday."""

    __slots__ = ()
    expects = "a weekday or a range like monday:friday"

    @classmethod
    def parse(cls, text: str) -> Self:
        found = cls._ends(text, lambda word: _index(word, WEEKDAYS, "weekday"))
        if found[0] > found[1]:
            raise ValueError(
                f"{text} goes over the end of the week, which begins on Sunday; "
                f"write two: {WEEKDAYS[found[0]]}:saturday and sunday:{WEEKDAYS[found[1]]}"
            )
        return found


class MonthRange(_Range):
    """Months, 1 is January."""

    __slots__ = ()
    expects = "a month or a range like june:august or 6:8"

    @classmethod
    def parse(cls, text: str) -> Self:
        def number(word: str) -> int:
            if _NUMBER.fullmatch(word) is None:
                return _index(word, MONTHS, "month") + 1
            if not 1 <= int(word) <= 12:  # noqa: PLR2004 - months
                raise ValueError(f"{word} is no month; they are 1 to 12")
            return int(word)

        found = cls._ends(text, number)
        if found[0] > found[1]:
            raise ValueError(
                f"{text} goes over the end of the year; write two: {found[0]}:12 and 1:{found[1]}"
            )
        return found


class YearRange(_Range):
    """Years."""

    __slots__ = ()
    expects = "a year or a range like 2026:2027"

    @classmethod
    def parse(cls, text: str) -> Self:
        def number(word: str) -> int:
            if _NUMBER.fullmatch(word) is None:
                raise ValueError(f"{word!r} is no year")
            return int(word)

        found = cls._ends(text, number)
        if found[0] > found[1]:
            raise ValueError(f"the year {found[0]} is after {found[1]}")
        return found


class DayOfMonthRange(_Range):
    """Days of the month from 1 on, or from -1, the last one, back."""

    __slots__ = ()
    expects = "a day of the month or a range like 1:5 or -3:-1"

    @classmethod
    def parse(cls, text: str) -> Self:
        def number(word: str) -> int:
            if re.fullmatch("-?[0-9]+", word) is None or not 1 <= abs(int(word)) <= 31:  # noqa: PLR2004 - days
                raise ValueError(
                    f"{word!r} is no day of a month; they are 1 to 31, or -1 to -31 from its end"
                )
            return int(word)

        found = cls._ends(text, number)
        first, last = found
        if first < 0 < last:
            raise ValueError(
                f"{text}: from a day counted from the end to one counted from the beginning there is none"
            )
        # In the longest month, a last day of -1 is the 31st.
        if (first if first > 0 else 32 + first) > (last if last > 0 else 32 + last):
            raise ValueError(f"{text}: the first day is after the last one")
        return found

    def holds(self, day: int, length: int) -> bool:
        """Tell whether a day is in it, in a month of this length."""
        first, last = (end if end > 0 else length + end + 1 for end in self)
        return first <= length and max(first, 1) <= day <= min(last, length)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Minutes of a day, the last one not included."""

    start: int
    end: int

    def holds(self, minute: int) -> bool:
        """Tell whether a minute of the day is in it."""
        return self.start <= minute < self.end


def time_range(start: str, end: str) -> TimeRange:
    """Make a range of two times like `09:00`; the end may be `24:00`.

    Raises:
        ValueError: a time is none, or the start is not before the end.
    """
    first, last = _minute(start), _minute(end)
    if first == _MINUTES:
        raise ValueError("24:00 can only be the end")
    if first >= last:
        raise ValueError(
            f"{start} is not before {end}; what goes over midnight is two ranges: "
            f"{start} to 24:00 and 00:00 to {end}"
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
            zone = datetime.now().astimezone().tzinfo
            return UTC if zone is None else zone
        try:
            return ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{text!r} is not {cls.expects}") from None


@dataclass(frozen=True, slots=True)
class TimeSpec:
    """One condition on a moment: each field that is given must hold, with any of its ranges.

    A field that is given and has no ranges never holds.
    """

    times: Sequence[TimeRange] | None = None
    weekdays: Sequence[WeekdayRange] | None = None
    days_of_month: Sequence[DayOfMonthRange] | None = None
    months: Sequence[MonthRange] | None = None
    years: Sequence[YearRange] | None = None
    location: tzinfo = UTC

    def holds(self, moment: datetime) -> bool:
        """Tell whether an aware moment is in it."""
        local = moment.astimezone(self.location)
        minute = local.hour * 60 + local.minute
        in_time = self.times is None or any(each.holds(minute) for each in self.times)
        return in_time and self.holds_on(local)

    def holds_on(self, day: datetime) -> bool:
        """Tell whether it is active on a day, at whatever time."""
        if self.days_of_month is not None:
            length = calendar.monthrange(day.year, day.month)[1]
            if not any(each.holds(day.day, length) for each in self.days_of_month):
                return False
        return all(
            ranges is None or any(first <= value <= last for first, last in ranges)
            for ranges, value in (
                (self.weekdays, day.isoweekday() % 7),
                (self.months, day.month),
                (self.years, day.year),
            )
        )

    def ever_from(self, moment: datetime) -> bool:
        """Tell whether it is active at any time from a moment on."""
        if self.times is not None and not self.times:
            return False
        first = moment.astimezone(self.location)
        years = [year for year in range(first.year, _LAST_YEAR + 1) if self._in_year(year)]
        for year in years[:_ALL_CALENDARS]:
            day = first if year == first.year else datetime(year, 1, 1, tzinfo=self.location)
            while day.year == year:
                if self.holds_on(day):
                    return True
                day += timedelta(days=1)
        return False

    def _in_year(self, year: int) -> bool:
        return self.years is None or any(first <= year <= last for first, last in self.years)


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """A name for some conditions on a moment; one of them has to hold."""

    name: str
    specs: Sequence[TimeSpec]

    def holds(self, moment: datetime) -> bool:
        """Tell whether an aware moment is in it."""
        return any(spec.holds(moment) for spec in self.specs)

    def ever_from(self, moment: datetime) -> bool:
        """Tell whether it is active at any time from a moment on."""
        return any(spec.ever_from(moment) for spec in self.specs)


def _index(word: str, names: Sequence[str], what: str) -> int:
    try:
        return names.index(word)
    except ValueError:
        raise ValueError(f"{word!r} is no {what}; they are {', '.join(names)}") from None


def _minute(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time; one is HH:MM, from 00:00 to 24:00")
    return _MINUTES if match[1] is None else int(match[1]) * 60 + int(match[2])
