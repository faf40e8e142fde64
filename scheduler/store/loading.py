"""Runs read from the store into memory, many by two round trips, in steps that leave time for other things."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from redis import Redis

from ..core.run import Run
from ..errors import StoreUnsafe
from ..wire import RunId
from .keys import BUCKET, ShardKeys
from .summaries import summary_of

LOADED_AT_ONCE = 32
Broken = Callable[[RunId, StoreUnsafe], None]
"""Told of runs that are there and cannot be read."""


def load_in_steps(
    client: Redis, keys_of: Callable[[RunId], ShardKeys], runs: Sequence[RunId], broken: Broken | None = None
) -> Iterator[Run | None]:
    """Runs with all their nodes, in steps of some milliseconds each: a run, or None for not yet.

    LOADED_AT_ONCE by two round trips; those that are not there are left out. O(nodes + edges).

    Args:
        keys_of: the keys of a run's shard.
        broken: told of runs that cannot be read, which are left out then.

    Raises:
        StoreUnsafe: a run cannot be read, and nobody wants to be told.
    """
    for at in range(0, len(runs), LOADED_AT_ONCE):
        yield from _load(client, keys_of, runs[at : at + LOADED_AT_ONCE], broken)


def _load(
    client: Any, keys_of: Callable[[RunId], ShardKeys], runs: Sequence[RunId], broken: Broken | None
) -> Iterator[Run | None]:
    with client.pipeline(transaction=False) as pipe:
        for run in runs:
            keys = keys_of(run)
            pipe.hgetall(keys.run(run))
            pipe.hgetall(keys.spec(run))
        answers = pipe.execute()
    found = [it for it in zip(runs, answers[::2], answers[1::2], strict=True) if it[1]]
    with client.pipeline(transaction=False) as pipe:
        for run, fields, _ in found:
            keys = keys_of(run)
            for bucket in range(-(-int(fields[b"nodes"]) // BUCKET)):
                pipe.hgetall(keys.nodes(run, bucket))
        buckets = iter(pipe.execute())
    for run, fields, spec in found:
        mine = [next(buckets) for _ in range(-(-int(fields[b"nodes"]) // BUCKET))]
        try:
            yield from _loaded(run, fields, spec, mine)
        except Exception as damage:
            what = f"run {run} cannot be read: {type(damage).__name__}: {damage}"
            unsafe = StoreUnsafe(what, "its keys were changed by another hand, or Redis lost some of them")
            if broken is None:
                raise unsafe from damage
            broken(run, unsafe)


def _loaded(
    run: RunId, fields: Mapping[bytes, bytes], spec: Mapping[bytes, bytes], buckets: Iterable[Mapping[bytes, bytes]]
) -> Iterator[Run | None]:
    """A run from its keys as they were read, in steps: None for not yet, the run at last."""
    pages = [page for _, page in sorted((int(number), page) for number, page in spec.items())]
    summary = summary_of(run, fields)
    for loaded in Run.load_in_steps(
        run,
        json.loads(zlib.decompress(fields[b"header"])),
        pages,
        ((int(node), record) for bucket in buckets for node, record in bucket.items()),
        created_at_ms=summary.created_at_ms,
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
        loaded.keyed = summary.key is not None
        yield loaded
