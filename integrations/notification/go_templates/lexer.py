"""Splits a Go template into texts and the tokens of its actions."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from enum import StrEnum
from typing import NamedTuple

from codomyrmex.integrations.notification.go_templates.errors import Source


class Kind(StrEnum):
    """The kind of a token."""

    TEXT = "text"
    OPEN = "{{"
    CLOSE = "}}"
    SPACE = "white space"
    STRING = "string"
    RAW = "raw string"
    CHAR = "character"
    NUMBER = "number"
    FIELD = "field"
    DOT = "dot"
    VARIABLE = "variable"
    WORD = "word"
    DECLARE = ":="
    ASSIGN = "="
    PIPE = "|"
    COMMA = ","
    LEFT = "("
    RIGHT = ")"
    END = "the end of the template"


class Token(NamedTuple):
    """A part of a template: its kind, its text, and its offset in the source."""

    kind: Kind
    text: str
    offset: int

    def __str__(self) -> str:
        if self.kind in {Kind.END, Kind.SPACE}:
            return str(self.kind)
        return repr(self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}...")


_SHOWN = 20
_BLANK = " \t\r\n"
_OPENING = re.compile(r"\{\{(?P<trim>-[ \t\r\n])?(?P<comment>/\*)?")
_NOT_BLANK = re.compile(r"[^ \t\r\n]|\Z")
_CLOSING = re.compile(r"[ \t\r\n]-\}\}|\}\}")
_AFTER_NAME = re.compile(r"[ \t\r\n.,|:()]|\}\}|\Z")
_PATTERNS = {
    Kind.SPACE: r"[ \t\r\n]+?(?=[ \t\r\n]-\}\})|[ \t\r\n]+",  # leaves one for the end of the action
    Kind.STRING: r'"(?:[^"\\\n]|\\[^\n])*"',
    Kind.RAW: r"`[^`]*`",
    Kind.CHAR: r"'(?:[^'\\\n]|\\[^\n])*'",
    Kind.NUMBER: r"[+-]?\.?[0-9](?:[eEpP][+-]|[\w.])*",
    Kind.FIELD: r"\.\w+",
    Kind.DOT: r"\.",
    Kind.VARIABLE: r"\$\w*",
    Kind.WORD: r"\w+",
    Kind.DECLARE: r":=",
    Kind.ASSIGN: r"=",
    Kind.PIPE: r"\|",
    Kind.COMMA: r",",
    Kind.LEFT: r"\(",
    Kind.RIGHT: r"\)",
}
_TOKEN = re.compile("|".join(f"(?P<{kind.name}>{pattern})" for kind, pattern in _PATTERNS.items()))
_NAMES = frozenset({Kind.FIELD, Kind.DOT, Kind.VARIABLE, Kind.WORD})


def tokens_of(source: Source) -> Iterator[Token]:
    """Yield the tokens of a template, or raise a `GoTemplateError`."""
    text = source.text
    at = 0
    while True:
        opening = text.find("{{", at)
        match = _OPENING.match(text, opening) if opening >= 0 else None
        end = opening if match else len(text)
        if match and match["trim"]:
            end = at + len(text[at:end].rstrip(_BLANK))
        if at < end:
            yield Token(Kind.TEXT, text[at:end], at)
        if match is None:
            yield Token(Kind.END, "", len(text))
            return
        if match["comment"]:
            closing = _end_of_comment(source, match)
        else:
            yield Token(Kind.OPEN, "{{", opening)
            closing = yield from _tokens_of_action(source, match)
            yield Token(Kind.CLOSE, "}}", closing.start())
        at = closing.end()
        if closing[0] != "}}":
            at = _NOT_BLANK.search(text, at).start()  # type: ignore[union-attr] # it matches the end too


def _end_of_comment(source: Source, opening: re.Match[str]) -> re.Match[str]:
    end = source.text.find("*/", opening.end())
    if end < 0:
        raise source.error(opening.start(), "the comment has no end; write {{/* comment */}}")
    closing = _CLOSING.match(source.text, end + 2)
    if closing is None:
        raise source.error(end, "a comment must end with */}} or */ -}}")
    return closing


def _tokens_of_action(source: Source, opening: re.Match[str]) -> Generator[Token, None, re.Match[str]]:
    """Yield the tokens of an action, and return the match of its end."""
    text = source.text
    at = opening.end()
    while (closing := _CLOSING.match(text, at)) is None:
        match = _TOKEN.match(text, at)
        if match is None:
            raise source.error(*_problem(text, opening.start(), at))
        kind = Kind[str(match.lastgroup)]
        at = match.end()
        if kind in _NAMES and not _AFTER_NAME.match(text, at):
            raise source.error(at, f"unexpected {text[at]!r} after {match[0]!r}")
        yield Token(kind, match[0], match.start())
    return closing


def _problem(text: str, opening: int, at: int) -> tuple[int, str]:
    if at == len(text):
        return opening, "the action has no end; write {{ ... }}"
    if text[at] in "\"'`":
        return at, "the text has no closing quote"
    return at, f"unexpected {text[at]!r} in an action"
