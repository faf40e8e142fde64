"""Expressions that read values by names of their own, and no nodes: those of policies."""

from __future__ import annotations

import pytest

from scheduler.core.expressions import EvaluationError, Missing, Read, check, evaluated, follow, parse
from scheduler.errors import ExpressionError

GIVEN = {"input": {"to": "a@b.example", "parts": [1, 2]}, "attempt": 3}


def _look(read: Read) -> object:
    return follow(GIVEN[read.node], read.path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("attempt < 4 && size(input.parts) == 2", True),
        ("has(input.cc)", False),
        ('input["to"] == "a@b.example"', True),
        ("input.parts[1] * attempt", 6),
    ],
)
def test_names_are_values(text: str, value: object) -> None:
    """A name that is given stands for its value, with fields and items; its canonical text reads the same again."""
    found = parse(text, GIVEN)
    assert evaluated(found, _look)[0] == value
    assert parse(found.text, GIVEN) == found


def test_other_names_are_refused() -> None:
    """A name that is not given is no node here: the error names those that are, and the nearest."""
    with pytest.raises(ExpressionError, match=r"there is no value 'inputs' here.*Known: input, attempt.*'input'"):
        parse("inputs.to == 1", GIVEN)
    with pytest.raises(ExpressionError, match="there is no value 'nodes' here"):
        parse('nodes["a"].output == 1', GIVEN)


def test_a_missing_part_is_named() -> None:
    """What is not there is told by the path that ends, as for nodes."""
    with pytest.raises(EvaluationError, match=r"input has no .*cc"):
        evaluated(parse("input.cc == 1", GIVEN), _look)
    with pytest.raises(Missing):
        follow(GIVEN["input"], ("cc",))


def test_values_are_checked_by_their_schemas() -> None:
    """Where a schema is known a wrong type is found before anything has run; where none is, all may be."""
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "additionalProperties": False}
    with pytest.raises(ExpressionError, match="cc"):
        check(parse("input.cc == 1", ["input"]), lambda _name, _what: schema)
    assert check(parse("input.cc == 1", ["input"]), lambda _name, _what: None) == "bool"
