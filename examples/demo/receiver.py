"""The receiver: takes the notifications, in place of a pager and a chat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from codomyrmex.demo.service import serving

WORDS = {"failure": "FIRING", "warning": "FIRING", "success": "RESOLVED"}  # by Apprise's word for an urgency

Arrived = Callable[[str, dict[str, str]], None]


class Receiver(BaseHTTPRequestHandler):
    """Takes what Apprise posts: who it is for is the path, what it says is JSON."""

    arrived: Arrived

    def do_POST(self) -> None:
        """Take a notification."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        type(self).arrived(self.path.strip("/"), message)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Say nothing: what arrives is printed."""


@contextmanager
def receiver(say: Callable[[str], None]) -> Iterator[tuple[str, Counter[str]]]:
    """Listen, and say what arrives.

    Args:
        say: prints a line.

    Yields:
        The address, and how many notifications have arrived, by whom they were for.
    """
    arrived: Counter[str] = Counter()

    def tell(who: str, message: dict[str, str]) -> None:
        arrived[who] += 1
        say(f"===> the {who} gets: {WORDS.get(message['type'], message['type'])} {message['title']}")

    with serving(type("OurReceiver", (Receiver,), {"arrived": staticmethod(tell)})) as address:
        yield address, arrived
