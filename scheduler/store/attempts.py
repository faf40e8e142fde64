"""Attempts in flight, as a worker sees them: claim, renew, report, and outputs too large for a report.

All that a worker may touch in the store. Knows nothing of graphs and imports nothing of core/. Every
call takes a list, so that one message may carry many small attempts.
"""

from __future__ import annotations

import enum
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from redis import Redis

from ..errors import WireError
from ..wire import AttemptId, DeadMessage, Report, chain_of
from .direct import Sent, exchange
from .keys import Keys
from .scripts import BEAT, CLAIM, PROCEED, RENEW

BLOB_SECONDS = 7 * 24 * 3600
"""How long a blob lives that no commit has accepted; the commit makes it last as long as its run."""
ENTRY_FIELDS = 128
"""An entry of an inbox with so many takes no further report: it is taken up whole, and somebody may wait behind it."""


class Verdict(enum.StrEnum):
    """The answer to a claim."""

    GRANTED = "granted"
    HELD = "held"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker was told: may it run the attempt, until when, and when it must have ended.

    Instants are Redis's, in milliseconds; they are 0 unless the verdict is GRANTED.
    """

    verdict: Verdict
    lease_end_ms: int = 0
    hard_end_ms: int = 0
    now_ms: int = 0


class Asked:
    """Claims on their way.

    Args:
        read: an answer of Redis as a claim.
    """

    __slots__ = ("_read", "_sent")

    def __init__(self, sent: Sent, read: Callable[[Any], Claim]) -> None:
        self._sent = sent
        self._read = read

    def answers(self) -> list[Claim]:
        """In the order in which they were asked for. To be called once, also where the answers do not matter.

        Raises:
            redis.exceptions.RedisError: as whoever asked says.
        """
        return [self._read(answer) for answer in self._sent.answers()]


class Onward(NamedTuple):
    """From an attempt that has ended well to the next step of its chain.

    Attributes:
        report, output: of the one.
        id: of the other, an attempt of the same run.
        place: its "class|lease ms|timeout ms", as its message says.
        tokens: of the claim that has ended, and of the new one.
    """

    report: Report
    output: bytes
    id: str
    place: str
    tokens: tuple[str, str]

    def shard(self) -> int:
        """Of both.

        Raises:
            WireError: these are not two attempts of one run.
        """
        attempt, following = AttemptId.parse(self.report.id), AttemptId.parse(self.id)
        if attempt is None or following is None or following[:2] != attempt[:2]:
            of = [self.report.id, self.id]
            raise WireError("report", "not two attempts shard.run.node.epoch.attempt of one run", of)
        return attempt.shard

    def arguments(self) -> tuple[str | bytes, ...]:
        """What the script is told, after who asks."""
        report = self.report.to_json(self.id, self.tokens[1])
        return (*self.tokens, self.report.id, self.id, self.place, "report", report, "output", self.output)


class Attempts:
    """The worker's side of the store.

    Args:
        client: a connection of this process; it may be shared between threads, not between processes.
        namespace: which installation.
    """

    def __init__(self, client: Redis, namespace: str = "cel") -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = Keys(namespace)
        self._shards = 0

    def claim(self, ids: Sequence[str], worker: str, token: str) -> list[Claim]:
        """Ask to begin attempts; one answer each, in order. One script call per shard.

        Args:
            ids: attempts.
            worker: who asks; the name under which it renews.
            token: of this one claim, letters and digits. Repeating it after a lost answer is harmless.

        Raises:
            WireError: an id is not an attempt id.
            redis.exceptions.RedisError: no answer; ask again with the same token.
        """
        answers: dict[str, Claim] = {}
        for shard, mine in _by_shard(ids).items():
            keys = self.keys.shard(shard)
            replies = CLAIM(self.client, [keys.attempts, keys.leases], [worker, token, *mine])
            answers.update(zip(mine, (claim_of(*reply) for reply in replies), strict=True))
        return [answers[id_] for id_ in ids]

    def send_claim(self, id_: str, worker: str, token: str) -> Asked:
        """The same for one attempt, without waiting for the answer.

        Raises:
            WireError, redis.exceptions.RedisError: as above, and so does what is returned.
        """
        [(shard, ids)] = _by_shard([id_]).items()
        keys = self.keys.shard(shard)
        sent = CLAIM.send(self.client, [([keys.attempts, keys.leases], [worker, token, *ids])])
        return Asked(sent, lambda answer: claim_of(*answer[0]))

    def proceed(self, steps: Sequence[Onward], worker: str) -> list[Claim]:
        """Report attempts that have ended well, and claim of each the next step of its chain, both or neither. One
        round trip, a script call each, in their order.

        Args:
            worker: who asks; the name under which it renews.

        Raises:
            WireError: these are not attempts of one run.
            redis.exceptions.RedisError: no answer, so any of them may have been done. Repeating the last of those that
                were is harmless; those before it, from which it has gone on, would be refused.
        """
        calls = self._onward(steps, worker)
        answers = [PROCEED(self.client, *calls[0])] if len(calls) == 1 else PROCEED.many(self.client, calls)
        return [claim_of(*answer) for answer in answers]

    def send_proceed(self, steps: Sequence[Onward], worker: str) -> Asked:
        """The same, without waiting for the answers.

        Raises:
            WireError, redis.exceptions.RedisError: as above, and so does what is returned.
        """
        return Asked(PROCEED.send(self.client, self._onward(steps, worker)), lambda answer: claim_of(*answer))

    def _onward(self, steps: Sequence[Onward], worker: str) -> list[tuple[list[str], tuple[Any, ...]]]:
        """Calls of the script, one for each step."""
        calls = []
        for it in steps:
            keys = self.keys.shard(it.shard())
            calls.append(([keys.attempts, keys.leases, keys.inbox], (worker, *it.arguments())))
        return calls

    def renew(self, ids: Sequence[str], worker: str) -> dict[str, bool]:
        """Heartbeat: attempt id -> still ours. False means ended, cancelled or given to another worker."""
        answers: dict[str, bool] = {}
        for shard, mine in _by_shard(ids).items():
            keys = self.keys.shard(shard)
            words = RENEW(self.client, [keys.attempts, keys.leases], [worker, *mine])
            answers.update((id_, word == b"renewed") for id_, word in zip(mine, words, strict=True))
        return answers

    def beat(self, id_: str, token: str, silence: tuple[int, int] | None) -> bool:
        """An executor says that it goes on; whether its attempt is still wanted of it. One script call, O(log n).

        Args:
            token: of its claim.
            silence: how long it may be silent for from now on, and its time limit, counted from its claim; both in ms.
                None for no such limit.
        """
        attempt = AttemptId.parse(id_)
        if attempt is None:
            raise WireError("heartbeat", "id is not shard.run.node.epoch.attempt", id_)
        keys = self.keys.shard(attempt.shard)
        return bool(BEAT(self.client, [keys.attempts, keys.leases], [id_, token, *(silence or (0, 0))]))

    def claimed(self, ids: Sequence[str]) -> dict[str, tuple[int, str, str]]:
        """Who runs attempts, by their claims: id -> (claimed at, ms; worker; token of a next step of a chain, else "").
        What nobody has claimed is left out.

        One HMGET per shard, off the hot path.
        """
        found: dict[str, tuple[int, str, str]] = {}
        for shard, mine in _by_shard(ids).items():
            for id_, state in zip(mine, self.client.hmget(self.keys.shard(shard).attempts, mine), strict=True):
                if state is not None and state[:1] == b"c":
                    parts = state.decode().split("|", 7)
                    found[id_] = int(parts[4]), parts[7], chain_of(parts[6])
        return found

    def report(self, reports: Iterable[tuple[Report, bytes | None]]) -> None:
        """Tell how attempts ended, in one round trip: an entry in the inbox of each shard, more of them for many.

        Args:
            reports: each with its output as raw JSON bytes, or None.
        """
        entries: list[tuple[str, list[str | bytes]]] = []
        open_: dict[int, list[str | bytes]] = {}
        for report, output in reports:
            attempt = AttemptId.parse(report.id)
            if attempt is None:
                raise WireError("report", "id is not shard.run.node.epoch.attempt", report.id)
            entry = open_.get(attempt.shard)
            if entry is None or len(entry) >= ENTRY_FIELDS:
                entry = open_[attempt.shard] = []
                entries.append((self.keys.shard(attempt.shard).inbox, entry))
            entry += ("report", report.to_json())
            if output is not None:
                entry += ("output", output)
        if entries:
            exchange(self.client, [("XADD", inbox, "*", *entry) for inbox, entry in entries])

    def report_dead(self, messages: Iterable[DeadMessage]) -> None:
        """Tell of rejected messages: into the shard of the attempt that one carried, else into its queue's."""
        for it in messages:
            if not self._shards:
                self._shards = int(self.client.hget(self.keys.meta, "shards") or 0) or 1
            attempt = AttemptId.parse(it.id)
            shard = zlib.crc32(it.queue.encode()) if attempt is None else attempt.shard
            inbox = self.keys.shard(shard % self._shards).inbox
            self.client.execute_command("XADD", inbox, "*", "dead", it.to_json())

    def put_blob(self, attempt: str, data: bytes) -> str:
        """Put a large output aside; returns the key that stands for it."""
        parsed = AttemptId.parse(attempt)
        if parsed is None:
            raise WireError("blob", "attempt is not shard.run.node.epoch.attempt", attempt)
        key = self.keys.shard(parsed.shard).blob(attempt)
        self.client.set(key, data, ex=BLOB_SECONDS)
        return key

    def get_blob(self, key: str) -> bytes | None:
        """The large output behind a key, or None when it is gone."""
        data: bytes | None = self.client.get(key)
        return data

    def publish_contracts(self, contracts: Mapping[str, Mapping[str, Any]], *, again: bool = False) -> None:
        """Make executors known: name -> contract. Schedulers notice by the version that goes up with it.

        Args:
            again: only say that they are still there; what a newer worker has published meanwhile stays.
        """
        if not contracts:
            return
        seconds, micros = self.client.time()
        now = seconds * 1000 + micros // 1000
        texts = {name: json.dumps(it) for name, it in contracts.items()}
        with self.client.pipeline(transaction=True) as pipe:
            pipe.zadd(self.keys.executors_seen, dict.fromkeys(contracts, now))
            if again:
                for name, text in texts.items():
                    pipe.hsetnx(self.keys.executors, name, text)
            else:
                pipe.hset(self.keys.executors, mapping=texts)
            pipe.incr(self.keys.executors_version)
            pipe.execute()

    def announce_worker(self, name: str, description: Mapping[str, Any]) -> bool:
        """Say that a worker lives; `seen_at_ms` is set to Redis's time. True when the store did not know it."""
        seconds, micros = self.client.time()
        seen = {**description, "name": name, "seen_at_ms": seconds * 1000 + micros // 1000}
        return bool(self.client.hset(self.keys.workers, name, json.dumps(seen)))

    def forget_worker(self, name: str) -> None:
        """Say that a worker has gone, at its shutdown."""
        self.client.hdel(self.keys.workers, name)


@lru_cache(16)
def claim_of(verdict: bytes, *instants: int) -> Claim:
    """What Redis answers to a claim. Remembered, for attempts that are claimed together mostly get the same answer."""
    return Claim(Verdict(verdict.decode()), *instants)


def _by_shard(ids: Sequence[str]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = defaultdict(list)
    for id_ in ids:
        attempt = AttemptId.parse(id_)
        if attempt is None:
            raise WireError("claim", "id is not shard.run.node.epoch.attempt", id_)
        grouped[attempt.shard].append(id_)
    return grouped
