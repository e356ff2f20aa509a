"""The syntax tree of a Go template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codomyrmex.integrations.notification.go_templates.errors import Source

Value = str | int | float | bool | None  # of a literal


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; None for `nil`."""

    offset: int
    value: Value


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value, `.`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, such as `$x`, or `$` for the argument of the template."""

    offset: int
    name: str


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function."""

    offset: int
    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of a value, such as `.Labels.job`, `$x.Status` or `(index .Alerts 0).Labels`."""

    offset: int
    base: Operand
    fields: Sequence[str]


@dataclass(frozen=True, slots=True)
class Command:
    """A value, or a function or method with its arguments."""

    offset: int
    operands: Sequence[Operand]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each of which gets the result of the one before as its last argument.

    Args:
        offset: where it starts.
        commands: the commands.
        variables: those that get the result.
        assigns: whether they exist already (`=`, not `:=`).
    """

    offset: int
    commands: Sequence[Command]
    variables: Sequence[str] = ()
    assigns: bool = False


Operand = Literal | Dot | Variable | Function | Chain | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is printed as it is."""

    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose result is printed, or assigned.

    Args:
        offset: where it starts.
        pipeline: the pipeline.
        filters: the functions that make the result printable.
    """

    offset: int
    pipeline: Pipeline
    filters: Sequence[str] = ("text",)


@dataclass(frozen=True, slots=True)
class Branch:
    """An `if`, `with` or `range`, with what follows its `else`."""

    offset: int
    keyword: str
    pipeline: Pipeline
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class Call:
    """A `template` or `block`: another template with an argument."""

    offset: int
    name: str
    argument: Pipeline | None


@dataclass(frozen=True, slots=True)
class Jump:
    """A `break` or `continue`."""

    offset: int
    keyword: str


Node = Text | Action | Branch | Call | Jump
Body = Sequence[Node]


@dataclass(frozen=True, slots=True)
class Definition:
    """A named template.

    Args:
        name: the name.
        source: where it is defined.
        body: its nodes.
        reassigned: the variables that are the target of a `=`.
    """

    name: str
    source: Source
    body: Body
    reassigned: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_blank(self) -> bool:
        """Whether it has nothing but white space; then it does not replace another definition."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.body)
