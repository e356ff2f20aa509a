"""Time intervals: which moments are in them, and what is wrong with one that is none."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from codomyrmex.integrations.notification import AlertConfigError, load_alert_config
from codomyrmex.integrations.notification.alerts.intervals import TimeInterval
from hypothesis import assume, given, settings
from hypothesis import strategies as st


def interval(*specs: dict[str, Any]) -> TimeInterval:
    config = {
        "route": {"receiver": "r"},
        "receivers": [{"name": "r"}],
        "time_intervals": [{"name": "t", "time_intervals": list(specs)}],
    }
    return load_alert_config(config).intervals["t"]


def from_yaml(text: str) -> TimeInterval:
    head = "route: {receiver: r}\nreceivers: [{name: r}]\n"
    return load_alert_config(f"{head}time_intervals:\n- name: t\n  time_intervals:\n  - {text}\n").intervals[
        "t"
    ]


def holding(found: TimeInterval, *moments: str) -> list[str]:
    return [moment for moment in moments if found.holds(datetime.fromisoformat(moment))]


def times(start: str, end: str) -> list[dict[str, str]]:
    return [{"start_time": start, "end_time": end}]


OFFICE = {"weekdays": ["monday:friday"], "times": times("09:00", "17:00")}


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ({}, ["2006-01-02T15:04Z", "2007-01-03T10:04Z"], []),
        (
            OFFICE,
            ["2020-05-04T15:04Z", "2020-05-05T10:04Z", "2020-05-08T16:59Z"],
            ["2020-05-03T15:04Z", "2020-05-04T08:59Z", "2020-05-09T12:00Z", "2020-05-08T17:00Z"],
        ),
        (  # to the minute: the start is in it, the end is not
            {"times": times("09:00", "09:01")},
            ["2026-01-01T09:00:00Z", "2026-01-01T09:00:59.999Z"],
            ["2026-01-01T08:59:59.999Z", "2026-01-01T09:01:00Z"],
        ),
        (
            {"times": times("23:59", "24:00")},
            ["2026-01-01T23:59:59Z"],
            ["2026-01-02T00:00Z", "2026-01-01T23:58:59Z"],
        ),
        ({"times": times("00:00", "24:00")}, ["2026-01-01T00:00Z", "2026-01-01T23:59:59Z"], []),
        (
            {"times": [*times("22:00", "24:00"), *times("00:00", "06:00")]},
            ["2026-01-01T23:00Z", "2026-01-01T05:59Z"],
            ["2026-01-01T06:00Z", "2026-01-01T21:59Z"],
        ),
        (  # Easter 2020
            {"days_of_month": ["4:6"], "months": ["april"], "years": ["2020"]},
            ["2020-04-04T15:04Z", "2020-04-05T00:00Z", "2020-04-06T23:05Z"],
            ["2020-04-03T23:59Z", "2020-04-07T00:00Z", "2020-06-04T23:59Z", "2019-04-06T23:59Z"],
        ),
        (
            {"days_of_month": ["-3:-1"]},
            ["2020-01-29T00:00Z", "2020-01-31T15:04Z", "2020-06-30T00:00Z", "2020-02-29T23:05Z"],
            ["2020-01-28T23:59Z", "2020-03-01T00:00Z", "2020-06-27T00:00Z", "2020-02-26T00:00Z"],
        ),
        (
            {"days_of_month": ["-1"]},
            ["2020-02-29T00:00Z", "2021-02-28T00:00Z", "2100-02-28T00:00Z", "2000-02-29T00:00Z"],
            ["2020-02-28T00:00Z", "2021-02-27T00:00Z", "2000-02-28T00:00Z"],
        ),
        ({"days_of_month": ["29"], "months": ["february"]}, ["2024-02-29T12:00Z"], ["2024-03-29T12:00Z"]),
        (  # a month that is too short: the end is cut, a beginning after it is none
            {"days_of_month": ["30:31"]},
            ["2021-01-31T13:00Z", "2021-04-30T13:00Z"],
            ["2021-02-28T13:00Z", "2021-04-29T13:00Z"],
        ),
        (
            {"days_of_month": ["28:31"], "months": ["february"]},
            ["2021-02-28T13:00Z", "2020-02-29T13:00Z"],
            ["2021-02-27T13:00Z", "2021-03-01T13:00Z"],
        ),
        (
            {"days_of_month": ["-31:-28"]},
            ["2021-01-01T00:00Z", "2021-01-04T00:00Z", "2021-02-01T00:00Z", "2021-04-03T00:00Z"],
            ["2021-01-05T00:00Z", "2021-02-02T00:00Z", "2021-04-04T00:00Z"],
        ),
        ({"days_of_month": ["-31"]}, ["2021-01-01T00:00Z"], ["2021-02-01T00:00Z", "2021-04-01T00:00Z"]),
        (
            {"days_of_month": ["1:-1"], "months": ["june"]},
            ["2020-06-01T00:00Z", "2020-06-30T23:59Z"],
            ["2020-05-31T23:59Z", "2020-07-01T00:00Z"],
        ),
        (
            {"months": ["january:march", "12", "6:july"]},
            ["2021-01-01T00:00Z", "2021-03-31T00:00Z", "2021-12-01T00:00Z", "2021-06-30T00:00Z"],
            ["2021-04-01T00:00Z", "2021-11-30T00:00Z", "2021-08-01T00:00Z"],
        ),
        (
            {"years": ["2020:2025", "2030"]},
            ["2020-01-01T00:00Z", "2025-12-31T23:59Z", "2030-06-01T00:00Z"],
            ["2019-12-31T23:59Z", "2026-01-01T00:00Z", "2031-01-01T00:00Z"],
        ),
        (
            {"weekdays": ["Monday:WEDNESDAY", " saturday ", "sunday"]},
            ["2026-11-23T00:00Z", "2026-11-25T23:59Z", "2026-11-28T00:00Z", "2026-11-29T00:00Z"],
            ["2026-11-26T00:00Z", "2026-11-27T23:59Z"],
        ),
        (  # all fields together
            {
                "weekdays": ["monday:wednesday", "saturday", "sunday"],
                "times": times("13:00", "15:00"),
                "days_of_month": ["1", "10", "20:-1"],
                "months": ["january:march"],
                "years": ["2020:2023"],
            },
            ["2021-01-10T13:00Z", "2021-01-30T14:24Z"],
            ["2021-01-09T13:00Z", "2021-01-20T12:59Z", "2021-02-02T13:00Z", "2024-01-01T13:00Z"],
        ),
        (
            {**OFFICE, "location": "Australia/Sydney"},
            ["2021-04-06T13:00+10:00", "2021-04-05T23:00Z"],
            ["2021-04-06T13:00Z", "2021-04-05T22:59Z"],
        ),
        (  # its summer time
            {**OFFICE, "months": ["november"], "location": "Australia/Sydney"},
            ["2021-11-01T09:00+11:00", "2021-10-31T22:00Z"],
            ["2021-10-31T21:59Z", "2021-11-30T06:00Z"],
        ),
        (  # the day, the month and the year are those of the place
            {"days_of_month": ["1"], "months": ["january"], "years": ["2026"], "location": "Asia/Tokyo"},
            ["2025-12-31T15:00Z", "2026-01-01T14:59Z"],
            ["2025-12-31T14:59Z", "2026-01-01T15:00Z"],
        ),
        (  # the night in which an hour is left out, and that in which one comes twice
            {"times": times("02:00", "03:00"), "location": "Europe/Vienna"},
            ["2026-10-25T00:30Z", "2026-10-25T01:30Z", "2026-03-28T01:30Z"],
            ["2026-03-29T00:59Z", "2026-03-29T01:00Z", "2026-10-25T02:00Z"],
        ),
        ({"location": "UTC", "weekdays": ["sunday"]}, ["2026-11-29T00:00+00:00"], ["2026-11-30T00:00Z"]),
    ],
)
def test_an_interval_holds_at_the_moments_that_are_in_it(spec, inside, outside):
    assert holding(interval(spec), *inside, *outside) == inside


def test_one_of_several_specifications_is_enough_and_none_is_never():
    found = interval({"years": ["2020"]}, {"weekdays": ["sunday"]})
    assert holding(found, "2020-01-01T00:00Z", "2026-11-29T00:00Z", "2026-11-30T00:00Z") == [
        "2020-01-01T00:00Z",
        "2026-11-29T00:00Z",
    ]
    assert not interval().holds(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("field", ["times", "weekdays", "days_of_month", "months", "years"])
def test_a_field_with_nothing_in_it_never_holds_as_in_alertmanager(field):
    assert not interval({field: []}).holds(datetime(2026, 1, 1, tzinfo=UTC))
    assert interval({field: None}).holds(datetime(2026, 1, 1, tzinfo=UTC))


def test_the_local_time_zone_is_that_of_the_machine():
    now = datetime.now().astimezone()
    minute = now.hour * 60 + now.minute
    found = interval({"times": times("00:00", "12:00"), "location": "Local"})
    assert found.holds(now) is (minute < 720)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("times: [{start_time: 09:00, end_time: 17:30}]", "2026-11-29T17:29Z"),
        ("days_of_month: [1:5, 29]", "2026-11-05T00:00Z"),
        ("days_of_month: [-3:-1]", "2026-11-28T00:00Z"),
        ("months: [11, 2:3]", "2026-11-05T00:00Z"),
        ("years: [2026]", "2026-11-05T00:00Z"),
        ("years: [2020:2030]", "2026-11-05T00:00Z"),
    ],
)
def test_what_yaml_would_take_for_numbers_is_read_as_it_is_written(text, moment):
    assert from_yaml(text).holds(datetime.fromisoformat(moment))


@settings(deadline=None, max_examples=150)
@given(
    st.integers(-31, 31),
    st.integers(-31, 31),
    st.dates(date(1990, 1, 1), date(2100, 12, 31)),
)
def test_days_of_a_month_count_from_either_end(first, last, day):
    assume(first and last)
    try:
        found = interval({"days_of_month": [f"{first}:{last}"]})
    except AlertConfigError:
        assume(False)
    length = calendar.monthrange(day.year, day.month)[1]
    from_end = day.day - length - 1
    after_first = (day.day if first > 0 else from_end) >= first
    before_last = (day.day if last > 0 else from_end) <= last
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    assert found.holds(noon) is (after_first and before_last)


# Errors

WEEKDAYS = "sunday, monday, tuesday, wednesday, thursday, friday, saturday"
MONTHS = "january, february, march, april, may, june, july, august, september, october, november, december"
A_DAY = "use 1 to 31, or -1 to -31 from the end"
A_TIME = "use HH:MM, from 00:00 to 24:00"


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"times": times("01:99", "23:59")}, "times[0]", f"'01:99' is not a time; {A_TIME}"),
        ({"times": times("00:00", "99:99")}, "times[0]", f"'99:99' is not a time; {A_TIME}"),
        ({"times": times("12:30", "24:01")}, "times[0]", f"'24:01' is not a time; {A_TIME}"),
        ({"times": times("9:00", "17:00")}, "times[0]", f"'9:00' is not a time; {A_TIME}"),
        ({"times": times("09:00\n", "17:00")}, "times[0]", rf"'09:00\n' is not a time; {A_TIME}"),
        ({"times": [{"start_time": "14:03"}]}, "times[0]", f"'' is not a time; {A_TIME}"),
        ({"times": times("24:00", "17:41")}, "times[0]", "start_time: must be before 24:00"),
        (
            {"times": [*times("01:00", "02:00"), *times("22:00", "06:00")]},
            "times[1]",
            (
                "start_time: must be before end_time, got 22:00 and 06:00; "
                "to span midnight, write two ranges: 22:00 to 24:00 and 00:00 to 06:00"
            ),
        ),
        (
            {"times": times("17:31", "17:31")},
            "times[0]",
            (
                "start_time: must be before end_time, got 17:31 and 17:31; "
                "to span midnight, write two ranges: 17:31 to 24:00 and 00:00 to 17:31"
            ),
        ),
        ({"weekdays": ["blurgsday"]}, "weekdays[0]", f"'blurgsday' is not a weekday; use {WEEKDAYS}"),
        ({"weekdays": ["1:3"]}, "weekdays[0]", f"'1' is not a weekday; use {WEEKDAYS}"),
        ({"weekdays": ["-2:-1"]}, "weekdays[0]", f"'-2' is not a weekday; use {WEEKDAYS}"),
        ({"weekdays": ["monday:"]}, "weekdays[0]", f"'' is not a weekday; use {WEEKDAYS}"),
        (
            {"weekdays": ["sunday", "friday:monday"]},
            "weekdays[1]",
            ("'friday:monday' ends before it begins; write two ranges: friday:saturday and sunday:monday"),
        ),
        (
            {"weekdays": [{}]},
            "weekdays[0]",
            "expected a weekday or a range like monday:friday, got a mapping",
        ),
        ({"months": ["martius:june"]}, "months[0]", f"'martius' is not a month; use 1 to 12, or {MONTHS}"),
        ({"months": ["march:junius"]}, "months[0]", f"'junius' is not a month; use 1 to 12, or {MONTHS}"),
        ({"months": ["0"]}, "months[0]", f"'0' is not a month; use 1 to 12, or {MONTHS}"),
        ({"months": ["1:13"]}, "months[0]", f"'13' is not a month; use 1 to 12, or {MONTHS}"),
        (
            {"months": ["november:february"]},
            "months[0]",
            (
                "'november:february' ends before it begins; "
                "write two ranges: november:december and january:february"
            ),
        ),
        ({"days_of_month": ["0"]}, "days_of_month[0]", f"'0' is not a day of the month; {A_DAY}"),
        ({"days_of_month": ["-50:-20"]}, "days_of_month[0]", f"'-50' is not a day of the month; {A_DAY}"),
        ({"days_of_month": ["1:50"]}, "days_of_month[0]", f"'50' is not a day of the month; {A_DAY}"),
        ({"days_of_month": ["first"]}, "days_of_month[0]", f"'first' is not a day of the month; {A_DAY}"),
        (
            {"days_of_month": ["-15:20"]},
            "days_of_month[0]",
            "'-15:20': what begins with a day from the end must end with one, like -3:-1",
        ),
        ({"days_of_month": ["5:3"]}, "days_of_month[0]", "'5:3' ends before it begins"),
        ({"days_of_month": ["-1:-3"]}, "days_of_month[0]", "'-1:-3' ends before it begins"),
        ({"days_of_month": ["10:-25"]}, "days_of_month[0]", "'10:-25' ends before it begins"),
        ({"years": ["next"]}, "years[0]", "'next' is not a year; use a number"),
        ({"years": ["2022:2020"]}, "years[0]", "'2022:2020' ends before it begins"),
        ({"location": "Mars/Olympus"}, "location", "'Mars/Olympus' is not a time zone like Europe/Vienna"),
        ({"location": "../etc/passwd"}, "location", "'../etc/passwd' is not a time zone like Europe/Vienna"),
        ({"weekday": ["monday"]}, "weekday", "unknown key weekday; did you mean weekdays?"),
    ],
)
def test_an_error_in_an_interval_names_the_remedy(spec, path, message):
    with pytest.raises(AlertConfigError) as raised:
        interval(spec)
    (problem,) = raised.value.problems
    assert (problem.path, problem.message) == (f"time_intervals[0].time_intervals[0].{path}", message)


def test_all_errors_are_reported_each_with_its_line():
    text = """
