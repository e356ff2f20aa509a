"""Translates the syntax tree of a Go template to that of Jinja.

A definition becomes a template with the variables `dot` (its argument) and `run` (the state of a rendering).
All functions are filters, because the sandbox calls filters without further checks. The line numbers of the
nodes are offsets in the source, so that an error at run time has an exact place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.notification.go_templates import nodes as go
from codomyrmex.integrations.notification.go_templates.errors import LaterError
from codomyrmex.integrations.notification.go_templates.functions import FUNCTIONS, SPECIAL
from codomyrmex.integrations.notification.go_templates.values import Signature, wrong_number

try:
    from jinja2 import nodes
except ImportError as error:
    raise MissingExtraError("Go templates", "jinja2", "alerts") from error

_INTEGERS = range(-(2**63), 2**63)
_OPERATORS: Mapping[str, type[nodes.And | nodes.Or]] = {"and": nodes.And, "or": nodes.Or}
_SPECIAL = {
    "and": Signature(bool, ("any",), "any"),
    "or": Signature(bool, ("any",), "any"),
    "not": Signature(bool, ("any",)),
    "routeLabels": Signature(str, ("string",)),
}


def translate(definition: go.Definition) -> tuple[nodes.Template, list[LaterError]]:
    """Return a definition as a template of Jinja, and the errors of the places in it that will fail.

    Raises:
        GoTemplateError: the definition has something that is not supported.
    """
    translator = _Translator(definition)
    return translator.template(), translator.errors


class _Translator:
    def __init__(self, definition: go.Definition) -> None:
        self._definition = definition
        self._scopes: list[dict[str, str]] = [{"$": "dot"}]  # the names in Jinja of the variables
        self._dot = "dot"
        self._count = 0
        self._line = 1
        self.errors: list[LaterError] = []

    def template(self) -> nodes.Template:
        body = self._body(self._definition.body)
        return nodes.Template([nodes.Scope(body, lineno=1)], lineno=1)

    def _error(self, at: go.Node | go.Operand, message: str) -> LaterError:
        return self._definition.source.later_error(at.offset, message)

    # Names

    def _new_name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _load(self, name: str) -> nodes.Expr:
        return nodes.Name(name, "load", lineno=self._line)

    def _set(self, name: str, value: nodes.Expr) -> nodes.Stmt:
        return nodes.Assign(nodes.Name(name, "store", lineno=self._line), value, lineno=self._line)

    def _filter(self, name: str, first: nodes.Expr, *more: nodes.Expr) -> nodes.Expr:
        return nodes.Filter(first, name, list(more), [], None, None, lineno=self._line)

    def _const(self, value: go.Value) -> nodes.Expr:
        return nodes.Const(value, lineno=self._line)

    @contextmanager
    def _inside(self, dot: str | None = None) -> Iterator[None]:
        """Open a scope for variables, with another value of `.` if one is given."""
        outer = self._dot
        self._dot = dot or outer
        self._scopes.append({})
        try:
            yield
        finally:
            self._scopes.pop()
            self._dot = outer

    def _declare(self, variable: str, value: nodes.Expr) -> nodes.Stmt:
        """Return the statement that declares a variable; one that is reassigned is in a list of its own."""
        name = self._new_name()
        self._scopes[-1][variable] = name
        if variable in self._definition.reassigned:
            value = nodes.List([value], lineno=self._line)
        return self._set(name, value)

    def _name_of(self, variable: str, at: go.Node | go.Operand) -> str:
        for scope in reversed(self._scopes):
            if variable in scope:
                return scope[variable]
        raise self._error(at, f"the variable {variable} is not defined here")

    def _reassign(self, variable: str, value: nodes.Expr, at: go.Operand) -> nodes.Stmt:
        target = self._load(self._name_of(variable, at))
        return nodes.ExprStmt(self._filter("reassign", target, value), lineno=self._line)

    # Statements

    def _body(self, body: go.Body) -> list[nodes.Node]:
        statements: list[nodes.Node] = []
        for node in body:
            try:
                statements += self._statements(node)
            except LaterError as error:
                statements.append(self._failure(error, node.offset + 1))
        return statements

    def _failure(self, error: LaterError, line: int) -> nodes.Node:
        """Return the statement that raises an error."""
        self._line = line
        number = self._const(len(self.errors))
        self.errors.append(error)
        failing = self._filter("fail", number, self._const(self._definition.name), self._load("run"))
        return nodes.ExprStmt(failing, lineno=line)

    def _statements(self, node: go.Node) -> list[nodes.Node]:
        self._line = node.offset + 1
        match node:
            case go.Text():
                return [nodes.Output([nodes.TemplateData(node.text, lineno=self._line)], lineno=self._line)]
            case go.Action():
                return self._action(node)
            case go.Branch():
                return self._range(node) if node.keyword == "range" else self._branch(node)
            case go.Call():
                return self._call(node)
            case go.Jump():
                jump = nodes.Break if node.keyword == "break" else nodes.Continue
                return [jump(lineno=self._line)]

    def _action(self, node: go.Action) -> list[nodes.Node]:
        statements, value = self._evaluated(node.pipeline)
        if node.pipeline.variables:
            return statements
        for name in node.filters:
            value = self._filter(name, value)
        return [*statements, nodes.Output([value], lineno=self._line)]

    def _evaluated(self, pipeline: go.Pipeline) -> tuple[list[nodes.Node], nodes.Expr]:
        """Return the statements for the variables of a pipeline, and its value."""
        value = self._pipeline(pipeline)
        if not pipeline.variables:
            return [], value
        name = self._new_name()
        statements: list[nodes.Node] = [self._set(name, value)]
        for variable in pipeline.variables:
            if pipeline.assigns:
                statements.append(self._reassign(variable, self._load(name), pipeline))
            else:
                statements.append(self._declare(variable, self._load(name)))
        return statements, self._load(name)

    def _branch(self, node: go.Branch) -> list[nodes.Node]:
        line = self._line
        with self._inside():
            statements, value = self._evaluated(node.pipeline)
            dot = None
            if node.keyword == "with":
                dot = self._new_name()
                statements.append(self._set(dot, value))
                value = self._load(dot)
            with self._inside(dot):
                body = [nodes.Scope(self._body(node.body), lineno=line)]
            self._line = line
            with self._inside():
                otherwise = self._body(node.otherwise)
            chain = [nodes.Scope(otherwise, lineno=line)] if otherwise else []
        branch = nodes.If(value, body, [], chain, lineno=line)
        return [nodes.Scope([*statements, branch], lineno=line)] if statements else [branch]

    def _range(self, node: go.Branch) -> list[nodes.Node]:
        line = self._line
        variables = node.pipeline.variables
        value = self._pipeline(node.pipeline)
        with self._inside():
            element, key = self._new_name(), self._new_name()
            target: nodes.Expr = nodes.Name(element, "store", lineno=line)
            if len(variables) > 1:
                target = nodes.Tuple([nodes.Name(key, "store", lineno=line), target], "store", lineno=line)
            values = [self._load(key), self._load(element)] if len(variables) > 1 else [self._load(element)]
            with self._inside(element):
                statements: list[nodes.Node] = []
                for variable, each in zip(variables, values, strict=False):
                    if node.pipeline.assigns:
                        statements.append(self._reassign(variable, each, node.pipeline))
                    else:
                        statements.append(self._declare(variable, each))
                body = [*statements, *self._body(node.body)]
            self._line = line
            with self._inside():
                otherwise = self._body(node.otherwise)
        self._line = line
        items = self._filter("pairs" if len(variables) > 1 else "items", value, self._load("run"))
        chain: list[nodes.Node] = [nodes.Scope(otherwise, lineno=line)] if otherwise else []
        return [nodes.For(target, items, body, chain, None, False, lineno=line)]  # noqa: FBT003 - of Jinja

    def _call(self, node: go.Call) -> list[nodes.Node]:
        statements, value = (
            ([], self._const(None)) if node.argument is None else self._evaluated(node.argument)
        )
        parts = self._filter("template", value, self._const(node.name), self._load("run"))
        part = self._new_name()
        output = nodes.Output([self._load(part)], lineno=self._line)
        target = nodes.Name(part, "store", lineno=self._line)
        return [*statements, nodes.For(target, parts, [output], [], None, False, lineno=self._line)]  # noqa: FBT003

    # Expressions

    def _pipeline(self, pipeline: go.Pipeline) -> nodes.Expr:
        value: nodes.Expr | None = None
        for command in pipeline.commands:
            value = self._command(command, value)
        assert value is not None  # noqa: S101 - the parser requires a command
        return value

    def _command(self, command: go.Command, last: nodes.Expr | None) -> nodes.Expr:
        first, *operands = command.operands
        if not isinstance(first, (go.Chain, go.Function)):
            if last is not None:
                raise self._error(first, "a value cannot follow |; write a function or a method")
            if operands:
                raise self._error(operands[0], "only a function or a method can have arguments")
            if isinstance(first, go.Literal) and first.value is None:
                raise self._error(first, "nil is not a command")
            return self._operand(first)
        arguments = [self._operand(operand) for operand in operands]
        if last is not None:
            arguments.append(last)
        if isinstance(first, go.Function):
            return self._function(first, arguments)
        return self._chain(first, arguments)

    def _operand(self, operand: go.Operand) -> nodes.Expr:
        match operand:
            case go.Literal():
                if isinstance(operand.value, int) and operand.value not in _INTEGERS:
                    raise self._error(operand, f"{operand.value} is too large for a number of 64 bits")
                return self._const(operand.value)
            case go.Dot():
                return self._load(self._dot)
            case go.Variable():
                value = self._load(self._name_of(operand.name, operand))
                return (
                    self._filter("assigned", value) if operand.name in self._definition.reassigned else value
                )
            case go.Function():
                return self._function(operand, [])
            case go.Chain():
                return self._chain(operand, [])
            case go.Pipeline():
                if operand.variables:
                    message = "variables in parentheses are not supported; assign them before"
                    raise self._definition.source.error(operand.offset, message)
                return self._pipeline(operand)

    def _chain(self, chain: go.Chain, arguments: list[nodes.Expr]) -> nodes.Expr:
        value = self._operand(chain.base)
        for name in chain.fields[:-1]:
            value = self._filter("field", value, self._const(name))
        method = "method" if arguments else "field"
        return self._filter(method, value, self._const(chain.fields[-1]), *arguments)

    def _function(self, function: go.Function, arguments: list[nodes.Expr]) -> nodes.Expr:
        name = function.name
        if name == "call":
            raise self._error(function, "call needs a function, and notifications have none")
        signature = _SPECIAL[name] if name in SPECIAL else FUNCTIONS[name]
        least = len(signature.types)
        if len(arguments) < least or (signature.more is None and len(arguments) > least):
            raise self._error(function, wrong_number(name, signature, len(arguments)))
        if name == "not":
            return nodes.Not(arguments[0], lineno=self._line)
        if name in _OPERATORS:
            value = arguments[-1]
            for argument in reversed(arguments[:-1]):
                value = _OPERATORS[name](argument, value, lineno=self._line)
            return value
        if name == "routeLabels":
            return self._filter("route_label", arguments[0], self._load("run"))
        if not arguments:
            return self._filter(f"{name}()", self._load("run"))
        return self._filter(name, *arguments)
