"""Runs read from the store into memory, many by one or two round trips, in steps that leave time for other things."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from redis import Redis

from ..core.run import SMALL_PAGE_BYTES, Run
from ..core.waits import Signal
from ..errors import StoreUnsafe
from ..wire import RunId
from .direct import hashes
from .keys import BUCKET, ShardKeys
from .summaries import summary_of

LOADED_AT_ONCE = 32
Broken = Callable[[RunId, StoreUnsafe], None]
"""Told of runs that are there and cannot be read."""


class First(NamedTuple):
    """What every run has, and the records of a small one, as their keys hold it: {} for a key that is not there."""

    fields: dict[bytes, bytes]
    spec: dict[bytes, bytes]
    signals: dict[bytes, bytes]
    records: dict[bytes, bytes]


def read_first(client: Any, keys_of: Callable[[RunId], ShardKeys], runs: Sequence[RunId]) -> dict[RunId, First]:
    """What every run has, one round trip for all of them, whatever their shards."""
    asked = hashes(client, [key for run in runs for key in _first_keys(run, keys_of(run))])
    return {run: First(*asked[at * 4 : at * 4 + 4]) for at, run in enumerate(runs)}


def load_in_steps(
    client: Redis,
    keys_of: Callable[[RunId], ShardKeys],
    runs: Sequence[RunId],
    broken: Broken | None = None,
    known: Mapping[RunId, First] | None = None,
) -> Iterator[Run | None]:
    """Runs with all their nodes, in steps of some milliseconds each: a run, or None for not yet.

    LOADED_AT_ONCE by one round trip, and one more where there are larger ones; those that are not there are left out.
    O(nodes + edges).

    Args:
        keys_of: the keys of a run's shard.
        broken: told of runs that cannot be read, which are left out then.
        known: of runs that `read_first` was asked for.

    Raises:
        StoreUnsafe: a run cannot be read, and nobody wants to be told.
    """
    for at in range(0, len(runs), LOADED_AT_ONCE):
        yield from _load(client, keys_of, runs[at : at + LOADED_AT_ONCE], broken, known or {})


def _load(
    client: Any,
    keys_of: Callable[[RunId], ShardKeys],
    runs: Sequence[RunId],
    broken: Broken | None,
    known: Mapping[RunId, First],
) -> Iterator[Run | None]:
    known = {**known, **read_first(client, keys_of, [run for run in runs if run not in known])}
    found = [(run, known[run]) for run in runs if known[run].fields]
    rest = [keys_of(run).nodes(run, bucket) for run, it in found for bucket in range(1, _buckets(it.fields))]
    buckets = iter(hashes(client, rest))
    for run, it in found:
        mine = [it.records, *(next(buckets) for _ in range(1, _buckets(it.fields)))]
        try:
            for loaded in _loaded(run, it.fields, it.spec, mine):
                if loaded is not None:
                    loaded.take_signals(signals_of(it.signals))
                yield loaded
        except Exception as damage:
            what = f"run {run} cannot be read: {type(damage).__name__}: {damage}"
            unsafe = StoreUnsafe(what, "its keys were changed by another hand, or Redis lost some of them")
            if broken is None:
                raise unsafe from damage
            broken(run, unsafe)


def _first_keys(run: RunId, keys: ShardKeys) -> tuple[str, ...]:
    """What every run has, and the records of a small one."""
    return keys.run(run), keys.spec(run), keys.signals(run), keys.nodes(run, 0)


def _buckets(fields: Mapping[bytes, bytes]) -> int:
    """How many hashes hold the records of a run."""
    return -(-int(fields[b"nodes"]) // BUCKET)


def signals_of(fields: Mapping[bytes, bytes]) -> Iterator[Signal]:
    """Signals as they are stored, the oldest first."""
    for id_, raw in sorted(fields.items(), key=lambda it: _order(it[0])):
        record = json.loads(raw)
        taken = record.get("taken")
        payload = json.dumps(record["payload"], ensure_ascii=False, separators=(",", ":")).encode()
        yield Signal(
            id_.decode(), record["name"], record["key"], record["by"], payload, None if taken is None else tuple(taken)
        )


def signal_record(signal: Signal) -> bytes:
    """A signal as it is stored."""
    said = {"name": signal.name, "key": signal.key, "by": signal.by, "payload": json.loads(signal.payload)}
    taken = {} if signal.taken is None else {"taken": signal.taken}
    return json.dumps(said | taken, ensure_ascii=False, separators=(",", ":")).encode()


def _order(id_: bytes) -> tuple[int, ...]:
    """Entries of an inbox in the order in which they came."""
    return tuple(int(part) for part in re.split(rb"[-.]", id_))


def _read_header(raw: bytes) -> Mapping[str, Any]:
    header: dict[str, Any] = json.loads(zlib.decompress(raw))
    return header


_small_header = lru_cache(256)(_read_header)


def _header(raw: bytes) -> Mapping[str, Any]:
    """Of a compiled graph; that of a small one, which is often run many times, is remembered."""
    return _small_header(raw) if len(raw) <= SMALL_PAGE_BYTES else _read_header(raw)


def _loaded(
    run: RunId, fields: Mapping[bytes, bytes], spec: Mapping[bytes, bytes], buckets: Iterable[Mapping[bytes, bytes]]
) -> Iterator[Run | None]:
    """A run from its keys as they were read, in steps: None for not yet, the run at last."""
    pages = [page for _, page in sorted((int(number), page) for number, page in spec.items())]
    summary = summary_of(run, fields)
    for loaded in Run.load_in_steps(
        run,
        _header(fields[b"header"]),
        pages,
        ((int(node), record) for bucket in buckets for node, record in bucket.items()),
        created_at_ms=summary.created_at_ms,
        policy=json.loads(fields[b"policy"]) if b"policy" in fields else None,
    ):
        if loaded is None:
            yield None
            continue
        if loaded.n != summary.nodes:
            raise ValueError(f"it has {loaded.n} of {summary.nodes} nodes")
        loaded.run_state, loaded.reason = summary.state, summary.reason
        loaded.deadline_at_ms, loaded.correlation_id = summary.deadline_at_ms, summary.correlation_id
        loaded.floor = int(fields.get(b"attempts_above", 0))
        loaded.renumbered_at_ms = int(fields.get(b"renumbered_at_ms", 0))
        loaded.priority, loaded.acts = summary.priority, list(summary.acts)
        begun = map(int, fields.get(b"asked", b"").split())
        loaded.begun = frozenset(begun) - {act.number for act in loaded.acts}
        loaded.keyed = summary.key is not None
        loaded.versions = {name: it["version"] for name, it in summary.versions.items() if "version" in it}
        yield loaded
