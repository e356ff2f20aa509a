"""`alert_api`: Alertmanager's API for an alert sink; its attacks are in `test_alert_api_faults.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import anyio
import pytest
from alert_api_client import api, config
from alert_channels import Inbox, fires
from codomyrmex.integrations.delivery.errors import PermanentError
from codomyrmex.integrations.notification import Silence, parse_matchers
from helpers import in_time
from prometheus_client.parser import text_string_to_metric_families as parse_text

HOUR = 3600.0


# Alerts


@in_time
async def test_an_alert_is_shown_as_alertmanager_shows_it():
    async with api() as client:
        await client.post_alerts(
            {
                "labels": {"alertname": "A", "severity": "critical", "cluster": "c", "empty": ""},
                "annotations": {"summary": "x"},
                "generatorURL": "http://x/y",
            }
        )
        assert await client.get("alerts") == [
            {
                "annotations": {"summary": "x"},
                "endsAt": client.time(300),
                "fingerprint": "6a4eb8dda317068c",  # of Debian's Alertmanager
                "receivers": [{"name": "default"}],
                "startsAt": client.time(),
                "status": {"inhibitedBy": [], "mutedBy": [], "silencedBy": [], "state": "active"},
                "updatedAt": client.time(),
                "generatorURL": "http://x/y",
                "labels": {"alertname": "A", "severity": "critical", "cluster": "c"},
            }
        ]


@in_time
async def test_the_valid_alerts_of_a_partly_invalid_post_are_accepted():
    async with api() as client:
        response = await client.post_alerts(
            {"labels": {"alertname": "good"}},
            {"labels": {}},
            {"labels": {"a": ""}},
            {"labels": {"": "x"}},
            {"labels": {"alertname": 1}},
            {"labels": {"a": "b"}, "startsAt": client.time(10), "endsAt": client.time(0)},
            {"labels": {"a": "b"}, "startsAt": "tomorrow"},
            {"labels": {"a": "b"}, "generatorURL": "not a url %"},
            {},
            {"labels": {"alertname": "also good"}},
            expected=400,
        )
        reasons = response.json().split("; ")
        assert [reason.partition(":")[0] for reason in reasons] == [
            f"alert {number}" for number in range(1, 9)
        ]
        assert reasons[0] == "alert 1: at least one label pair required"
        assert "start time must be before end time" in reasons[4]
        assert sorted(await client.names("alerts")) == ["also good", "good"]


@in_time
async def test_times_have_the_defaults_of_alertmanager():
    async with api() as client:
        await client.post_alerts(
            {"labels": {"alertname": "now"}},
            {
                "labels": {"alertname": "go"},
                "startsAt": "0001-01-01T00:00:00Z",
                "endsAt": "0001-01-01T00:00:00Z",
            },
            {"labels": {"alertname": "until"}, "startsAt": client.time(-60), "endsAt": client.time(60)},
            {"labels": {"alertname": "nanoseconds"}, "startsAt": client.time(-60)[:-1] + "000001+00:00"},
            {"labels": {"alertname": "ended"}, "endsAt": client.time(-60)},
            {"labels": {"alertname": "forever"}, "endsAt": "9999-12-31T23:59:59Z"},
        )
        shown = {each["labels"]["alertname"]: each for each in await client.get("alerts")}
        assert {name: (each["startsAt"], each["endsAt"]) for name, each in shown.items()} == {
            "now": (client.time(), client.time(300)),
            "go": (client.time(), client.time(300)),
            "until": (client.time(-60), client.time(60)),
            "nanoseconds": (client.time(-60), client.time(300)),
            "forever": (client.time(), "2999-12-31T23:59:59.000Z"),
        }


@in_time
async def test_a_resolved_alert_is_no_longer_shown():
    async with api() as client:
        await client.post_alerts({"labels": {"alertname": "A"}}, {"labels": {"alertname": "B"}})
        client.clock.advance(1)
        await client.post_alerts({"labels": {"alertname": "A"}, "endsAt": client.time()})
        assert await client.names("alerts") == ["B"]
        assert await client.names("alerts/groups") == ["B"]
        client.clock.advance(300)
        assert await client.get("alerts") == await client.get("alerts/groups") == []


FILTERS = [
    ("", "free inhibited silenced source team"),
    ("active=false", "inhibited silenced"),
    ("active=False&silenced=0", "inhibited"),
    ("inhibited=false", "free silenced source team"),
    ("silenced=false&inhibited=false", "free source team"),
    ("active=&unprocessed=false", "free inhibited silenced source team"),
    ("active=true&active=false", "inhibited silenced"),
    ("filter=alertname=free", "free"),
    ('filter=alertname=~"free|team"&filter=team=""', "free"),
    ("filter=alertname!~s.*&filter=team!=a", "free inhibited"),
    ("filter=nothing=here", ""),
    ("receiver=team", "team"),
    ("receiver=t.*|x", "team"),
    ("receiver=tea", ""),
    ("receiver=", "free inhibited silenced source team"),
    ("receiver_matchers=owner=x", ""),
    ('receiver_matchers=owner=""', "free inhibited silenced source team"),
    ("unknown=1", "free inhibited silenced source team"),
]


@in_time
async def test_alerts_and_groups_are_filtered():
    async with api() as client:
        await client.post_alerts(
            {"labels": {"alertname": "free"}},
            {"labels": {"alertname": "silenced"}},
            {"labels": {"alertname": "team", "team": "a"}},
            {"labels": {"alertname": "source", "severity": "critical", "cluster": "c"}},
            {"labels": {"alertname": "inhibited", "severity": "warning", "cluster": "c"}},
        )
        await client.add_silence('alertname="silenced"')
        for query, names in FILTERS:
            assert sorted(await client.names(f"alerts?{query}")) == names.split(), query
            assert sorted(await client.names(f"alerts/groups?{query}")) == names.split(), query


@in_time
async def test_what_suppresses_an_alert_is_shown():
    async with api() as client:
        await client.post_alerts(
            {"labels": {"alertname": "A", "severity": "critical", "cluster": "c"}},
            {"labels": {"alertname": "W", "severity": "warning", "cluster": "c"}},
        )
        ids = sorted([await client.add_silence('alertname="W"') for _ in range(2)])
        await client.add_silence('alertname="other"')
        [alert] = await client.get("alerts?active=false")
        assert alert["status"] == {
            "inhibitedBy": ["6a4eb8dda317068c"],
            "mutedBy": [],
            "silencedBy": ids,
            "state": "suppressed",
        }


@in_time
async def test_every_silence_that_matches_is_found_whatever_its_matchers():
    texts = ("host=a", "host=~a.*", "host!=b", "host=~a|b, alertname!=B", 'alertname=~"A|B", none=""', "x=y")
    async with api() as client:
        found = {}
        for name, host in (("A", "a"), ("B", "ab"), ("B", "b"), ("C", "")):
            await client.post_alerts({"labels": {"alertname": name, "host": host}})
        ids = {await client.add_silence(text): text for text in texts}
        now = client.clock.time()
        sets = [tuple(parse_matchers(text)) for text in ("x=y", "host=ab")]
        await client.sink.add_silence(Silence(sets[0], now, now + 60, id="sets", other_matchers=[sets[1]]))
        silences = await client.sink.silences()
        for alert in await client.get("alerts"):
            labels = alert["labels"]
            expected = sorted(each.id for each in silences if each.silences(labels, now))
            assert alert["status"]["silencedBy"] == expected, labels
            found[labels["alertname"], labels.get("host")] = [ids.get(each, each) for each in expected]
        assert found["A", "a"] != found["B", "ab"] != found["B", "b"] != found["C", None]


@in_time
async def test_muted_groups_name_their_time_intervals():
    async with api() as client:
        await client.post_alerts(
            {"labels": {"alertname": "N", "team": "night"}}, {"labels": {"alertname": "D"}}
        )
        groups = {group["receiver"]["name"]: group for group in await client.get("alerts/groups")}
        assert groups["night"]["alerts"][0]["status"] == {
            "inhibitedBy": [],
            "mutedBy": ["always"],
            "silencedBy": [],
            "state": "suppressed",
        }
        assert groups["night"]["routeLabels"] == {"owner": "n"}
        assert groups["default"]["alerts"][0]["status"]["state"] == "active"
        assert await client.names("alerts/groups?muted=false") == ["D"]
        assert {each["status"]["state"] for each in await client.get("alerts")} == {"active"}


@in_time
async def test_groups_and_their_alerts_have_alertmanagers_order():
    async with api() as client:
        labels = [
            {"alertname": "b", "host": "1"},
            {"alertname": "a", "job": "j", "instance": "2"},
            {"alertname": "a", "job": "j", "instance": "10"},
            {"alertname": "a", "job": "i"},
            {"alertname": "a"},
            {"alertname": "a", "b": "1"},
            {"alertname": "a", "a": "2"},
        ]
        await client.post_alerts(*({"labels": each} for each in labels))
        groups = await client.get("alerts/groups")
        assert [group["labels"] for group in groups] == [{"alertname": "a"}, {"alertname": "b"}]
        order = [labels.index(alert["labels"]) for alert in groups[0]["alerts"]]
        assert order == [3, 2, 1, 4, 5, 6]
        shown = [alert["fingerprint"] for alert in await client.get("alerts")]
        assert shown == sorted(shown)


@in_time
async def test_an_alert_of_several_routes_names_all_its_receivers():
    async with api() as client:
        await client.post_alerts({"labels": {"alertname": "A", "team": "both"}})
        [alert] = await client.get("alerts")
        assert alert["receivers"] == [{"name": "team"}, {"name": "night"}]
        groups = await client.get("alerts/groups?receiver=night")
        assert [each["receiver"]["name"] for each in groups] == ["night"]
        assert groups[0]["alerts"][0]["receivers"] == [{"name": "night"}]


@in_time
async def test_labels_of_events_that_are_not_text_are_shown_with_replacements():
    async with api() as client:
        await client.publish(fires("A\ud800", labels={"x": "\udfff"}, url="not a url"))
        [alert] = await client.get("alerts?filter=alertname=~A.")
        assert alert["labels"]["alertname"] == "A\ufffd"
        assert "generatorURL" not in alert
        await client.post_alerts({"labels": {"alertname": "B\ud800"}})
        assert "B\ufffd" in await client.names("alerts")


# Silences


@in_time
async def test_a_silence_is_created_and_shown():
    async with api() as client:
        silence_id = await client.add_silence('a!~"b|c", d="e"', starts=-60, annotations={"ticket": "1"})
        shown = {
            "id": silence_id,
            "status": {"state": "active"},
            "updatedAt": client.time(),
            "annotations": {"ticket": "1"},
            "comment": "why",
            "createdBy": "me",
            "endsAt": client.time(HOUR),
            "matchers": [
                {"isEqual": False, "isRegex": True, "name": "a", "value": "b|c"},
                {"isEqual": True, "isRegex": False, "name": "d", "value": "e"},
            ],
            "startsAt": client.time(),  # not before it was created
        }
        assert await client.get(f"silence/{silence_id}") == shown
        assert await client.get("silences") == [shown]


@in_time
async def test_an_active_silence_with_the_same_matchers_and_start_is_updated_in_place():
    async with api() as client:
        first = await client.add_silence("a=b")
        client.clock.advance(60)
        assert await client.add_silence("a=b", starts=-60, ends=2 * HOUR, id=first, comment="more") == first
        [silence] = await client.get("silences")
        assert (silence["comment"], silence["endsAt"]) == ("more", client.time(2 * HOUR))
        assert silence["updatedAt"] == client.time()


@pytest.mark.parametrize("change", [{"text": "a=c"}, {"text": "a!=b"}, {"starts": -30}])
@in_time
async def test_any_other_change_of_an_active_silence_expires_it_and_creates_another(change):
    async with api() as client:
        first = await client.add_silence("a=b")
        client.clock.advance(60)
        options = {"text": "a=b", "starts": -60.0, **change}
        second = await client.add_silence(options.pop("text"), id=first, **options)
        assert second != first
        states = {each["id"]: each["status"]["state"] for each in await client.get("silences")}
        assert states == {first: "expired", second: "active"}


@in_time
async def test_a_pending_silence_can_start_at_another_time_and_an_expired_one_is_never_updated():
    async with api() as client:
        first = await client.add_silence("a=b", starts=60)
        assert await client.add_silence("a=b", starts=120, id=first) == first
        second = await client.add_silence("a=b", starts=0, id=first)
        assert second == first  # it starts now
        assert (await client.request("DELETE", f"silence/{first}")).status_code == 200
        assert (await client.request("DELETE", f"silence/{first}")).content == b""  # as in Alertmanager
        assert await client.add_silence("a=b", id=first) != first


@in_time
async def test_silences_are_filtered_and_sorted_as_in_alertmanager():
    async with api() as client:
        names = {}
        for name, starts, ends in (
            *(("later", 0.0, 2 * HOUR), ("soon", 0.0, 1 * HOUR), ("tomorrow", 9 * HOUR, 10 * HOUR)),
            *(("today", 3 * HOUR, 10 * HOUR), ("first", 0.0, HOUR), ("last", 0.0, HOUR)),
        ):
            names[await client.add_silence(f"name={name}, x=~y", starts=starts, ends=ends)] = name
        ids = {name: silence_id for silence_id, name in names.items()}
        for name in ("first", "last"):
            client.clock.advance(1)
            await client.request("DELETE", f"silence/{ids[name]}")

        async def shown(query: str) -> list[str]:
            return [names[each["id"]] for each in await client.get(f"silences?{query}")]

        assert await shown("") == ["soon", "later", "today", "tomorrow", "last", "first"]
        assert await shown("expired=false&pending=false") == ["soon", "later"]
        assert await shown("active=false&expired=no") == ["today", "tomorrow"]
        assert await shown("filter=name=soon&filter=x=~y") == ["soon"]
        assert await shown("filter=name=~soon") == await shown("filter=z=y") == []


@in_time
async def test_silences_of_the_application_are_shown_too():
    async with api() as client:
        now = client.clock.time()
        sets = {"other_matchers": (tuple(parse_matchers("c=d")),)}
        await client.sink.add_silence(Silence(parse_matchers("a=b"), now, now + 60, id="own", **sets))
        [silence] = await client.get("silences?filter=c=d")
        assert (silence["id"], silence["updatedAt"]) == ("own", client.time())
        assert await client.get("silence/own") == silence


# Others


@in_time
async def test_the_status_shows_the_configuration_in_a_form_that_alertmanager_accepts(tmp_path):
    async with api() as client:
        status = await client.get("status")
        assert status["uptime"] == client.time()
        assert status["cluster"] == {"peers": [], "status": "disabled"}
        assert status["versionInfo"]["version"].startswith("0.")
        original = status["config"]["original"]
        assert "secret" not in original.partition("\n")[2]
        assert await client.get("receivers") == [{"name": name} for name in ("default", "team", "night")]
        assert await client.get("receivers?receiver_matchers=a=b") == []
    async with api(original) as client:
        assert (await client.get("status"))["config"]["original"] == original


@in_time
async def test_health_readiness_and_reload(tmp_path):
    file = tmp_path / "alertmanager.yml"
    file.write_text(json.dumps(config()))
    async with api(file) as client:
        for path in ("/-/healthy", "/-/ready"):
            assert (await client.http.get(path)).text == "OK"
            head = await client.http.head(path)
            assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "2")
        file.write_text(json.dumps({**config(), "receivers": [{"name": "default"}]}))
        response = await client.http.post("/-/reload")
        assert response.status_code == 500
        assert response.json().startswith("failed to reload config: ")
        assert await client.metric("alertmanager_config_last_reload_successful") == 0
        file.write_text(json.dumps({**config(), "receivers": [*config()["receivers"], {"name": "new"}]}))
        assert (await client.http.post("/-/reload")).status_code == 200
        assert {"name": "new"} in await client.get("receivers")
        assert await client.metric("alertmanager_config_last_reload_successful") == 1


@in_time
async def test_the_metrics_have_alertmanagers_names():
    inbox = Inbox()
    async with api(channels={"default": inbox}) as client:
        await client.post_alerts({"labels": {"alertname": "A"}}, {"labels": {"alertname": "B"}})
        await client.post_alerts({"labels": {"alertname": "B"}, "endsAt": client.time()}, {}, expected=400)
        await client.add_silence("alertname=C")
        await client.add_silence("alertname=C", starts=HOUR - 1)
        await client.pass_time(30)
        inbox.error = PermanentError("no")
        await client.post_alerts({"labels": {"alertname": "D"}})
        await client.pass_time(30)
        text = await client.metrics()
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse_text(text)
            for sample in family.samples
        }
        for key, value in {
            ("alerts", "active"): 2,
            ("alerts", "suppressed"): 0,
            ("alerts", "unprocessed"): 0,
            ("alerts_received_total", "firing", "v2"): 3,
            ("alerts_received_total", "resolved", "v2"): 1,
            ("alerts_invalid_total", "v2"): 1,
            ("silences", "active"): 1,
            ("silences", "pending"): 1,
            ("silences", "expired"): 0,
            ("notifications_total", "application"): 2,
            ("notifications_failed_total", "application", "clientError"): 1,
            ("notifications_failed_total", "application", "serverError"): 0,
            ("notification_requests_total", "application"): 2,
            ("notification_requests_failed_total", "application"): 1,
            ("notification_latency_seconds_count", "application"): 2,
            ("notification_latency_seconds_bucket", "application", "+Inf"): 2,
            ("cluster_enabled",): 0,
            ("config_last_reload_successful",): 1,
            ("dispatcher_aggregation_groups",): 2,
            ("receivers",): 3,
        }.items():
            assert found[f"alertmanager_{key[0]}", *key[1:]] == value, key
        assert found["alertmanager_config_hash",] > 0
        assert found["process_start_time_seconds",] > 0
        await anyio.to_thread.run_sync(check_with_promtool, text)


def check_with_promtool(text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "promtool is not installed"
        return
    command = [promtool, "check", "metrics"]
    found = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
