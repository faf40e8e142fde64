"""Types: unions of what a value may be, as far as schemas and operators tell.

Pure. A type is everything that is allowed; an operator fits when it fits one alternative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import schemas
from .operators import WORDS, result_of


@dataclass(frozen=True, slots=True)
class Type:
    """A union of types.

    Attributes:
        words: which of operators.WORDS it may be.
        parts: (branch, root) of the schemas that say what its fields and items are.
        items: types of items, for lists that the expression itself makes.
    """

    words: frozenset[str]
    parts: tuple[tuple[Mapping[str, Any], Any], ...] = ()
    items: tuple[Type, ...] = ()


ANY = Type(WORDS, (({}, {}),))
BOOL = Type(frozenset({"bool"}))


def results(name: str, left: Type, right: Type) -> set[str]:
    """The types that an operator may give; none when it fits no alternative."""
    found = {result_of(name, one, other) for one in left.words for other in right.words}
    return {it for it in found if it is not None}


def of_schema(schema: Any, root: Any) -> Type:
    """What a schema allows."""
    parts = tuple((branch, root) for branch in schemas.branches(schema, root))
    return Type(frozenset().union(*(schemas.words_of(*part) for part in parts)), parts)


def members(base: Type, word: str) -> Type:
    """What a list or map holds."""
    own = list(base.items) if word == "list" else []
    return union(
        own + [of_schema(it, root) for branch, root in base.parts for it in schemas.members(branch, root, word)]
    )


def union(types: Iterable[Type]) -> Type:
    """Any of some types; of too many to look at, any at all."""
    words: frozenset[str] = frozenset()
    parts: dict[tuple[int, int], tuple[Mapping[str, Any], Any]] = {}
    items: list[Type] = []
    for it in types:
        words |= it.words
        parts.update({(id(branch), id(root)): (branch, root) for branch, root in it.parts})
        items.extend(it.items)
        if len(parts) + len(items) > schemas.MOST_BRANCHES:
            return ANY
    return Type(words, tuple(parts.values()), tuple(items))


def said(found: Type) -> str:
    """A type in words."""
    return "anything" if found.words == WORDS else " or ".join(sorted(found.words)) or "nothing"
