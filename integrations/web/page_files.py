"""The files of the live page, and the headers that keep it from doing anything but what it is made for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from codomyrmex.integrations.web.asgi import NO_STORE, Headers

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Text never becomes HTML, not even by a mistake of ours.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
GUARDS: Headers = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),  # for what does not know frame-ancestors
    NO_STORE,
]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class PageFile(NamedTuple):
    """A file of the page."""

    content_type: str
    content: bytes


def page_files() -> Mapping[str, PageFile]:
    """Read the files, by the path that each is served under; there are no others to be asked for."""
    found: dict[str, PageFile] = {}
    for file in files("codomyrmex.integrations.web").joinpath("page").iterdir():
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            found[f"/{file.name}"] = PageFile(content_type, file.read_bytes())
    found["/"] = found.pop("/index.html")
    return found
