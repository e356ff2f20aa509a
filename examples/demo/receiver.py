"""The receiver: accepts notifications, in place of a pager and a chat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from codomyrmex.demo.service import serving

WORDS = {
    "failure": "FIRING",
    "warning": "FIRING",
    "success": "RESOLVED",
}  # by Apprise's type

OnNotification = Callable[[str, dict[str, str]], None]


class Receiver(BaseHTTPRequestHandler):
    """Accepts what Apprise posts: the path is the receiver, the body is JSON."""

    on_notification: OnNotification

    def do_POST(self) -> None:
        """Accept a notification."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        type(self).on_notification(self.path.strip("/"), message)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: notifications are printed."""


@contextmanager
def receiver(print_line: Callable[[str], None]) -> Iterator[tuple[str, Counter[str]]]:
    """Serve the receivers and print their notifications.

    Args:
        print_line: prints a line.

    Yields:
        The address, and the number of notifications by receiver.
    """
    counts: Counter[str] = Counter()

    def on_notification(name: str, message: dict[str, str]) -> None:
        counts[name] += 1
        print_line(f"===> the {name} gets: {WORDS.get(message['type'], message['type'])} {message['title']}")

    with serving(
        type("OurReceiver", (Receiver,), {"on_notification": staticmethod(on_notification)})
    ) as address:
        yield address, counts
