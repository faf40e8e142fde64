"""Expressions as plain tuples: random ones, how they are written with every parenthesis, and what CEL makes of them.

The oracle shares nothing with the product: numbers are compared and divided as fractions, && and || are looked up
among three values, and a tree is ("value", v), ("read", Read), ("list", ...), ("[]", base, key), ("!", x), ("-", x),
("has", read), ("size", x), ("?:", c, a, b) or (operator, a, b).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from scheduler.core.expressions import (
    Expression,
    Read,
    binary,
    call,
    conditional,
    constant,
    item,
    listed,
    read,
    unary,
)

Tree = tuple[Any, ...]
SMALLEST, LARGEST = -(2**63), 2**63 - 1
INFIX = ("||", "&&", "==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%")
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Wrong(Exception):
    """CEL gives an error."""


# --- random ones ---------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["k", "n", "s", "if", "true", "a b", 'q"', "é"])
STRINGS = st.one_of(
    st.sampled_from(["", "k", "n", "if", "0.3", "\\", '"', "'", "\n\t\x00\x7f", "\u2028\u202e", "😀"]),
    st.text(max_size=4),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([SMALLEST, LARGEST, 2**53, 2**53 + 1]),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 3.0, -2.5, 1e16, 1e300, 5e-324, 2.0**63]),
    STRINGS,
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(NAMES, STRINGS), inner, max_size=3)),
    max_leaves=6,
)
STEPS = st.lists(st.one_of(NAMES, st.integers(0, 2)), max_size=2).map(tuple)
READS = st.one_of(
    st.builds(
        Read, st.sampled_from(["a", "b", "my-node", "nodes", "in", "has"]), st.sampled_from(["output", "error"]), STEPS
    ),
    st.builds(Read, st.sampled_from(["a", "b"]), st.sampled_from(["state", "attempts"])),
)
HAS = st.builds(Read, st.sampled_from(["a", "b"]), st.just("output"), STEPS).filter(
    lambda it: not it.path or it.path[-1] in ("k", "n", "s", "if")
)
LEAVES = st.one_of(
    st.tuples(st.just("value"), SCALARS), st.tuples(st.just("read"), READS), st.tuples(st.just("has"), HAS)
)


def _grown(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.tuples(st.sampled_from(INFIX), inner, inner),
        st.tuples(st.sampled_from(["&&", "||", "==", "<", "+"]), inner, inner),
        st.tuples(st.sampled_from(["!", "-", "size"]), inner),
        st.tuples(st.just("[]"), inner.map(_with_parts), inner),
        st.tuples(st.just("?:"), inner, inner, inner),
        st.lists(inner, max_size=3).map(lambda items: ("list", *items)),
    )


def _with_parts(tree: Tree) -> Tree:
    """Not a state: `a.state.k` and `a.state[b]` are refused, whoever builds them."""
    return ("list", tree) if tree[0] == "read" and tree[1].what in ("state", "attempts") else tree


TREES: st.SearchStrategy[Tree] = st.recursive(LEAVES, _grown, max_leaves=8)


# --- how they are written --------------------------------------------------------------------------------------


def spelled(tree: Tree) -> str:
    """With every parenthesis there can be, and strings as escapes."""
    name, *args = tree
    if name == "value":
        return _scalar(args[0])
    if name in ("read", "has"):
        one = args[0]
        text = f"nodes[{_scalar(one.node)}].{one.what}" + "".join(f"[{_scalar(step)}]" for step in one.path)
        return f"has({text})" if name == "has" else text
    inner = [f"({spelled(arg)})" for arg in args]
    if name == "list":
        return f"[{','.join(inner)}]"
    if name == "[]":
        return f"{inner[0]}[{inner[1]}]"
    if name == "?:":
        return f"{inner[0]}?{inner[1]}:{inner[2]}"
    if name == "size" or len(inner) == 1:
        return f"{name}{inner[0]}"
    return f" {name} ".join(inner)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return "'" + "".join(f"\\U{ord(c):08x}" for c in value) + "'"
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else repr(value)
    )


def built(tree: Tree) -> Expression:
    """By the builders, as Python operators do it."""
    name, *args = tree
    if name == "value":
        return constant(args[0])
    if name in ("read", "has"):
        one = read(args[0].node, args[0].what, args[0].path)
        return call("has", one) if name == "has" else one
    inner = [built(arg) for arg in args]
    if name == "list":
        return listed(*inner)
    if name == "[]":
        return item(*inner)
    if name == "?:":
        return conditional(*inner)
    if name == "size":
        return call("size", *inner)
    return unary(name, *inner) if len(inner) == 1 else binary(name, *inner)


# --- what CEL makes of them ------------------------------------------------------------------------------------


def oracle(tree: Tree, data: dict[str, dict[str, Any]]) -> Any:
    """The value, or Wrong."""
    name, *args = tree
    if name == "value":
        return args[0]
    if name in ("read", "has"):
        found = _or_wrong(_walked, args[0], data)
        if name == "read" and found is Wrong:
            raise Wrong
        return found if name == "read" else found is not Wrong
    if name in ("&&", "||"):
        return _logic(name, [_or_wrong(oracle, arg, data) for arg in args])
    if name == "?:":
        condition = oracle(args[0], data)
        if type(condition) is not bool:
            raise Wrong
        return oracle(args[1] if condition else args[2], data)
    values = [oracle(arg, data) for arg in args]
    if name == "list":
        return values
    if len(values) == 1:
        return _single(name, values[0])
    return _double(name, *values)


def _walked(one: Read, data: dict[str, dict[str, Any]]) -> Any:
    value = data.get(one.node, {}).get(one.what, Wrong)
    if value is Wrong:
        raise Wrong
    for step in one.path:
        value = _item(value, step)
    return value


def _or_wrong(function: Callable[[Any, Any], Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Wrong:
        return Wrong


def _logic(name: str, values: list[Any]) -> bool:
    decisive = name == "||"
    if any(it is decisive for it in values):
        return decisive
    if all(it is not decisive and type(it) is bool for it in values):
        return not decisive
    raise Wrong


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _single(name: str, value: Any) -> Any:
    if name == "size" and type(value) in (str, list, dict):
        return len(value)
    if name == "!" and type(value) is bool:
        return not value
    if name == "-" and _is_number(value):
        return _in_range(-value)
    raise Wrong


def _double(name: str, left: Any, right: Any) -> Any:
    if name in ("==", "!="):
        return _equal(left, right) is (name == "==")
    if name == "in":
        if type(right) is list:
            return True in [_equal(left, it) for it in right]
        if type(right) is dict:
            return type(left) is str and left in list(right)
        raise Wrong
    if name == "[]":
        return _item(left, right)
    if name in ORDER:
        if _is_number(left) and _is_number(right):
            return ORDER[name](Fraction(left), Fraction(right))
        if type(left) is type(right) and type(left) in (str, bool):
            left, right = ([ord(c) for c in it] if type(it) is str else int(it) for it in (left, right))
            return ORDER[name](left, right)
        raise Wrong
    if name == "+" and type(left) is type(right) and type(left) in (str, list):
        return left + right
    if not (_is_number(left) and _is_number(right)):
        raise Wrong
    return _computed(name, left, right)


def _computed(name: str, left: Any, right: Any) -> Any:
    whole = type(left) is int and type(right) is int
    if name in ("/", "%") and (right == 0 or (name == "%" and not whole)):
        raise Wrong
    if whole:
        if name in ("/", "%"):
            quotient = _in_range(math.trunc(Fraction(left, right)))
            return quotient if name == "/" else left - quotient * right
        return _in_range({"+": left + right, "-": left - right, "*": left * right}[name])
    one, other = float(left), float(right)
    if name == "/":
        return _in_range(one / other)
    if name == "%":
        raise Wrong
    return _in_range({"+": one + other, "-": one - other, "*": one * other}[name])


def _in_range(value: Any) -> Any:
    if type(value) is int and SMALLEST <= value <= LARGEST:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise Wrong


def _item(base: Any, key: Any) -> Any:
    if type(base) is dict and type(key) is str and key in base:
        return base[key]
    if type(base) is list and _is_number(key) and key in range(len(base)):
        return base[round(key)]
    raise Wrong


def _equal(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return Fraction(left) == Fraction(right)
    if type(left) is not type(right):
        return False
    if type(left) is list:
        return len(left) == len(right) and all(map(_equal, left, right))
    if type(left) is dict:
        return set(left) == set(right) and all(_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down: 1 is not 1.0, 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if type(left) is list:
        return len(left) == len(right) and all(map(same, left, right))
    if type(left) is dict:
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return repr(left) == repr(right)
