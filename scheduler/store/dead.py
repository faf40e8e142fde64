"""Dead letters: what nobody could use, put aside with its cause, to be looked at, put back or dropped.

Three kinds: a `record` of an inbox that could not be read, a `message` that a worker rejected, a `node` whose attempts
were lost until its cap. Written by the commit that consumes them; bounded per shard: the oldest are pushed out, which
the counts tell. A letter's id is SHARD-MS-SEQ.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import DeadLetterNotFound
from .direct import Part
from .keys import ShardKeys
from .runs import Runs
from .scripts import REDRIVE

KINDS = ("record", "message", "node")
KEPT_BYTES = 64 * 1024
"""Of what a letter holds; the rest is cut off, and said to be."""
MOST_DEAD = 10_000
"""Letters that a shard keeps, about."""
SMALL_DEAD_BYTES, MOST_LARGE_DEAD = 4_096, 1_000
"""A letter larger than this leaves only so many before it: at most some 64 MB a shard, whatever floods it."""
MOST_CAUSE = 500
READ_AT_ONCE = 500

_ID = re.compile(r"([0-9]{1,4})-([0-9]{1,20}-[0-9]{1,20})")


class Dead(NamedTuple):
    """A letter to be written.

    Attributes:
        kind: one of KINDS.  cause: why nobody could use it.
        facts: what it belongs to (run, node, attempt, executor, queue, worker, …), as far as that is known.
        parts: names and bytes of what it holds.  size: of all parts before anything was cut.
    """

    kind: str
    cause: str
    facts: str
    parts: tuple[tuple[bytes, bytes], ...]
    size: int
    cut: bool

    @classmethod
    def made(
        cls,
        kind: str,
        cause: str,
        facts: Mapping[str, Any],
        parts: Sequence[tuple[bytes, bytes]],
        *,
        cut: bool = False,
    ) -> Dead:
        """A letter, cut to what is kept."""
        left = KEPT_BYTES * (2 if kind == "message" else 1)  # a message travels as base64, cut already
        kept: list[tuple[bytes, bytes]] = []
        for name, value in parts[:64]:
            kept.append((name[:64], value[: max(left, 0)]))
            left -= sum(map(len, kept[-1]))
        size = sum(len(value) for _, value in parts)
        cut = cut or size > sum(len(value) for _, value in kept) or len(parts) > 64
        text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
        return cls(kind, cause[:MOST_CAUSE], text, tuple(kept), size, cut)

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        return sum(len(name) + len(value) for name, value in self.parts) + len(self.facts)

    def fields(self) -> list[Part]:
        """As a stream entry has them."""
        found: list[Part] = ["kind", self.kind, "cause", self.cause.encode("utf-8", "replace")]
        found += ["facts", self.facts.encode("utf-8", "replace"), "size", self.size, "cut", int(self.cut)]
        for name, value in self.parts:
            found += [b"part", name, b"value", value]
        return found


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A letter as it stands in the store.

    Attributes:
        id: SHARD-MS-SEQ.  at_ms: when it was put aside, by Redis.  kind, cause, facts, size, cut: see Dead.
        parts: names and bytes of what it holds: of a record its kind and text, and perhaps its output; of a message
            the record that its worker sent; of a node its error.
    """

    id: str
    shard: int
    at_ms: int
    kind: str
    cause: str
    facts: dict[str, Any]
    parts: list[tuple[bytes, bytes]]
    size: int
    cut: bool

    @property
    def entry(self) -> str:
        """Its id in the shard's stream."""
        return self.id.partition("-")[2]

    @property
    def at(self) -> tuple[int, int]:
        """When it was put aside, to be compared: ms, and its number within that ms in its shard."""
        ms, _, number = self.entry.partition("-")
        return int(ms), int(number)


class DeadCount(NamedTuple):
    """Letters of an installation: how many there are, of which kinds were written ever, how many were pushed out."""

    here: int
    written: dict[str, int]
    pushed_out: int


