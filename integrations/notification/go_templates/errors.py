"""`GoTemplateError`, and the sources of templates, which turn offsets into lines and columns."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

from codomyrmex.integrations.configuration.problems import Problem
from codomyrmex.integrations.notification.templates import TemplateError


class GoTemplateError(TemplateError):
    """A Go template is invalid, uses what is not supported, or failed with the given values.

    Args:
        message: what is wrong.
        file: the file of the template; None for the text of a field.
        line: from 1, in the file or the text.
        column: from 1.
    """

    def __init__(self, message: str, file: str | None, line: int, column: int) -> None:
        place = f"line {line}, column {column}" if file is None else f"{file}:{line}:{column}"
        super().__init__(f"{place}: {message}")
        self.message = message
        self.file = file
        self.line: int = line
        self.column = column

    @property
    def problem(self) -> Problem:
        """The error as a problem of a configuration."""
        return Problem(self.message, file=self.file, line=self.line, column=self.column)


class LaterError(GoTemplateError):
    """Alertmanager loads the template, and fails when it comes to this place."""


class Source:
    """The text of a template, and the file that it is from; None for the text of a field."""

    def __init__(self, text: str, file: str | None = None) -> None:
        self.text = text
        self.file = file

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(at + 1 for at, char in enumerate(self.text) if char == "\n")]

    def error(self, offset: int, message: str) -> GoTemplateError:
        """Return an error at an offset of the text."""
        return GoTemplateError(message, self.file, *self._position(offset))

    def later_error(self, offset: int, message: str) -> LaterError:
        """Return an error of the rendering at an offset of the text."""
        return LaterError(message, self.file, *self._position(offset))

    def _position(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


class GoError(Exception):
    """A function or a field failed at run time; the renderer adds the place."""
