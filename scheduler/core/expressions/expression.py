"""Expressions: a text that was read, its canonical form, what it reads of which node, and its value.

Pure. `parse` makes them of text, the builders make them of other expressions, so that nobody joins text by hand.
An expression that exists is within all limits and says the same as its text: `parse(it.text) == it`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...errors import ExpressionError, did_you_mean, shown
from .errors import Seen
from .evaluate import Look, Purse, valued
from .operators import FUNCTIONS, INFIX, LARGEST, MOST_CHARACTERS, MOST_NESTING, MOST_PARTS, SMALLEST
from .syntax import tree_of
from .tree import WHATS, Call, Constant, Read, Tree, canonical, draw, indexed, infix, is_field, negated, parts
from .values import BRIEF, brief

_LONGEST_WORDING = 300
_REMEDY = "Decide in an executor."


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, immutable; `parse` and the builders make it. Equal when the texts are.

    Attributes:
        text: its one canonical spelling.
        reads: what it may read, each once, in order of first use.
        tree: its parts, for this package.
    """

    text: str
    reads: tuple[Read, ...] = field(compare=False)
    tree: Tree = field(compare=False, repr=False)

    def evaluate(self, look: Look) -> Any:
        """Its value.

        Args:
            look: what answers reads, asked at most once for each: the value, or it raises `Missing`; see `follow`.

        Raises:
            EvaluationError: it has no value; says what was met.
        """
        return evaluated(self, look)[0]


def parse(text: str, names: Collection[str] = ()) -> Expression:
    """An expression from its text.

    Args:
        names: of values, where an expression reads such and no nodes: `input.size < 10` for the name "input". Each
            stands as Read(name, "value", path).

    Raises:
        ExpressionError: it cannot be read, or is too large; says where.

    >>> parse("(fetch.output['score'])>=.8 && ! has(check.error.kind)").text
    'fetch.output.score >= 0.8 && !has(check.error.kind)'
    >>> parse("size(input['to']) < 10", ["input"]).reads
    (Read(node='input', what='value', path=('to',)),)
    """
    if not isinstance(text, str):
        raise ExpressionError(shown(text), 0, "it is not text", "Write the expression as a string.")
    return _expression(tree_of(text, names), text)


def evaluated(expression: Expression, look: Look, purse: Purse | None = None) -> tuple[Any, Seen]:
    """The value of an expression, and what was read for it, to be recorded.

    Args:
        purse: what it may spend, where several share one; by default it has its own.

    Raises:
        EvaluationError: it has none.

    >>> evaluated(parse("fetch.output.score >= 0.8"), lambda read: 0.3)
    (False, (('fetch.output.score', '0.3'),))
    """
    return valued(expression.text, expression.tree, look, purse)


def worded(expression: Expression, value: Any, seen: Seen) -> str:
    """What was decided and why, in at most 300 characters.

    >>> worded(parse("fetch.output.score >= 0.8"), False, (("fetch.output.score", "0.3"),))
    'fetch.output.score >= 0.8 is false (fetch.output.score = 0.3)'
    """
    text = expression.text if len(expression.text) <= 160 else expression.text[:157] + "..."
    said = f"{text} is {brief(value, BRIEF // 2)}"
    reads = [f"{name} = {found}" for name, found in seen if name != expression.text]
    kept: list[str] = []
    room = _LONGEST_WORDING - len(said) - len(" (, and 200 more)")
    for one in reads:
        room -= len(one) + 2
        if room < 0:
            break
        kept.append(one)
    if len(kept) < len(reads):
        kept.append(f"and {len(reads) - len(kept)} more" if kept else f"{len(reads)} values read")
    return f"{said} ({', '.join(kept)})" if kept else said


def literal(value: Any) -> str:
    """The canonical text of a scalar of JSON, or of a list of such.

    Raises:
        ExpressionError: it is nothing that can be written.

    >>> literal(["a", 1, 0.5, None])
    '["a", 1, 0.5, null]'
    """
    return constant(value).text


def constant(value: Any) -> Expression:
    """A scalar of JSON, or a list of such, as an expression."""
    return _expression(_constant(value))


def read(node: str, what: str = "output", path: Iterable[str | int] = ()) -> Expression:
    """A read of a node: its output, error, state or attempts, or a part of the first two.

    >>> read("my-node", path=["rows", 0]).text
    'nodes["my-node"].output.rows[0]'
    """
    steps = () if isinstance(path, str) else tuple(path)
    key = _scalar(node).value
    if not isinstance(key, str) or not key:
        raise ExpressionError(shown(node), 0, "it is no key of a node", "Name a node of the graph.")
    if what not in WHATS:
        raise ExpressionError(shown(what), 0, "a node has nothing of that name", f"Write one of {', '.join(WHATS)}.")
    tree: Tree = Read(key, what)
    for step in steps:
        tree = indexed(tree, _scalar(step))
    if isinstance(path, str) or not isinstance(tree, Read):
        raise ExpressionError(shown(path), 0, "it is no path", "Write names of fields and indexes from 0.")
    return _expression(tree)


