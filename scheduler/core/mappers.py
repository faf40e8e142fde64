"""Mappers: named, versioned, pure functions that make of one node's output what another node takes.

Pure. A mapper is data: one expression over `it`, the value that comes, or an object, nested at will, of such ones::

    order_to_invoice@1: {lines: "it.items", total: "it.net * 1.2", urgent: "it.net > 1000 && has(it.vip)"}
    first_name@1: "it.customer.name"

It is written down once, and edges refer to it by its name, so that nobody writes the same into many executors;
`duplicates` finds those that were written twice. The language is that of guards (expressions/). What one gives may be
any JSON that stands in the value, and whatever expressions make.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from ..errors import CeleriacError, ExpressionError, InvalidValue, escaped, quoted, shown
from .expressions import EvaluationError, Expression, Missing, Purse, Read, Seen, draw, evaluated, follow, parse
from .expressions.tree import VALUE
from .expressions.values import brief

IT: Final = "it"
"""What expressions call the value that comes."""
NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,100}@[0-9]{1,6}$"
"""Name and version, as regular expressions of JSON Schema have it too."""
MOST_FIELDS: Final = 200
MOST_LEVELS: Final = 8
"""Of one mapper: expressions, and objects inside each other."""
MOST_MAPPERS: Final = 1_000
LONGEST_FIELD: Final = 256
MOST_CHARACTERS: Final = 1_048_576
"""About so many characters of JSON may come out of one mapper for one value."""
_NAME = re.compile(NAME_PATTERN[:-1] + r"\Z")
_REMEDIES = {
    "missing": "Ask first, as in has(it.vip) ? it.vip : null, or correct what the node before gives",
    "number": "Ask for the case first, with && or ?:",
    "limit": "Map less of the value, or do it in an executor",
    "unknown": "Deploy the mapper, and start the run anew",
    "gone": "Run the node before anew",
}

Part = Expression | Mapping[str, "Part"]
"""What stands at one place of a mapper."""
_parsed = lru_cache(2_000)(lambda text: parse(text, (IT,)))
"""Runs share the mappers of their policies, which seldom change."""


class MappingError(CeleriacError):
    """A mapper gives nothing for a value. It does not leave the scheduler: the node's error record tells it.

    Attributes:
        mapper: its name.  field: which part of it, "" for the whole.  text: the expression there, "" for none.
        kind: "type", "missing", "number" or "limit", as of `EvaluationError`; "unknown": there is no such mapper;
            "gone": the value is no more.
        problem: what is wrong.  seen: what was read until then, as (text of the read, JSON of the value, cut).
        source: where the value comes from, as expressions write it; "" when nobody has said.
    """

    def __init__(
        self, mapper: str, field: str, text: str, kind: str, problem: str, seen: Seen = (), source: str = ""
    ) -> None:
        self.mapper = mapper
        self.field = field
        self.text = text
        self.kind = kind
        self.problem = problem
        self.seen = tuple(seen)
        self.source = source
        said = f"{escaped(source, 300)} by mapper " if source else "mapper "
        said += escaped(mapper, 120)
        said += f", field {escaped(field, 200)}" if field else ""
        said += f": {escaped(text, 200)}" if text else ""
        met = ", ".join(f"{name} = {value}" for name, value in self.seen[:5])
        met += f", and {len(self.seen) - 5} more" if len(self.seen) > 5 else ""
        remedy = _REMEDIES.get(kind, "Correct the mapper, or what the node before gives")
        super().__init__(f"{said}: {problem}{f' ({escaped(met, 600)})' if met else ''}. {remedy}.")

    def of(self, source: str) -> MappingError:
        """The same, said of where the value comes from."""
        return MappingError(self.mapper, self.field, self.text, self.kind, self.problem, self.seen, source)


@dataclass(frozen=True, slots=True)
class Mapper:
    """One mapper, checked; `from_record` makes it. Equal when name and canonical form are.

    Attributes:
        name: with its version.
        canonical: its one spelling, insensitive to the order of fields and to how expressions are spaced.
        tree: one expression, or an object of parts.
    """

    name: str
    canonical: str
    tree: Part = field(compare=False, repr=False)

    @classmethod
    def from_record(cls, name: object, record: object, at: str = "mappers") -> Mapper:
        """A mapper as it is written down.

        Args:
            record: the text of an expression, or an object of such, nested at will.
            at: where it stands, for errors.

        Raises:
            InvalidValue: the name is none, or the record no such thing, or too large.
            ExpressionError: an expression cannot be read.

        >>> Mapper.from_record("first@1", {"b": "it.x*2", "a": {"c": "it [ 0 ]"}}).canonical
        '{"a":{"c":"it[0]"},"b":"it.x * 2"}'
        """
        checked = mapper_name(name, at)
        place = f"{at}[{quoted(checked)}]"
        left = [MOST_FIELDS]
        tree = _part(record, place, 1, left)
        text = json.dumps(_plain(tree), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return cls(checked, text, tree)

    @property
    def fields(self) -> Iterator[tuple[str, Expression]]:
        """Every expression, with where it stands in what comes out; "" for the whole."""
        return _leaves(self.tree, ())

    def shape(self, part: Any) -> Any:
        """What comes out, as far as the names of its fields go, with `part` wherever an expression gives the value.

        >>> Mapper.from_record("a@1", {"x": "it.y", "z": {"w": "1"}}).shape("?")
        {'x': '?', 'z': {'w': '?'}}
        """
        return _shape(self.tree, part)

    def apply(self, value: Any, purse: Purse | None = None) -> Any:
        """What it makes of a JSON value, which stays as it is; parts of it may stand in the result.

        Args:
            purse: what this may cost, where several share one; the result costs a unit an item.

        Raises:
            MappingError: an expression has no value, or the result is too large.

        >>> Mapper.from_record("double@1", {"n": "it.n * 2", "all": "it"}).apply({"n": 4})
        {'n': 8, 'all': {'n': 4}}
        """
        return _Application(self, value, Purse() if purse is None else purse).part(self.tree, ())


def mapper_name(value: object, at: str) -> str:
    """The name of a mapper with its version, checked.

    Raises:
        InvalidValue: it is none.
    """
    if not isinstance(value, str) or not _NAME.match(value):
        remedy = 'Write a name and a version, such as "order_to_invoice@1": 1 to 100 of A-Z a-z 0-9 _ . - before the @.'
        raise InvalidValue(at, value, "is no name of a mapper", remedy)
    return str.__str__(value)


def mappers_of(record: object, at: str = "mappers") -> dict[str, Mapper]:
    """Mappers as a policy holds them: name -> one expression, or an object of expressions.

    Args:
        at: where they stand, for errors.

    Raises:
        InvalidValue, ExpressionError: see `Mapper.from_record`; or they are too many.

    >>> sorted(mappers_of({"first@1": "it.a", "second@2": {"x": "it.b"}}))
    ['first@1', 'second@2']
    """
    if not isinstance(record, Mapping):
        raise InvalidValue(at, record, "is no object", 'Write {"order_to_invoice@1": {"total": "it.net * 1.2"}}.')
    if len(record) > MOST_MAPPERS:
        raise InvalidValue(at, f"{len(record)} mappers", f"are more than {MOST_MAPPERS:,}", "Leave some out.")
    found = (Mapper.from_record(name, it, at) for name, it in record.items())
    return {it.name: it for it in found}


def duplicates(mappers: Iterable[Mapper]) -> list[list[str]]:
    """Names of mappers that say the same, a list for each group of at least two, sorted.

    >>> duplicates(mappers_of({"a@1": "it.x", "b@1": "it['x']", "c@1": "it.y"}).values())
    [['a@1', 'b@1']]
    """
    groups: dict[str, list[str]] = {}
    for it in mappers:
        groups.setdefault(it.canonical, []).append(it.name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def _part(record: object, at: str, level: int, left: list[int]) -> Part:
    if isinstance(record, str):
        left[0] -= 1
        if left[0] < 0:
            raise InvalidValue(at, record, f"is one expression more than {MOST_FIELDS}", "Map in an executor.")
        try:
            return _parsed(str.__str__(record))
        except ExpressionError as broken:
            raise ExpressionError(broken.text, broken.position, broken.problem, broken.remedy, at=at) from None
    if not isinstance(record, Mapping):
        remedy = 'Write the text of an expression, such as "it.name" or "1.5", or an object of such.'
        raise InvalidValue(at, record, "is no expression", remedy)
    if not record:
        raise InvalidValue(at, {}, "holds no field", 'Write {"name": "it.name"}.')
    if level > MOST_LEVELS:
        raise InvalidValue(at, record, f"is nested more than {MOST_LEVELS} levels deep", "Map in an executor.")
    return {_field(name, at): _part(it, f"{at}[{_named(name)}]", level + 1, left) for name, it in record.items()}


def _field(name: object, at: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_FIELD or any("\ud800" <= c <= "\udfff" for c in name):
        raise InvalidValue(at, name, "is no name of a field", f"Write a text of 1 to {LONGEST_FIELD} characters.")
    return str.__str__(name)


def _named(name: object) -> str:
    return quoted(name) if isinstance(name, str) else shown(name)


def _plain(part: Part) -> Any:
    return part.text if isinstance(part, Expression) else {name: _plain(it) for name, it in part.items()}


def _shape(part: Part, leaf: Any) -> Any:
    return leaf if isinstance(part, Expression) else {name: _shape(it, leaf) for name, it in part.items()}


def _leaves(part: Part, path: tuple[str, ...]) -> Iterator[tuple[str, Expression]]:
    if isinstance(part, Expression):
        yield _drawn(path), part
        return
    for name, it in part.items():
        yield from _leaves(it, (*path, name))


def _drawn(path: tuple[str, ...]) -> str:
    return draw(Read("", VALUE, path)).removeprefix(".")


class _Application:
    """One mapper on one value: what it may still spend, and how large the result is by now."""

    def __init__(self, mapper: Mapper, value: Any, purse: Purse) -> None:
        self.mapper = mapper
        self.value = value
        self.purse = purse
        self.size = 0

    def part(self, part: Part, path: tuple[str, ...]) -> Any:
        if not isinstance(part, Expression):
            return {name: self.part(it, (*path, name)) for name, it in part.items()}
        try:
            found, seen = self.read(part) or evaluated(part, self.look, self.purse)
            self.weigh(found, part, seen)
        except EvaluationError as failed:
            met = failed.seen or ((IT, brief(self.value)),)
            raise MappingError(self.mapper.name, _drawn(path), failed.text, failed.kind, failed.problem, met) from None
        return found

    def read(self, part: Expression) -> tuple[Any, Seen] | None:
        """What a mere read gives, which most fields are; None for what has to be evaluated, or is not there."""
        if not isinstance(part.tree, Read):
            return None
        self.purse.left -= 1
        try:
            return follow(self.value, part.tree.path), ()
        except Missing:
            return None

    def look(self, read: Read) -> Any:
        return follow(self.value, read.path)

    def weigh(self, found: Any, expression: Expression, seen: Seen) -> None:
        """Count what an expression has given, parts that stand in it several times as often: so they will be written.

        Raises:
            EvaluationError: it is too much, or a number that JSON has not.
        """
        todo = [found]
        while todo:
            it = todo.pop()
            kind = type(it)
            self.size += 3
            if kind is str:
                self.size += len(it)
            elif kind is list or kind is dict:
                self.purse.left -= len(it)
                if kind is dict:
                    self.size += sum(map(len, it)) + 3 * len(it)
                todo.extend(it if kind is list else it.values())
            elif kind is int:
                self.size += it.bit_length() // 4
            elif kind is float and not math.isfinite(it):
                raise EvaluationError(expression.text, "number", f"{it} is no number in JSON", seen)
            if self.size > MOST_CHARACTERS:
                problem = f"more than {MOST_CHARACTERS:,} characters come out"
                raise EvaluationError(expression.text, "limit", problem, seen)
            if self.purse.left < 0:
                raise EvaluationError(expression.text, "limit", "it costs more than is allowed", seen)
