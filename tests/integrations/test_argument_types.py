"""Arguments of the wrong type: a sentence that names the argument, no AttributeError from deep inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from codomyrmex.integrations.delivery.secrets import SecretPatterns
from codomyrmex.integrations.logging_monitoring import redact, trace_publishing
from codomyrmex.integrations.logging_monitoring.log_lines import LogLines
from codomyrmex.integrations.notification import (
    AlertEngine,
    AlertRouter,
    AlertSink,
    Silence,
    lint,
    load_alert_config,
    simulate,
)
from codomyrmex.integrations.web import dashboard, event_ingest, event_stream
from codomyrmex.integrations.web.serve import check_address
from codomyrmex.streaming import InMemoryStream

CONFIG = {"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}
STREAM = InMemoryStream()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("config", AlertSink),
        ("config", load_alert_config),
        ("config", AlertEngine),
        ("config", AlertRouter),
        ("config", lambda wrong: simulate(wrong, [], 1.0)),
        ("config", lambda wrong: lint(wrong, 1.0)),
        ("channels", lambda wrong: AlertSink(CONFIG, wrong)),
        ("channels", lambda wrong: AlertSink(CONFIG, {"a": wrong})),
        ("channels", lambda wrong: AlertSink(CONFIG, {"a": [wrong]})),
        ("matchers", lambda wrong: Silence(wrong, 1.0, 2.0)),
        ("matchers", lambda wrong: Silence([wrong], 1.0, 2.0)),
        ("level", lambda wrong: LogLines(2, "json", wrong)),
        ("tracer_provider", lambda wrong: trace_publishing(STREAM, tracer_provider=wrong)),
        ("keys", lambda wrong: redact(keys=wrong)),
        ("patterns", lambda wrong: redact(patterns=wrong)),
        ("replacement", lambda wrong: redact(replacement=wrong)),
        ("patterns", SecretPatterns),
        ("allowed_hosts", lambda wrong: dashboard(STREAM, allowed_hosts=[wrong])),
        ("allowed_hosts", lambda wrong: event_stream(STREAM, allowed_hosts=wrong)),
        ("allow_origins", lambda wrong: event_stream(STREAM, allow_origins=[wrong])),
        ("allow_origins", lambda wrong: event_ingest(STREAM, allow_origins=wrong)),
        ("token", lambda wrong: check_address("127.0.0.1", wrong)),
    ],
)
@pytest.mark.parametrize("wrong", [3, 2.5])
def test_the_argument_is_named(name: str, call: Callable[[Any], object], wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: .*must "):
        call(wrong)