class DeadLetters:
    """The dead letters of one installation."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.client: Any = runs.client

    def count(self) -> DeadCount:
        """How many there are; one round trip."""
        with self.client.pipeline(transaction=False) as pipe:
            for keys in self._shards():
                pipe.xlen(keys.dead)
                pipe.hgetall(keys.dead_counts)
            answers = pipe.execute()
        here = sum(answers[::2])
        every: Counter[str] = Counter()
        for counts in answers[1::2]:
            every.update({name.decode(): int(number) for name, number in counts.items()})
        taken = every.pop("taken", 0)
        return DeadCount(here, dict(every), max(0, sum(every.values()) - taken - here))

    def newest(self, kind: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Letters of all shards, the newest first; of those of one millisecond, the later of a shard first, then the
        higher shard. O(shards + letters looked at).
        """
        found: list[DeadLetter] = []
        for keys in self._shards():
            mine = 0
            for it in self._backwards(keys):
                if kind is None or it.kind == kind:
                    found.append(it)
                    mine += 1
                    if mine >= limit:
                        break
        return sorted(found, key=lambda it: (*it.at, it.shard), reverse=True)[:limit]

    def every(self, kind: str | None = None) -> Iterator[DeadLetter]:
        """All letters that are there now, shard by shard, the newest first; what comes meanwhile is left out."""
        for keys in self._shards():
            yield from (it for it in self._backwards(keys) if kind is None or it.kind == kind)

    def get(self, id_: str) -> DeadLetter:
        """One letter.

        Raises:
            DeadLetterNotFound: there is none of that id, or it has no form of one.
        """
        found = _ID.fullmatch(id_)
        if found is None or int(found[1]) >= self.runs.shards:
            raise DeadLetterNotFound(id_)
        keys = self.runs.keys.shard(int(found[1]))
        for entry, fields in _entries(self.client, keys, found[2], found[2], 1):
            return _letter(keys.shard, entry, fields)
        raise DeadLetterNotFound(id_)

    def back_into_inbox(self, letter: DeadLetter) -> bool:
        """A record goes back into its inbox and its letter goes, in one step; False when it had gone before."""
        parts = [part for pair in letter.parts for part in pair]
        return self._redrive(letter, parts)

    def take(self, letter: DeadLetter) -> bool:
        """The letter goes: it was put back, or nobody wants it. False when it had gone before."""
        return self._redrive(letter, [])

    def _redrive(self, letter: DeadLetter, parts: Sequence[Part]) -> bool:
        keys = self.runs.keys.shard(letter.shard)
        return bool(REDRIVE(self.client, [keys.dead, keys.dead_counts, keys.inbox], [letter.entry, *parts]))

    def _shards(self) -> Iterable[ShardKeys]:
        return map(self.runs.keys.shard, range(self.runs.shards))

    def _backwards(self, keys: ShardKeys) -> Iterator[DeadLetter]:
        last = "+"
        while True:
            entries = _entries(self.client, keys, last, "-", READ_AT_ONCE, reverse=True)
            for entry, fields in entries:
                yield _letter(keys.shard, entry, fields)
            if len(entries) < READ_AT_ONCE:
                return
            last = f"({entries[-1][0]}"


def _entries(
    client: Any, keys: ShardKeys, first: str, last: str, count: int, *, reverse: bool = False
) -> list[tuple[str, list[bytes]]]:
    """Entries of a stream whose field names repeat, which a mapping would lose."""
    command = "XREVRANGE" if reverse else "XRANGE"
    pipe = client.pipeline(transaction=False)
    pipe.response_callbacks = {}
    pipe.execute_command(command, keys.dead, first, last, "COUNT", count)
    [found] = pipe.execute()
    return [(id_.decode(), fields) for id_, fields in found]


def _letter(shard: int, entry: str, fields: list[bytes]) -> DeadLetter:
    parts: list[tuple[bytes, bytes]] = []
    known: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == b"part":
            parts.append((value, b""))
        elif name == b"value" and parts:
            parts[-1] = (parts[-1][0], value)
        else:
            known[name] = value
    return DeadLetter(
        f"{shard}-{entry}",
        shard,
        int(entry.partition("-")[0]),
        known.get(b"kind", b"").decode("utf-8", "replace"),
        known.get(b"cause", b"").decode("utf-8", "replace"),
        json.loads(known.get(b"facts") or b"{}"),
        parts,
        int(known.get(b"size", 0)),
        known.get(b"cut") == b"1",
    )
