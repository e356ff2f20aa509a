"""`import_config`: converts an `alertmanager.yml` to the format used here, with a comment for each change."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from codomyrmex.integrations.configuration.files import read_text
from codomyrmex.integrations.configuration.problems import Problem, at, key_of
from codomyrmex.integrations.configuration.yaml_output import Literal, Omitted, write_yaml
from codomyrmex.integrations.notification.alerts.config import (
    AlertConfig,
    AlertConfigError,
    InhibitRule,
    Route,
)
from codomyrmex.integrations.notification.alerts.findings import Finding
from codomyrmex.integrations.notification.alerts.lint import lint
from codomyrmex.integrations.notification.alerts.loading import load_text

_CLASSIC = ("match", "match_re", "matchers")
_CLASSIC_RULE = (
    ("source_match", "source_match_re", "source_matchers"),
    ("target_match", "target_match_re", "target_matchers"),
)


def import_config(path: Path, now: float) -> str:
    """Return the YAML of an equivalent configuration, with a comment for each change.

    Args:
        path: the configuration of Alertmanager.
        now: seconds since 1970, for `lint`.

    Raises:
        AlertConfigError: the file is invalid.
    """
    config, yaml = load_text(read_text(path, AlertConfigError), str(path), os.environ)
    importer = _Importer(config, _copied(yaml.data, "", yaml.words), path.name)
    importer.convert(now)
    return write_yaml(importer.data, importer.comments)


class _Importer:
    def __init__(self, config: AlertConfig, data: dict[str, Any], name: str) -> None:
        self._config = config
        self.data = data
        self.comments: dict[str, list[str]] = defaultdict(list)
        self.comments[""].append(f"Converted from {name}, without its comments; each change has a comment.")

    def convert(self, now: float) -> None:
        """Change the data, and add the comments."""
        self._convert_route(self._config.route, self.data["route"])
        for rule, data in zip(self._config.inhibit_rules, _items(self.data, "inhibit_rules"), strict=True):
            self._convert_rule(rule, data)
        for finding in lint(self._config, now):
            self._convert_finding(finding)
        self._convert_intervals()

    def _convert_route(self, route: Route, data: dict[str, Any]) -> None:
        if data.get("receiver") == "":
            self._omit(data, route.path, "receiver", "empty, so it is inherited from the parent route")
        self._replace(data, route.path, _CLASSIC, route.matchers)
        for child, child_data in zip(route.children, _items(data, "routes"), strict=True):
            self._convert_route(child, child_data)

    def _convert_rule(self, rule: InhibitRule, data: dict[str, Any]) -> None:
        for keys, matchers in zip(_CLASSIC_RULE, (rule.source, rule.target), strict=True):
            self._replace(data, rule.path, keys, matchers)

    def _replace(
        self, data: dict[str, Any], path: str, keys: tuple[str, str, str], matchers: Iterable[object]
    ) -> None:
        """Replace the deprecated forms of matchers by the current one."""
        old = [key for key in keys[:2] if isinstance(data.get(key), Mapping) and data[key]]
        if old:
            items = list(data.items())
            data.clear()
            for key, value in items:
                if key in keys:
                    data[keys[2]] = [str(matcher) for matcher in matchers]
                else:
                    data[key] = value
            self._comment(at(path, keys[2]), f"was {' and '.join(f'`{key}`' for key in old)}")

    def _convert_finding(self, finding: Finding) -> None:
        path = finding.path
        if finding.kind == "delivers-nothing":
            key, _, number = path.rpartition(".")[2].partition("[")
            receiver = path.rpartition(".")[0]
            for data in self._at(receiver):
                data[key][int(number.rstrip("]"))] = Omitted()
            self._comment(path, f"left out: {finding.message}")
        elif finding.kind == "note":
            if self._is_key(finding):
                parent, _, name = path.rpartition(".")
                for data in self._at(parent):
                    self._omit(data, parent, name, finding.message)
            else:
                self._comment(path, finding.message)
        elif finding.kind == "invalid-channel":
            self._comment(path, finding.message)

    def _is_key(self, note: Problem) -> bool:
        """Return whether a note is about a key that is not used."""
        return self._config.source_map.positions.get(key_of(note.path)) == (note.line, note.column)

    def _convert_intervals(self) -> None:
        old, kept = (_items(self.data, key) for key in ("mute_time_intervals", "time_intervals"))
        if not old:
            return
        moved = len(kept)
        self.data["time_intervals"] = [*kept, *old]
        for path in [path for path in self.comments if path.startswith("mute_time_intervals[")]:
            number, _, rest = path.removeprefix("mute_time_intervals[").partition("]")
            self.comments[f"time_intervals[{int(number) + moved}]{rest}"] = self.comments.pop(path)
        del self.data["mute_time_intervals"]
        self._comment(at("time_intervals", moved), "was in `mute_time_intervals`")

    def _omit(self, data: dict[str, Any], path: str, key: str, reason: str) -> None:
        data[key] = Omitted()
        self._comment(at(path, key), f"`{key}` is left out: {reason}")

    def _comment(self, path: str, text: str) -> None:
        self.comments[path].append(" ".join(text.split()))

    def _at(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the mapping at a path, unless a value that contains it is left out."""
        value: Any = self.data
        for step in path.replace("[", ".[").split(".") if path else ():
            if isinstance(value, Omitted):
                return
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        if isinstance(value, dict):
            yield value


def _items(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _copied(value: Any, path: str, words: Mapping[str, str]) -> Any:
    """Return a copy of data in which values that are not text are as they were written."""
    if isinstance(value, Mapping):
        return {key: _copied(item, at(path, key), words) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, at(path, number), words) for number, item in enumerate(value)]
    return value if isinstance(value, str) else Literal(words.get(path) or "null")
