"""Arithmetic of numbers: int64 as in CEL, doubles as in IEEE 754, and doubles where one of the two is a double.

Pure. What has no result in JSON fails: overflow of int64, division by zero, infinity and not-a-number. An integer
beyond int64, which outputs may hold and CEL does not have, is compared by its value and refused here.
"""

from __future__ import annotations

import math

from .errors import Failure
from .operators import LARGEST, SMALLEST
from .values import brief

Number = int | float


def computed(name: str, left: Number, right: Number) -> Number:
    """`left name right`, for + - * / and, of two ints, %.

    Raises:
        Failure: there is no such number.

    >>> computed("/", -7, 2), computed("%", -7, 2), computed("+", 1, 0.5)
    (-3, -1, 1.5)
    """
    for operand in (left, right):
        if isinstance(operand, int) and not SMALLEST <= operand <= LARGEST:
            raise Failure("number", f"{brief(operand)} is beyond int64")
    if name in ("/", "%") and right == 0:
        raise Failure("number", f"{brief(left)} {name} {brief(right)} divides by zero")
    if isinstance(left, int) and isinstance(right, int):
        found: Number = _whole(name, left, right)
    else:
        found = _double(name, float(left), float(right))
    if problem := _problem(found):
        raise Failure("number", f"{brief(left)} {name} {brief(right)} {problem}")
    return found


def opposite(value: Number) -> Number:
    """`-value`.

    Raises:
        Failure: there is no such number.
    """
    if problem := _problem(-value):
        raise Failure("number", f"-({brief(value)}) {problem}")
    return -value


def _whole(name: str, left: int, right: int) -> int:
    if name == "+":
        return left + right
    if name == "-":
        return left - right
    if name == "*":
        return left * right
    quotient = abs(left) // abs(right)
    if (left < 0) != (right < 0):
        quotient = -quotient
    # as in CEL, the remainder is out of range where its quotient is
    return quotient if name == "/" or quotient > LARGEST else left - right * quotient


def _double(name: str, left: float, right: float) -> float:
    if name == "+":
        return left + right
    if name == "-":
        return left - right
    return left * right if name == "*" else left / right


def _problem(found: Number) -> str:
    if isinstance(found, int):
        return "" if SMALLEST <= found <= LARGEST else "is beyond int64"
    return "" if math.isfinite(found) else "is no finite number"
