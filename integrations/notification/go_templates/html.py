"""Decides how the values of templates for HTML are escaped, depending on where in the document they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from codomyrmex.integrations.notification.go_templates.contexts import (
    Context,
    ContextError,
    after_text,
    nudged,
)
from codomyrmex.integrations.notification.go_templates.errors import GoTemplateError, LaterError
from codomyrmex.integrations.notification.go_templates.nodes import (
    Action,
    Body,
    Branch,
    Call,
    Command,
    Definition,
    Function,
    Jump,
    Node,
    Pipeline,
    Text,
)

IN_HTML = "\0"  # between the name of a template and the context in which it is called
_URL = {"start": ("html_safe_url", "html_url"), "path": ("html_url",), "query": ("html_query",)}
_SAME = {  # what the functions of templates do already
    "html_text": "html",
    "html_rcdata": "html",
    "html_attribute": "html",
    "html_query": "urlquery",
    "html_url": "urlquery",
}
_PLACES = {
    "script": "a script",
    "js": "an attribute with a script",
    "srcset": "srcset",
    "css": "a text or URL of CSS",
    "style": "a text or URL of CSS",
}


class HtmlRewriter:
    """Rewrites definitions so that their values are escaped.

    A definition is rewritten for each context in which it is called.

    Args:
        find: returns the definition that a node calls; None if there is none.
    """

    def __init__(self, find: Callable[[Call], Definition | None]) -> None:
        self.definitions: dict[str, Definition] = {}
        self._find = find
        self._ends: dict[str, Context] = {}  # the contexts after the rewritten definitions
        self._definition: Definition | None = None
        self._jumps: list[Context] = []  # the contexts of `break` and `continue` in the current range

    def rewrite(self, main: Definition) -> str:
        """Rewrite a definition and all that it calls; return the name of the result.

        Raises:
            LaterError: Go fails when it escapes the template.
            GoTemplateError: a value is in a place that is not supported.
        """
        name, end = self._rewritten(main, Context())
        if end.state != "text":
            raise main.source.later_error(0, f"the template must end outside of tags, but ends in {end}")
        return name

    def _rewritten(self, definition: Definition, start: Context) -> tuple[str, Context]:
        name = definition.name if start == Context() else f"{definition.name}{IN_HTML}{start!r}"
        if name in self._ends:
            return name, self._ends[name]
        outer = self._definition, self._jumps
        self._definition, self._jumps = definition, []
        # A template that calls itself most likely ends where it starts; otherwise the second try is right.
        assumed, end = start, self._try(name, definition, start, start)
        if end != assumed:
            assumed, end = end, self._try(name, definition, start, end)
        if end != assumed:
            raise definition.source.error(
                0, f"the template {definition.name!r} ends in different places of HTML"
            )
        self._definition, self._jumps = outer
        return name, end

    def _try(self, name: str, definition: Definition, start: Context, assumed: Context) -> Context:
        self._ends[name] = assumed
        body, end = self._body(definition.body, start)
        end = start if end is None else end
        self._ends[name] = end
        self.definitions[name] = replace(definition, name=name, body=body)
        return end

    def _error(self, node: Node, message: str) -> LaterError:
        assert self._definition is not None  # noqa: S101 - nodes are only visited inside a definition
        return self._definition.source.later_error(node.offset, message)

    def _unsupported(self, node: Node, context: Context) -> GoTemplateError:
        assert self._definition is not None  # noqa: S101 - as above
        message = f"a value in {_PLACES[context.state]} is not supported"
        return self._definition.source.error(node.offset, message)

    def _body(self, body: Body, context: Context | None) -> tuple[list[Node], Context | None]:
        """Return rewritten nodes, and the context after them; None after a `break` or `continue`."""
        nodes: list[Node] = []
        for node in body:
            if context is None:
                break
            rewritten, context = self._node(node, context)
            nodes.append(rewritten)
        return nodes, context

    def _node(self, node: Node, context: Context) -> tuple[Node, Context | None]:
        match node:
            case Text():
                try:
                    context, text = after_text(context, node.text)
                except ContextError as error:
                    raise self._error(node, str(error)) from None
                return replace(node, text=text), context
            case Action():
                return self._action(node, context)
            case Branch():
                return self._branch(node, context)
            case Call():
                definition = self._find(node)
                if definition is None:
                    raise self._error(node, f"the template {node.name!r} is not defined")
                name, context = self._rewritten(definition, context)
                return replace(node, name=name), context
            case Jump():
                self._jumps.append(context)
                return node, None

    def _branch(self, node: Branch, context: Context) -> tuple[Node, Context | None]:
        is_range = node.keyword == "range"
        outer = self._jumps
        if is_range:
            self._jumps = []
        body, end = self._body(node.body, context)
        if is_range:
            for jump in self._jumps:
                end = self._joined(node, end, jump)
            self._jumps = []
            if end is not None:  # the second round starts where the first one ends
                end = self._joined(node, end, self._body(node.body, end)[1])
            self._jumps = outer
        otherwise, other = self._body(node.otherwise, context)
        return replace(node, body=body, otherwise=otherwise), self._joined(node, end, other)

    def _joined(self, node: Branch, one: Context | None, other: Context | None) -> Context | None:
        """Return the context after one of two branches, or raise an error if they end in different ones."""
        if one is None or other is None:
            return other if one is None else one
        joined = _join(one, other) or _join(nudged(one), nudged(other))
        if joined is None:
            places = f"{one}, {other}"
            raise self._error(node, f"the branches of this {node.keyword} end in different places: {places}")
        return joined

    def _action(self, node: Action, context: Context) -> tuple[Node, Context]:
        if node.pipeline.variables:
            return node, context
        context = nudged(context)
        names = [self._predefined(command) for command in node.pipeline.commands]
        if any(names[:-1]) or (names[-1] == "html" and context.quote == " "):
            raise self._error(
                node, "html and urlquery must be the last function here; values are escaped anyway"
            )
        filters = self._filters(node, context)
        pipeline = node.pipeline
        if any(_SAME.get(each) == names[-1] for each in filters):
            filters = [names[-1] if _SAME.get(each) == names[-1] else each for each in filters]
            pipeline = _without_last(pipeline)
        return replace(node, pipeline=pipeline, filters=tuple(filters)), context

    @staticmethod
    def _predefined(command: Command) -> str:
        first = command.operands[0]
        return first.name if isinstance(first, Function) and first.name in {"html", "urlquery"} else ""

    def _filters(self, node: Action, context: Context) -> list[str]:
        """Return the names of the escapers for a value in a context."""
        match context.state:
            case "text" | "rcdata" | "comment" | "name":
                return [f"html_{context.state}"]
            case "plain":
                filters: list[str] = []
            case "url" if context.part in _URL:
                filters = [*_URL[context.part]]
            case "url":
                raise self._error(node, "the value is in a URL that may or may not have a query already")
            case "css" | "style" if not context.part:
                filters = ["html_css"]
            case _:
                raise self._unsupported(node, context)
        if context.quote:
            filters.append("html_unquoted" if context.quote == " " else "html_attribute")
        return filters


def _without_last(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline without its last function, whose arguments are joined as it would do."""
    *before, last = pipeline.commands
    if before and len(last.operands) == 1:
        return replace(pipeline, commands=before)
    printing = replace(last, operands=[Function(last.offset, "print"), *last.operands[1:]])
    return replace(pipeline, commands=[*before, printing])


def _join(one: Context, other: Context) -> Context | None:
    """Return the context after one of two, or None if they are too different."""
    if one == other:
        return one
    is_same_url = one.state == "url" and one._replace(part="") == other._replace(part="")
    return one._replace(part="unknown") if is_same_url else None
