"""The attempts of a message that carries several, as they stand in it.

One JSON text, in columns, for most of what attempts bring they have in common: a message of 500 is a fourth as long as
one that says everything of each, and is read in a third of the time, by the worker's main process and by its pool.

    kinds    what attempts share: run ("shard.run"), task, celeriac (their header), and where it is not the usual,
             timelimit ([hard, soft]) and ignore_result; of steps of a chain also claim ("class|lease ms|timeout ms")
    of       of each attempt, its kind. One of a kind with a claim is a step that follows the attempt before it
    places   of each, the end of its id: "node.epoch.attempt"
    nodes    of each, the node's key
    inputs   of each, its args, its kwargs: two of them an attempt
    more     number of an attempt -> what few have: deferred and secrets (as in a header), holes (chain.py)
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from celery.exceptions import InvalidTaskError
from kombu.utils import json as kombu_json

from ..wire import are_places, names_attempt

_CLAIM = re.compile(r"[^|]*\|[0-9]{1,15}\|[0-9]{1,15}")
_HEADER = ("deferred", "secrets")
"""What stands beside an attempt's kind and belongs into its header."""


class Columns(NamedTuple):
    """What was read: all of it has the form that it should have."""

    kinds: list[dict[str, Any]]
    of: list[int]
    places: list[str]
    nodes: list[str]
    inputs: list[Any]
    more: dict[int, dict[str, Any]]

    def heads(self) -> list[str]:
        """Ids of the attempts that follow no other."""
        before = [None if "claim" in it else f"{it['run']}." for it in self.kinds]
        return [
            prefix + place
            for kind, place in zip(self.of, self.places, strict=True)
            if (prefix := before[kind]) is not None
        ]


def columns_of(told: object) -> Columns:
    """Read and check the text. O(attempts), some 0.3 us each.

    Raises:
        InvalidTaskError: it is not of this form; says where.
    """
    if not isinstance(told, str):
        raise InvalidTaskError("body: expected the attempts as one JSON text")
    try:
        # kombu has forms for values such as datetimes; any of the letters may be spelled by its number
        found = (kombu_json if "__type__" in told or "\\u00" in told else json).loads(told)
    except Exception as broken:  # whatever decoders make of it
        raise InvalidTaskError(f"body: its attempts are no JSON: {broken}") from broken
    if not isinstance(found, dict):
        raise InvalidTaskError("body: expected the attempts in columns")
    kinds, of, places, nodes, inputs = (found.get(name) for name in ("kinds", "of", "places", "nodes", "inputs"))
    if not isinstance(kinds, list) or not all(_is_kind(it) for it in kinds):
        raise InvalidTaskError("kinds: expected run, task and header of each, and a claim of those of steps")
    if not isinstance(of, list) or set(map(type, of)) != {int} or min(of) < 0 or max(of) >= len(kinds):
        raise InvalidTaskError("of: expected the number of a kind for each attempt")
    if not isinstance(places, list) or len(places) != len(of) or not are_places(places):
        raise InvalidTaskError("places: expected node.epoch.attempt of each attempt")
    if not isinstance(nodes, list) or len(nodes) != len(of) or set(map(type, nodes)) != {str}:
        raise InvalidTaskError("nodes: expected the key of each attempt's node")
    if not isinstance(inputs, list) or len(inputs) != 2 * len(of):
        raise InvalidTaskError("inputs: expected args and kwargs of each attempt")
    if set(map(type, inputs[::2])) != {list} or set(map(type, inputs[1::2])) != {dict}:
        raise InvalidTaskError("inputs: expected a list of args and a mapping of kwargs of each attempt")
    if "claim" in kinds[of[0]]:
        raise InvalidTaskError("of: the first attempt follows none")
    return Columns(kinds, of, places, nodes, inputs, _more(found.get("more", {}), len(of)))


def _is_kind(told: object) -> bool:
    """Whether this is what attempts may have in common."""
    if not isinstance(told, dict) or not isinstance(told.get("task"), str) or type(told.get("celeriac")) is not dict:
        return False
    claim = told.get("claim", "|0|0")
    if not isinstance(claim, str) or not _CLAIM.fullmatch(claim):
        return False
    run = told.get("run")
    return isinstance(run, str) and names_attempt(f"{run}.0.0.0")


def _more(told: object, count: int) -> dict[int, dict[str, Any]]:
    """What few attempts have, by their numbers."""
    if not isinstance(told, dict):
        raise InvalidTaskError("more: expected a mapping")
    found: dict[int, dict[str, Any]] = {}
    for number, what in told.items():
        if not number.isdecimal() or int(number) >= count or not isinstance(what, dict):
            raise InvalidTaskError(f"more: expected a mapping for an attempt, found {number!r:.20}: {what!r:.100}")
        if "holes" in what and not _are_holes(what["holes"]):
            raise InvalidTaskError(f"more: expected places and paths as holes of attempt {number}")
        found[int(number)] = what
    return found


def _are_holes(told: object) -> bool:
    """Whether these are places in the inputs, each with a path into the output that goes there."""
    if not isinstance(told, list) or not all(isinstance(hole, list) and len(hole) == 2 for hole in told):
        return False
    return all(isinstance(place, list) and place and isinstance(path, list) for place, path in told)


def entries_in(told: object) -> list[dict[str, Any]]:
    """The attempts one by one, those that follow another in its `then`: each with id, task, inputs ([args, kwargs]),
    celeriac, what else its kind has, and holes. O(attempts), a microsecond each.

    Raises:
        InvalidTaskError: as `columns_of`.
    """
    read = columns_of(told)
    inputs = iter(read.inputs)
    kinds = [
        (f"{kind.pop('run')}.", kind.pop("celeriac"), kind, "claim" in kind) for kind in map(dict[str, Any], read.kinds)
    ]
    found: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    for kind, place, node, args, kwargs in zip(read.of, read.places, read.nodes, inputs, inputs, strict=True):
        prefix, header, alike, is_step = kinds[kind]
        entry = {"id": prefix + place, **alike, "celeriac": {**header, "node": node}, "inputs": [args, kwargs]}
        found.append(entry)
        if is_step:
            heads[-1].setdefault("then", []).append(entry)
        else:
            heads.append(entry)
    for number, more in read.more.items():
        entry = found[number]
        entry["celeriac"].update((name, more[name]) for name in _HEADER if name in more)
        if "holes" in more:
            entry["holes"] = more["holes"]
    return heads
