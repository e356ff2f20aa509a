"""What is found in histories of alerts and notifications that are right and wrong."""

from __future__ import annotations

import json

import pytest
from availability.chaos import AlertChaos
from availability.figures import longest_gap, measure
from durable.history import read_history


def changed(at: float, alert: str, status: str) -> dict:
    return {"op": "changed", "end": at, "group": alert.partition(".")[0], "alert": alert, "status": status}


def sent(process: str, begin: float, end: float, id: str, **alerts: str) -> list[dict]:
    """Return the records of a notification of the group `g`; without an `end` its sender was killed."""
    status = "firing" if "firing" in alerts.values() else "resolved"
    named = {f"g.{name}": each for name, each in alerts.items()}
    records = [
        {"op": "sending", "process": process, "end": begin, "group": "g", "id": id},
        {
            "op": "arrived",
            "sender": process,
            "begin": begin,
            "end": begin,
            "group": "g",
            "id": id,
            "status": status,
            "alerts": named,
        },
    ]
    if end:
        records.append({"op": "sent", "process": process, "end": end, "group": "g", "id": id})
    return records


def fault(at: float, what: str, victim: str) -> dict:
    return {"op": "fault", "end": at, "what": what, "victim": victim}


def healed(at: float, what: str, victim: str) -> dict:
    return {"op": "healed", "end": at, "what": what, "victim": victim}


@pytest.fixture
def history(tmp_path):
    def write(*records: dict) -> list[dict]:
        (tmp_path / "all.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return read_history(tmp_path)

    return write


LIFE = [changed(1, "g.a", "firing"), changed(50, "g.a", "resolved")]


def test_a_history_in_which_all_is_well_has_nothing_lost_or_repeated(history):
    figures = measure(
        history(*LIFE, *sent("p", 2.5, 3, "1", a="firing"), *sent("p", 51, 52, "2", a="resolved")), 1, 10
    )
    assert figures[:7] == (1, 1, 0, 0, 2, 0, 0)
    assert (figures.late, figures.latest, figures.silent) == (0.5, 0.5, [])


def test_what_is_lost_unresolved_repeated_and_wrong_is_counted(history):
    figures = measure(
        history(
            *LIFE,
            changed(1, "g.b", "firing"),
            changed(60, "g.b", "resolved"),
            changed(1, "h.c", "firing"),
            changed(60, "h.c", "resolved"),
            *sent("p", 2, 3, "1", a="firing", b="firing"),
            *sent("q", 2.1, 3, "2", b="firing", a="firing"),
            *sent("p", 51, 52, "3", a="resolved"),
        ),
        1,
        10,
    )
    assert (figures.alerts, figures.notified, figures.lost) == (3, 2, 1)  # h.c
    assert (figures.unresolved, figures.duplicates, figures.wrong) == (1, 1, 1)  # g.b fires at 51


def test_the_silence_after_a_fault_is_the_longest_that_begins_within_the_time_after_it():
    assert longest_gap([1, 2, 3, 9, 10, 30], fault=2.5, window=8) == 20
    assert longest_gap([1, 2, 3, 9, 10, 30], fault=2.5, window=7) == 6


def repeats(records: list[dict]) -> list[str]:
    return list(AlertChaos.repeat_problems(records))


def test_a_notification_is_sent_again_if_its_sender_was_killed_before_it_was_recorded(history):
    first, again = sent("p", 2, 0, "1", a="firing"), sent("q", 4, 5, "q1", a="firing")
    assert repeats(history(*first, fault(2.1, "killed", "p"), *again)) == []
    assert len(repeats(history(*first, fault(2.1, "killed", "r"), *again))) == 1


def test_a_notification_is_not_sent_again_if_it_was_recorded(history):
    first, again = sent("p", 2, 2.1, "1", a="firing"), sent("q", 9, 9.1, "q1", a="firing")
    assert repeats(history(*first, fault(2.2, "killed", "p"), *again)) == []  # perhaps not recorded yet
    assert len(repeats(history(*first, fault(4, "killed", "p"), *again))) == 1
    assert len(repeats(history(*first, *sent("p", 3, 3.1, "2", a="firing")))) == 1  # by the same process


def test_what_is_sent_while_the_store_is_away_is_recorded_later(history):
    away = [fault(1.5, "store killed", "store"), healed(3, "store killed", "store")]
    first, again = sent("p", 2, 2.1, "1", a="firing"), sent("q", 4, 5, "q1", a="firing")
    assert repeats(history(*away, *first, *again)) == []


def test_a_stopped_process_sends_only_what_was_in_its_hands(history):
    def found(*ids: str) -> list[str]:
        sends = [record for id in ids for record in sent("p", 5.1, 5.2, id, a="firing")]
        taken = {"op": "holder", "end": 4, "name": "q"}
        stopped = [fault(2, "stopped", "p"), taken, healed(5, "stopped", "p")]
        return list(AlertChaos.takeover_problems(history(*stopped, *sends)))

    assert found("1") == []
    assert found("1", "2") == ["p sent 2 notifications after it had been stopped, at 5.000"]


def test_the_last_notification_of_a_group_must_say_that_it_is_resolved(history):
    records = history(*sent("p", 2, 3, "1", a="firing"))
    assert list(AlertChaos.order_problems(records)) == [
        "the last notification of g says {'g.a': 'firing'}, by p"
    ]