def unary(op: str, operand: Expression) -> Expression:
    """`!operand` or `-operand`."""
    if op == "-":
        return _expression(negated(operand.tree))
    if op == "!":
        return _expression(Call("!_", (operand.tree,)))
    raise _unknown(op, ("!", "-"))


def binary(op: str, left: Expression, right: Expression) -> Expression:
    """`left op right`, for every operator between two operands.

    >>> binary("*", binary("+", constant(1), read("a")), constant(2)).text
    '(1 + a.output) * 2'
    """
    if op not in INFIX:
        raise _unknown(op, INFIX)
    return _expression(infix(op, left.tree, right.tree))


def call(name: str, argument: Expression) -> Expression:
    """`has(argument)` or `size(argument)`."""
    if name not in FUNCTIONS:
        raise _unknown(name, FUNCTIONS)
    return _expression(Call(name, (argument.tree,)))


def conditional(condition: Expression, chosen: Expression, otherwise: Expression) -> Expression:
    """`condition ? chosen : otherwise`."""
    return _expression(Call("?:", (condition.tree, chosen.tree, otherwise.tree)))


def item(base: Expression, key: Expression) -> Expression:
    """`base[key]`, which is `base.key` for the name of a field."""
    return _expression(indexed(base.tree, key.tree))


def listed(*items: Expression) -> Expression:
    """`[first, second]`."""
    return _expression(Call("list", tuple(it.tree for it in items)))


def _unknown(name: str, known: Iterable[str]) -> ExpressionError:
    names = tuple(known)
    return ExpressionError(
        shown(name), 0, "there is no such operator", f"Write one of {' '.join(names)}.{did_you_mean(str(name), names)}"
    )


def _constant(value: Any) -> Tree:
    if isinstance(value, list | tuple) and len(value) < MOST_PARTS:
        return Call("list", tuple(map(_scalar, value)))
    return _scalar(value)


def _scalar(value: Any) -> Constant:
    problem = ""
    if value is None or isinstance(value, bool):
        return Constant(value)
    if isinstance(value, int):
        value = int(value)
        problem = "" if SMALLEST <= value <= LARGEST else "it is beyond int64"
    elif isinstance(value, float):
        value = float(value)
        problem = "" if math.isfinite(value) else "it is no finite number"
    elif isinstance(value, str):
        value = str.__str__(value)
        problem = "it holds half of a surrogate pair" if any("\ud800" <= c <= "\udfff" for c in value) else ""
    else:
        problem = "it cannot be written in an expression"
    if problem:
        raise ExpressionError(shown(value), 0, problem, "Write null, a bool, number or string, or a short list.")
    return Constant(value)


def _expression(tree: Tree, source: str = "") -> Expression:
    """A tree as an expression, once it is within the limits.

    Raises:
        ExpressionError: too large, or a part that no tree may have.
    """
    reads: dict[Read, None] = {}
    for count, (part, depth) in enumerate(parts(tree), 1):
        if count > MOST_PARTS:
            raise ExpressionError(source, 0, f"it has more than {MOST_PARTS} parts", _REMEDY)
        if depth > MOST_NESTING:
            raise ExpressionError(source, 0, f"it is nested more than {MOST_NESTING} deep", _REMEDY)
        if isinstance(part, Read):
            reads[part] = None
    text, starts = canonical(tree)
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(
            text[:MOST_CHARACTERS],
            MOST_CHARACTERS,
            f"written out it has {len(text):,} characters, and {MOST_CHARACTERS:,} are allowed",
            _REMEDY,
        )
    for part, _ in parts(tree):
        _check_part(part, text, starts)
    return Expression(text, tuple(reads), tree)


def _check_part(part: Tree, text: str, starts: dict[int, int]) -> None:
    """What the grammar says beyond its rules: `state` and `attempts` have no parts, and has() asks for a path."""
    if isinstance(part, Call) and part.name == "has":
        asked = part.args[0]
        if not isinstance(asked, Read) or (asked.path and not is_field(asked.path[-1])):
            remedy = 'Write has(fetch.output.score), or "a b" in fetch.output, or size(fetch.output.rows) > 0.'
            raise ExpressionError(text, starts[id(asked)], "has() asks for a field of a node by its name", remedy)
    base = part.args[0] if isinstance(part, Call) and part.name == "[]" else part
    if isinstance(base, Read) and base.what in ("state", "attempts") and (base.path or base is not part):
        kind = "a word" if base.what == "state" else "a number"
        at = starts[id(base)] + len(draw(Read(base.node, base.what)))
        raise ExpressionError(
            text, at, f"{base.what} is {kind} and has no parts", f"Write {draw(Read(base.node, base.what))}."
        )
