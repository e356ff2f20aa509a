"""`load_pipeline`: a file into sources, processors and sinks, with all that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from codomyrmex.integrations.configuration.environment import expand
from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.problems import ConfigError, Problem, ProblemList, at
from codomyrmex.integrations.configuration.reading import Reader
from codomyrmex.integrations.configuration.secret import Secret
from codomyrmex.integrations.configuration.yaml_text import read_yaml
from codomyrmex.integrations.pipelines.file import (
    PROCESSORS,
    SINKS,
    SOURCES,
    Address,
    AddressText,
    Alerts,
    Dashboard,
    Filter,
    PipelineFile,
    SinkFile,
    SseServer,
    Stdin,
)
from codomyrmex.integrations.pipelines.processors import make_step
from codomyrmex.integrations.pipelines.sinks import make_sink
from codomyrmex.integrations.pipelines.sources import make_source
from codomyrmex.integrations.web.serve import check_address
from codomyrmex.streaming import InMemoryStream, TopicError
from codomyrmex.streaming.topics import check_pattern

T = TypeVar("T", bound=msgspec.Struct)


class PipelineConfigError(ConfigError):
    """A pipeline cannot be run; `problems` has all that was found."""


@dataclass(frozen=True, slots=True)
class Named:
    """A part of a pipeline: its name, and what stands in the file. Equal ones are the same part."""

    name: str
    file: Any
    place: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """A pipeline as its file says.

    Args:
        path: the file.
        sources: in the order of the file, like the others.
        processors: the steps between.
        sinks: where events go.
        notes: what was accepted and is not used.
    """

    path: Path
    sources: tuple[Named, ...]
    processors: tuple[Named, ...]
    sinks: tuple[Named, ...]
    notes: tuple[Problem, ...]

    @property
    def folder(self) -> Path:
        """Where relative paths begin: the folder of the file."""
        return self.path.parent


def load_pipeline(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> PipelineConfig:
    """Load a pipeline, and try whether each part of it can be made.

    Args:
        path: the file.
        environ: where `${NAME}` in secrets and addresses is looked up; that of the process if left out.

    Raises:
        PipelineConfigError: it has mistakes; all of them, with file, line and column.
        MissingExtraError: a package that a part needs is not installed.
    """
    return _Loader(Path(path), os.environ if environ is None else environ).load()


class _Loader:
    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        name = str(path)
        yaml = read_yaml(read_text(path, PipelineConfigError), name)
        self._data = yaml.data
        self._problems = ProblemList(name, yaml.positions)
        self._problems.found += yaml.problems
        self._notes = ProblemList(name, yaml.positions)
        self._reader = Reader(self._problems, self._notes, yaml.words)

    def load(self) -> PipelineConfig:
        problems = self._problems
        if self._data is None and not problems.found:
            problems.add("", "the file is empty; a pipeline has sources and sinks")
        file = self._reader.struct(self._data, PipelineFile)
        sources = self._parts("sources", file.sources, SOURCES, self._try_source)
        processors = self._parts("processors", file.processors, PROCESSORS, self._try_processor)
        sinks = self._parts("sinks", file.sinks, SINKS, self._try_sink)
        if isinstance(self._data, Mapping):
            for name, found in (("sources", file.sources), ("sinks", file.sinks)):
                if not found:
                    problems.add(name, f"a pipeline has {name}")
        self._check_names(sinks)
        stdins = [part for part in sources if isinstance(part.file, Stdin)]
        if len(stdins) > 1:
            problems.add(at("sources", stdins[1].place), "there is one standard input, so one source for it")
        if problems.found:
            raise PipelineConfigError(problems.in_order())
        return PipelineConfig(self._path, sources, processors, sinks, tuple(self._notes.in_order()))

    def _parts(
        self,
        section: str,
        data: Any,
        kinds: Mapping[str, type[Any]],
        attempt: Callable[[Any, str, str], None],
    ) -> tuple[Named, ...]:
        parts = []
        names = {kind: name for name, kind in kinds.items()}
        for number, (path, file) in enumerate(self._reader.tagged(data, kinds, section)):
            file = self._expanded(file, path)  # noqa: PLW2901 - the same, with its places filled
            kind = names[type(file)]
            name = getattr(file, "name", None) or f"{kind}[{number}]"
            if not self._has_problems(path):  # else what cannot be made follows from that
                try:
                    attempt(file, name, path)
                except (ValueError, TypeError) as error:
                    self._problems.add(path, str(error))
                except ConfigError as error:
                    self._problems.found += error.problems
            parts.append(Named(name, file, number))
        return tuple(parts)

    def _has_problems(self, path: str) -> bool:
        return any(problem.path.startswith(f"{path}.") for problem in self._problems.found)

    def _expanded(self, file: T, path: str) -> T:
        """Fill in what comes from the environment."""
        changes: dict[str, Any] = {}
        for name in file.__struct_fields__:
            value = getattr(file, name)
            filled = self._filled(value, at(path, name))
            if filled is not value:
                changes[name] = filled
        return msgspec.structs.replace(file, **changes) if changes else file

    def _filled(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            filled = {name: self._filled(each, at(path, name)) for name, each in value.items()}
            return filled if any(filled[name] is not value[name] for name in value) else value
        if not (isinstance(value, (str, AddressText)) and "${" in value):
            return value
        try:
            text = expand(value, self._environ)
            return Address.parse(text) if isinstance(value, AddressText) else type(value)(text)
        except ValueError as error:  # an ExpansionError, or no address
            self._problems.add(path, str(error))
            return value

    # Each part is made once to see whether it can be; nothing is opened by that.

    def _try_source(self, file: Any, name: str, path: str) -> None:
        topic = getattr(file, "topic", None)
        if topic is not None:
            self._topic(topic, at(path, "topic"))
        if hasattr(file, "listen"):
            self._listens(file, path)
        make_source(file, name, self._path.parent)

    def _try_processor(self, file: Any, _: str, path: str) -> None:
        if isinstance(file, Filter):
            self._topic(file.topic, at(path, "topic"))
        make_step(file, self._path.parent)

    def _try_sink(self, file: SinkFile, name: str, path: str) -> None:
        self._topic(file.topic, at(path, "topic"))
        if isinstance(file, (Dashboard, SseServer)):
            self._listens(file, path)
        built = make_sink(file, name, self._path.parent, InMemoryStream(buffer_size=1), _nothing)
        if isinstance(file, Alerts) and built.alerts is not None:
            self._notes.found += built.alerts.config.notes

    def _topic(self, topic: str, path: str) -> None:
        try:
            check_pattern(topic)
        except TopicError as error:
            self._problems.add(path, str(error))

    def _listens(self, file: Any, path: str) -> None:
        token: Secret | None = file.token
        if token is not None and not token:
            self._problems.add(at(path, "token"), "the token is empty")
        try:
            check_address(file.listen.host, token)
        except ValueError as error:
            self._problems.add(at(path, "listen"), str(error))

    def _check_names(self, sinks: tuple[Named, ...]) -> None:
        seen: dict[str, int] = {}
        for part in sinks:
            if part.name in seen:
                where = at("sinks", part.place)
                self._problems.add(where, f"two sinks are named {part.name!r}; give one of them another name")
            seen[part.name] = part.place


def _nothing() -> None:
    pass
