"""The budget of bytes for ended runs: what they take in Redis, and which must go.

Each scheduler weighs the ended runs of its own shards, once each, and has a share of the budget by the shards that it
owns, as it has of the windows. What counts is what ended runs take, not what Redis uses in all: removing them
must be able to bring it below the budget, or a full broker queue would cost every ended run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from heapq import merge

from ..store.ended import EndedRuns
from ..wire import RunId

LISTED = 200


class Budget:
    """What ended runs take, by shard.

    Args:
        most: bytes, of the whole installation.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: dict[int, dict[RunId, tuple[int, int]]] = {}
        self._after: dict[int, int] = {}

    def beyond(
        self, ended: EndedRuns, owned: Collection[int], stirred: Collection[int], breathe: Callable[[], None]
    ) -> Iterator[RunId]:
        """Runs that must go, those that ended first before the others; again each time until they are `removed`.

        Args:
            owned: our shards.
            stirred: shards where runs have ended since the last time.
            breathe: called after each run that was weighed.
        """
        for shard in [it for it in self._taken if it not in owned]:
            del self._taken[shard], self._after[shard]
        fresh = [shard for shard in owned if shard in stirred or shard not in self._taken]
        for shard in fresh:
            self._taken.setdefault(shard, {})
            self._after.setdefault(shard, 0)
        while fresh:
            lists = ended.since({shard: self._after[shard] for shard in fresh}, LISTED)
            for shard, found in lists.items():
                self._weigh(ended, shard, found, breathe)
            fresh = [shard for shard, found in lists.items() if len(found) == LISTED and found[0][1] < found[-1][1]]
        share = self.most * len(owned) / ended.runs.shards
        total = sum(size for taken in self._taken.values() for _, size in taken.values())
        by_age = merge(*([(at, run, size) for run, (at, size) in taken.items()] for taken in self._taken.values()))
        for _, run, size in by_age:
            if total <= share:
                return
            total -= size
            yield run  # it counts until it is removed, for it may yet be refused

    def removed(self, shard: int, run: RunId) -> None:
        """A run takes nothing any more, or has not ended after all."""
        self._taken.get(shard, {}).pop(run, None)

    def _weigh(self, ended: EndedRuns, shard: int, found: list[tuple[RunId, int]], breathe: Callable[[], None]) -> None:
        taken = self._taken[shard]
        for run, at in found:
            self._after[shard] = max(self._after[shard], at)
            if taken.get(run, (0, 0))[0] == at:
                continue
            taken.pop(run, None)  # it was retried: now it is the newest
            it = ended.look(run)
            if it is not None:
                taken[run] = (at, ended.weigh(it))
            breathe()
