"""Parses a Go template; what it does not know is a `GoTemplateError`."""

from __future__ import annotations

from collections.abc import Collection

from codomyrmex.integrations.configuration.problems import did_you_mean
from codomyrmex.integrations.notification.go_templates.errors import GoTemplateError, Source
from codomyrmex.integrations.notification.go_templates.lexer import Kind, Token, tokens_of
from codomyrmex.integrations.notification.go_templates.literals import constant
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
    Jump,
    Literal,
    Node,
    Operand,
    Pipeline,
    Text,
    Variable,
)

MAX_BLOCKS = 18  # nested; Python allows 20 in a function
MAX_CHAINED = 40  # `else if` of a block; Python allows 100 levels of indentation
MAX_NESTED = 40  # parentheses in each other
MAX_COMMANDS = 40  # of a pipeline

_KEYWORDS = frozenset(
    {"block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"}
)
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
_NOT_EXECUTABLE = (Literal, Dot)
_CONSTANTS = frozenset({Kind.STRING, Kind.RAW, Kind.CHAR, Kind.NUMBER})


def parse(source: Source, name: str, functions: Collection[str]) -> list[Definition]:
    """Return the definitions of a template, the template itself last.

    Args:
        source: the text.
        name: the name of what is outside of all definitions.
        functions: the names of the functions that exist.

    Raises:
        GoTemplateError: the template is invalid.
    """
    return _Parser(source, name, functions).definitions()


class _Scope:
    """The variables of a definition."""

    def __init__(self) -> None:
        self.variables = ["$"]
        self.reassigned: set[str] = set()
        self.ranges = 0  # around the current node


