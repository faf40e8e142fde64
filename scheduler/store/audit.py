"""Does the store agree with itself? `celeriac doctor --deep` reads all of it, run by run, and tells what differs.

Reads only. One run is in memory at a time. The system may work meanwhile: what belongs together is read in one
transaction, and a difference is told only when it is found again in every one of LOOKS readings. What it compares is
what keys.py and commits.py promise: indexes and runs, attempts and leases and records, timers and what waits for them,
keys and their runs; audit_run.py looks into each run. A new promise is one check here or there, and one planted
damage in tests/integration/test_audit.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..core.states import LETTERS
from ..wire import AttemptId, RunId, is_run_id
from .audit_run import RESTART, Difference, audit_run
from .keys import BUCKET, ShardKeys
from .runs import Runs

LOOKS = 3
PAUSE_SECONDS = 0.4
"""Between two readings of something that differed: longer than any commit takes."""
PAGE = 500
_RUN_KEY = re.compile(r"run:([0-9a-z]{26})(:.*)?")
_STAGED = re.compile(r":spec:[0-9a-f]+:[0-9a-f]+")
_FLYING = "DN"


def audit(runs: Runs, *, pause_seconds: float = PAUSE_SECONDS) -> Iterator[Difference]:
    """Everything that differs, shard by shard and run by run. O(all that is stored), a run at a time.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    for shard in range(runs.shards):
        keys = runs.keys.shard(shard)
        yield from _confirmed(lambda keys=keys: _shard(runs, keys), pause_seconds)  # type: ignore[misc]  # a default
        for index in (keys.live, keys.ended):
            for run in _members(runs.client, index):
                yield from _confirmed(
                    lambda keys=keys, run=run: audit_run(runs, keys, run),  # type: ignore[misc]  # the same
                    pause_seconds,
                )
    yield from _keys(runs, pause_seconds)


def rewound(runs: Runs) -> dict[int, tuple[int, int, int]]:
    """Shards that have lost commits: shard -> when that was last noticed, ms; how many; how often."""
    with runs.client.pipeline(transaction=False) as pipe:
        for shard in range(runs.shards):
            pipe.hmget(runs.keys.shard(shard).rewound, "at_ms", "missing", "times")
        answers = pipe.execute()
    return {shard: (int(at), int(lost), int(times)) for shard, (at, lost, times) in enumerate(answers) if at}


def _confirmed(look: Callable[[], Iterable[Difference]], pause_seconds: float) -> Iterator[Difference]:
    """What every one of several readings finds: the system goes on while we read."""
    found = {it.identity: it for it in look()}
    for _ in range(LOOKS - 1):
        if not found:
            return
        time.sleep(pause_seconds)
        again = {it.identity: it for it in look()}
        found = {identity: again[identity] for identity in found if identity in again}
    yield from found.values()


def _members(client: Any, index: str) -> Iterator[str]:
    """Runs of an index, a page at a time; those that come or go meanwhile are seen or not."""
    cursor = 0
    while True:
        cursor, page = client.zscan(index, cursor, count=PAGE)
        yield from dict.fromkeys(member.decode("utf-8", "replace") for member, _ in page)
        if not cursor:
            return


# -- one shard ------------------------------------------------------------------------------------------


def _shard(runs: Runs, keys: ShardKeys) -> Iterator[Difference]:
    """Owner, attempts, leases, timers and outbox, against the runs they belong to."""
    where = f"shard {keys.shard}"
    with runs.client.pipeline(transaction=True) as pipe:
        pipe.hget(runs.keys.owners, keys.shard)
        pipe.get(keys.epoch)
        pipe.hgetall(keys.attempts)
        pipe.zrange(keys.leases, 0, -1)
        pipe.zrange(keys.timers, 0, -1)
        pipe.lrange(keys.outbox, 0, -1)
        owner, epoch, attempts, leases, timers, outbox = pipe.execute()
    number = (owner or b"0").partition(b"|")[0]
    if number != (epoch or b"0").partition(b".")[0]:
        told = (epoch or b"none").decode()
        yield Difference(where, "epoch", f"its token is {told}, the table of owners says {number.decode()}", RESTART)
    for id_ in sorted(attempts.keys() ^ set(leases)):
        missing = "has no lease, so its loss would go unnoticed" if id_ in attempts else "has a lease and is not out"
        yield Difference(where, f"lease {id_!r}", f"attempt {id_.decode()} {missing}", RESTART)
    yield from _attempts(runs, keys, [id_.decode() for id_ in attempts])
    yield from _timers(runs, keys, [timer.decode() for timer in timers])
    known: dict[str, bool] = {}
    for id_ in (it for batch in outbox for it in batch.decode("utf-8", "replace").split()):
        attempt = AttemptId.parse(id_)
        if attempt is not None and attempt.shard == keys.shard and attempt.run not in known:
            known[attempt.run] = bool(runs.client.exists(keys.run(attempt.run)))
        if attempt is None or not known.get(attempt.run):
            yield Difference(where, f"outbox {id_}", f"the outbox holds {id_}, which is no attempt of a run", RESTART)


