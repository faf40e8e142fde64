"""Operators: how strongly each binds, and which types it takes.

Pure. One table for the parser, the printer, the evaluation and the type check, so that they cannot drift apart.
Names, strengths and types are CEL's. A new operator is one line in INFIX, one rule in `result_of`, one case in
evaluate.py and its rows in the tests.
"""

from __future__ import annotations

from typing import Final

WORDS: Final = frozenset({"bool", "int", "double", "string", "list", "map", "null"})
"""The types that a value may have."""

TERNARY: Final = 1
INFIX: Final = {
    "||": 2,
    "&&": 3,
    "==": 4,
    "!=": 4,
    "<": 4,
    "<=": 4,
    ">": 4,
    ">=": 4,
    "in": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
}
"""Operators between two operands, and how strongly they bind; all of them from left to right."""
PREFIX: Final = 7
MEMBER: Final = 8
"""What binds strongest: names, literals but negative numbers, calls, fields and items."""

LOGIC: Final = frozenset({"&&", "||"})
EQUALITY: Final = frozenset({"==", "!="})
ORDER: Final = frozenset({"<", "<=", ">", ">="})
FUNCTIONS: Final = ("has", "size")
NUMBERS: Final = frozenset({"int", "double"})
SIZED: Final = frozenset({"string", "list", "map"})

MOST_CHARACTERS: Final = 2_000
MOST_PARTS: Final = 200
MOST_NESTING: Final = 50
MOST_COST: Final = 1_000_000
"""Units of one evaluation, some tenths of a second at worst: one for each part of the tree and each character or item
that is joined or compared; a value that is compared costs COMPARISON."""
COMPARISON: Final = 4

SMALLEST: Final = -(2**63)
LARGEST: Final = 2**63 - 1


def result_of(name: str, left: str, right: str) -> str | None:
    """The type of `left name right`, by the types of the operands; None where the operator is not defined.

    `==` and `!=` are defined for any two values, but of different types the answer is always the same. So they
    are listed only for what may be equal, and for null, which is asked for everywhere.

    >>> result_of("+", "int", "double"), result_of("<", "int", "string"), result_of("==", "map", "null")
    ('double', None, 'bool')
    """
    numbers = left in NUMBERS and right in NUMBERS
    same = left == right
    if name in LOGIC:
        return "bool" if same and left == "bool" else None
    if name in EQUALITY:
        return "bool" if same or numbers or "null" in (left, right) else None
    if name in ORDER:
        return "bool" if numbers or (same and left in ("string", "bool")) else None
    if name == "in":
        return "bool" if right == "list" or (right == "map" and left == "string") else None
    whole = same and left == "int"
    if name == "%" or not numbers:
        return left if whole or (name == "+" and same and left in ("string", "list")) else None
    return "int" if whole else "double"
