"""The names of groups, and those that a group has in a store."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from codomyrmex.streaming.errors import shorten

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The name of a stream."""

_LONGEST_NAME = 200


class Names:
    """The names of a stream's group in a store.

    The names of all values that its reader saves begin with `state`. Listing the groups does not load them.
    """

    def __init__(self, stream: str, group: str) -> None:
        encoded = encode_name(group)
        self.prefix = f"{groups_prefix(stream)}{encoded}"
        self.state = f"{stream}/state/{encoded}/"
        self.definition = f"{self.prefix}/definition"
        self.admin = f"{self.prefix}/admin"
        self.seek = f"{self.prefix}/seek"
        self.dead = f"{self.prefix}/dead"
        self.members = f"{self.prefix}/member/"
        self.shards = f"{self.prefix}/shard/"
        self.places = f"{self.prefix}/place/"


def groups_prefix(stream: str) -> str:
    """Return how the names of all groups of a stream begin."""
    return f"{stream}/group/"


def encode_name(text: str) -> str:
    """Return a name as a store accepts it, without a slash.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, too long, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"group: must be a string, got {shorten(text)}")
    if not 1 <= len(text) <= _LONGEST_NAME or not text.isprintable():
        raise ValueError(f"group: must be 1 to {_LONGEST_NAME} printable characters, got {shorten(text)}")
    return quote_name(text)


def quote_name(text: str) -> str:
    """Return any text as a part of a name."""
    return quote(text, safe="").replace("%", "@").replace("~", "@7E")


def decode_name(name: str) -> str:
    """Return the text of an encoded name."""
    return unquote(name.replace("@", "%"))
