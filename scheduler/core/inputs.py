"""Inputs as a message carries them: the stored template with the outputs of upstream nodes put in.

Pure but for mappers. Literals and outputs are spliced as text and never decoded, unless a reference picks a part of an
output by a path, or names a mapper (mapping.py). An output that lies aside as a blob is fetched for mappers only: else
the message carries the key, and its header says where in [args, kwargs] the worker has to put what it fetches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .expressions import Purse
from .run import Run, Template
from .states import NodeState

if TYPE_CHECKING:
    from .mapping import Mappings

Hole = tuple[list[str | int], list[str | int]]
"""Where in [args, kwargs] an output goes that is still to come, and the path to what is wanted of it."""
_MARK = "\u0000ref"
_BLOB, _FAILED, _SUCCEEDED = ord("b"), int(NodeState.FAILED), int(NodeState.SUCCEEDED)


def resolve(
    run: Run, template: Template, values: Mapping[int, bytes], mappings: Mappings
) -> tuple[str, list[list[str | int]]]:
    """The text `[args…],{kwargs…}` of a message and the positions of blobs in it.

    Args:
        template: text, or text and references in turn.
        values: raw JSON outputs and errors of the nodes referred to.
        mappings: what mappers make of them.

    A node that ended without the value that is asked for gives null, and no mapper is asked. A path that the value does
    not have gives null too, which a mapper gets; a producer that has published its output's schema never lets it come
    to that.

    Raises:
        MappingError: a mapper makes nothing of its value.
    """
    if type(template) is str:
        return template, []
    parts: list[str] = []
    blobs: list[int] = []
    purse = None
    for at, part in enumerate(template):
        if at % 2 == 0:
            parts.append(part)
            continue
        node, path, what = part[:3]
        raw = values.get(node) if run.state[node] == (_FAILED if what == "error" else _SUCCEEDED) else None
        if raw is None:
            parts.append("null")
        elif len(part) > 3:
            purse = purse or Purse()
            blob = what == "output" and run.output_kind[node] == _BLOB
            parts.append(mappings.text(run, part, raw, purse, blob=blob))
        elif what == "output" and run.output_kind[node] == _BLOB:
            blobs.append(at // 2)
            parts.append(json.dumps({"blob": json.loads(raw)["blob"], "path": path}, ensure_ascii=False))
        elif path:
            parts.append(json_text(pick(json.loads(raw), path)))
        else:
            parts.append(raw.decode())
    return "".join(parts), _positions(template, blobs) if blobs else []


def holes(template: Template, node: int) -> list[Hole]:
    """Where the output of a node goes, which is null in the text as long as that has not ended."""
    if type(template) is str:
        return []
    numbers = [at // 2 for at, part in enumerate(template) if at % 2 and part[0] == node]
    paths: list[Any] = [template[2 * number + 1][1] for number in numbers]
    return list(zip(_positions(template, numbers), paths, strict=True)) if numbers else []


def pick(value: Any, path: list[str | int]) -> Any:
    """The part of a JSON value that a path leads to, or None.

    >>> pick({"rows": [{"id": 7}]}, ["rows", 0, "id"]), pick({"rows": []}, ["rows", 0, "id"])
    (7, None)
    """
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def json_text(value: Any) -> str:
    """JSON as messages carry it; halves of surrogate pairs, which UTF-8 cannot carry, are written as escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return json.dumps(value, separators=(",", ":"))
    return text


def mappers_at(template: Template) -> dict[str, list[str]]:
    """Input by name -> the mappers that it, or parts of it, go through. Slow, for who shows inputs."""
    if type(template) is str:
        return {}
    numbers = [at // 2 for at, part in enumerate(template) if at % 2 and len(part) > 3]
    found: dict[str, list[str]] = {}
    for number, place in zip(numbers, _positions(template, numbers) if numbers else (), strict=True):
        found.setdefault(str(place[1]), []).append(template[2 * number + 1][3])
    return found


def _positions(template: Template, wanted: list[int]) -> list[list[str | int]]:
    """Where in [args, kwargs] the references of these numbers stand."""
    return _places(tuple(template[::2]), tuple(wanted))


@lru_cache(256)
def _places(texts: tuple[str, ...], wanted: tuple[int, ...]) -> list[list[str | int]]:
    """The same by the texts between references; remembered, for the nodes of a chain are often of one kind."""
    mark = _MARK
    while any(json.dumps(mark)[1:-1] in text for text in texts):  # a user's own text
        mark += _MARK
    marked = [part for at, text in enumerate(texts) for part in (text, json.dumps(f"{mark}{at}"))]
    text = "".join(marked[: 2 * len(texts) - 1])
    marks = {f"{mark}{number}": number for number in wanted}
    found = {marks[value]: where for where, value in _walk(json.loads(f"[{text}]"), []) if value in marks}
    return [found[number] for number in wanted]


def _walk(value: Any, where: list[str | int]) -> Iterator[tuple[list[str | int], str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _walk(part, [*where, name])
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from _walk(part, [*where, at])
