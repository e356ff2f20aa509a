"""Where in an HTML document a template is, as `html/template` of Go tracks it."""

from __future__ import annotations

import html
import re
from typing import NamedTuple


class Context(NamedTuple):
    """A position in HTML.

    Args:
        state: `text`, `rcdata` (in title and textarea), `script`, `style`, `comment`, `tag`, `name` (of an
            attribute), `after name`, `before value`; or what the value of an attribute is: `plain`, `url`,
            `css`, `js`, `srcset`.
        quote: what ends the value of an attribute; a space if it is not in quotes.
        attribute: the kind of the attribute whose value follows.
        element: `script`, `style`, `title` or `textarea`; empty for all others.
        part: of a URL: `start`, `path`, `query`, or `unknown`; of CSS: what is open, such as `/*` or `"`.
    """

    state: str = "text"
    quote: str = ""
    attribute: str = ""
    element: str = ""
    part: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in self if part.strip())


class ContextError(ValueError):
    """The HTML of a template is invalid."""


_SPECIAL = frozenset({"script", "style", "title", "textarea"})
_CONTENT = {"script": "script", "style": "style", "title": "rcdata", "textarea": "rcdata", "": "text"}
_TAG = re.compile(r"<(?:(?P<comment>!--)|(?P<end>/)?(?P<name>[A-Za-z][A-Za-z0-9]*(?:[:-][A-Za-z0-9]+)*))")
_LESS = re.compile(r"<(?!!doctype)", re.IGNORECASE)
_BLANK = re.compile(r"[ \t\n\f\r]*")
_NAME = re.compile(r"[^ \t\n\f\r=>]+")
_UNQUOTED_END = re.compile(r"[ \t\n\f\r>]")
_UNQUOTED_BAD = re.compile(r"[\"'<=`]")
_CSS_OPEN = re.compile(r"[\"']|url\s*\(|/\*|//", re.IGNORECASE)
_CSS_CLOSE = {
    '"': re.compile(r'(?:[^"\\]|\\.)*?"', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]|\\.)*?'", re.DOTALL),
    "url": re.compile(r"[^)]*\)"),
    "/*": re.compile(r".*?\*/", re.DOTALL),
    "//": re.compile(r"[^\n\f\r]*(?=[\n\f\r])"),
}
_URLS = frozenset(
    {
        *(
            "action",
            "archive",
            "background",
            "cite",
            "classid",
            "codebase",
            "data",
            "formaction",
            "href",
            "icon",
        ),
        *("longdesc", "manifest", "poster", "profile", "src", "usemap", "xmlns"),
    }
)
UNSAFE_NAMES = frozenset(
    {
        *(
            "accept-charset",
            "async",
            "challenge",
            "charset",
            "content",
            "crossorigin",
            "defer",
            "enctype",
            "form",
        ),
        *("formenctype", "formmethod", "formnovalidate", "http-equiv", "keytype", "language", "method"),
        *("novalidate", "pattern", "rel", "sandbox", "srcdoc", "type", "value"),
    }
)


def kind_of_attribute(name: str) -> str:
    """Return the kind of the values of an attribute, by its name in lower case."""
    if name.startswith("data-"):
        name = name[5:]
    elif ":" in name:
        prefix, name = name.split(":", 1)
        if prefix == "xmlns":
            return "url"
    if name in _URLS:
        return "url"
    if name in {"style", "srcset"}:
        return "css" if name == "style" else "srcset"
    if name in UNSAFE_NAMES or name == "srclang":
        return "plain"
    if name.startswith("on"):
        return "js"
    return "url" if any(part in name for part in ("src", "uri", "url")) else "plain"


def nudged(context: Context) -> Context:
    """Return the context of a value that is printed here."""
    match context.state:
        case "tag" | "after name":
            return Context("name", element=context.element)
        case "before value":
            return _value(context, " ")
    return context


def after_text(context: Context, text: str) -> tuple[Context, str]:
    """Return the context after a text, and the text as Go prints it: without comments, `<` alone escaped.

    Raises:
        ContextError: the HTML is invalid.
    """
    printed: list[str] = []
    at = 0
    while at < len(text):
        context, at, shown = _step(context, text, at)
        printed.append(shown)
    return context, "".join(printed)


def _value(context: Context, quote: str) -> Context:
    kind = context.attribute or "plain"
    return Context(kind, quote, element=context.element, part="start" if kind == "url" else "")


