"""The check: what is wrong with an expression before anything has run, by the schemas of what its nodes give.

Pure. A type is a union: everything that the schema allows. Refused is only what no alternative allows, so what
is accepted may still fail at a run where a schema has alternatives or is silent; where every value has one type and
every field is required, it fails for no reason of type. Operators and their types are those of operators.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ...errors import ExpressionError, did_you_mean, shown
from . import schemas
from .expression import Expression
from .operators import EQUALITY, LOGIC, NUMBERS, SIZED
from .tree import VALUE, Call, Constant, Read, Tree, canonical, draw
from .types import ANY, BOOL, Type, members, of_schema, results, said, union
from .values import scalar_text, word_of

SchemaOf = Callable[[str, str], Mapping[str, Any] | bool | None]
"""(key of a node, "output", "error", "state" or "attempts") -> JSON Schema, None for unknown."""

STATES: Final = (
    *("pending", "ready", "dispatched", "running", "waiting"),
    *("succeeded", "failed", "skipped", "upstream_failed", "cancelled"),
)
_TEXT: Final = {"type": "string"}
_KNOWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "output": {},
    VALUE: {},
    "error": {
        "type": ["object", "null"],
        "properties": {"kind": _TEXT, "type": _TEXT, "message": _TEXT},
        "additionalProperties": True,
    },
    "state": {"enum": list(STATES)},
    "attempts": {"type": "integer"},
}


def check(
    expression: Expression, schema_of: SchemaOf, want: str | None = None, inside: Sequence[str | int] = ()
) -> str:
    """The type of an expression, in a word.

    Args:
        expression: what to check.
        schema_of: the schemas of what nodes give; for all but "output" there is a default where it says None.
        want: the type that is needed, such as "bool"; None for any.
        inside: where in what the schemas describe the values stand that are read by names of their own.

    Returns:
        "bool", "int", "double" (also for what is an int or a double), "string", "list", "map", "null", or "any".

    Raises:
        ExpressionError: a path that cannot be there, an operator that fits no alternative, or never what is wanted.

    >>> from .expression import parse
    >>> check(parse("size(a.output.rows) > 3"), lambda node, what: {"properties": {"rows": {"type": "array"}}})
    'bool'
    """
    run = _Check(expression, schema_of, inside)
    found = run.infer(expression.tree)
    if want is not None and want not in found.words:
        raise run.error(expression.tree, f"it gives {said(found)}, and {want} is needed", "Compare it to something.")
    if len(found.words) == 1:
        return next(iter(found.words))
    return "double" if found.words == NUMBERS else "any"


class _Check:
    """One check of one expression."""

    def __init__(self, expression: Expression, schema_of: SchemaOf, inside: Sequence[str | int]) -> None:
        self.text, self.starts = canonical(expression.tree)
        self.schema_of = schema_of
        self.inside = inside

    def error(self, tree: Tree, problem: str, remedy: str, further: int = 0) -> ExpressionError:
        return ExpressionError(self.text, self.starts[id(tree)] + further, problem, remedy)

    def infer(self, tree: Tree) -> Type:
        if isinstance(tree, Constant):
            return Type(frozenset({word_of(tree.value)}))
        if isinstance(tree, Read):
            return self.read(tree)
        args = [self.infer(arg) for arg in tree.args]
        match tree.name:
            case "has":
                return BOOL
            case "list":
                return Type(frozenset({"list"}), items=tuple(args))
            case "?:":
                self.wanted(tree, tree.args[0], args[0], {"bool"})
                return union(args[1:])
            case "[]":
                return self.item(tree, *args)
            case "size" | "-_" | "!_":
                return self.single(tree, args[0])
        return self.infix(tree, args)

    def read(self, tree: Read) -> Type:
        schema = self.schema_of(tree.node, tree.what)
        if schema is None:
            schema = _KNOWN[tree.what]
        found = of_schema(schema, schema)
        for step in self.inside if tree.what == VALUE else ():
            found = self.step(tree, found, step)
        for number, step in enumerate(tree.path):
            found = self.step(tree, found, step, len(draw(Read(tree.node, tree.what, tree.path[:number]))))
        if not found.words:
            raise self.error(tree, f"{draw(tree)} is never there", "Read something else of the node.")
        return found

    def step(self, tree: Tree, base: Type, step: str | int, further: int = 0) -> Type:
        """The type one constant step on; refused when no alternative has it."""
        following = list(base.items) if isinstance(step, int) else []
        problems = []
        names: set[str] = set()
        for branch, root in base.parts:
            schema, problem = schemas.stepped(branch, root, step)
            if problem:
                problems.append(problem)
                names.update(schemas.fields_of(branch))
            else:
                following.append(of_schema(schema, root))
        found = union(following)
        if found.words:
            return found
        # of "null has no field" and "there is no field" the second helps
        what = f"field {shown(step)}" if isinstance(step, str) else f"item {step}"
        none = "nothing can stand there" if following else f"{said(base)} has no {what}"
        problem = max(problems, key=lambda it: it.startswith("there is"), default=none)
        remedy = "Correct the path, or the executor that publishes this output."
        if isinstance(step, str) and names:
            listed = ", ".join(shown(it) for it in sorted(names)[:20])
            remedy = f"The fields are {listed}.{did_you_mean(step, sorted(names))}"
        raise self.error(tree, problem, remedy, further)

    def item(self, tree: Call, base: Type, key: Type) -> Type:
        step = tree.args[1]
        wanted = {word for word, keys in (("map", {"string"}), ("list", NUMBERS)) if keys & key.words}
        if not wanted:
            raise self.error(
                step, f"{said(key)} is no field and no item", "Write a string for a field, an int for an item."
            )
        self.wanted(tree, tree.args[0], base, wanted)
        if isinstance(step, Constant) and isinstance(step.value, str):
            return self.step(step, base, step.value)
        if isinstance(step, Constant) and type(step.value) is int:
            if step.value < 0:
                remedy = "Count items from 0; the last one is at size(x) - 1."
                raise self.error(step, f"there is no item {step.value}", remedy)
            return self.step(step, base, step.value)
        found = union([members(base, word) for word in sorted(wanted & base.words)])
        if not found.words:
            raise self.error(tree, f"{said(base)} never holds anything", "Correct the path.")
        return found

    def single(self, tree: Call, arg: Type) -> Type:
        if tree.name == "size":
            self.wanted(tree, tree.args[0], arg, SIZED)
            return Type(frozenset({"int"}))
        if tree.name == "!_":
            self.wanted(tree, tree.args[0], arg, {"bool"})
            return BOOL
        self.wanted(tree, tree.args[0], arg, NUMBERS)
        return Type(arg.words & NUMBERS)

    def wanted(self, tree: Call, arg: Tree, found: Type, words: Iterable[str]) -> None:
        if not found.words & set(words):
            name = {"?:": "?", "-_": "-", "!_": "!"}.get(tree.name, tree.name)
            needed = " or ".join(sorted(words))
            raise self.error(
                arg, f"{said(found)} stands where {name} needs {needed}", "Correct the operand or its path."
            )

    def infix(self, tree: Call, args: list[Type]) -> Type:
        name = tree.name
        if name in LOGIC:
            for arg, found in zip(tree.args, args, strict=True):
                self.wanted(tree, arg, found, {"bool"})
            return BOOL
        left, right = args
        self.listed(tree, left, right)
        given = results(name, left, right)
        if not given:
            raise self.error(
                tree,
                f"{said(left)} {name} {said(right)} never fits",
                'Compare and compute what is of one type, such as 3 and not "3".',
            )
        if given == {"list"}:
            return Type(frozenset({"list"}), items=(members(left, "list"), members(right, "list")))
        return Type(frozenset(given), parts=ANY.parts if "list" in given else ())

    def listed(self, tree: Call, left: Type, right: Type) -> None:
        """Whether a comparison can ever be true, where the types fit and a schema lists the values."""
        one, other = tree.args
        if tree.name in EQUALITY:
            self.among(other, one, left)
            self.among(one, other, right)
        elif tree.name == "in" and right.words == {"list"}:
            for it in other.args if isinstance(other, Call) and other.name == "list" else ():
                self.among(it, one, left)
            item = members(right, "list")
            if item.words and not results("==", left, item):
                raise self.error(tree, f"{said(left)} is never in a list of {said(item)}", "Look for one of its items.")

    def among(self, constant: Tree, read: Tree, found: Type) -> None:
        """Whether a constant is one of the values of a read; null is asked for everywhere."""
        if not isinstance(constant, Constant) or constant.value is None or not isinstance(read, Read):
            return
        choices: list[Any] = []
        for branch, _ in found.parts:
            some = schemas.choices_of(branch)
            if some is None:
                return
            choices.extend(some)
        if not any(_same(constant.value, it) for it in choices):
            hint = did_you_mean(str(constant.value), [it for it in choices if isinstance(it, str)])
            remedy = f"It is one of {', '.join(map(shown, choices[:20]))}.{hint}"
            raise self.error(constant, f"{draw(read)} is never {scalar_text(constant.value)}", remedy)


def _same(value: Any, choice: Any) -> bool:
    """Equality of JSON, where true is not 1."""
    return bool(value == choice) and isinstance(value, bool) == isinstance(choice, bool)
