"""`load_pipeline_config`: reads the file of a pipeline and reports every problem in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import Secret, expand
from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.problems import ConfigError, Problem, ProblemList, at
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.configuration.yaml_text import read_yaml
from codomyrmex.integrations.delivery.sink import Binding
from codomyrmex.integrations.pipelines.fields import escape
from codomyrmex.integrations.pipelines.parts import Address, Context, Delivery, FieldError, SinkConfig, Size

if TYPE_CHECKING:
    from codomyrmex.integrations.pipelines.spool import Spool

_ALERT_KEYS = {"route", "receivers", "inhibit_rules"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

# A new type of source, step or sink is a class in a separate file and one line in one of these tables.


class PartTypes(Mapping[str, type[Any]]):
    """The settings class of each type, imported on first use.

    Args:
        paths: `module:class`, by the `type` in a pipeline file.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> type[Any]:
        module, _, attribute = self._paths[name].partition(":")
        found: type[Any] = getattr(import_module(f".{module}", __package__), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


SOURCES = PartTypes(
    {
        "stdin": "line_sources:Stdin",
        "file": "line_sources:File",
        "http": "server_sources:Http",
        "alertmanager_webhook": "server_sources:AlertmanagerWebhook",
        "sse": "server_sources:Sse",
        "envoy_outlier_log": "envoy_source:EnvoyOutlierLogFile",
    }
)
STEPS = PartTypes(
    {
        "filter": "steps:Filter",
        "redact": "steps:Redact",
        "set": "steps:Set",
        "sample": "steps:Sample",
        "rate_limit": "steps:RateLimited",
        "python": "steps:Python",
    }
)
SINKS = PartTypes(
    {
        "structlog": "sinks:Structlog",
        "jsonl": "sinks:Jsonl",
        "alerts": "sinks:Alerts",
        "dashboard": "sinks:Dashboard",
        "sse": "sinks:SseServer",
        "opentelemetry": "otlp:OpenTelemetry",
    }
)


class PipelineConfigError(ConfigError):
    """A pipeline cannot run; `problems` holds everything that was found."""


@dataclass(frozen=True, slots=True)
class Part:
    """A source, step or sink of a pipeline. Equal parts are the same part.

    Args:
        name: the name in reports and logs, such as `stdin[0]`.
        config: its settings.
        shows: the parts that it shows and depends on.
        position: its index in its section of the file.
    """

    name: str
    config: Any
    shows: tuple[Part, ...] = ()
    position: int = field(default=0, compare=False)


class SpoolConfig(msgspec.Struct, frozen=True):
    """The store that keeps events until the sinks have received them.

    Attributes:
        url: the store, as for `open_store`; a relative path of SQLite begins at the folder of the file.
        name: the name of the stream in the store; pipelines that share a store need different ones.
        max_events: how many events are kept after they were delivered, as for `Retention`.
        max_size: their size.
        max_age: for how long.
        lease: when another process takes over from one that was killed.
    """

    url: Secret = Secret()
    name: str = "events"
    max_events: int = 1_000_000
    max_size: Size = Size(1024**3)
    max_age: Duration = Duration(7 * 86_400)
    lease: Duration = Duration(10)

    def build(self, folder: Path) -> Spool:
        """Return the spool, which is not open yet.

        Raises:
            StoreConfigError: the URL is wrong.
            ValueError: another setting is wrong.
            MissingExtraError: the package of the store is not installed.
        """
        from codomyrmex.integrations.durable.opening import open_store, resolve_url
        from codomyrmex.integrations.durable.store import Retention
        from codomyrmex.integrations.durable.stream import DurableStream
        from codomyrmex.integrations.pipelines.spool import Spool

        retention = Retention(
            max_events=self.max_events, max_bytes=self.max_size, max_age=float(self.max_age)
        )
        url = resolve_url(self.url, folder)
        stream = DurableStream(open_store(url), self.name, retention=retention, lease=float(self.lease))
        return Spool(stream, self.lease)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """The configuration of a pipeline; returned by `load_pipeline_config`.

    Args:
        path: the file.
        sources: in the order of the file, like the others.
        steps: the `processors` of the file.
        sinks: where events go.
        notes: settings that are accepted but not used.
        spool: what keeps the events until they are delivered.
    """

    path: Path
    sources: tuple[Part, ...]
    steps: tuple[Part, ...]
    sinks: tuple[Part, ...]
    notes: tuple[Problem, ...]
    spool: SpoolConfig | None = None


class _File(msgspec.Struct):
    """The sections of the file."""

    spool: Any = None
    sources: Any = None
    processors: Any = None
    sinks: Any = None


def load_pipeline_config(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> PipelineConfig:
    """Load the file of a pipeline and check that each part can be built.

    Args:
        path: the file.
        environ: the values of `${NAME}`; the environment of the process by default.

    Raises:
        PipelineConfigError: the file is invalid; lists every problem with file, line and column.
        MissingExtraError: a package that a part needs is not installed.
    """
    return _Loader(Path(path), os.environ if environ is None else environ).load()


class _Loader:
    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        yaml = read_yaml(read_text(path, PipelineConfigError), str(path))
        self._data = yaml.data
        self._problems = ProblemList(str(path), yaml.positions)
        self._problems.found += yaml.problems
        self._notes = ProblemList(str(path), yaml.positions)
        self._reader = Reader(self._problems, self._notes, yaml.words)
        self._context = Context(path.parent)
        self._unnamed: list[tuple[str, str]] = []  # the queued sinks without a name

    def load(self) -> PipelineConfig:
        problems = self._problems
        if self._data is None and not problems.found:
            problems.add("", "the file is empty; sources and sinks are required")
        keys = self._data.keys() if isinstance(self._data, Mapping) else set[str]()
        if keys & _ALERT_KEYS and not keys & set(_File.__struct_fields__):
            message = "this is a configuration of alerts and not a pipeline; check it with `alerts check`,"
            problems.add(
                "", f"{message} and use it in a pipeline as the `config` of a sink of the type alerts"
            )
            raise PipelineConfigError(problems.found)
        file = self._reader.struct(self._data, _File)
        spool = self._spool(file.spool)
        sources = self._parts("sources", file.sources, SOURCES)
        steps = self._parts("processors", file.processors, STEPS)
        sinks = self._parts("sinks", file.sinks, SINKS)
        if isinstance(self._data, Mapping):
            for section, data in (("sources", file.sources), ("sinks", file.sinks)):
                if not data:
                    problems.add(section, "at least one is required")
        self._check_names(sinks)
        stdins = [part for part in sources if part.name.startswith("stdin[")]
        for part in stdins[1:]:
            problems.add(at("sources", part.position), "only one source can read the standard input")
        if not problems.found:
            self._check_files({"sources": sources, "sinks": sinks})
            self._check_addresses(sources, sinks)
        if problems.found:
            raise PipelineConfigError(problems.in_order())
        alerts = tuple(part for part in sinks if _type_of(file.sinks, part.position) == "alerts")
        sinks = tuple(replace(part, shows=alerts) if part.config.shows_alerts else part for part in sinks)
        if spool is not None:
            self._note_unnamed()
        notes = [*self._notes.in_order(), *self._context.notes]
        return PipelineConfig(self._path, sources, steps, sinks, tuple(notes), spool)

    def _spool(self, data: Any) -> SpoolConfig | None:
        if data is None:
            return None
        if not isinstance(data, str | dict):
            self._problems.add("spool", f"expected a URL or a mapping, got {type(data).__name__}")
            return None
        from codomyrmex.integrations.durable.store import StoreError

        known = len(self._problems.found)
        is_text = isinstance(data, str)
        expanded = self._expand({"spool": data}, self._environ, "")
        fields = {"url": expanded.get("spool")} if is_text else expanded["spool"]
        config = self._reader.struct(fields, SpoolConfig, "spool")
        if len(self._problems.found) == known:
            try:
                config.build(self._path.parent)
            except StoreError as error:
                self._problems.add("spool" if is_text else "spool.url", str(error))
            except (ValueError, TypeError) as error:
                self._problems.add("spool", str(error))
        return config

    def _note_unnamed(self) -> None:
        """Note the sinks whose place in the spool depends on their index in the file."""
        for path, name in self._unnamed:
            message = f"the place of this sink in the spool is kept as {name!r}; give it a name of its own"
            self._notes.add(path, message)

    def _parts(self, section: str, data: Any, types: PartTypes) -> tuple[Part, ...]:
        if isinstance(data, list):
            data = [self._expand_part(item, types, at(section, index)) for index, item in enumerate(data)]
        parts = []
        for path, config in self._reader.tagged(data, types, section):
            position = int(path[len(section) + 1 : -1])
            name = getattr(config, "name", None) or f"{_type_of(data, position)}[{position}]"
            if not any(problem.path.startswith(f"{path}.") for problem in self._problems.found):
                self._try(config, name, path)
            parts.append(Part(name, config, position=position))
        return tuple(parts)

    def _try(self, config: Any, name: str, path: str) -> None:
        """Build a part to find out whether it can be; nothing is opened."""
        build = config.bind if isinstance(config, SinkConfig) else config.build
        try:
            built = build(name, self._context)
            if isinstance(built, Binding) and built.policy is not None and config.name is None:
                self._unnamed.append((path, name))
        except FieldError as error:
            self._problems.add(at(path, error.field), error.problem)
        except (ValueError, TypeError) as error:
            self._problems.add(*_placed(str(error), config, path))
        except ConfigError as error:
            self._problems.found += error.problems
        else:
            for field_name, file in (*config.reads(self._context), *config.writes(self._context)):
                if os.path.isdir(file):  # noqa: PTH112 - it never raises
                    self._problems.add(at(path, field_name), f"must be a file, got a folder: {file}")

    def _expand_part(self, part: Any, types: PartTypes, path: str) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        environ = self._environ
        if isinstance(kind, str) and kind in types and types[kind].templates:
            environ = {name: escape(value) for name, value in environ.items()}
        return self._expand(part, environ, path)

    def _expand(self, value: Any, environ: Mapping[str, str], path: str) -> Any:
        """Replace `${NAME}` in the texts of a mapping; leave out the values that cannot be expanded."""
        if not isinstance(value, dict):
            return value
        expanded = {}
        for key, item in value.items():
            try:
                expanded[key] = expand(item, environ) if isinstance(item, str) else item
            except ValueError as error:
                self._problems.add(at(path, str(key)), str(error))
            else:
                expanded[key] = self._expand(expanded[key], environ, at(path, str(key)))
        return expanded

    def _check_files(self, sections: Mapping[str, tuple[Part, ...]]) -> None:
        """Report the files that a part would write although another part reads them."""
        parts = [(at(name, part.position), part) for name, found in sections.items() for part in found]
        users = {os.path.realpath(self._path): "this file"}
        for _, part in parts:
            for field_name, path in part.config.reads(self._context):
                users.setdefault(os.path.realpath(path), f"the file of {part.name}, {field_name}")
        for where, part in parts:
            for field_name, path in part.config.writes(self._context):
                # Such as /dev/stdout; unlike those of Path, these functions never raise.
                if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
                    continue
                real = os.path.realpath(path)
                if real in users:
                    self._problems.add(at(where, field_name), f"must not be {users[real]}: {path}")
                elif field_name == "position":
                    users[real] = f"the file of {part.name}, {field_name}"

    def _check_addresses(self, sources: tuple[Part, ...], sinks: tuple[Part, ...]) -> None:
        """Report parts with the same address, and sources that would read what a sink here serves."""
        taken: dict[Address, str] = {}
        for name, parts in (("sources", sources), ("sinks", sinks)):
            for part in parts:
                address = getattr(part.config, "listen", None)
                if address is None or address.port == 0:
                    continue
                if address in taken:
                    message = f"{taken[address]} listens on {address} too"
                    self._problems.add(at(at(name, part.position), "listen"), message)
                taken[address] = part.name
        served = {part.config.listen.port: part.name for part in sinks if hasattr(part.config, "listen")}
        for part in sources:
            address = urlsplit(getattr(part.config, "url", ""))
            if address.hostname in _LOOPBACK and address.port in served:
                message = f"must not be the address of {served[address.port]}"
                self._problems.add(at(at("sources", part.position), "url"), message)

    def _check_names(self, sinks: tuple[Part, ...]) -> None:
        counts = Counter(part.name for part in sinks)
        for part in sinks:
            if counts[part.name] > 1:
                message = f"{counts[part.name]} sinks have the name {part.name!r}; names must be unique"
                self._problems.add(at("sinks", part.position), message)


def _placed(message: str, config: Any, path: str) -> tuple[str, str]:
    """Return the path of the key that a message like `keep: must be at least 1` begins with, and the rest."""
    name, colon, problem = message.partition(": ")
    for kind, where in ((type(config), path), (Delivery, at(path, "delivery"))):
        if colon and name in kind.__struct_fields__:
            return at(where, name), problem
    return path, message


def _type_of(data: Any, position: int) -> str:
    kind: str = data[position]["type"]
    return kind
