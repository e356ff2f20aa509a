"""Finds fields that do not exist, before a notification has to be sent without its text."""

from __future__ import annotations

from collections.abc import Callable

from codomyrmex.integrations.configuration.problems import did_you_mean
from codomyrmex.integrations.notification.go_templates.errors import LaterError
from codomyrmex.integrations.notification.go_templates.functions import FUNCTIONS
from codomyrmex.integrations.notification.go_templates.nodes import (
    Action,
    Body,
    Branch,
    Call,
    Chain,
    Command,
    Definition,
    Dot,
    Function,
    Literal,
    Operand,
    Pipeline,
    Variable,
)
from codomyrmex.integrations.notification.go_templates.values import (
    ELEMENTS,
    FIELDS,
    KV,
    METHODS,
    TYPES,
    Data,
)

Type = type | None  # None if it is not known before the template runs
Variables = dict[str, Type]


class FieldChecker:
    """Follows the types of values from a notification through the templates that it is passed to.

    Args:
        find: returns the definition that a node calls; None if there is none.
    """

    def __init__(self, find: Callable[[Call], Definition | None]) -> None:
        self.errors: list[LaterError] = []
        self._find = find
        self._checked: set[tuple[str, Type]] = set()
        self._definition: Definition | None = None

    def check(self, definition: Definition, dot: Type = Data) -> None:
        """Check a definition, and those that it calls, for an argument of a type."""
        if (definition.name, dot) in self._checked:
            return
        self._checked.add((definition.name, dot))
        outer, self._definition = self._definition, definition
        self._body(definition.body, dot, {"$": dot})
        self._definition = outer

    def _body(self, body: Body, dot: Type, variables: Variables) -> None:
        for node in body:
            match node:
                case Action():
                    self._pipeline(node.pipeline, dot, variables)
                case Branch():
                    self._branch(node, dot, dict(variables))
                case Call():
                    argument = (
                        type(None) if node.argument is None else self._pipeline(node.argument, dot, variables)
                    )
                    definition = self._find(node)
                    if definition is not None:
                        self.check(definition, argument)

    def _branch(self, node: Branch, dot: Type, variables: Variables) -> None:
        value = self._pipeline(node.pipeline, dot, variables)
        inner = dot
        if node.keyword == "with":
            inner = value
        elif node.keyword == "range":
            inner = ELEMENTS.get(value)
            types: list[Type] = [str if value is KV else int, inner]
            self._declare(node.pipeline, types[-len(node.pipeline.variables) :], variables)
        self._body(node.body, inner, dict(variables))
        self._body(node.otherwise, dot, dict(variables))

    def _declare(self, pipeline: Pipeline, types: list[Type], variables: Variables) -> None:
        """Set the types of the variables of a pipeline; those that are assigned to can change theirs."""
        assert self._definition is not None  # noqa: S101 - nodes are only visited inside a definition
        for name, each in zip(pipeline.variables, types, strict=False):
            variables[name] = None if name in self._definition.reassigned else each

    def _pipeline(self, pipeline: Pipeline, dot: Type, variables: Variables) -> Type:
        value: Type = None
        for command in pipeline.commands:
            value = self._command(command, dot, variables)
        self._declare(pipeline, [value], variables)
        return value

    def _command(self, command: Command, dot: Type, variables: Variables) -> Type:
        first, *operands = command.operands
        types = [self._operand(operand, dot, variables) for operand in operands]
        if isinstance(first, Function):
            if first.name == "index" and len(types) > 1:
                return ELEMENTS.get(types[0]) if len(types) == 2 else None  # noqa: PLR2004 - a list and an index
            return FUNCTIONS[first.name].result if first.name in FUNCTIONS else None
        return self._operand(first, dot, variables)

    def _operand(self, operand: Operand, dot: Type, variables: Variables) -> Type:
        match operand:
            case Literal():
                return operand.value.__class__
            case Dot():
                return dot
            case Variable():
                return variables.get(operand.name)
            case Pipeline():
                return self._pipeline(operand, dot, variables)
            case Chain():
                return self._chain(operand, self._operand(operand.base, dot, variables))
        return FUNCTIONS[operand.name].result if operand.name in FUNCTIONS else None

    def _chain(self, chain: Chain, value: Type) -> Type:
        for name in chain.fields:
            if value is None or value in {dict, type(None)}:
                return None
            method = METHODS.get(value, {}).get(name)
            if method is not None:
                value = method.result
            elif value is KV:
                value = str
            elif name in FIELDS.get(value, {}):
                value = FIELDS[value][name]
            else:
                self._add(chain, value, name)
                return None
        return value

    def _add(self, chain: Chain, value: type, name: str) -> None:
        assert self._definition is not None  # noqa: S101 - as above
        known = [*FIELDS.get(value, {}), *METHODS.get(value, {})]
        message = f"the type {TYPES[value]} has no field {name}{did_you_mean(name, known)}"
        self.errors.append(self._definition.source.later_error(chain.offset, message))
