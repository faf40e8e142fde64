"""Events as a run's log keeps them beside its moves, and back: what a replay needs and no move says.

Pure. Most events follow from the moves that they led to (core/replay.py); those that do not are kept: how an attempt
failed, what expressions read of an output, what somebody asked for. An event is a NamedTuple of JSON values, tuples,
sets, tables with other keys than text, and bytes of JSON; the last four stand as `{"$tuple": [...]}`,
`{"$set": [...]}`, `{"$table": [[key, value], ...]}` and `{"$bytes": text}`. Fields that have their default are left
out; fields of later versions are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from .events import Admitted, Asker, Event, Followed, Opened, Reported, RetryDue
from .retry import word_of

EVENTS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Event)}
FOLLOWS = (Opened, Followed, Admitted, RetryDue)
"""Events that follow from their moves, so that no log need keep them."""
MOST_MESSAGE = 500
"""Characters of an error's message that a log keeps; its traceback it keeps only for expressions that may read it."""
MOST_FACTS = 4_000
"""Characters of facts that a log keeps with one event; a replay takes larger ones from the stored output."""
_TAGS = frozenset({"$tuple", "$set", "$table", "$bytes"})


def record_of(event: Event, now: int, *, whole: bool = False) -> dict[str, Any]:
    """An event as JSON values.

    Args:
        event: what happened.
        now: when it was decided, ms.
        whole: keep its error as it is, for expressions may read any part of it.

    >>> record_of(RetryDue(3, 1), 5)
    {'event': 'RetryDue', 'now': 5, 'node': 3, 'attempt': 1}
    """
    found: dict[str, Any] = {"event": type(event).__name__, "now": now}
    defaults = type(event)._field_defaults
    for name, value in event._asdict().items():
        if name in defaults and value == defaults[name]:
            continue
        found[name] = _plain(_short(value) if name == "error" and value and not whole else value)
    if isinstance(event, Reported) and len(str(found.get("facts", ""))) > MOST_FACTS:
        del found["facts"]
    return found


def event_of(record: Mapping[str, Any]) -> Event:
    """An event again.

    Raises:
        ValueError: a kind that this version does not know, or one that lacks a field.
    """
    name = record.get("event")
    kind = EVENTS.get(str(name))
    if kind is None:
        raise ValueError(f"no event {name!r} is known to this version")
    try:
        fields = {field: _back(record[field]) for field in kind._fields if field in record}
        if "asker" in fields:
            fields["asker"] = Asker(*fields["asker"])
        event: Event = kind(**fields)
    except TypeError as broken:
        raise ValueError(f"event {name}: {broken}") from broken
    return event


def _short(error: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in error.items() if name in ("kind", "type", "message", "origin", "phase")}
    if "message" in kept:
        kept["message"] = str(kept["message"])[:MOST_MESSAGE]
    if "type" in kept:
        kept["type"] = word_of(kept["type"])
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value) and not (len(value) == 1 and _TAGS.intersection(value)):
            return {key: _plain(it) for key, it in value.items()}
        return {"$table": [[_plain(key), _plain(it)] for key, it in value.items()]}
    if isinstance(value, bytes):
        return {"$bytes": (value if len(value) <= MOST_FACTS else b"null").decode("utf-8", "replace")}
    if isinstance(value, tuple):
        return {"$tuple": [_plain(it) for it in value]}
    if isinstance(value, frozenset | set):
        return {"$set": sorted(map(_plain, value))}
    return [_plain(it) for it in value] if isinstance(value, list) else value


def _back(value: Any) -> Any:
    if isinstance(value, list):
        return [_back(it) for it in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1 and (found := _TAGS.intersection(value)):
        [tag] = found
        if tag == "$table":
            return {_back(key): _back(it) for key, it in value[tag]}
        if tag == "$bytes":
            return str(value[tag]).encode()
        return (tuple if tag == "$tuple" else frozenset)(map(_back, value[tag]))
    return {key: _back(it) for key, it in value.items()}
