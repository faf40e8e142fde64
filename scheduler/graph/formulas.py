"""Formulas: conditions over what a run will have brought, written with Python's operators.

Pure. Comparing, adding and joining handles computes nothing; it writes an expression (scheduler/core/expressions) that
the scheduler evaluates when the run has come that far, and that documents hold as text::

    good = score.out.value >= 0.8
    g.add("cms.publish", text=draft, when=good & ~has(check.out.objections))

`and`, `or`, `not` and `in` ask for truth at once, which Python does not let anyone put off: `&`, `|`, `~` and `within`
stand for them. Wherever a formula is wanted, the text of an expression will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from ..core.expressions import Expression, binary, call, constant, parse, unary
from ..errors import ExpressionError, HandleMisused, InvalidValue
from .limits import kind_of

_ADVICE: Final = (
    "Its value exists only when the run has come that far. Hand it to `when`, or join it by & (and), | (or), ~ (not); "
    "put comparisons into parentheses then: (a.out.x > 1) & (b.out.y < 2)."
)


class Operators:
    """What handles and formulas have in common: operators that write formulas. Nothing is compared here."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # == writes a formula, so nothing can be looked up by it

    def __eq__(self, other: object) -> Formula:  # type: ignore[override]  # it writes; nothing is compared here
        return joined("==", self, other)

    def __ne__(self, other: object) -> Formula:  # type: ignore[override]  # as above
        return joined("!=", self, other)

    def __lt__(self, other: object) -> Formula:
        return joined("<", self, other)

    def __le__(self, other: object) -> Formula:
        return joined("<=", self, other)

    def __gt__(self, other: object) -> Formula:
        return joined(">", self, other)

    def __ge__(self, other: object) -> Formula:
        return joined(">=", self, other)

    def __and__(self, other: object) -> Formula:
        return joined("&&", self, other)

    def __rand__(self, other: object) -> Formula:
        return joined("&&", other, self)

    def __or__(self, other: object) -> Formula:
        return joined("||", self, other)

    def __ror__(self, other: object) -> Formula:
        return joined("||", other, self)

    def __invert__(self) -> Formula:
        found = operand(self)
        return Formula(unary("!", found.expression), found.graph)

    def __neg__(self) -> Formula:
        found = operand(self)
        return Formula(unary("-", found.expression), found.graph)

    def __add__(self, other: object) -> Formula:
        return joined("+", self, other)

    def __radd__(self, other: object) -> Formula:
        return joined("+", other, self)

    def __sub__(self, other: object) -> Formula:
        return joined("-", self, other)

    def __rsub__(self, other: object) -> Formula:
        return joined("-", other, self)

    def __mul__(self, other: object) -> Formula:
        return joined("*", self, other)

    def __rmul__(self, other: object) -> Formula:
        return joined("*", other, self)

    def __truediv__(self, other: object) -> Formula:
        return joined("/", self, other)

    def __rtruediv__(self, other: object) -> Formula:
        return joined("/", other, self)

    def __mod__(self, other: object) -> Formula:
        return joined("%", self, other)

    def __rmod__(self, other: object) -> Formula:
        return joined("%", other, self)


class Formula(Operators):
    """An expression that is being written; comparison and arithmetic make further ones.

    Attributes:
        expression: what it says so far.
        graph: the builder whose handles stand in it; None while there is none.
    """

    __slots__ = ("expression", "graph")

    def __init__(self, expression: Expression, graph: object | None = None) -> None:
        self.expression = expression
        self.graph = graph

    def __repr__(self) -> str:
        return f"Formula({self.expression.text!r})"

    def __copy__(self) -> Formula:
        return self

    def __deepcopy__(self, memo: object) -> Formula:
        return self

    def _refuse(self, *_: object) -> NoReturn:
        raise HandleMisused(f"{self.expression.text} stands where Python needs its value. {_ADVICE}")

    __bool__ = __len__ = __iter__ = __contains__ = __int__ = __float__ = __index__ = __call__ = _refuse
    __str__ = __format__ = _refuse


def formula_of(value: object, at: str, graph: object | None = None) -> Formula:
    """What somebody handed over as a condition: a formula, a handle's path, a text, or True or False.

    Raises:
        ExpressionError: a text that cannot be read.
        InvalidValue: none of these.
        HandleMisused: it has handles of another graph than `graph`.
    """
    if isinstance(value, str):
        try:
            found = Formula(parse(value))
        except ExpressionError as broken:
            raise ExpressionError(broken.text, broken.position, broken.problem, broken.remedy, at=at) from None
    else:
        made = _formula(value)
        if made is None:
            remedy = "Write a comparison of handles, such as score.out.value >= 0.8, or its text."
            raise InvalidValue(at, value, f"is no condition but {kind_of(value)}", remedy)
        found = made
    if graph is not None and found.graph is not None and found.graph is not graph:
        raise HandleMisused(f"{at}: {found.expression.text} has handles of another graph. Use this one's.", at=at)
    return found


def has(value: object) -> Formula:
    """Whether a part of an output or error is there at all: `has(check.out.objections)`."""
    found = operand(value)
    return Formula(call("has", found.expression), found.graph)


def size(value: object) -> Formula:
    """How many characters a text has, elements a list, fields an object: `size(search.out.hits) > 3`."""
    found = operand(value)
    return Formula(call("size", found.expression), found.graph)


def within(value: object, container: object) -> Formula:
    """Whether a value is an element of a list, or a key of an object: `within(a.out.word, ["yes", "sure"])`."""
    return joined("in", value, container)


def joined(operator: str, left: object, right: object) -> Formula:
    """Two operands and what stands between them; each a formula, a handle's path or a literal.

    Raises:
        HandleMisused: they belong to two graphs.
        InvalidValue: one of them is no value that an expression can hold.
    """
    one, other = operand(left), operand(right)
    if one.graph is not None and other.graph is not None and one.graph is not other.graph:
        text = f"{one.expression.text} {operator} {other.expression.text}"
        raise HandleMisused(f"{text}: the two belong to different graphs. Use handles of one graph.")
    return Formula(binary(operator, one.expression, other.expression), one.graph or other.graph)


def operand(value: object) -> Formula:
    """One side of an operator: a formula, a handle's path or a literal.

    Raises:
        InvalidValue: it is none that an expression can hold.
    """
    found = _formula(value)
    if found is not None:
        return found
    if isinstance(value, tuple):
        value = list(value)
    if value is None or isinstance(value, str | int | float | list):
        return Formula(constant(value))
    remedy = "Compare with a text, a number, True, False, None, a list of these, or another handle's part."
    raise InvalidValue("a formula", value, f"holds {kind_of(value)}", remedy)


def _formula(value: object) -> Formula | None:
    """A formula, or what gives one by itself (a handle's path); None for anything else."""
    if isinstance(value, Formula):
        return value
    if isinstance(value, bool):
        return Formula(constant(value))
    made = getattr(type(value), "_celeriac_formula", None)
    return None if made is None else made(value)


Given = Formula | str | bool
"""What `when` takes, besides a handle's path, whose value must be true or false then."""


def reads_of(expressions: Sequence[Expression]) -> set[str]:
    """Keys of the nodes whose ends some expressions wait for: all that they read but states."""
    return {it.node for expression in expressions for it in expression.reads if it.what != "state"}
