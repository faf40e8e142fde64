"""Schemas: what a JSON Schema says of the types and parts of a value, read as the contracts of graphs are.

Pure. What a schema does not say is allowed; what it says is taken at its word, with one exception: an object that
lists properties and is silent about others has no others, for the models that schemas are made from drop them.
Understood: type, properties, additionalProperties, patternProperties (as "anything"), items, prefixItems, maxItems,
enum, const, anyOf, oneOf, allOf (for types, and of a single part) and local $ref. "integer" is taken for an int.
Schemas come over the wire: one that is malformed, or has no end, says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...errors import shown
from .operators import WORDS
from .values import word_of

Schema = Any
"""A JSON Schema: a mapping or a boolean; anything else says nothing."""

NOTHING: Final[Mapping[str, Any]] = {"not": {}}
"""The schema that no value has."""

MOST_BRANCHES: Final = 200
_MOST_PARTS = 20
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "boolean": frozenset({"bool"}),
    "integer": frozenset({"int"}),
    "number": frozenset({"int", "double"}),
    "string": frozenset({"string"}),
    "array": frozenset({"list"}),
    "object": frozenset({"map"}),
    "null": frozenset({"null"}),
}
_SAYS: Final = frozenset(
    {"type", "properties", "items", "prefixItems", "additionalProperties", "patternProperties", "enum", "const"}
)


def branches(schema: Schema, root: Schema) -> list[Mapping[str, Any]]:
    """The alternatives of a schema, nested anyOf and oneOf taken apart, each once; never empty.

    >>> branches({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}, {"$defs": {"n": {"type": "integer"}}})
    [{'type': 'null'}, {'type': 'integer'}]
    """
    found: list[Mapping[str, Any]] = []
    seen: set[int] = set()
    left = [schema]
    while left:
        one = resolved(left.pop(), root)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if len(seen) + len(left) > MOST_BRANCHES:
            return [{}]
        choices = next((one[name] for name in ("anyOf", "oneOf") if isinstance(one.get(name), list)), None)
        if choices:
            left.extend(reversed(choices))
        else:
            found.append(one)
    return found or [{}]


def words_of(branch: Mapping[str, Any], root: Schema) -> frozenset[str]:
    """The types that a value of this branch may have; none where nothing may stand."""
    words = _own_words(branch)
    parts = branch.get("allOf")
    for part in parts[:_MOST_PARTS] if isinstance(parts, list) else []:  # a part that is an allOf itself is left out
        words &= frozenset().union(*map(_own_words, branches(part, root)))
    return words


def choices_of(branch: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The values that a branch lists, when they are scalars; None when it lists none."""
    if "const" in branch:
        listed = [branch["const"]]
    elif isinstance(branch.get("enum"), list):
        listed = branch["enum"]
    else:
        listed = [None] if branch.get("type") == "null" else []
    scalars = all(it is None or isinstance(it, bool | int | float | str) for it in listed)
    return tuple(listed) if listed and scalars else None


def stepped(branch: Mapping[str, Any], root: Schema, step: str | int) -> tuple[Schema, str]:
    """What stands one step into a value of this branch, or why nothing can."""
    if branch.get("not") == {}:
        return NOTHING, "nothing can stand there"
    words = words_of(branch, root)
    wanted = "map" if isinstance(step, str) else "list"
    if wanted not in words:
        what = f"field {shown(step)}" if isinstance(step, str) else f"item {step}"
        return NOTHING, f"{' or '.join(sorted(words))} has no {what}"
    if "allOf" in branch:
        return {}, ""  # every part may forbid; the run will say
    return _field(branch, step) if isinstance(step, str) else _item(branch, step)


def members(branch: Mapping[str, Any], root: Schema, word: str) -> Iterator[Schema]:
    """What may stand one step into a list ("list") or map ("map") of this branch, whichever the step."""
    if word not in words_of(branch, root):
        return
    if "allOf" in branch:
        yield {}
    elif word == "list":
        first = branch.get("prefixItems")
        yield from first if isinstance(first, list) else []
        yield branch.get("items", True)
    else:
        yield from mapping(branch, "properties").values()
        yield _others(branch)


def fields_of(branch: Mapping[str, Any]) -> list[str]:
    """The names of fields that a branch lists."""
    return list(mapping(branch, "properties"))


def _own_words(branch: Mapping[str, Any]) -> frozenset[str]:
    if branch.get("not") == {}:
        return frozenset()
    said = branch.get("type")
    names = said if isinstance(said, list) else [said]
    words = frozenset().union(*(_WORDS.get(name, ()) for name in names if isinstance(name, str)))
    if words:
        return words
    listed = [branch["const"]] if "const" in branch else branch.get("enum")
    if isinstance(listed, list) and listed:
        return frozenset(word_of(it) for it in listed)
    return WORDS


def mapping(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a schema that is an object; {} for none."""
    found = schema.get(name)
    return found if isinstance(found, Mapping) else {}


def _others(branch: Mapping[str, Any]) -> Schema:
    """The schema of fields that are not listed."""
    if mapping(branch, "patternProperties"):
        return {}
    return branch.get("additionalProperties", not mapping(branch, "properties"))


def _field(branch: Mapping[str, Any], name: str) -> tuple[Schema, str]:
    properties = mapping(branch, "properties")
    if name in properties:
        return properties[name], ""
    others = _others(branch)
    return (others, "") if others is not False else (NOTHING, f"there is no field {shown(name)}")


def _item(branch: Mapping[str, Any], index: int) -> tuple[Schema, str]:
    most = branch.get("maxItems")
    if isinstance(most, int) and index >= most:
        return NOTHING, f"there is no item {index} in a list of at most {most}"
    first = branch.get("prefixItems")
    if isinstance(first, list) and index < len(first):
        return first[index], ""
    rest = branch.get("items", True)
    return (rest, "") if rest is not False else (NOTHING, f"there is no item {index}")


def resolved(schema: Schema, root: Schema) -> Mapping[str, Any]:
    """A schema with its local $ref followed; `{}`, which allows all, for what cannot be understood."""
    for _ in range(32):
        if not isinstance(schema, Mapping):
            return NOTHING if schema is False else {}
        parts = schema.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and not _SAYS & set(schema):
            schema = parts[0]
            continue
        reference = schema.get("$ref")
        if reference is None:
            return schema
        siblings = any(name in schema for name in ("anyOf", "oneOf", "allOf", "properties", "items", "type"))
        if siblings or not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return {}
        schema = _target(reference, root)
    return {}


def _target(reference: str, root: Schema) -> Schema:
    target = root
    for part in reference[2:].split("/") if reference != "#" else []:
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    return {} if target is None else target
