"""What the demo and its workers agree on."""

from __future__ import annotations

from typing import NamedTuple

DATABASE = "shop.db"  # in the folder
READY = b"ready\n"  # what a worker writes to stdout when it has started


class Settings(NamedTuple):
    """What a worker is told when it starts.

    Attributes:
        folder: where the store is. It is removed when the demo is killed.
        address: the host and port to which a worker reports what was delivered.
        listener: the file descriptor of the listening socket that all workers share.
        lease: seconds after which another worker takes over from one that was killed.
        token: permits to add silences on the live page.
    """

    folder: str
    address: str
    listener: int
    lease: float
    token: str
