"""`ConfigSource`: loads the configuration of an alert sink, and detects changes of its file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from codomyrmex.integrations.configuration.files import Stamp, stamp_of
from codomyrmex.integrations.configuration.problems import Problem, did_you_mean
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.notification.alerts.config import AlertConfig, AlertConfigError
from codomyrmex.integrations.notification.alerts.loading import load_alert_config
from codomyrmex.integrations.notification.channels import ApplicationChannel

Source = str | os.PathLike[str] | Mapping[str, Any] | AlertConfig


class ConfigState(NamedTuple):
    """The state of a sink's configuration.

    Attributes:
        id: identifies the configuration; empty if the sink was created with a loaded configuration.
        loaded_at: when it was loaded, in seconds since 1970.
        last_reload_failed: whether the last reload failed, so that this configuration is still in force.
    """

    id: str
    loaded_at: float
    last_reload_failed: bool = False


class ConfigSource:
    """Loads the configuration of an alert sink; the arguments are those of `AlertSink`.

    Attributes:
        id: identifies the configuration; empty if it was passed as a loaded one.
    """

    def __init__(
        self, source: Source, channels: Mapping[str, Sink | Iterable[Sink]] | None, *, watch: bool
    ) -> None:
        self._source = source
        self._watch = watch
        self._path: Path | None = None
        self._stamp: Stamp | None = None
        self._previous: Stamp | None = None  # at the last call of `has_changed`
        self._channels: dict[str, list[Sink]] = {}
        self.id = ""
        if channels is not None and not isinstance(channels, Mapping):
            actual = type(channels).__name__
            raise TypeError(f"channels: must be a mapping of sinks by the name of a receiver, got {actual}")
        given: Mapping[str, Any] = channels or {}
        for receiver, sinks in given.items():
            self._channels[receiver] = list(sinks) if isinstance(sinks, Iterable) else [sinks]
            for sink in self._channels[receiver]:
                if not isinstance(sink, Sink):
                    raise TypeError(f"channels: {receiver!r} must have a Sink, got {type(sink).__name__}")

    def load(self, current: AlertConfig | None = None) -> AlertConfig:
        """Load the configuration, which must have the state of the current one."""
        self._stamp = self._read_stamp()
        source = self._source
        self.id = "" if isinstance(source, AlertConfig) else _identify(source)
        config = source if isinstance(source, AlertConfig) else load_alert_config(source)
        if self._path is None and config.source_map.file is not None:
            self._path = Path(config.source_map.file)
            self._stamp = self._read_stamp()
        if current is not None and (config.state, config.when_away) != (current.state, current.when_away):
            raise _error(config, "state", "the state cannot change while it is in use; restart instead")
        receivers = dict(config.receivers)
        for name, sinks in self._channels.items():
            receiver = receivers.get(name)
            if receiver is None:
                hint = did_you_mean(name, receivers)
                raise _error(
                    config, "receivers", f"channels are given for an unknown receiver {name!r}{hint}"
                )
            added = [
                ApplicationChannel(name=f"{name}[{number}]", sink=sink, rate_limit=receiver.rate_limit)
                for number, sink in enumerate(sinks)
            ]
            receivers[name] = replace(receiver, channels=tuple(added))
        return replace(config, receivers=receivers)

    def has_changed(self) -> bool:
        """Return whether the file has changed since it was loaded; a missing file has not.

        A file that is written in place may be incomplete, so it only counts as changed once two calls find it
        the same. A file that replaced the old one by renaming is complete.
        """
        stamp, previous = self._read_stamp(), self._previous
        self._previous = stamp
        if stamp is None or stamp == self._stamp:
            return False
        return stamp == previous or self._stamp is None or stamp[2] != self._stamp[2]

    def _read_stamp(self) -> Stamp | None:
        return stamp_of(self._path) if self._watch and self._path is not None else None


def _error(config: AlertConfig, path: str, message: str) -> AlertConfigError:
    return AlertConfigError([Problem(message, path, config.source_map.file, config.line(path))])


def _identify(source: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    content = repr(source).encode(errors="surrogatepass")
    if not isinstance(source, Mapping):
        with suppress(OSError, ValueError, TypeError):  # it is not a path
            content = Path(source).read_bytes()
    return hashlib.blake2b(content, digest_size=8).hexdigest()
