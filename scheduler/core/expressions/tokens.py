"""Tokens: a text cut by one regular expression, and what its literals stand for.

Pure. Numbers and strings are CEL's without uint, bytes, raw and triple-quoted strings. Whatever cannot be read is an
ExpressionError that says where.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ...errors import ExpressionError, shown
from .operators import LARGEST, MOST_CHARACTERS, SMALLEST

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+)
    |(?P<double>(?:[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)(?![A-Za-z0-9_]))
    |(?P<int>(?:0x[0-9a-fA-F]+|[0-9]+)(?![A-Za-z0-9_]))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<string>"(?:[^"\\\r\n]|\\[^\r\n])*"|'(?:[^'\\\r\n]|\\[^\r\n])*')
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\?"'`])|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[xX]([0-9a-fA-F]{2})|([0-3][0-7]{2})|.)"""
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_SURROGATE = re.compile("[\ud800-\udfff]")
OTHER_LANGUAGES = {
    "and": "&&",
    "or": "||",
    "not": "!",
    "is": "==",
    "=": "==",
    "&": "&&",
    "|": "||",
    "~": "!",
    "True": "true",
    "False": "false",
    "None": "null",
}
"""What others call it, and what it is here."""


class Token(NamedTuple):
    """A piece of text: int, double, name, string, sign or end; and where it begins."""

    kind: str
    text: str
    at: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, with one of kind "end" behind them.

    Raises:
        ExpressionError: a character that means nothing, a string without an end, a text that is too long.

    >>> [token.text for token in tokens_of("a.b>=-1")]
    ['a', '.', 'b', '>=', '-', '1', '']
    """
    if len(text) > MOST_CHARACTERS:
        problem = f"it has {len(text):,} characters, and {MOST_CHARACTERS:,} are allowed"
        raise ExpressionError(text[:MOST_CHARACTERS], 0, problem, "Decide in an executor.")
    if half := _SURROGATE.search(text):
        problem, remedy = "half of a surrogate pair stands there", "Write whole Unicode characters."
        raise ExpressionError(text, half.start(), problem, remedy)
    found = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match[0], at))
        at = match.end()
    return [*found, Token("end", "", at)]


def int_of(text: str, token: Token, sign: int = 1) -> int:
    """The int64 of a token.

    Raises:
        ExpressionError: it is beyond that.
    """
    value = sign * int(token.text, 16 if token.text[:2] == "0x" else 10)
    if not SMALLEST <= value <= LARGEST:
        remedy = f"Write int64, {SMALLEST} to {LARGEST}, or a double such as 1e20."
        raise ExpressionError(text, token.at, "a whole number is out of range", remedy)
    return value


def double_of(text: str, token: Token) -> float:
    """The double of a token.

    Raises:
        ExpressionError: it is beyond that.
    """
    value = float(token.text)
    if not math.isfinite(value):
        raise ExpressionError(text, token.at, "a number is out of range", "Write a double up to 1.7e308.")
    return value


def string_of(text: str, token: Token) -> str:
    """The string of a token.

    Raises:
        ExpressionError: an escape that there is not.
    """

    def meant(found: re.Match[str]) -> str:
        plain, short, long, byte, octal = found.groups()
        if plain:
            return _PLAIN.get(plain, plain)
        code = int(octal, 8) if octal else int(short or long or byte or "110000", 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            remedy = r"Write \\ for a backslash, and \n, \t, \x41, \u00e9 or \U0001f600 for characters."
            raise ExpressionError(
                text, token.at + 1 + found.start(), f"the escape {found[0]} stands for no character", remedy
            )
        return chr(code)

    return _ESCAPE.sub(meant, token.text[1:-1])


def _unreadable(text: str, at: int) -> ExpressionError:
    character = text[at]
    if character in "\"'":
        problem, remedy = (
            "a string has no end in its line",
            r"Close it with the quote it begins with; write \n for a line.",
        )
    elif character in "0123456789":
        problem, remedy = "a number runs into a letter", "Write an int as 42 or 0x2a, a double as 1.5 or 1e3."
    else:
        other = OTHER_LANGUAGES.get(character)
        problem, remedy = f"{shown(character)} means nothing here", f"Write {other}." if other else "Leave it out."
    return ExpressionError(text, at, problem, remedy)
