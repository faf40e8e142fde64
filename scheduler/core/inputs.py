"""Inputs as a message carries them: the stored template with the outputs of upstream nodes put in.

Pure. Literals and outputs are spliced as text and never decoded, unless a reference picks a part of an
output by a path. An output that lies aside as a blob is not fetched: the message carries the key, and its
header says where in [args, kwargs] the worker has to put what it fetches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .run import Run, Template
from .states import NodeState

_MARK = "\u0000ref"
_BLOB, _FAILED, _SUCCEEDED = ord("b"), int(NodeState.FAILED), int(NodeState.SUCCEEDED)


def resolve(run: Run, template: Template, values: Mapping[int, bytes]) -> tuple[str, list[list[str | int]]]:
    """The text `[args…],{kwargs…}` of a message and the positions of blobs in it.

    Args:
        template: text, or text and references [node, path, "output" | "error"] in turn.
        values: raw JSON outputs and errors of the nodes referred to.

    A node that ended without the value that is asked for gives null. So does a path that the value
    does not have; a producer that has published its output's schema never lets it come to that.
    """
    if type(template) is str:
        return template, []
    parts: list[str] = []
    blobs: list[int] = []
    for at, part in enumerate(template):
        if at % 2 == 0:
            parts.append(part)
            continue
        node, path, what = part[:3]
        raw = values.get(node) if run.state[node] == (_FAILED if what == "error" else _SUCCEEDED) else None
        if raw is None:
            parts.append("null")
        elif what == "output" and run.output_kind[node] == _BLOB:
            blobs.append(at // 2)
            parts.append(json.dumps({"blob": json.loads(raw)["blob"], "path": path}, ensure_ascii=False))
        elif path:
            parts.append(json.dumps(pick(json.loads(raw), path), ensure_ascii=False, separators=(",", ":")))
        else:
            parts.append(raw.decode())
    return "".join(parts), _positions(template, blobs) if blobs else []


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


def _positions(template: Template, wanted: list[int]) -> list[list[str | int]]:
    """Where in [args, kwargs] the references of these numbers stand. Off the hot path: blobs are rare."""
    text = "".join(part if at % 2 == 0 else json.dumps(f"{_MARK}{at // 2}") for at, part in enumerate(template))
    marks = {f"{_MARK}{number}": number for number in wanted}
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
