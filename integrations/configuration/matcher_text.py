"""`parse_matchers`: `severity=~"warning|critical", team!=""`, in Alertmanager's two notations.

The classic notation is that of Alertmanager up to 0.26; 0.27 added the UTF-8 notation. `fallback` is
Alertmanager's default: both are tried, and the classic one wins where they differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError, quote

Notation = Literal["fallback", "classic", "utf8"]


@dataclass(frozen=True, slots=True)
class MatcherLine:
    """One text of `matchers` in a configuration, which may hold several.

    Args:
        matchers: the matchers.
        warning: how the notations differ, if they do.
    """

    expects: ClassVar[str] = 'a matcher like severity="critical"'
    matchers: list[Matcher]
    warning: str | None = None

    @classmethod
    def parse(cls, text: str, notation: Notation = "fallback") -> Self:
        if notation == "classic":
            return cls(_classic(text))
        try:
            utf8 = _Utf8Parser(text).parse()
        except MatcherError as error:
            if notation == "utf8":
                raise
            try:
                classic = _classic(text)
            except MatcherError:
                raise error from None  # it has the more precise column
            return cls(classic, f"only the classic notation accepts this ({error}); write {_join(classic)}")
        if notation == "utf8":
            return cls(utf8)
        try:
            classic = _classic(text)
        except MatcherError:
            return cls(utf8)
        if classic == utf8:
            return cls(utf8)
        return cls(classic, f"read as {_join(classic)}, while the UTF-8 notation would read {_join(utf8)}")


def parse_matchers(text: str, notation: Notation = "fallback") -> list[Matcher]:
    """Parse matchers that are separated by commas, with or without braces.

    Args:
        text: such as `{severity="critical", service=~"api-.*"}`; an empty text and `{}` hold none, and so
            match everything.
        notation: `classic`, `utf8`, or `fallback`: both, and the classic one where they differ.

    Raises:
        MatcherError: the text is invalid; a `ValueError` with the column.
    """
    return MatcherLine.parse(text, notation).matchers


def _join(matchers: list[Matcher]) -> str:
    return ", ".join(map(str, matchers))


def _matcher(name: str, op: str, value: str, column: int) -> Matcher:
    try:
        return Matcher(name, op, value)
    except MatcherError as error:
        raise MatcherError(str(error), column) from None


# Go's white space; Python's also has U+001C to U+001F.
_GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
_GO_SPACE += "".join(map(chr, range(0x2000, 0x200B)))

# The classic notation

_CLASSIC = re.compile(
    r"[ \t\n\f\r]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t\n\f\r]*(=~|!=|!~|=)[ \t\n\f\r]*(.*)", re.DOTALL
)

_CLASSIC_TEXT = re.compile(r'(?:[^"\\]|\\.|\\\Z)*', re.DOTALL)
_CLASSIC_ESCAPE = re.compile(r'\\([n"\\])')


def _classic(text: str) -> list[Matcher]:
    start = 1 if text.startswith("{") else 0
    inner = text[start:].removesuffix("}")
    return [_classic_matcher(part, start + offset) for offset, part in _split(inner)]


def _split(text: str) -> list[tuple[int, str]]:
    """Split at commas outside quotes; an empty last part is left out."""
    parts, begin, quoted, escaped = [], 0, False, False
    for position, char in enumerate(text):
        if char == "," and not quoted:
            parts.append((begin, text[begin:position]))
            begin = position + 1
            continue  # as in Alertmanager, a preceding escape stays in effect
        if char == '"' and not escaped:
            quoted = not quoted
        escaped = char == "\\" and not escaped
    last = text[begin:].strip(_GO_SPACE)
    if last:
        parts.append((begin, last))
    return parts


def _classic_matcher(text: str, column: int) -> Matcher:
    match = _CLASSIC.fullmatch(text)
    if match is None:
        raise MatcherError(f'{text!r} is not a matcher like name="value", with =, !=, =~ or !~', column)
    name, op, raw = match.groups()
    column += match.start(3)
    return _matcher(name, op, _classic_value(raw.rstrip(" \t\n\f\r"), column), column)


def _classic_value(raw: str, column: int) -> str:
    quoted = raw.startswith('"')
    body = raw[1:] if quoted else raw
    end = len(_CLASSIC_TEXT.match(body)[0])  # type: ignore[index] # it matches an empty text too
    if body[end:] not in {"", '"' if quoted else ""}:
        raise MatcherError(f"{raw} contains a double quote that is not escaped", column + end)
    if quoted and not body[end:]:
        raise MatcherError(f"{raw} has no closing quote", column)
    return _CLASSIC_ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], body[:end])


# The UTF-8 notation

_TOKEN = re.compile(
    rf"""[{_GO_SPACE}]*(?:(?P<op>=~|!=|!~|=)|(?P<word>[^{_GO_SPACE}{{}}!=~,\\"'`]+)"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<other>.)|(?P<end>\Z))""",
    re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL
)
_SIMPLE_ESCAPES = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


class _Utf8Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.finditer(text)
        self._advance()

    def _advance(self) -> None:
        match = next(self._tokens)
        self._kind = match.lastgroup or ""
        self._token = match[self._kind]
        self._column, self._end = match.span(self._kind)

    def parse(self) -> list[Matcher]:
        matchers: list[Matcher] = []
        braces = self._accept("{")
        ends = {"", "}"} if braces else {""}
        while self._token not in ends:
            matchers.append(self._matcher())
            if not self._accept(",") and self._token not in ends:
                raise self._unexpected("a comma or }" if braces else "a comma")
        if braces and not self._accept("}"):
            raise MatcherError("the opening brace is not closed", 0)
        if self._token:
            raise self._unexpected("the end")
        return matchers

    def _matcher(self) -> Matcher:
        end = self._end
        word = self._token if self._kind == "word" else ""
        name = self._text("a label name")
        if word.endswith((">", "<")) and self._accept("="):
            found, quoted = f"{word[-1]}=", quote(word)
            raise MatcherError(
                f"{found} is not an operator; a matcher compares text, with =, !=, =~ or !~ (a label of this "
                f"name is written {quoted})",
                end - 1,
            )
        if not name:
            raise MatcherError("the label name is empty", end)
        op = self._token
        if self._kind != "op":
            raise self._unexpected(f"=, !=, =~ or !~ after {name}")
        self._advance()
        column = self._column
        return _matcher(name, op, self._text("a label value"), column)

    def _text(self, expected: str) -> str:
        kind, text = self._kind, self._token
        if text == '"':
            raise MatcherError("the opening quote is not closed", self._column)
        if kind not in {"word", "string"}:
            raise self._unexpected(expected)
        if kind == "string":
            text = _unquote(text[1:-1], self._column + 1)
        self._advance()
        return text

    def _accept(self, token: str) -> bool:
        found = self._token == token
        if found:
            self._advance()
        return found

    def _unexpected(self, expected: str) -> MatcherError:
        found = repr(self._token[0]) if self._token else "the end"
        return MatcherError(f"expected {expected}, got {found}", self._column)


def _unquote(body: str, column: int) -> str:
    """Return the value of a Go string literal, given the text between its quotes."""

    def unescape(match: re.Match[str]) -> bytes:
        simple, hexadecimal, octal, short, long, other = match.groups()
        if simple is not None:
            return _SIMPLE_ESCAPES.get(simple, simple).encode()
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        try:
            if octal is not None:
                return bytes([int(octal, 8)])
            if other is None:
                return chr(int(short or long, 16)).encode()
        except (ValueError, UnicodeEncodeError):
            other = match[0][1:]
        message = f"\\{other} is not an escape; a backslash is written \\\\"
        raise MatcherError(message, column + match.start())

    value, last = b"", 0
    for match in _ESCAPE.finditer(body):
        value += body[last : match.start()].encode(errors="surrogatepass") + unescape(match)
        last = match.end()
    value += body[last:].encode(errors="surrogatepass")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MatcherError("the value is not valid UTF-8", column) from None
