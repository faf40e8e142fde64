"""Mapped inputs: the text of what mappers make of outputs, for the references that name one.

The mappers of one message share what they may cost, from reading the outputs to writing what comes out, so a message
is made in some tenths of a second at worst, whatever its graph asks for, and what many messages share is made once.
An output that lies aside as a blob is fetched for its mapper, up to 1 MB, for the worker that would fetch it knows no
mappers; it is looked for where the attempt's blob must lie, whatever the report says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .expressions import Purse, Read, draw
from .expressions.operators import MOST_COST
from .expressions.values import brief
from .inputs import json_text, pick
from .mappers import IT, MappingError
from .run import Run

Fetch = Callable[[Run, int, str], bytes]
"""(run, node, mapper) -> JSON of the node's output, which lies aside; raises MappingError when it may not be had."""
MOST_KEPT_CHARACTERS = 4 * 1_048_576
"""Of what was made for one turn's messages."""
CHARACTERS_PER_UNIT = 16
"""Of JSON that is read or written for mappers, which costs as the evaluation of expressions does."""


class Mappings:
    """What mappers make of outputs, for one turn's messages.

    The value that was read last is remembered, and what was made, for a fan-out asks for the same again and again.

    Args:
        fetch: JSON of an output that lies aside.
        strict: else the text of an error stands where nothing could be made, for who only shows it.
    """

    def __init__(self, fetch: Fetch, *, strict: bool = True) -> None:
        self._fetch = fetch
        self._strict = strict
        self._last: tuple[str, bytes, Any] = ("", b"", None)
        self._made: dict[tuple[Any, ...], str | MappingError] = {}
        self._kept = 0

    def text(self, run: Run, reference: list[Any], raw: bytes, purse: Purse, *, blob: bool) -> str:
        """JSON of what the mapper of a reference makes of the value there.

        Args:
            reference: [node, path, "output" | "error", name of the mapper].
            raw: JSON of the node's output or error; of a blob where it is.
            purse: what the mappers of the message may still cost.

        Raises:
            MappingError: it makes nothing; says of which node, by which mapper, at which field.
        """
        node, path, what, name = reference[:4]
        asked = (run.id, node, what, name, *path)
        made, whole = self._made.get(asked), purse.left == MOST_COST
        try:
            if made is None:
                made = self._keep(asked, self._text(run, node, path, name, raw, purse, blob=blob))
            if isinstance(made, str):
                _spend(purse, len(made), name)
                return made
        except MappingError as failed:
            made = failed.of(draw(Read(run.keys[node], what, tuple(path))))
            if whole or purse.left >= 0:  # else others of the message have spent what there was
                self._made[asked] = made
        if self._strict:
            raise made
        return json.dumps(str(made))

    def _keep(self, asked: tuple[Any, ...], text: str) -> str:
        self._kept += len(text)
        if self._kept > MOST_KEPT_CHARACTERS:
            self._made.clear()
            self._kept = len(text)
        self._made[asked] = text
        return text

    def _text(
        self, run: Run, node: int, path: list[str | int], name: str, raw: bytes, purse: Purse, *, blob: bool
    ) -> str:
        mapper = run.mappers.get(name)
        if mapper is None:
            known = sorted(run.mappers)
            more = f" and {len(known) - 5} more" if len(known) > 5 else ""
            problem = (
                f"the run has no such mapper, only {', '.join(known[:5])}{more}" if known else "the run has no mapper"
            )
            raise MappingError(name, "", "", "unknown", problem)
        value = pick(self._value(run, node, name, raw, purse, blob=blob), path)
        found = mapper.apply(value, purse)
        try:
            text = json_text(found)
        except RecursionError:
            problem = "what comes out is nested too deep"
            raise MappingError(name, "", "", "limit", problem, ((IT, brief(value)),)) from None
        return text

    def _value(self, run: Run, node: int, name: str, raw: bytes, purse: Purse, *, blob: bool) -> Any:
        """An output as JSON has it."""
        if self._last[0] == run.id and self._last[1] is raw:
            return self._last[2]
        data = self._fetch(run, node, name) if blob else raw
        _spend(purse, len(data), name)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as broken:  # nobody has read a blob before; it must not stop the loop
            raise MappingError(name, "", "", "type", f"the output is no JSON that can be read: {broken}") from None
        self._last = (run.id, raw, value)
        return value


def _spend(purse: Purse, characters: int, name: str) -> None:
    purse.left -= characters // CHARACTERS_PER_UNIT
    if purse.left < 0:
        raise MappingError(name, "", "", "limit", "the mappers of this node's inputs cost more than is allowed")