class _Parser:
    def __init__(self, source: Source, name: str, functions: Collection[str]) -> None:
        self._source = source
        self._name = name
        self._functions = functions
        self._tokens = list(tokens_of(source))
        self._at = 0
        self._blocks = 0
        self._scope = _Scope()
        self._defined: dict[str, Definition] = {}

    # Tokens

    def _peek(self) -> Token:
        """Return the next token that is not white space, without taking it."""
        if self._tokens[self._at].kind is Kind.SPACE:
            self._at += 1
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._peek()
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def _expect(self, kind: Kind, where: str) -> Token:
        token = self._next()
        if token.kind is not kind:
            raise self._error(token, f"unexpected {token} in {where}")
        return token

    def _error(self, at: Token | Operand | Pipeline | Node, message: str) -> GoTemplateError:
        return self._source.error(at.offset, message)

    def _keyword(self) -> str:
        """Return the keyword of the action that starts here, or an empty text."""
        token = self._peek()
        return token.text if token.kind is Kind.WORD and token.text in _KEYWORDS else ""

    # Nodes

    def definitions(self) -> list[Definition]:
        body: list[Node] = []
        while True:
            nodes, keyword, token = self._body({"define"})
            body += nodes
            if keyword != "define":
                break
            name = self._name_of_template("define")
            self._expect(Kind.CLOSE, "define")
            self._add(name, token)
        if keyword:
            raise self._error(token, f"unexpected {{{{{keyword}}}}}; nothing is open")
        return [
            *self._defined.values(),
            Definition(self._name, self._source, body, frozenset(self._scope.reassigned)),
        ]

    def _add(self, name: str, at: Token) -> None:
        """Parse the body of a definition or block."""
        outer, self._scope = self._scope, _Scope()
        body, keyword, end = self._nested(at)
        if keyword != "end":
            raise self._error(end, f"unexpected {{{{{keyword}}}}} in the definition of {name!r}")
        self._close("end")
        definition = Definition(name, self._source, body, frozenset(self._scope.reassigned))
        earlier = self._defined.get(name)
        if earlier is None or earlier.is_blank:
            self._defined[name] = definition
        elif not definition.is_blank:
            raise self._error(at, f"the template {name!r} is defined twice in this file")
        self._scope = outer

    def _nested(self, at: Token) -> tuple[list[Node], str, Token]:
        """Parse up to an `end` or `else`, whose word is taken."""
        self._blocks += 1
        if self._blocks > MAX_BLOCKS:
            raise self._error(at, f"blocks must not be nested deeper than {MAX_BLOCKS}")
        nodes, keyword, token = self._body(set())
        if not keyword:
            raise self._error(at, "this block has no {{end}}")
        self._blocks -= 1
        return nodes, keyword, token

    def _body(self, also: set[str]) -> tuple[list[Node], str, Token]:
        """Return nodes, and the keyword that ends them with its token; an empty text at the end."""
        nodes: list[Node] = []
        while True:
            token = self._tokens[self._at]
            self._at += token.kind is not Kind.END
            if token.kind is Kind.END:
                return nodes, "", token
            if token.kind is Kind.TEXT:
                nodes.append(Text(token.offset, token.text))
                continue
            keyword = self._keyword()
            if keyword in {"end", "else", *also}:
                self._next()
                return nodes, keyword, token
            nodes.append(self._action(token, keyword))

    def _action(self, token: Token, keyword: str) -> Node:
        if not keyword:
            pipeline = self._pipeline("an action")
            self._close("an action")
            return Action(token.offset, pipeline)
        self._next()
        match keyword:
            case "if" | "with" | "range":
                return self._branch(token, keyword)
            case "template" | "block":
                return self._call(token, keyword)
            case "break" | "continue":
                self._close(keyword)
                if not self._scope.ranges:
                    raise self._error(token, f"{{{{{keyword}}}}} must be in a range")
                return Jump(token.offset, keyword)
        raise self._error(token, f"unexpected {{{{{keyword}}}}}; a template must not be defined in a block")

    def _close(self, where: str) -> None:
        self._expect(Kind.CLOSE, where)

    def _branch(self, token: Token, keyword: str, chained: int = 0) -> Branch:
        """Parse the rest of an `if`, `with` or `range`, with its `end`."""
        outer = len(self._scope.variables)
        pipeline = self._pipeline(keyword)
        self._close(keyword)
        self._scope.ranges += keyword == "range"
        body, ending, end = self._nested(token)
        self._scope.ranges -= keyword == "range"
        otherwise: Body = []
        if (
            ending == "else" and keyword != "range" and self._keyword() == keyword
        ):  # `else if` shares the `end`
            self._next()
            if chained == MAX_CHAINED:
                raise self._error(
                    end, f"a block must not have more than {MAX_CHAINED} {{{{else {keyword}}}}}"
                )
            otherwise = [self._branch(end, keyword, chained + 1)]
        else:
            if ending == "else":
                self._close("else")
                otherwise, ending, end = self._nested(token)
            if ending != "end":
                raise self._error(end, "unexpected second {{else}}")
            self._close("end")
        del self._scope.variables[outer:]
        return Branch(token.offset, keyword, pipeline, body, otherwise)

    def _call(self, token: Token, keyword: str) -> Call:
        name = self._name_of_template(keyword)
        argument = None
        if keyword == "block" or self._peek().kind is not Kind.CLOSE:
            argument = self._pipeline(keyword)
        self._close(keyword)
        if keyword == "block":
            self._add(name, token)
        return Call(token.offset, name, argument)

    def _name_of_template(self, where: str) -> str:
        token = self._next()
        if token.kind not in {Kind.STRING, Kind.RAW}:
            raise self._error(token, f"unexpected {token} in {where}; a name in quotes is expected")
        return str(self._constant(token))

    # Pipelines

    def _pipeline(self, where: str, depth: int = 0) -> Pipeline:
        start = self._peek()
        variables, assigns = self._variables(where)
        commands: list[Command] = []
        while self._peek().kind not in {Kind.CLOSE, Kind.RIGHT}:
            if len(commands) == MAX_COMMANDS:
                raise self._error(self._peek(), f"a pipeline must not have more than {MAX_COMMANDS} commands")
            commands.append(self._command(where, depth))
            if self._peek().kind is Kind.PIPE:
                self._next()
        if not commands:
            raise self._error(start, f"a value is missing in {where}")
        for command in commands[1:]:
            if isinstance(command.operands[0], _NOT_EXECUTABLE):
                raise self._error(
                    command.operands[0], "a value cannot follow |; write a function or a method"
                )
        for name in variables:
            self._scope.variables.append(name)
            if assigns:
                self._scope.reassigned.add(name)
        return Pipeline(start.offset, commands, variables, assigns)

    def _variables(self, where: str) -> tuple[list[str], bool]:
        """Return the variables of a declaration or assignment, and whether it is an assignment."""
        start = self._at
        tokens = [self._peek()]
        self._next()
        if tokens[0].kind is Kind.VARIABLE and where == "range" and self._peek().kind is Kind.COMMA:
            self._next()
            tokens.append(self._expect(Kind.VARIABLE, where))
        operator = self._peek()
        if tokens[0].kind is not Kind.VARIABLE or operator.kind not in {Kind.DECLARE, Kind.ASSIGN}:
            if len(tokens) > 1:
                raise self._error(operator, f"unexpected {operator} in range; := or = is expected")
            self._at = start
            return [], False
        self._next()
        return [token.text for token in tokens], operator.kind is Kind.ASSIGN

    def _check_variable(self, token: Token) -> None:
        defined = self._scope.variables
        if token.text not in defined:
            raise self._error(
                token, f"the variable {token.text} is not defined{did_you_mean(token.text, defined)}"
            )

    def _command(self, where: str, depth: int) -> Command:
        start = self._peek()
        operands: list[Operand] = []
        while True:
            operand = self._operand(where, depth)
            if operand is None:
                break
            operands.append(operand)
            if self._tokens[self._at].kind is not Kind.SPACE:
                break
        token = self._peek()
        if token.kind not in {Kind.CLOSE, Kind.RIGHT, Kind.PIPE}:
            raise self._error(token, f"unexpected {token} in {where}")
        if not operands:
            raise self._error(token, f"a command is missing before {token} in {where}")
        return Command(start.offset, operands)

    def _operand(self, where: str, depth: int) -> Operand | None:
        term = self._term(where, depth)
        fields: list[str] = []
        while term is not None and self._tokens[self._at].kind is Kind.FIELD:
            fields.append(self._next().text[1:])
        if not fields or term is None:
            return term
        if isinstance(term, (Literal, Dot)):
            raise self._error(term, "a field cannot follow this value")
        if isinstance(term, Chain):
            return Chain(term.offset, term.base, [*term.fields, *fields])
        return Chain(term.offset, term, fields)

    def _term(self, where: str, depth: int) -> Operand | None:  # noqa: PLR0911 - one for each kind
        token = self._peek()
        if token.kind in {Kind.CLOSE, Kind.RIGHT, Kind.PIPE}:
            return None
        self._next()
        if token.kind in _CONSTANTS:
            return Literal(token.offset, self._constant(token))
        match token.kind:
            case Kind.DOT:
                return Dot(token.offset)
            case Kind.FIELD:
                return Chain(token.offset, Dot(token.offset), [token.text[1:]])
            case Kind.VARIABLE:
                self._check_variable(token)
                return Variable(token.offset, token.text)
            case Kind.WORD:
                return self._word(token)
        if token.kind is not Kind.LEFT:
            raise self._error(token, f"unexpected {token} in {where}")
        if depth == MAX_NESTED:
            raise self._error(token, f"parentheses must not be nested deeper than {MAX_NESTED}")
        pipeline = self._pipeline("parentheses", depth + 1)
        self._expect(Kind.RIGHT, "parentheses")
        return pipeline

    def _constant(self, token: Token) -> str | float:
        try:
            return constant(token.text)
        except ValueError as error:
            raise self._error(token, str(error)) from None

    def _word(self, token: Token) -> Literal | Function:
        if token.text in _WORDS:
            return Literal(token.offset, _WORDS[token.text])
        if token.text in _KEYWORDS:
            raise self._error(token, f"unexpected {token}")
        if token.text not in self._functions:
            hint = did_you_mean(token.text, self._functions)
            raise self._error(token, f"the function {token.text!r} is not known{hint}")
        return Function(token.offset, token.text)
