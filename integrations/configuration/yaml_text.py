"""YAML text as plain data, with the position of each value; the adapter of PyYAML."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.configuration.problems import Problem, at, inside, key_of

try:
    import yaml
except ImportError as error:
    raise MissingExtraError("a configuration in YAML", "PyYAML", "alerts") from error

_MAX_VALUES = 500_000  # a few aliases can expand to any number of values
_MAX_BRACKETS = 100
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(slots=True)
class YamlText:
    """The content of a YAML text; positions and words are by the paths of values."""

    data: Any = None
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)  # line and column, from 1
    words: dict[str, str] = field(default_factory=dict)  # values that are not text: `022` for 18
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)  # parts of the text that have no effect


def read_yaml(text: str, file: str | None = None, *, joined: Collection[str] | None = None) -> YamlText:
    """Parse YAML 1.1 with the tags of built-in types, as Prometheus does.

    Args:
        text: the text.
        file: the file, for the problems.
        joined: keys to whose lists a merge (`<<`) adds. If they are given, the text is read as Go's YAML
            library reads it: a merge overrides the keys before it, and only the first document is used. Both
            are noted.
    """
    result = YamlText()
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node() if joined is None else _first_node(loader, result, file)
            if node is not None:
                result.data = _Converter(loader, result, file, joined).value(node, "")
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        result.problems.append(_problem(error, file))
    except RecursionError:
        result.problems.append(Problem("the data is nested too deep", file=file))
    return result


class _Loader(yaml.SafeLoader):
    """Accepts tabs where Go's YAML does (as libyaml): between tokens and inside of text, not to indent."""

    # `=` is text; PyYAML resolves it to a tag for which it has no constructor.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:value"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def scan_to_next_token(self) -> None:
        while self.peek() == "\t" and self._allows_tab():
            self.forward()
        super().scan_to_next_token()
        if self.peek() == "\t" and self._allows_tab():
            self.scan_to_next_token()

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - PyYAML's name
        # Each of many brackets may begin a key, and all of them are looked at for each token.
        if self.flow_level >= _MAX_BRACKETS:
            problem = f"nested too deep, in more than {_MAX_BRACKETS} brackets"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def _allows_tab(self) -> bool:
        return bool(self.flow_level) or not self.allow_simple_key

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> Any:
        length = 0
        while self.peek(length) in {" ", "\t"}:
            length += 1
        blanks = self.prefix(length)
        self.forward(length)
        if self.peek() in "\r\n\x85\u2028\u2029":
            return super().scan_plain_spaces(indent, start_mark)
        return [blanks] if blanks else []


def _first_node(loader: yaml.SafeLoader, result: YamlText, file: str | None) -> yaml.Node | None:
    """Return the first document, and note a second one."""
    node: yaml.Node | None = loader.get_node() if loader.check_node() else None
    if loader.check_node():
        untyped: Any = loader
        mark = untyped.get_event().start_mark
        message = "only the first document of the file is used, not the one that starts here"
        result.notes.append(Problem(message, "", file, mark.line + 1, mark.column + 1))
    return node


class _Converter:
    def __init__(
        self, loader: yaml.SafeLoader, result: YamlText, file: str | None, joined: Collection[str] | None
    ) -> None:
        self._loader = loader
        self._result = result
        self._file = file
        self._joined = joined
        self._remaining = _MAX_VALUES
        self._own_keys: dict[int, set[int]] = {}  # of each mapping, without those that are merged into it

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
        except (ValueError, OverflowError, AttributeError) as error:  # no date, or an impossible one
            self._add(node, path, f"invalid value: {error}")
            return node.value
        if not isinstance(value, str):
            self._result.words[path] = node.value
        elif isinstance(node, yaml.ScalarNode) and node.style in {"'", '"'}:
            mark = node.start_mark
            self._result.positions[inside(path)] = (mark.line + 1, mark.column + 2)
        return value

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        """Return a mapping, including what `<<` merges into it.

        Of several values of a key, the last one wins, and mappings are joined key by key. In YAML, merged
        values come first. In Go, which `joined` asks for, they come where `<<` stands, so that they override
        the keys before it, except for mappings, which come first, and for lists of `joined`, which are added.
        """
        own = self._own_keys.setdefault(id(node), {id(key) for key, _ in node.value if key.tag != _MERGE})
        if self._joined is None:
            self._loader.flatten_mapping(node)
        elif len(own) < len(node.value):
            node.value = list(self._in_order(node))
        values: dict[str, list[yaml.Node]] = {}  # of each key, in the order above
        first: dict[str, yaml.Node] = {}  # the own node of each key
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self._add(key_node, path, "a key must be text")
                continue
            if id(key_node) in own and first.setdefault(key, key_node) is not key_node:
                line = first[key].start_mark.line + 1
                self._add(key_node, at(path, key), f"{key} is given twice, first on line {line}")
                continue
            earlier = values.setdefault(key, [])
            if earlier and key in (self._joined or ()):
                earlier[:] = [_joined_node(earlier[0], value_node)]
            else:
                is_merged = self._joined is not None and id(key_node) not in own
                is_mapping = isinstance(value_node, yaml.MappingNode)
                if is_merged and key in first and not is_mapping:
                    self._note_overridden(first.pop(key), key_node, at(path, key))
                earlier.insert(0 if is_merged and is_mapping else len(earlier), value_node)
            mark = key_node.start_mark
            self._result.positions[key_of(at(path, key))] = (mark.line + 1, mark.column + 1)
        return {
            key: reduce(_merged, [self.value(each, at(path, key)) for each in nodes])
            for key, nodes in values.items()
        }

    def _in_order(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield the keys and values of a mapping, with those of merged mappings in place of `<<`."""
        for key, value in node.value:
            if key.tag != _MERGE:
                yield key, value
                continue
            bases = value.value[::-1] if isinstance(value, yaml.SequenceNode) else [value]
            for base in bases:
                if not isinstance(base, yaml.MappingNode):
                    problem = "expected a mapping or a list of mappings for merging"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=base.start_mark)
                yield from self._in_order(base)

    def _note_overridden(self, own: yaml.Node, merged: yaml.Node, path: str) -> None:
        mark = own.start_mark
        line = merged.start_mark.line + 1
        message = f"the `<<` below overrides this with the value on line {line}; move `<<` above it"
        self._result.notes.append(Problem(message, path, self._file, mark.line + 1, mark.column + 1))

    def _add(self, node: yaml.Node, path: str, message: str) -> None:
        mark = node.start_mark
        self._result.problems.append(Problem(message, path, self._file, mark.line + 1, mark.column + 1))


def _joined_node(base: yaml.Node, node: yaml.Node) -> yaml.Node:
    """Return a list with the items of two lists; if one of them is not a list, return the second node."""
    if not isinstance(base, yaml.SequenceNode) or not isinstance(node, yaml.SequenceNode):
        return node
    return yaml.SequenceNode(node.tag, [*base.value, *node.value], node.start_mark, node.end_mark)


def _merged(base: Any, value: Any) -> Any:
    """Return the second of two values, or both if they are mappings, as in Go, where both fill one struct."""
    if not isinstance(base, dict) or not isinstance(value, dict):
        return value
    return base | {key: _merged(base.get(key), each) for key, each in value.items()}


def _problem(error: yaml.YAMLError, file: str | None) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return Problem(f"invalid YAML: {str(error).splitlines()[0]}", file=file)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    message = f"invalid YAML: {', '.join(part for part in parts if part)}"
    if "'\\t'" in message:
        message += "; indent with spaces"
    return Problem(message, file=file, line=mark.line + 1, column=mark.column + 1)
