"""The scheduler's reads: inboxes, what has run out, and all that a new owner of a shard needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from redis import Redis

from .direct import Command, exchange
from .keys import ShardKeys
from .scripts import DUE

READ_COUNT = 256
"""Entries of one inbox that are read at a time, at most."""
READ_BYTES = 4 * 1024 * 1024
"""What a read should bring at most, of all inboxes together: outputs may be large, and a turn takes up all of it."""
DUE_COUNT = 500
"""Leases and timers that are taken up at a time, of each."""


class Entry(NamedTuple):
    """One entry of an inbox: its id, and its fields, name and value in turn."""

    id: bytes
    fields: list[bytes]

    @property
    def at_ms(self) -> int:
        """When it arrived, by Redis."""
        return int(self.id.partition(b"-")[0])

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """(kind, record) of each record in the entry."""
        return zip(self.fields[::2], self.fields[1::2], strict=True)


@dataclass(frozen=True, slots=True)
class Due:
    """What has run out in a shard. Instants in ms by Redis; a next one is None when nothing is set."""

    now_ms: int
    attempts: dict[str, str]
    timers: list[str]
    next_lease_ms: int | None
    next_timer_ms: int | None


@dataclass(frozen=True, slots=True)
class Shard:
    """What a new owner finds: attempts in flight with their states, those with a lease, timers, unpublished batches,
    live runs, how many commits there were, and how many runs are removed but for some of their records.

    Attributes:
        rewound_at_ms, missing: when the shard last went back in time, and by how many commits; 0 if it never did.
        expected: runs that the memory guard counts on.
        approvals: "run node epoch" of those that wait for an answer.
        known: commits that another scheduler knows of, told because the shard has fewer.
    """

    attempts: dict[str, str]
    leases: list[str]
    timers: list[str]
    outbox: list[list[str]]
    live: list[str]
    gone: int = 0
    commits: int = 0
    rewound_at_ms: int = 0
    missing: int = 0
    known: int = 0
    expected: list[str] = field(default_factory=list)
    approvals: list[str] = field(default_factory=list)


class Inboxes:
    """Inboxes of the shards that a scheduler owns.

    Args:
        client: of the loop alone: a read blocks it.

    Attributes:
        asked: how many entries of one inbox the last read asked for.
        cut: inboxes that have given as many, and so may hold more.
    """

    def __init__(self, client: Redis) -> None:
        self.client = client
        self._count = self.asked = READ_COUNT // 8
        self.cut: frozenset[str] = frozenset()

    def read(self, after: Mapping[str, bytes], block_ms: int) -> tuple[dict[str, list[Entry]], int]:
        """New entries of the inboxes and Redis's time, one round trip; waits up to `block_ms` for the first entry.

        Args:
            after: inbox -> id of the last entry that was read of it; without those that are not to be read.
            block_ms: 0 for not at all. An idle Redis looks at the time ten times a second, so even 1 may take 100.
        """
        self.asked = self._count
        how: Command = ("COUNT", self._count, "BLOCK", block_ms) if block_ms > 0 else ("COUNT", self._count)
        command: Command = ("XREAD", *how, "STREAMS", *after.keys(), *after.values())
        *told, (seconds, micros) = exchange(self.client, [*([command] if after else ()), ("TIME",)])
        answer = told[0] if told else None
        found = {stream.decode(): [Entry(*entry) for entry in entries] for stream, entries in answer or ()}
        self.cut = frozenset(inbox for inbox, entries in found.items() if len(entries) >= self.asked)
        self._adapt(found)
        return found, int(seconds) * 1000 + int(micros) // 1000

    def _adapt(self, found: dict[str, list[Entry]]) -> None:
        """Fewer entries at a time while they are large, more again when they are not."""
        size = sum(sum(map(len, entry.fields)) for entries in found.values() for entry in entries)
        if size > READ_BYTES:
            self._count = max(1, self._count * READ_BYTES // size)
        else:
            self._count = min(2 * self._count, READ_COUNT)

    def due(self, keys: ShardKeys, limit: int = DUE_COUNT, by_ms: int | None = None) -> Due:
        """Leases and timers that have run out, at most `limit` of each.

        Args:
            by_ms: by this instant, by Redis; None for now.
        """
        arguments = [limit, -1 if by_ms is None else by_ms]
        now, expired, timers, lease, timer = DUE(self.client, [keys.attempts, keys.leases, keys.timers], arguments)
        attempts = {id_.decode(): state.decode() for id_, state in zip(expired[::2], expired[1::2], strict=True)}
        return Due(
            int(now),
            attempts,
            [it.decode() for it in timers],
            None if lease < 0 else int(lease),
            None if timer < 0 else int(timer),
        )

    def attempt(self, keys: ShardKeys, id_: str) -> str:
        """The state of an attempt in flight; "" when it is none."""
        found: bytes | None = self.client.hget(keys.attempts, id_)  # type: ignore[assignment]  # redis-py: also str
        return (found or b"").decode()

    def adopt(self, keys: ShardKeys) -> Shard:
        """All that a new owner needs besides the runs themselves."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.attempts)
            pipe.zrange(keys.leases, 0, -1)
            pipe.zrange(keys.timers, 0, -1)
            pipe.lrange(keys.outbox, 0, -1)
            pipe.zrange(keys.live, 0, -1)
            pipe.hlen(keys.gone)
            pipe.get(keys.commits)
            pipe.hgetall(keys.rewound)
            pipe.hkeys(keys.expected)
            pipe.hkeys(keys.approvals)
            attempts, leases, timers, outbox, live, gone, commits, rewound, expected, approvals = pipe.execute()
        return Shard(
            {id_.decode(): state.decode() for id_, state in attempts.items()},
            [id_.decode() for id_ in leases],
            [timer.decode() for timer in timers],
            [batch.decode().split() for batch in outbox],
            [run.decode() for run in live],
            gone,
            int(commits or 0),
            rewound_at_ms=int(rewound.get(b"at_ms", 0)),
            missing=int(rewound.get(b"missing", 0)),
            known=int(rewound.get(b"known", 0)),
            expected=[it.decode() for it in expected if it != b"all"],
            approvals=[it.decode() for it in approvals],
        )
