"""Can every value of one JSON Schema stand where another schema is expected? For contracts of two implementations.

Pure. Understood: type, enum, const, properties, required, additionalProperties, items, prefixItems, anyOf, oneOf, allOf
of one part, local $ref, and bounds of numbers and lengths. Any other word that restricts values must stand in both
alike; what cannot be shown to fit is told as a problem, never passed over. As everywhere in celeriac, an object that
lists properties and is silent about others has no others; whether it takes others is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.expressions.schemas import Schema, branches, choices_of, mapping, words_of
from ..errors import shown

_SILENT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$defs", "definitions"}
)
"""Words that restrict no value."""
_READ = frozenset(
    {
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
    }
)
_LEAST = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_MOST = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_DEEPEST = 50


def misfits(narrow: Schema, wide: Schema, *, others: bool = False) -> list[str]:
    """Why some value of `narrow` may not be one of `wide`; empty when each is.

    Args:
        others: an object of `wide` that is silent about fields which it does not list takes them.

    >>> number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    >>> misfits(number, {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]})
    []
    >>> misfits(number, {"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]})
    ['.n: may be int, wanted is string']
    """
    return list(dict.fromkeys(_Fit(narrow, wide, others).misfits(narrow, wide, "", 0)))


class _Fit:
    """One comparison; the roots resolve references."""

    def __init__(self, narrow: Schema, wide: Schema, others: bool) -> None:
        self.narrow = narrow
        self.wide = wide
        self.others = others

    def misfits(self, narrow: Schema, wide: Schema, at: str, depth: int) -> Iterator[str]:
        """Each alternative of `narrow` fits one of `wide`."""
        if depth > _DEEPEST:  # a schema that refers to itself: what differs has shown by now
            return
        alternatives = branches(wide, self.wide)
        for one in branches(narrow, self.narrow):
            closest: list[str] | None = None
            for other in alternatives:
                found = list(self._branch(one, other, at, depth))
                if closest is None or len(found) < len(closest):
                    closest = found
                if not found:
                    break
            yield from closest or ()

    def _branch(self, one: Mapping[str, Any], other: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        where = at or "the value"
        may, wanted = words_of(one, self.narrow), words_of(other, self.wide)
        if "double" in wanted:
            wanted |= {"int"}
        if not may <= wanted:
            yield f"{where}: may be {_listed(may - wanted)}, wanted is {_listed(wanted)}"
            return
        yield from self._choices(one, other, where)
        yield from self._bounds(one, other, where)
        if "map" in may:
            yield from self._fields(one, other, at, depth)
        if "list" in may:
            yield from self._items(one, other, at, depth)

    def _choices(self, one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> Iterator[str]:
        allowed = choices_of(other) if "enum" in other or "const" in other else None
        if allowed is None:
            return
        listed = choices_of(one)
        if listed is None:
            yield f"{where}: may be anything, wanted is one of {_shown(allowed)}"
        elif left := [it for it in listed if not any(it == its and type(it) is type(its) for its in allowed)]:
            yield f"{where}: may be {_shown(left)}, wanted is one of {_shown(allowed)}"

    def _bounds(self, one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> Iterator[str]:
        for word, value in other.items():
            if word in _SILENT or word in _READ or one.get(word) == value:
                continue
            mine = one.get(word)
            numbers = isinstance(mine, int | float) and isinstance(value, int | float)
            if numbers and ((word in _LEAST and mine >= value) or (word in _MOST and mine <= value)):
                continue
            says = f"says {shown(mine)}" if word in one else "does not say so"
            yield f"{where}: wanted is {word} {shown(value)}, and it {says}"

    def _fields(self, one: Mapping[str, Any], other: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        mine, wanted = mapping(one, "properties"), mapping(other, "properties")
        surely = _names(one.get("required"))
        for name in _names(other.get("required")):
            if name not in surely:
                yield f"{at}.{name}: is wanted, and {'may be missing' if name in mine else 'is not there'}"
        rest = other.get("additionalProperties", self.others or not wanted)
        for name, schema in mine.items():
            if name in wanted:
                yield from self.misfits(schema, wanted[name], f"{at}.{name}", depth + 1)
            elif rest is False:
                yield f"{at}.{name}: is not known there"
            else:
                yield from self.misfits(schema, rest, f"{at}.{name}", depth + 1)
        others = one.get("additionalProperties", not mine)
        if others is not False:
            if rest is False:
                yield f"{at or 'the value'}: may have any other fields, and none are known there"
            elif rest is not True:
                yield from self.misfits(others, rest, f"{at}.*", depth + 1)

    def _items(self, one: Mapping[str, Any], other: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        mine, wanted = one.get("prefixItems", []), other.get("prefixItems", [])
        for number in range(max(len(mine), len(wanted))):
            here = mine[number] if number < len(mine) else one.get("items", True)
            there = wanted[number] if number < len(wanted) else other.get("items", True)
            if here is not False:
                yield from self.misfits(here, there, f"{at}[{number}]", depth + 1)
        here, there = one.get("items", True), other.get("items", True)
        if here is not False:
            yield from self.misfits(here, there, f"{at}[]", depth + 1)


def _names(value: object) -> list[str]:
    return [it for it in value if isinstance(it, str)] if isinstance(value, list) else []


def _listed(words: frozenset[str]) -> str:
    return " or ".join(sorted(words)) or "nothing"


def _shown(values: Any) -> str:
    return ", ".join(shown(it) for it in values)
