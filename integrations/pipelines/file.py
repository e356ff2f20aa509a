"""A pipeline as it is written: one struct for each kind of source, processor and sink."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.configuration.secret import Secret
from codomyrmex.integrations.notification.alerts.config_file import MatcherLine

_Metadata = dict[str, Any]
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


class AddressText(str):
    """An address with places that are filled in from the environment later."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    expects: ClassVar[str] = "an address like 127.0.0.1:8000"
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self | AddressText:
        if "${" in text:
            return AddressText(text)
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = "127.0.0.1", text
        if re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:  # noqa: PLR2004 - 16 bits
            raise ValueError(f"{text!r} is not {cls.expects}")
        return cls(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - as it is written

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Size(int):
    """So many bytes: `10MB`."""

    expects: ClassVar[str] = "a size like 10MB"

    @classmethod
    def parse(cls, text: str) -> Self:
        match = re.fullmatch(r"([0-9]{1,12})\s*([A-Za-z]*)", text)
        if match is None or match[2] not in _UNITS:
            raise ValueError(
                f"{text!r} is not {cls.expects}; the units are {', '.join(filter(None, _UNITS))}"
            )
        return cls(int(match[1]) * _UNITS[match[2]])


# Sources. Each has a topic and metadata that its events get, where they bring none of their own.


class Stdin(msgspec.Struct, kw_only=True, frozen=True):
    """Lines of the standard input."""

    format: Literal["json", "event", "text"] = "json"
    pattern: str | None = None
    unmatched: Literal["drop", "keep"] = "drop"
    topic: str = "stdin"
    metadata: _Metadata = {}


class File(msgspec.Struct, kw_only=True, frozen=True):
    """A file that is followed, as `tail -F` does."""

    path: str = ""
    format: Literal["json", "event", "text"] = "text"
    pattern: str | None = None
    unmatched: Literal["drop", "keep"] = "drop"
    from_start: bool = False
    follow: bool = True
    position: str | None = None
    interval: Duration = Duration(0.25)
    topic: str = "file"
    metadata: _Metadata = {}


class Http(msgspec.Struct, kw_only=True, frozen=True):
    """Events that are posted."""

    listen: Address = Address("127.0.0.1", 8080)
    token: Secret | None = None
    rate: float | None = None
    max_bytes: Size = Size(1_048_576)
    topic: str = "http"
    metadata: _Metadata = {}


class EnvoyOutlierLogSource(msgspec.Struct, kw_only=True, frozen=True):
    """Envoy's log of hosts that are ejected and taken back."""

    path: str = ""
    position: str | None = None
    from_start: bool = False


class Sse(msgspec.Struct, kw_only=True, frozen=True):
    """Events of another server, over server-sent events."""

    url: Secret = Secret()
    token: Secret | None = None
    topic: str | None = None
    metadata: _Metadata = {}


# Processors


class Filter(msgspec.Struct, kw_only=True, frozen=True):
    """Lets through what has a topic and meets matchers."""

    topic: str = "*"
    matchers: list[MatcherLine] = []


class Redact(msgspec.Struct, kw_only=True, frozen=True):
    """Takes secrets out: the usual ones, and what is given here."""

    keys: list[str] = []
    patterns: list[str] = []


class Set(msgspec.Struct, kw_only=True, frozen=True):
    """Sets entries of the metadata; `{data.status}` in a text is filled in."""

    metadata: _Metadata = {}
    error: bool | None = None


class Sample(msgspec.Struct, kw_only=True, frozen=True):
    """Lets a part of the events through."""

    share: float = 1.0
    by: str | None = None


class Limit(msgspec.Struct, kw_only=True, frozen=True):
    """Lets so many events through in so long."""

    rate: Annotated[RateLimit, RateLimit] | None = None
    by: str | None = None


class Python(msgspec.Struct, kw_only=True, frozen=True):
    """Calls a function of an event that gives an event, several, or None."""

    function: str = ""


# Sinks


class Delivery(msgspec.Struct, kw_only=True, frozen=True):
    """How a queued sink is delivered to."""

    queue_size: int | None = None
    overflow: Literal["block", "drop_oldest", "drop_newest"] | None = None
    batch_size: int | None = None
    batch_age: Duration | None = None
    timeout: Duration | None = None
    max_attempts: int | None = None
    drain_timeout: Duration | None = None


class SinkFile(msgspec.Struct, kw_only=True, frozen=True):
    """What every sink has."""

    name: str | None = None
    topic: str = "*"
    where: list[MatcherLine] = []
    delivery: Delivery | None = None


class Structlog(SinkFile, kw_only=True, frozen=True):
    """Log lines on stdout or stderr."""

    format: Literal["console", "json"] = "console"
    output: Literal["stdout", "stderr"] = "stderr"
    level: Literal["debug", "info", "warning", "error", "critical"] = "debug"


class OpenTelemetry(SinkFile, kw_only=True, frozen=True):
    """OTLP, by the standard environment variables."""

    mode: Literal["auto", "span_event", "log_event", "both"] = "log_event"
    service_name: str | None = None


class Alerts(SinkFile, kw_only=True, frozen=True):
    """Alert routing by a file of its own."""

    config: str = ""


class Dashboard(SinkFile, kw_only=True, frozen=True):
    """The live page."""

    listen: Address = Address("127.0.0.1", 8000)
    token: Secret | None = None
    actions: bool = False
    title: str = "codomyrmex-streaming"


class SseServer(SinkFile, kw_only=True, frozen=True):
    """Server-sent events for whoever connects."""

    listen: Address = Address("127.0.0.1", 8001)
    token: Secret | None = None
    data: Literal["event", "payload"] = "event"
    replay: int = 1_000
    allow_origins: list[str] = []


class Jsonl(SinkFile, kw_only=True, frozen=True):
    """A file with one event as JSON in each line."""

    path: str = ""
    data: Literal["event", "payload"] = "event"
    max_size: Size | None = None
    keep: int = 5


class PipelineFile(msgspec.Struct, kw_only=True):
    """The whole file."""

    sources: Any = None
    processors: Any = None
    sinks: Any = None


SOURCES: dict[str, type[Any]] = {
    "stdin": Stdin,
    "file": File,
    "http": Http,
    "envoy_outlier_log": EnvoyOutlierLogSource,
    "sse": Sse,
}
PROCESSORS: dict[str, type[Any]] = {
    "filter": Filter,
    "redact": Redact,
    "set": Set,
    "sample": Sample,
    "rate_limit": Limit,
    "python": Python,
}
SINKS: dict[str, type[Any]] = {
    "structlog": Structlog,
    "opentelemetry": OpenTelemetry,
    "alerts": Alerts,
    "dashboard": Dashboard,
    "sse": SseServer,
    "jsonl": Jsonl,
}
