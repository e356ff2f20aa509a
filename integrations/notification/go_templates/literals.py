"""The constants of Go: numbers, characters and texts in quotes."""

from __future__ import annotations

import math
import re
import sys

_MAX_UNSIGNED = 2**64
_MAX_BYTE = 0xFF
_MAX_ASCII = 0x7F
_SURROGATES = range(0xD800, 0xE000)
_INTEGER = re.compile(
    r"[+-]?(?:0[xX]_?[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|0[oO]_?[0-7]+(?:_[0-7]+)*|0[bB]_?[01]+(?:_[01]+)*|[0-9]+(?:_[0-9]+)*)"
)
_OCTAL = re.compile(r"([+-]?)0_?([0-9_]+)")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))", re.DOTALL
)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def constant(text: str) -> str | float:
    """Return the value of a constant, or raise a `ValueError`."""
    if text[0] == "'":
        return character(text)
    return unquoted(text) if text[0] in '"`' else number(text)


def is_character(code: int) -> bool:
    """Return whether a number is a character of Unicode."""
    return 0 <= code <= sys.maxunicode and code not in _SURROGATES


def number(text: str) -> int | float:
    """Return the value of a number, or raise a `ValueError`; one above 2**63 is refused when it is used."""
    if _INTEGER.fullmatch(text):
        octal = _OCTAL.fullmatch(text)
        try:
            value = int(f"{octal[1]}0o{octal[2]}" if octal else text, 0)
        except ValueError:
            raise ValueError(f"{text} is not a number") from None
        if abs(value) >= _MAX_UNSIGNED:
            raise ValueError(f"{text} is too large for a number of 64 bits")
        return value
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"{text} is not a number")
    if math.isinf(float(text)):
        raise ValueError(f"{text} is too large for a number of 64 bits")
    return float(text)


def character(text: str) -> int:
    """Return the code point of a character in single quotes, or raise a `ValueError`."""
    value = unquoted(text)
    if len(value) != 1:
        raise ValueError(f"{text} must be one character; write a text in double quotes")
    return ord(value)


def unquoted(text: str) -> str:
    """Return what a constant in quotes stands for, or raise a `ValueError`."""
    quote, inner = text[0], text[1:-1]
    if quote == "`":
        return inner.replace("\r", "")
    if "\\" not in inner:
        return inner
    is_bytes = False

    def unescaped(match: re.Match[str]) -> str:
        nonlocal is_bytes
        short, byte, four, eight, octal, _ = match.groups()
        if short:
            if short in "'\"" and short != quote:
                raise ValueError(f"{match[0]} is not an escape in {quote} quotes")
            return _SHORT.get(short, short)
        if byte or octal:
            code = int(byte, 16) if byte else int(octal, 8)
            if code > _MAX_BYTE:
                raise ValueError(f"{match[0]} is not an escape; the largest is \\377")
            is_bytes = is_bytes or code > _MAX_ASCII
            return chr(code) if code <= _MAX_ASCII or quote == "'" else chr(0xDC00 + code)
        code = int(four or eight or "110000", 16)
        if not is_character(code):
            raise ValueError(f"{match[0]} is not an escape; to print a backslash, write \\\\")
        return chr(code)

    value = _ESCAPE.sub(unescaped, inner)
    if is_bytes and quote == '"':  # bytes that together are characters of UTF-8
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return value
