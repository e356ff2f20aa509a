"""YAML text as plain data, with the position of each value; the adapter of PyYAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.problems import Problem, at, inside, key_of

try:
    import yaml
except ImportError as error:
    raise MissingExtraError("a configuration in YAML", "PyYAML", "alerts") from error

_MAX_VALUES = 500_000  # a few aliases can expand to any number of values


@dataclass(slots=True)
class YamlText:
    """The content of a YAML text; positions and words are by the paths of values."""

    data: Any = None
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)  # line and column, from 1
    words: dict[str, str] = field(default_factory=dict)  # values that are not text: `022` for 18
    problems: list[Problem] = field(default_factory=list)


def read_yaml(text: str, file: str | None = None) -> YamlText:
    """Parse YAML 1.1 with the tags of built-in types, as Prometheus does; `file` is for the problems."""
    result = YamlText()
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                result.data = _Converter(loader, result, file).value(node, "")
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        result.problems.append(_problem(error, file))
    except RecursionError:
        result.problems.append(Problem("the data is nested too deep", file=file))
    return result


class _Converter:
    def __init__(self, loader: yaml.SafeLoader, result: YamlText, file: str | None) -> None:
        self._loader = loader
        self._result = result
        self._file = file
        self._remaining = _MAX_VALUES

    def value(self, node: yaml.Node, path: str) -> Any:
        self._remaining -= 1
        if self._remaining < 0:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MAX_VALUES:,} values", problem_mark=node.start_mark
            )
        self._result.positions[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, at(path, number)) for number, item in enumerate(node.value)]
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError) as error:  # an impossible date or number
            self._add(node, path, f"invalid value: {error}")
            return node.value
        if not isinstance(value, str):
            self._result.words[path] = node.value
        elif isinstance(node, yaml.ScalarNode) and node.style in {"'", '"'}:
            mark = node.start_mark
            self._result.positions[inside(path)] = (mark.line + 1, mark.column + 2)
        return value

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        self._loader.flatten_mapping(node)  # `<<: *base`
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: set[int] = set()
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self._add(key_node, path, "a key must be text")
                continue
            if (
                key in merged
                and key_node.start_mark.line >= node.start_mark.line
                and id(merged[key][0]) in own
            ):
                first = merged[key][0].start_mark.line + 1
                self._add(key_node, at(path, key), f"{key} is given twice, first on line {first}")
                continue
            if node.start_mark.index <= key_node.start_mark.index <= node.end_mark.index:
                own.add(id(key_node))
            merged[key] = (key_node, value_node)
            mark = key_node.start_mark
            self._result.positions[key_of(at(path, key))] = (mark.line + 1, mark.column + 1)
        return {key: self.value(value_node, at(path, key)) for key, (_, value_node) in merged.items()}

    def _add(self, node: yaml.Node, path: str, message: str) -> None:
        mark = node.start_mark
        self._result.problems.append(Problem(message, path, self._file, mark.line + 1, mark.column + 1))


def _problem(error: yaml.YAMLError, file: str | None) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return Problem(f"invalid YAML: {str(error).splitlines()[0]}", file=file)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    message = f"invalid YAML: {', '.join(part for part in parts if part)}"
    return Problem(message, file=file, line=mark.line + 1, column=mark.column + 1)
