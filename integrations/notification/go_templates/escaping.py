"""The escapers of `html/template` of Go, for the places of a value in HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from codomyrmex.integrations.notification.go_templates.contexts import UNSAFE_NAMES, kind_of_attribute
from codomyrmex.integrations.notification.go_templates.formatting import text_of, utf8
from codomyrmex.integrations.notification.go_templates.literals import is_character
from codomyrmex.integrations.notification.go_templates.values import Html, Url

UNSAFE = "ZgotmplZ"  # what Go prints instead of an unsafe value

_QUOTED = {
    '"': "&#34;",
    "&": "&amp;",
    "'": "&#39;",
    "+": "&#43;",
    "<": "&lt;",
    ">": "&gt;",
    "\0": "\ufffd",
}
_UNQUOTED = {
    **_QUOTED,
    **{char: f"&#{ord(char)};" for char in "\t\n\v\f\r =`"},
    "\0": "&#xfffd;",
    **{chr(code): f"&#x{code:x};" for code in (*range(0xFDD0, 0xFDF0), *range(0xFFF0, 0x10000))},
}
_IN_TEXT, _IN_UNQUOTED = str.maketrans(_QUOTED), str.maketrans(_UNQUOTED)
# For HTML, whose entities are kept.
_IN_TEXT_HTML = str.maketrans({char: text for char, text in _QUOTED.items() if char != "&"})
_IN_UNQUOTED_HTML = str.maketrans({char: text for char, text in _UNQUOTED.items() if char != "&"})
_TAGS = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1[^>]*>|\Z)|</?[A-Za-z](?:[^\"'>]|\"[^\"]*\"|'[^']*')*(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_NOT_URL = re.compile(rb"%(?![0-9a-fA-F]{2})|[^\w!#$&*+,/:;=?@\[\].~%-]", re.ASCII)
_NOT_QUERY = re.compile(rb"[^\w.~-]", re.ASCII)
_CSS_BAD = re.compile(r"[\0\"'()/;@\[\\\]`{}]|--")
_CSS_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})(?:\r\n|[\t\n\f\r ])?|(.)|\Z)", re.DOTALL)


def _text_of(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else text_of(value)


def _in_text(value: Any) -> str:
    if value.__class__ is str:
        return value.translate(_IN_TEXT)
    return value if isinstance(value, Html) else _text_of(value).translate(_IN_TEXT)


def _in_rcdata(value: Any) -> str:
    return _text_of(value).translate(_IN_TEXT_HTML if isinstance(value, Html) else _IN_TEXT)


def _in_attribute(value: Any) -> str:
    if isinstance(value, Html):
        return _TAGS.sub("", value).translate(_IN_TEXT_HTML)
    return _text_of(value).translate(_IN_TEXT)


def _in_unquoted(value: Any) -> str:
    if isinstance(value, Html):
        return _TAGS.sub("", value).translate(_IN_UNQUOTED_HTML)
    return _text_of(value).translate(_IN_UNQUOTED)


def _safe_url(value: Any) -> str:
    """Return a URL; one with another scheme than http, https or mailto is replaced."""
    text = _text_of(value)
    scheme, colon, _ = text.partition(":")
    unsafe = colon and "/" not in scheme and scheme.lower() not in {"http", "https", "mailto"}
    return (
        f"#{UNSAFE}"
        if unsafe and not isinstance(value, Url)
        else Url(text)
        if isinstance(value, Url)
        else text
    )


def _percent(match: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in match[0])


def _in_url(value: Any) -> str:
    return _NOT_URL.sub(_percent, utf8(_text_of(value))).decode("ascii")


def _in_query(value: Any) -> str:
    if isinstance(value, Url):
        return _in_url(value)
    return _NOT_QUERY.sub(_percent, utf8(_text_of(value))).decode("ascii")


def _in_css(value: Any) -> str:
    """Return a value of CSS; one that could be more than a value is replaced."""
    text = _CSS_ESCAPE.sub(_css_character, _text_of(value))
    letters = re.sub(r"[^\w-]", "", text, flags=re.ASCII).lower()
    unsafe = _CSS_BAD.search(text) or "expression" in letters or "mozbinding" in letters
    return UNSAFE if unsafe else text


def _css_character(match: re.Match[str]) -> str:
    if match[1]:
        code = int(match[1], 16)
        return chr(code) if is_character(code) else "\ufffd"
    return match[2] or ""


def _in_name(value: Any) -> str:
    """Return the name of an attribute; one that is not harmless is replaced."""
    name = _text_of(value).lower()
    harmless = (
        re.fullmatch(r"[a-z0-9]+", name) and kind_of_attribute(name) == "plain" and name not in UNSAFE_NAMES
    )
    return name if harmless else UNSAFE


def _nothing(_: Any) -> str:
    return ""


ESCAPERS: Mapping[str, Callable[[Any], str]] = {
    "html_text": _in_text,
    "html_rcdata": _in_rcdata,
    "html_attribute": _in_attribute,
    "html_unquoted": _in_unquoted,
    "html_safe_url": _safe_url,
    "html_url": _in_url,
    "html_query": _in_query,
    "html_css": _in_css,
    "html_name": _in_name,
    "html_comment": _nothing,
}
