"""Ended runs, as the owner of their shards sees them: which are oldest, all that is kept of one, and its removal.

Reading is done beside the loop, on a connection of its own, in pieces of a bounded size. A removal is fenced and asks
once more whether the run is still as it was read (lua/forget.lua), for a retry may have opened it again; it is the
loop that sends it, so it comes between two turns and never between a retry's load and its commit. What a large run
leaves behind is swept in further calls, from a list that a crash does not lose (lua/sweep.lua).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from redis import Redis

from ..core.run import LEFT_OUT as LEFT_OUT_TEXT
from ..core.states import ENDED_RUNS
from ..wire import AttemptId, RunId
from .direct import Part
from .keys import BUCKET, Keys, ShardKeys
from .runs import Runs
from .scripts import FORGET, SWEEP, TIDY

T = TypeVar("T")

LEFT_OUT = LEFT_OUT_TEXT.encode()

WORKER_MS = 24 * 3_600_000
"""A worker that has not been heard of for so long is forgotten."""
EXECUTOR_MS = 30 * 24 * 3_600_000
"""An executor that no worker has published for so long is forgotten; workers confirm theirs once a day."""
WHOLE_NODES = 500
"""A run of at most so many nodes is removed by one call."""
KEYS_PER_CALL = 200
BUCKETS_AT_ONCE = 10
ENTRIES_AT_ONCE = 100
PIECE_BYTES = 1 << 20
"""A blob is read in pieces of this size."""
Piece = tuple[str, Any, Any]
"""What is kept of a run, piece by piece: ("page", number, raw), ("node", number, (record, value)), ("blob", key, raw),
("signal", id, raw), ("log", id, fields)."""


@dataclass(slots=True)
class Ended:
    """One ended run as it was found.

    Attributes:
        at_ms: when it ended, as the shard's list has it.
        fields: of its hash.  log_end: id of its log's last entry; "0" for none.
        blobs: keys of its large outputs, known once it was read.
    """

    run: RunId
    shard: int
    at_ms: int
    state: str
    nodes: int
    fields: dict[bytes, bytes]
    log_end: str
    blobs: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether one call removes all of it."""
        return self.nodes <= WHOLE_NODES and len(self.blobs) <= KEYS_PER_CALL


class Removal(NamedTuple):
    """A run to be removed, under the epoch of the shard's owner."""

    it: Ended
    epoch: Part