route: {receiver: r}
receivers: [{name: r}]
time_intervals:
  - name: night
    time_intervals:
      - weekdays: [friday:monday, caturday]
        times:
          - {start_time: '22:00', end_time: '06:00'}
  - name: night
  - time_intervals: [{months: [13]}]
"""
    with pytest.raises(AlertConfigError) as raised:
        load_alert_config(text)
    found = [
        (problem.line, problem.column, problem.message.split(";")[0]) for problem in raised.value.problems
    ]
    assert found == [
        (7, 20, "'friday:monday' ends before it begins"),
        (7, 35, "'caturday' is not a weekday"),
        (9, 13, "start_time: must be before end_time, got 22:00 and 06:00"),
        (10, 11, "there are two time intervals named 'night'"),
        (11, 5, "a time interval must have a name"),
        (11, 32, "'13' is not a month"),
    ]


# Whether it is ever active


@pytest.mark.parametrize(
    ("spec", "ever"),
    [
        ({}, True),
        (OFFICE, True),
        ({"years": ["2025"]}, False),
        ({"years": ["2026"]}, True),
        ({"years": ["2026"], "months": ["october"]}, False),
        ({"years": ["2026"], "months": ["november"], "days_of_month": ["24"]}, False),
        ({"years": ["2026"], "months": ["november"], "days_of_month": ["25"]}, True),
        ({"months": ["february"], "days_of_month": ["30:31"]}, False),
        ({"months": ["february"], "days_of_month": ["29"]}, True),
        ({"months": ["february"], "days_of_month": ["29"], "weekdays": ["monday"]}, True),
        ({"months": ["february"], "days_of_month": ["29"], "years": ["2027"]}, False),
        ({"months": ["february"], "days_of_month": ["29"], "years": ["2100:2200"]}, True),
        ({"days_of_month": ["31"], "months": ["april", "june", "september", "november"]}, False),
        ({"years": ["2500"]}, True),
        ({"years": ["2500"], "months": ["november"], "days_of_month": ["31"]}, False),
        ({"years": ["2025"], "location": "Pacific/Kiritimati"}, False),
    ],
)
def test_an_interval_that_is_never_active_again_is_detected(spec, ever):
    assert interval(spec).ever_from(datetime(2026, 11, 25, 12, tzinfo=UTC)) is ever


def test_the_day_on_which_an_interval_is_still_active_is_that_of_its_place():
    found = interval({"years": ["2026"], "location": "Pacific/Honolulu"})
    new_year = datetime(2027, 1, 1, 9, 59, tzinfo=UTC)
    assert found.ever_from(new_year)
    assert not found.ever_from(new_year + timedelta(minutes=1))


def test_one_of_several_specifications_that_is_ever_active_is_enough():
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    assert interval({"years": ["2020"]}, {"years": ["2030"]}).ever_from(moment)
    assert not interval({"years": ["2020"]}, {"years": ["2021"]}).ever_from(moment)
    assert not interval().ever_from(moment)