def _attempts(runs: Runs, keys: ShardKeys, ids: Sequence[str]) -> Iterator[Difference]:
    """Each attempt in flight is what its node's record says."""
    parsed = {id_: AttemptId.parse(id_) for id_ in ids}
    for at in range(0, len(ids), PAGE):
        mine = [(id_, it) for id_ in ids[at : at + PAGE] if (it := parsed[id_]) is not None]
        with runs.client.pipeline(transaction=False) as pipe:
            for _, it in mine:
                pipe.hget(keys.nodes(it.run, it.node // BUCKET), it.node)
                pipe.zscore(keys.live, it.run)
            answers = pipe.execute()
        for (id_, it), record, live in zip(mine, answers[::2], answers[1::2], strict=True):
            letter, epoch, number = (record or b"P|1|0").decode().split("|")[:3]
            where, said = f"run {it.run}", f"attempt {id_} is in flight"
            if live is None:
                yield Difference(where, f"flies {id_}", f"{said}, and the run does not live", RESTART)
            elif letter not in _FLYING or (int(epoch), int(number)) != (it.epoch, it.attempt):
                state = f"{letter}, epoch {epoch}, attempt {number}"
                yield Difference(where, f"flies {id_}", f"{said}, and its node's record says {state}", RESTART)
    for id_ in (id_ for id_, it in parsed.items() if it is None or it.shard != keys.shard):
        yield Difference(f"shard {keys.shard}", f"flies {id_}", f"{id_!r} is in flight, and no attempt here", RESTART)


def _timers(runs: Runs, keys: ShardKeys, timers: Sequence[str]) -> Iterator[Difference]:
    """Each timer belongs to a live run, and one for a retry to a node that waits for it."""
    for timer in timers:
        run, _, name = timer.partition(" ")
        kind, *rest = name.split(":")
        if not is_run_id(run) or runs.client.zscore(keys.live, run) is None:
            yield Difference(f"run {run}", f"timer {name}", f"timer {name} is set, and the run does not live", RESTART)
        elif kind == "retry" and len(rest) == 2 and all(it.isdecimal() for it in rest):
            record = runs.client.hget(keys.nodes(RunId(run), int(rest[0]) // BUCKET), rest[0]) or b"P|1|0"
            letter, _epoch, number = record.decode().split("|")[:3]
            if letter != LETTERS[4] or number != rest[1]:
                said = f"timer {name} is set, and its node does not wait for it (its record says {letter})"
                yield Difference(f"run {run}", f"timer {name}", said, RESTART)


# -- keys -----------------------------------------------------------------------------------------------


def _keys(runs: Runs, pause_seconds: float) -> Iterator[Difference]:
    """Keys that belong to no run, or to no index, and leftovers that would stay for ever."""
    client, cursor = runs.client, 0
    tagged = re.compile(rf"\{{{re.escape(runs.namespace)}:(\d+)\}}:(.*)", re.DOTALL)
    while True:
        cursor, page = client.scan(cursor, match=f"{{{runs.namespace}:*", count=PAGE)
        names = [(raw.decode("utf-8", "replace"), found) for raw in page if (found := tagged.fullmatch(raw.decode()))]
        mine = {name: (int(found[1]), found[2]) for name, found in names}
        yield from _confirmed(lambda mine=mine: _orphans(runs, mine), pause_seconds)  # type: ignore[misc]  # a default
        if not cursor:
            return


def _orphans(runs: Runs, names: dict[str, tuple[int, str]]) -> Iterator[Difference]:
    """Of these keys, those that should not be there."""
    wanted: dict[str, tuple[ShardKeys, str, str]] = {}
    for name, (shard, rest) in names.items():
        keys = runs.keys.shard(shard)
        if shard >= runs.shards:
            yield Difference(f"key {name}", "shard", f"there are only {runs.shards} shards", _unlink(name))
        elif found := _RUN_KEY.fullmatch(rest):
            wanted[name] = keys, found[1], found[2] or ""
        elif rest.startswith("blob:") and (attempt := AttemptId.parse(rest.removeprefix("blob:"))):
            wanted[name] = keys, attempt.run, ":blob"
    with runs.client.pipeline(transaction=True) as pipe:
        for name, (keys, run, _) in wanted.items():
            pipe.exists(keys.run(RunId(run)))
            pipe.hexists(keys.gone, run)
            pipe.zscore(keys.live, run)
            pipe.zscore(keys.ended, run)
            pipe.ttl(name)
        answers = pipe.execute()
    for at, (name, (keys, run, part)) in enumerate(wanted.items()):
        there, swept, live, ended, ttl = answers[5 * at : 5 * at + 5]
        if _STAGED.fullmatch(part):
            if ttl == -1:
                said = "pages of a submission that never ended, and they never expire"
                yield Difference(f"key {name}", "staged", said, _unlink(name))
        elif part:
            if not there and not swept and ttl == -1:  # what expires does so, and -2 is gone by now
                yield Difference(f"key {name}", "orphan", f"belongs to run {run}, which is not there", _unlink(name))
        elif there:
            yield from _placed(runs, keys, RunId(run), listed=live is not None or ended is not None)


def _placed(runs: Runs, keys: ShardKeys, run: RunId, *, listed: bool) -> Iterator[Difference]:
    """A run lies where its id says, and is in one of the lists."""
    if runs.shard(run) != keys.shard:
        yield Difference(f"run {run}", "shard", f"lies in shard {keys.shard}, where nobody looks for it", "")
    elif not listed:
        remedy = f"If it is to go on: redis-cli ZADD '{keys.live}' 0 {run}, and restart its scheduler."
        yield Difference(f"run {run}", "listed", "is listed neither as live nor as ended", remedy)


def _unlink(name: str) -> str:
    return f"Once you know it is not wanted: redis-cli UNLINK '{name}'."
