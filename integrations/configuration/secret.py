"""`Secret`: configuration text that is never shown."""

from __future__ import annotations

from typing import ClassVar, Self


class Secret(str):
    """Text that is not shown."""

    __slots__ = ()
    expects: ClassVar[str] = "text"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(text)

    def __repr__(self) -> str:
        return "Secret(...)"
