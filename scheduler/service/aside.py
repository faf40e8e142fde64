"""Outputs that lie aside as blobs, for mappers: the worker that would fetch one knows no mappers."""

from __future__ import annotations

from ..core.mappers import MappingError
from ..core.mapping import Fetch
from ..core.run import Run
from ..store.runs import Runs
from ..wire import RunId

MOST_MAPPED_BYTES = 1_048_576
"""Of a blob that is fetched for a mapper; larger ones go to workers unmapped or not at all."""


def fetcher(runs: Runs) -> Fetch:
    """What fetches blobs from a store: one or two round trips each."""

    def fetch(run: Run, node: int, name: str) -> bytes:
        id_ = RunId(run.id)
        key = runs.keys_of(id_).blob(run.attempt_id(runs.shard(id_), node))
        size = runs.blob_bytes(key)
        if size > MOST_MAPPED_BYTES:
            problem = f"the output has {size:,} bytes, and at most {MOST_MAPPED_BYTES:,} are fetched for a mapper"
            raise MappingError(name, "", "", "limit", problem)
        data = runs.blob(key) if size else None
        if data is None:
            raise MappingError(name, "", "", "gone", f"the output put aside as {key} is gone from Redis")
        return data

    return fetch
