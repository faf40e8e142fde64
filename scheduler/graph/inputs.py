"""Inputs of a node: JSON text with gaps where references stand.

Pure. In the text a reference is a lone surrogate in quotes, which no accepted text can hold; `Inputs.parts` cuts
there. So inputs are encoded once, and both the canonical document and the body of the Celery message are made
from that text. values.py makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from .handles import Reference
from .secret import SecretText

RESERVED = ("$ref", "$literal", "$secret")
"""Keys of objects that mean something; an object that has one for itself is wrapped in {"$literal": ...}."""
Place = tuple[str | int, ...]
"""Steps into [args, kwargs]."""


class _Gap(str):
    """A text that only this module can put into a value."""

    __slots__ = ()


GAP = _Gap("\ud800")
GAP_JSON = f'"{GAP}"'
to_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode

Trail = tuple[Any, ...] | None
"""Where the walk is: (trail of what is around it, step), or None at the root. Cheap to make, seldom asked."""


class Inputs:
    """The arguments of one node.

    Attributes:
        args, kwargs: JSON text, keys sorted, with gaps.
        references: one per gap, in order, those of args first.
        quoting: whether some literal object has a reserved key.
        secrets: where objects stand for secrets.
    """

    __slots__ = ("args", "kwargs", "quoting", "references", "secrets")

    def __init__(
        self,
        args: str,
        kwargs: str,
        references: tuple[Reference, ...],
        quoting: bool,
        secrets: tuple[Place, ...] = (),
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.references = references
        self.quoting = quoting
        self.secrets = secrets

    def parts(self) -> list[str]:
        """The text ``[args],{kwargs}`` of the Celery body, cut at the gaps."""
        return f"{self.args},{self.kwargs}".split(GAP_JSON)

    def values(self, shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Kwargs as values again, `GAP` for references and a text for secrets; slow, for checks against contracts.

        Args:
            shapes: name of a mapper -> what stands for a reference that goes through it.
        """
        if self.kwargs == "{}":
            return {}
        found: dict[str, Any] = json.loads(self.kwargs)
        if any(it.via in shapes for it in self.references):
            found = _shaped(found, iter(self.references[self.args.count(GAP_JSON) :]), shapes)
        for place in self.secrets:
            if place[0] == 1:
                inner: Any = found
                for step in place[1:-1]:
                    inner = inner[step]
                inner[place[-1]] = SecretText()
        return found

    def gaps(self) -> list[Trail]:
        """Where the references stand, in their order; slow, for errors."""

        def find(value: Any, trail: Trail) -> Iterator[Trail]:
            if value == GAP:
                yield trail
            elif isinstance(value, list | dict):
                for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
                    yield from find(inner, (trail, step))

        args = (find(v, (None, "args", i)) for i, v in enumerate(json.loads(self.args)))
        kwargs = (find(v, (None, "inputs", k)) for k, v in json.loads(self.kwargs).items())
        return list(chain.from_iterable(chain(args, kwargs)))

    def document_texts(self) -> tuple[str, str]:
        """Canonical JSON of args and of kwargs, references and literals written out."""
        args, kwargs = self.args, self.kwargs
        if self.quoting:
            secrets = frozenset(self.secrets)
            args, kwargs = (to_json(_quote(json.loads(text), (n,), secrets)) for n, text in enumerate((args, kwargs)))
        if self.references:
            texts = iter(self.references)
            args = _filled(args, texts)
            kwargs = _filled(kwargs, texts)
        return args, kwargs


NO_INPUTS = Inputs("[]", "{}", (), quoting=False)


def _filled(text: str, references: Any) -> str:
    first, *rest = text.split(GAP_JSON)
    return first + "".join(next(references).text + part for part in rest) if rest else text


def _shaped(value: Any, references: Iterator[Reference], shapes: Mapping[str, Any]) -> Any:
    """Puts shapes into gaps; references come in the order of the text."""
    if value == GAP:
        return shapes.get(next(references).via or "", GAP)
    if isinstance(value, list):
        return [_shaped(it, references, shapes) for it in value]
    if isinstance(value, dict):
        return {name: _shaped(it, references, shapes) for name, it in value.items()}
    return value


def _quote(value: Any, place: Place, secrets: frozenset[Place]) -> Any:
    """Wraps the outermost objects that have a reserved key; inside of a literal nothing is looked at."""
    if isinstance(value, list):
        return [_quote(v, (*place, i), secrets) for i, v in enumerate(value)]
    if isinstance(value, dict):
        if any(key in value for key in RESERVED) and place not in secrets:
            return {"$literal": value}
        return {k: _quote(v, (*place, k), secrets) for k, v in value.items()}
    return value
