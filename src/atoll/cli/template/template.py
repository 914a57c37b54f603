"""A parsed template, and printing values with it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from atoll.cli.template.errors import TemplateError
from atoll.cli.template.functions import call, is_true, show
from atoll.cli.template.parser import Branch, Call, Expression, Literal, Node, Path, Pipeline, Text, parse

if TYPE_CHECKING:
    from atoll.client.shapes import Json


class Template:
    """`Template("{{.ID}}: {{.Names}}").render({...})`; raises `TemplateError` when it cannot be parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._nodes = parse(text)

    def render(self, value: "Json") -> str:
        """The text for one value; raises `TemplateError` for a field that it does not have."""
        return "".join(_Rendering(value).nodes(self._nodes, value))

    def fields(self) -> set[str]:
        """The fields of the value that it names, as far as can be seen without a value."""
        return set(_fields(self._nodes))


class _Rendering:
    """One run: variables live here."""

    def __init__(self, root: "Json") -> None:
        self._variables: dict[str, Json] = {"$": root}

    def nodes(self, nodes: Iterable[Node], dot: "Json") -> Iterable[str]:
        for node in nodes:
            if isinstance(node, Text):
                yield node.text
            elif isinstance(node, Branch):
                yield from self._branch(node, dot)
            else:
                value = self._pipeline(node, dot)
                if node.variable is None:
                    yield show(value)

    def _branch(self, branch: Branch, dot: "Json") -> Iterable[str]:
        value = self._pipeline(branch.pipeline, dot)
        if branch.kind == "range":
            yield from self._range(branch, value, dot)
            return
        if branch.names:
            self._variables[branch.names[0]] = value
        if is_true(value):
            yield from self.nodes(branch.body, value if branch.kind == "with" else dot)
        else:
            yield from self.nodes(branch.otherwise, dot)

    def _range(self, branch: Branch, value: "Json", dot: "Json") -> Iterable[str]:
        pairs: list[tuple[Json, Json]] = []
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        elif value is not None:
            raise TemplateError(f"failed to execute template: range can't iterate over {show(value)}")
        if not pairs:
            yield from self.nodes(branch.otherwise, dot)
        for key, item in pairs:
            if branch.names:
                self._variables.update(zip(branch.names[-2:], (key, item)[-len(branch.names) :], strict=False))
            yield from self.nodes(branch.body, item)

    def _pipeline(self, pipeline: Pipeline, dot: "Json") -> "Json":
        value: Json = None
        for position, stage in enumerate(pipeline.stages):
            value = self._evaluate(stage, dot, [] if position == 0 else [value])
        if pipeline.variable is not None:
            self._variables[pipeline.variable] = value
        return value

    def _evaluate(self, expression: Expression, dot: "Json", piped: "list[Json]") -> "Json":
        if isinstance(expression, Call):
            arguments = [self._evaluate(argument, dot, []) for argument in expression.arguments]
            return call(expression.function, arguments + piped)
        if piped:
            raise TemplateError("failed to parse template: can't give argument to non-function")
        if isinstance(expression, Literal):
            return expression.value
        return self._path(expression, dot)

    def _path(self, path: Path, dot: "Json") -> "Json":
        value = dot
        if path.of is not None:
            value = self._pipeline(path.of, dot)
        elif path.variable is not None:
            if path.variable not in self._variables:
                raise TemplateError(f'failed to parse template: undefined variable "{path.variable}"')
            value = self._variables[path.variable]
        for name in path.names:
            if not isinstance(value, dict) or name not in value:
                raise _no_field(path.names, name, value)
            value = value[name]
        return value


def _no_field(names: tuple[str, ...], name: str, value: "Json") -> TemplateError:
    where = "." + ".".join(names)
    if isinstance(value, dict):
        why = f'there is no field "{name}" (there are: {", ".join(sorted(value))})'
    else:
        why = f'can\'t evaluate field "{name}" of {"nil" if value is None else type(value).__name__}'
    return TemplateError(f"failed to execute template: executing at <{where}>: {why}")


def _fields(nodes: Iterable[Node]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, Branch):
            yield from _fields_of(node.pipeline)
            yield from _fields([*node.body, *node.otherwise])
        elif isinstance(node, Pipeline):
            yield from _fields_of(node)


def _fields_of(expression: "Expression | Pipeline") -> Iterable[str]:
    if isinstance(expression, Pipeline):
        for stage in expression.stages:
            yield from _fields_of(stage)
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            yield from _fields_of(argument)
    elif isinstance(expression, Path):
        if expression.of is not None:
            yield from _fields_of(expression.of)
        elif expression.variable in (None, "$"):
            yield from expression.names[:1]