def _step(context: Context, text: str, at: int) -> tuple[Context, int, str]:
    """Return the context after the next piece of a text, the end of the piece, and what is printed for it."""
    if context.quote:
        return _in_value(context, text, at)
    match context.state:
        case "text":
            return _in_text(context, text, at)
        case "comment":
            end = text.find("-->", at)
            return (context, len(text), "") if end < 0 else (Context(), end + 3, "")
        case "rcdata" | "script" | "style":
            return _in_element(context, text, at)
    end = _end_of(_BLANK, text, at)
    if end == len(text) or (context.state == "name" and end > at):
        return (
            (context if end == at or context.state != "name" else context._replace(state="after name")),
            end,
            text[at:end],
        )
    after, stop = _in_tag(context, text, end)
    return after, stop, text[at:stop]


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _in_text(context: Context, text: str, at: int) -> tuple[Context, int, str]:
    match = _TAG.search(text, at)
    if match is None:
        return context, len(text), _LESS.sub("&lt;", text[at:])
    before = _LESS.sub("&lt;", text[at : match.start()])
    if match["comment"]:
        return Context("comment"), match.end(), before
    name = "" if match["end"] else match["name"].lower()
    return Context("tag", element=name if name in _SPECIAL else ""), match.end(), before + match[0]


def _in_element(context: Context, text: str, at: int) -> tuple[Context, int, str]:
    """Handle the content of an element that has no elements, up to its end tag."""
    end = re.compile(rf"</{context.element}(?=[> \t\n\f/])", re.IGNORECASE).search(text, at)
    if end is not None and end.start() == at:
        return Context(), at, ""
    stop = len(text) if end is None else end.start()
    content = text[at:stop]
    if context.state == "rcdata":
        return context, stop, _LESS.sub("&lt;", content)
    if context.state == "style":
        part, content = _after_css(context.part, content)
        return context._replace(part=part), stop, content
    return context, stop, content


def _after_css(part: str, text: str) -> tuple[str, str]:
    """Return what is open after a piece of CSS, and the piece without its comments."""
    printed: list[str] = []
    at = 0
    while at < len(text):
        pattern = _CSS_CLOSE[part] if part else _CSS_OPEN
        match = pattern.match(text, at) if part else pattern.search(text, at)
        end = len(text) if match is None else match.end()
        if part in {"/*", "//"}:
            printed.append(" " if part == "/*" and match else "")
        elif not part and match and match[0] in {"/*", "//"}:
            printed.append(text[at : match.start()])
        else:
            printed.append(text[at:end])
        if match:
            part = "" if part else "url" if match[0][-1] == "(" else match[0]
        at = end
    return part, "".join(printed)


def _in_tag(context: Context, text: str, at: int) -> tuple[Context, int]:
    """Return the context after a token of a tag, and its end."""
    char = text[at]
    match context.state:
        case "after name":
            return (
                (context._replace(state="before value"), at + 1)
                if char == "="
                else (context._replace(state="tag"), at)
            )
        case "before value":
            return (_value(context, char), at + 1) if char in "\"'" else (_value(context, " "), at)
        case "tag" if char == ">":
            return Context(_CONTENT[context.element], element=context.element), at + 1
    end = _end_of(_NAME, text, at)
    name = text[at:end]
    bad = next((each for each in name if each in "\"'<"), None)
    if bad:
        raise ContextError(f"unexpected {bad!r} in the name of an attribute: {name[:32]!r}")
    if context.state == "name":
        return context._replace(state="after name") if end < len(text) else context, end
    if not name:
        raise ContextError(
            f"the name of an attribute or the end of the tag is expected, got {text[at : at + 32]!r}"
        )
    kind = kind_of_attribute(name.lower())
    attribute = "" if kind == "plain" else kind
    return Context("name" if end == len(text) else "after name", "", attribute, context.element), end


def _in_value(context: Context, text: str, at: int) -> tuple[Context, int, str]:
    if context.quote == " ":
        match = _UNQUOTED_END.search(text, at)
        end = len(text) if match is None else match.start()
        if bad := _UNQUOTED_BAD.search(text, at, end):
            raise ContextError(f"unexpected {bad[0]!r} in the value of an attribute without quotes")
        is_closed = match is not None
    else:
        closing = text.find(context.quote, at)
        is_closed = closing >= 0
        end = closing + 1 if is_closed else len(text)
    if is_closed:
        return Context("tag", element=context.element), end, text[at:end]
    value = html.unescape(text[at:end])
    if context.state == "url":
        if "#" in value or "?" in value:
            context = context._replace(part="query")
        elif context.part == "start" and _end_of(_BLANK, value, 0) < len(value):
            context = context._replace(part="path")
    elif context.state == "css":
        context = context._replace(part=_after_css(context.part, value)[0])
    return context, end, text[at:end]
