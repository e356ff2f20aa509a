"""Groups of more alerts than an entry of a shared log has room for."""

from __future__ import annotations

from alert_channels import Inbox, routing, until
from codomyrmex.integrations import attach
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.notification import Alert, AlertSink, NotifierRole
from faulty_store import FaultyStore


async def test_a_group_too_large_for_a_log_entry_does_not_prevent_a_process_from_coming_back(tmp_path):
    store, inbox = FaultyStore(tmp_path / "a.db"), Inbox()
    stream = DurableStream(store, lease=0.4, publish_timeout=1.0)
    config = routing(route={"group_wait": "10ms", "group_by": ["nothing"]})
    sink = AlertSink(config, {"ops": inbox}, buffer_size=40_000)
    async with stream, attach(stream, sink):
        store.away = {"append", "read", "wait", "renew", "acquire", "save"}
        await until(lambda: sink.role is NotifierRole.AWAY)
        await sink.post([Alert({"alertname": f"disk{number}"}) for number in range(40_000)])
        await inbox.wait_for(1)
        store.away = set()
        await until(lambda: sink.role is NotifierRole.HOLDER)