class EndedRuns:
    """The ended runs of one installation.

    Args:
        runs: where they are, on a connection of the caller.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.client = runs.client
        self.keys: Keys = runs.keys

    def oldest(self, shards: Sequence[int], count: int) -> tuple[int, dict[int, list[tuple[RunId, int]]]]:
        """Redis's time, and of each shard the runs that ended first, with that instant in ms. One round trip."""
        return self._listed(dict.fromkeys(shards, (0, 0)), count)

    def since(self, after: Mapping[int, int], count: int) -> dict[int, list[tuple[RunId, int]]]:
        """Of each shard the runs that ended at or after an instant, the first `count` of them."""
        return self._listed({shard: (at, 1) for shard, at in after.items()}, count)[1]

    def _listed(
        self, wanted: Mapping[int, tuple[int, int]], count: int
    ) -> tuple[int, dict[int, list[tuple[RunId, int]]]]:
        with self.client.pipeline(transaction=False) as pipe:
            pipe.time()
            for shard, (at, _) in wanted.items():
                pipe.zrangebyscore(self.keys.shard(shard).ended, at, "+inf", 0, count, withscores=True)
            (seconds, micros), *found = pipe.execute()
        lists = {
            shard: [(RunId(run.decode()), int(at)) for run, at in it] for shard, it in zip(wanted, found, strict=True)
        }
        return int(seconds) * 1000 + int(micros) // 1000, lists

    def standing(self) -> tuple[int, int]:
        """How many ended runs there are, and how long ago the first of them ended, ms."""
        now, lists = self.oldest(range(self.runs.shards), 1)
        with self.client.pipeline(transaction=False) as pipe:
            for shard in range(self.runs.shards):
                pipe.zcard(self.keys.shard(shard).ended)
            number = sum(pipe.execute())
        return number, max((now - at for found in lists.values() for _, at in found), default=0)

    def look(self, run: RunId) -> Ended | None:
        """A run as it stands, if it has ended and nothing is under way with it. One round trip."""
        shard = self.runs.shard(run)
        keys = self.keys.shard(shard)
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zscore(keys.ended, run)
            pipe.hgetall(keys.run(run))
            pipe.xrevrange(keys.log(run), count=1)
            at, fields, last = pipe.execute()
        state = fields.get(b"state", b"").decode()
        if at is None or state not in ENDED_RUNS:
            return None
        log_end = last[0][0].decode() if last else "0"
        return Ended(run, shard, int(at), state, int(fields[b"nodes"]), fields, log_end)

    def pieces(self, it: Ended) -> Iterator[Piece]:
        """All that is kept of a run besides its hash: pages, signals, nodes, blobs, log. Notes the keys of blobs."""
        keys, client = self.keys.shard(it.shard), self.client
        pages = sorted(int(number) for number in client.hkeys(keys.spec(it.run)))
        for number in pages:
            yield "page", number, client.hget(keys.spec(it.run), str(number))
        for id_ in sorted(client.hkeys(keys.signals(it.run))):
            yield "signal", id_.decode(), client.hget(keys.signals(it.run), id_.decode())
        for nodes, values in self._buckets(it):
            for node in sorted({*nodes, *values}):
                record = nodes.get(node)
                yield "node", node, (record, values.get(node))
                it.blobs += _blobs(keys, it, node, record)
        for key in it.blobs:
            at = 0
            while piece := client.getrange(key, at, at + PIECE_BYTES - 1):
                yield "blob", key, piece
                at += len(piece)
        after = "-"
        while entries := client.xrange(keys.log(it.run), min=after, count=ENTRIES_AT_ONCE):
            for id_, fields in entries:
                yield "log", id_.decode(), fields
            after = "(" + entries[-1][0].decode()

    def _buckets(self, it: Ended) -> Iterator[tuple[dict[int, bytes], dict[int, bytes]]]:
        """Records and values, some buckets by each round trip."""
        keys = self.keys.shard(it.shard)
        for some in _some(range(-(-it.nodes // BUCKET)), BUCKETS_AT_ONCE):
            with self.client.pipeline(transaction=False) as pipe:
                for bucket in some:
                    pipe.hgetall(keys.nodes(it.run, bucket))
                    pipe.hgetall(keys.values(it.run, bucket))
                found = [{int(node): raw for node, raw in one.items()} for one in pipe.execute()]
            yield from zip(found[::2], found[1::2], strict=True)

    def note_blobs(self, it: Ended) -> None:
        """Find the keys of a run's large outputs without reading the rest of it."""
        keys = self.keys.shard(it.shard)
        for nodes, _ in self._buckets(it):
            for node, record in nodes.items():
                it.blobs += _blobs(keys, it, node, record)

    def tidy(self) -> None:
        """Forget workers and executors that have been silent for long (lua/tidy.lua)."""
        keys = self.keys
        named = [keys.workers, keys.executors, keys.executors_seen, keys.executors_version]
        TIDY(self.client, named, [WORKER_MS, EXECUTOR_MS])

    def tell(self, **facts: str | None) -> None:
        """Facts of the archive for people, beside those of the installation; None takes one back."""
        given = {name: text for name, text in facts.items() if text is not None}
        if given:
            self.client.hset(self.keys.meta, mapping=given)
        gone = [name for name, text in facts.items() if text is None]
        if gone:
            self.client.hdel(self.keys.meta, *gone)

    def weigh(self, it: Ended) -> int:
        """Bytes that a run takes in Redis, large outputs included, by MEMORY USAGE. Some calls per 100 nodes."""
        keys = self.keys.shard(it.shard)
        named = [keys.run(it.run), keys.spec(it.run), keys.signals(it.run), keys.log(it.run), *_bucket_keys(keys, it)]
        for nodes, _ in self._buckets(it):
            for node, record in nodes.items():
                named += _blobs(keys, it, node, record)
        total = 0
        for some in _some(named, KEYS_PER_CALL):
            with self.client.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.memory_usage(key)
                total += sum(found or 0 for found in pipe.execute())
        return total

    # -- removal ------------------------------------------------------------------------------------

    def sweep(self, shard: int, epoch: Part) -> bool:
        """Remove what forgotten runs of a shard have left, in bounded calls. False when the shard is not ours."""
        keys = self.keys.shard(shard)
        for raw, left in self.client.hgetall(keys.gone).items():
            run = RunId(raw.decode())
            it = Ended(run, shard, 0, "", int(left.partition(b"|")[2]), {}, "0")
            for some in _some(range(-(-it.nodes // BUCKET)), BUCKETS_AT_ONCE):
                named = [keys.values(run, bucket) for bucket in some]
                with self.client.pipeline(transaction=False) as pipe:
                    for bucket in some:
                        pipe.hgetall(keys.nodes(run, bucket))
                    for nodes in pipe.execute():
                        for node, record in nodes.items():
                            named += _blobs(keys, it, int(node), record)
                for part in _some((*named, *(keys.nodes(run, bucket) for bucket in some)), KEYS_PER_CALL):
                    if SWEEP(self.client, [keys.epoch, keys.gone, *part], [epoch, run]) == b"fenced":
                        return False
            if SWEEP(self.client, [keys.epoch, keys.gone], [epoch, run]) == b"fenced":
                return False
        return True


def forget(client: Redis, keys: Keys, removals: Sequence[Removal], key_seconds: int) -> list[str]:
    """Remove runs, one round trip for all of them; sent by the loop of the shards' owner.

    Returns:
        For each "forgotten", "changed" (something happened to it; it stays) or "fenced" (the shard is not ours).
        A run of more than WHOLE_NODES nodes is forgotten at once and leaves records for `EndedRuns.sweep`.
    """
    calls: list[tuple[Sequence[str], Sequence[Part]]] = []
    for it, epoch in removals:
        shard = keys.shard(it.shard)
        rest = [*_bucket_keys(shard, it), *it.blobs] if it.whole else []
        named = [shard.epoch, shard.ended, shard.gone, shard.archived(it.run), shard.run(it.run), shard.log(it.run)]
        arguments = [epoch, it.run, it.at_ms, it.state, it.log_end, key_seconds, 0 if it.whole else it.nodes]
        calls.append(([*named, shard.spec(it.run), shard.signals(it.run), *rest], arguments))
    return [answer.decode() for answer in FORGET.many(client, calls)]


def _bucket_keys(keys: ShardKeys, it: Ended) -> list[str]:
    buckets = range(-(-it.nodes // BUCKET))
    return [key for bucket in buckets for key in (keys.nodes(it.run, bucket), keys.values(it.run, bucket))]


def _blobs(keys: ShardKeys, it: Ended, node: int, record: bytes | None) -> Iterable[str]:
    """Keys under which a node may have left large outputs: of the attempt that succeeded, and of others before it."""
    if record is None:
        return
    _letter, epoch, newest, _failures, _losses, timeline, last = record.split(b"|", 6)
    if epoch == b"1" and not last.startswith(b"b"):  # behind it may stand the edges that are closed
        return
    attempt = int(newest)
    for entry in reversed(timeline.split(b";")):  # the newest is the record's own number, whatever was left out before
        if entry.startswith(LEFT_OUT):
            attempt -= int(entry.removeprefix(LEFT_OUT))
            continue
        if entry.split(b",", 5)[4:5] == [b"succeeded"]:
            for number in range(1, int(epoch) + 1):  # the timeline does not say in which
                yield keys.blob(str(AttemptId(it.shard, it.run, node, number, attempt)))
        attempt -= 1


def _some(items: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    return (items[at : at + count] for at in range(0, len(items), count))
