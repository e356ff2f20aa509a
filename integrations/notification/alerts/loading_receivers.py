"""`ReceiverLoader`: the receivers of a file with their channels, checked and complete."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.environment import ExpansionError, Secret, expand
from codomyrmex.integrations.configuration.problems import ConfigError, ProblemList, at
from codomyrmex.integrations.configuration.reading import fields_of
from codomyrmex.integrations.notification.alerts.config import Receiver
from codomyrmex.integrations.notification.alerts.config_file import (
    ConfigFile,
    GlobalFile,
    ReceiverFile,
)
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.go_templates import GoTemplateError, GoTemplates
from codomyrmex.integrations.notification.receivers.defaults import EXTERNAL_URL
from codomyrmex.integrations.notification.receivers.receiver_config import Context, ReceiverConfig


class ReceiverLoader:
    """Adds receivers, and collects the problems and notes of their channels.

    Args:
        problems: collects the problems.
        notes: collects the settings that are accepted but have no effect.
        environ: the variables for `${NAME}` in secrets.
        context: what channels use from the rest of the file.
        is_portable: whether Alertmanager could use the file too; then differences are noted.

    Attributes:
        receivers: by name.
    """

    def __init__(
        self,
        problems: ProblemList,
        notes: ProblemList,
        environ: Mapping[str, str],
        context: Context,
        *,
        is_portable: bool = False,
    ) -> None:
        self._problems = problems
        self._notes = notes
        self._environ = environ
        self._context = context
        self._is_portable = is_portable
        self.receivers: dict[str, Receiver] = {}

    def add(self, file: ReceiverFile, path: str) -> None:
        """Add a receiver."""
        if not file.name:
            self._problems.add(path, "a receiver must have a name")
        elif file.name in self.receivers:
            self._problems.add(at(path, "name"), f"there are two receivers named {file.name!r}")
        else:
            channels = tuple(
                self._channel(channel, channel_path, f"{file.name}[{number}]", file)
                for number, (channel_path, channel) in enumerate(file.plugins)
            )
            self.receivers[file.name] = Receiver(file.name, channels, file.fallback, path, file.rate_limit)

    def _channel(self, channel: ChannelConfig, path: str, name: str, receiver: ReceiverFile) -> ChannelConfig:
        failed: list[str] = []

        def failing(where: str, error: ExpansionError) -> None:
            failed.append(where)
            self._problems.add(where, str(error))

        if self._is_portable:
            note_references(channel, path, self._notes)
        channel = expanded(channel, path, self._environ, failing)
        changes = {"name": name, "rate_limit": channel.rate_limit or receiver.rate_limit}
        channel = msgspec.structs.replace(channel, **changes)
        if isinstance(channel, ReceiverConfig):
            channel = channel.completed(self._context)
            for field, text in channel.templates():
                self._check_template(at(path, field), text, html=field == channel.html_option())
        for field, message in channel.problems():
            where = at(path, field) if field else path
            if where not in failed:
                self._problems.add(where, message)
        for field, message in channel.notes():
            self._notes.add(at(path, field) if field else path, message)
        return channel

    def _check_template(self, path: str, text: str, *, html: bool) -> None:
        if self._context.templates is None:  # their files have problems, which come first
            return
        try:
            template = self._context.compile(text, html=html)
        except GoTemplateError as error:
            _add(self._problems, path, text, error, error.message)
            return
        for later in template.errors:  # Alertmanager accepts them
            message = f"{later.message}; where this fails, the default text is sent instead"
            _add(self._notes, path, text, later, message)


def _add(problems: ProblemList, path: str, text: str, error: GoTemplateError, message: str) -> None:
    """Add an error of a template with its place: in a text of one line, or in a file."""
    if error.file is not None:
        problem = replace(error.problem, message=message)
        if problem not in problems.found:  # of a template that several texts call
            problems.found.append(problem)
    elif "\n" in text:
        problems.add(path, f"line {error.line}, column {error.column}: {message}")
    else:
        problems.add(path, message, error.column - 1)


def load_context(
    defaults: GlobalFile, file: ConfigFile, problems: ProblemList, notes: ProblemList
) -> Context:
    """Return what channels use from their file; the problems of its templates are those of the file."""
    folder, patterns = Path(problems.file or "").parent, file.templates
    channels = [channel for receiver in file.receivers for _, channel in receiver.plugins]
    if not patterns and not any(isinstance(channel, ReceiverConfig) for channel in channels):
        return Context(defaults, folder=folder)  # the default templates take a few milliseconds to parse
    try:
        templates = GoTemplates.load(patterns, folder)
    except ConfigError as error:
        problems.found += error.problems
        return Context(defaults, folder=folder)
    for number, pattern in enumerate(patterns):
        if not glob.glob(str(folder / pattern)):  # noqa: PTH207 - it may be absolute
            notes.add(at("templates", number), "no file matches this")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in templates.files)).hexdigest()
    return Context(defaults, templates, digest, folder)


def load_globals(file: GlobalFile, problems: ProblemList, environ: Mapping[str, str]) -> GlobalFile:
    """Return the global settings with their secrets expanded, and add their problems."""
    file = expanded(file, "global", environ, lambda where, error: problems.add(where, str(error)))
    if not file.external_url:
        file = msgspec.structs.replace(file, external_url=environ.get(EXTERNAL_URL, ""))
    for name in msgspec.structs.asdict(file):
        if name.endswith("_file") and getattr(file, name) and getattr(file, name.removesuffix("_file")):
            text = name.removesuffix("_file")
            problems.add(at("global", name), f"{text} and {name} are both given; remove one")
    for option, message in () if file.http_config is None else file.http_config.problems():
        problems.add(at("global.http_config", option), message)
    return file


def note_references(value: Any, path: str, notes: ProblemList) -> None:
    """Note each `${NAME}` in a secret."""

    def note(where: str, secret: str) -> None:
        if "${" in secret:
            notes.add(where, "${NAME} is replaced by an environment variable here, but not in Alertmanager")

    _each_secret(value, path, note)


def _each_secret(value: Any, path: str, act: Callable[[str, str], None]) -> None:
    if isinstance(value, Secret):
        act(path, value)
    elif isinstance(value, msgspec.Struct):
        for option in fields_of(type(value)):
            _each_secret(getattr(value, option.name), at(path, option.encode_name), act)
    elif isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _each_secret(item, at(path, key), act)


def expanded(
    value: Any, path: str, environ: Mapping[str, str], failing: Callable[[str, ExpansionError], None]
) -> Any:
    """Return a value with `${NAME}` replaced in all its secrets; calls `failing` for each that cannot be."""
    if isinstance(value, Secret):
        try:
            return Secret(expand(value, environ))
        except ExpansionError as error:
            failing(path, error)
            return value
    if isinstance(value, msgspec.Struct):
        changes = {}
        for option in fields_of(type(value)):
            old = getattr(value, option.name)
            new = expanded(old, at(path, option.encode_name), environ, failing)
            if new is not old:
                changes[option.name] = new
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, dict):
        return {key: expanded(item, at(path, str(key)), environ, failing) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item, at(path, number), environ, failing) for number, item in enumerate(value)]
    return value
