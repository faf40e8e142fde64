"""What a graph may hold: sizes, names, numbers and durations, each checked here and nowhere else.

Pure. Every check takes the place (`at`, such as ``nodes["load"].retry.factor``) and raises a `GraphError` that
names it. The limits keep one user's graph from hurting the others: Celery and kombu have none of their own.
The published JSON Schema (schema.py) takes its numbers from here, so the two cannot drift apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from ..errors import InvalidValue, NotJson, did_you_mean

MAX_NAME = 256
MAX_NODE_BYTES = 1_048_576
MAX_PAGE_BYTES = 16 * 1_048_576
MAX_PAGE_NODES = 1_000
MAX_GRAPH_CHARACTERS = 512 * 1_048_576
MAX_NODES = 1_000_000
MAX_EDGES = 10_000_000
MAX_DEPTH = 64
MAX_PATH = 64
MAX_STEP = 1_024
MAX_INDEX = 2**31 - 1
MAX_LABELS = 64
MAX_SECONDS = 366 * 86_400.0
MIN_SECONDS = 0.001
MAX_ATTEMPTS = 1_000
MAX_LOSSES = 1_000
MAX_FACTOR = 100.0

CONTROL = "\\u0000-\\u001f\\u007f-\\u009f"
"""Characters that no name may hold, as they stand inside brackets of a regular expression."""

_NOT_IN_A_NAME = re.compile(f"[{CONTROL}\\ud800-\\udfff]")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION_REMEDY = 'Write a number of seconds, or text such as "500ms", "20s", "10m", "2h", "1d".'

Duration = int | float | str | timedelta
At = str | Callable[[], str]
"""A place, or what makes it when an error needs it: places are asked for far less often than they are passed."""


def place(at: At) -> str:
    """The place as text."""
    return at if isinstance(at, str) else at()


def name_of(value: object, at: At) -> str:
    """A key, a graph's, executor's or class's name, a label: 1 to 256 characters, no control characters.

    Any other Unicode is the user's own and comes back exactly as it went in.

    >>> name_of("Grüße 🌱", "name")
    'Grüße 🌱'
    """
    if not isinstance(value, str):
        raise InvalidValue(
            place(at), value, f"is not text but {kind_of(value)}", "Write a text of 1 to 256 characters."
        )
    if not 1 <= len(value) <= MAX_NAME:
        raise InvalidValue(
            place(at), value, f"has {len(value)} characters", f"Write a text of 1 to {MAX_NAME} characters."
        )
    if not value.isprintable() and (found := _NOT_IN_A_NAME.search(value)):
        character = ord(found[0])
        if 0xD800 <= character <= 0xDFFF:
            raise NotJson(place(at), value, "holds half of a surrogate pair", "Write whole Unicode characters.")
        raise InvalidValue(
            place(at), value, f"holds the control character U+{character:04X}", "Leave control characters out."
        )
    return str.__str__(value)


def kind_of(value: object) -> str:
    """What a value is, in words for a message.

    >>> kind_of(None), kind_of(True), kind_of({1})
    ('null', 'a boolean', 'a set')
    """
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "a list", dict: "an object"}
    name = names.get(type(value))
    if name:
        return name
    word = type(value).__name__
    return f"{'an' if word[:1] in 'aeiouAEIOU' else 'a'} {word}"


def number_of(value: object, at: At, low: float, high: float) -> float:
    """A finite number between two bounds; a boolean is none.

    >>> number_of(2, "factor", 1, 100)
    2.0
    """
    remedy = f"Write a number from {low:g} to {high:g}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(place(at), value, f"is not a number but {kind_of(value)}", remedy)
    if not math.isfinite(value) if isinstance(value, float) else False:
        raise NotJson(place(at), value, "is not a finite number", remedy)
    if not low <= value <= high:
        raise InvalidValue(place(at), value, "is out of range", remedy)
    return float(value)


def count_of(value: object, at: At, low: int, high: int) -> int:
    """A whole number between two bounds; 3.0 counts as 3, as it does in JSON Schema, a boolean as none.

    >>> count_of(3.0, "max_attempts", 1, 1000)
    3
    """
    remedy = f"Write a whole number from {low} to {high}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(place(at), value, f"is not a number but {kind_of(value)}", remedy)
    if not low <= value <= high:  # false for NaN too
        raise InvalidValue(place(at), value, "is out of range", remedy)
    if value != int(value):
        raise InvalidValue(place(at), value, "is not a whole number", remedy)
    return int(value)


def seconds_of(value: object, at: At, low: float = MIN_SECONDS) -> float:
    """A duration in seconds, from a number, a timedelta, or text with a unit.

    Args:
        value: such as 20, 0.5, "500ms", "20s", "10m", "2h", "1d", timedelta(minutes=5).
        at: for the error.
        low: the shortest that makes sense here; 0 allows none at all.

    >>> seconds_of("10m", "timeout"), seconds_of(timedelta(hours=2), "timeout"), seconds_of(0.5, "timeout")
    (600.0, 7200.0, 0.5)
    """
    found = value
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise InvalidValue(place(at), value, "is not a duration", DURATION_REMEDY)
        found = float(match[1]) * _UNIT_SECONDS[match[2]]
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise InvalidValue(place(at), value, f"is not a duration but {kind_of(value)}", DURATION_REMEDY)
    if isinstance(found, float) and not math.isfinite(found):
        raise NotJson(place(at), value, "is not a finite number", DURATION_REMEDY)
    if found < 0:
        raise InvalidValue(place(at), value, "is negative", DURATION_REMEDY)
    if found < low:
        raise InvalidValue(place(at), value, f"is shorter than {low:g} seconds", DURATION_REMEDY)
    if found > MAX_SECONDS:
        raise InvalidValue(place(at), value, "is longer than 366 days", DURATION_REMEDY)
    return float(found)


def plain_seconds(value: object, at: At, low: float) -> float:
    """A duration in a document: a number, never text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(place(at), value, f"is not a number but {kind_of(value)}", "Write a number of seconds.")
    return seconds_of(value, at, low)


def only_fields(value: Mapping[Any, Any], known: tuple[str, ...], at: str) -> dict[str, Any]:
    """The object's fields, all of them known ones.

    Raises:
        InvalidValue: a field that is not in `known`; spelling mistakes must not pass for defaults.
    """
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise InvalidValue(
                at or "the graph document",
                name,
                "is not a field here",
                f"Known are {', '.join(known)}.{did_you_mean(name, known) if isinstance(name, str) else ''}",
            )
    return dict(value)


def check_limits(timeout: float | None, soft_timeout: float | None, at: At) -> None:
    """The soft time limit warns before the hard one kills, so it must be the shorter one.

    Raises:
        InvalidValue: it is not.
    """
    if timeout is not None and soft_timeout is not None and soft_timeout >= timeout:
        raise InvalidValue(
            place(at), soft_timeout, f"is not shorter than the hard limit of {timeout:g} seconds", "Make it shorter."
        )
