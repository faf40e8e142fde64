"""Ended runs leave Redis: archived beside the loop, removed by it.

The archivist (archivist.py) reads, writes and checks; here its finished runs are removed, a few in each turn, by the
fenced script. It is the loop that does this, because the loop also opens runs again: what a turn has in memory is not
removed, and what was removed is not found by a retry. Killed between the two, a run lies in the archive and in Redis;
the next owner archives it again, over the same file, and removes it then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..archive import NOWHERE, open_archive
from ..settings import Settings
from ..store.ended import Removal, forget
from ..store.keys import Keys
from ..wire import RunId
from .archivist import Archivist
from .held import Held

REMOVED_PER_TURN = 20
WORKING_MS = 100
"""How long the loop blocks at most while runs are being archived, so that it removes them soon."""


class Retention:
    """The retention of one scheduler.

    Args:
        settings: redis_url must be set.
        counts: of the scheduler: archived, removed, archive failures.

    Raises:
        SettingsError: the archive's URL needs what is not installed.
    """

    def __init__(self, settings: Settings, counts: Counter[str]) -> None:
        self._keys = Keys(settings.namespace)
        self._key_seconds = round(settings.key_retention_seconds)
        self._counts = counts
        self._archivist = Archivist(settings, counts, open_archive(settings.archive), settings.archive == NOWHERE)

    def start(self) -> None:
        """Begin, with no shard."""
        self._archivist.start()

    def stop(self) -> None:
        """End soon, whatever the archive is doing."""
        self._archivist.stop()

    def reset(self) -> None:
        """Nothing is ours: what was handed over is archived again by whoever owns it next."""
        self._archivist.reset()

    def own(self, held: Mapping[int, Held]) -> None:
        """These are our shards now."""
        self._archivist.owned = {shard: it.epoch for shard, it in held.items()}
        self._archivist.wake()

    def leftovers(self, shard: int) -> None:
        """A removal was cut off in this shard; the rest of it is to be swept."""
        self._archivist.leftovers(shard)

    def ended(self, shard: int) -> None:
        """A run of this shard has ended."""
        self._archivist.stir(shard)

    def want(self, run: RunId) -> None:
        """Somebody wants this run archived now."""
        self._archivist.wanted.append(run)
        self._archivist.wake()

    def block_ms(self, wait_ms: int) -> int:
        """How long the loop may block instead of `wait_ms`."""
        if self._archivist.ready:
            return min(wait_ms, 1)
        return min(wait_ms, WORKING_MS) if self._archivist.working else wait_ms

    def remove(self, client: Any, held: Mapping[int, Held]) -> set[int]:
        """Remove some runs that are archived; one round trip, none when there are none.

        Args:
            client: of the loop.
            held: our shards; a run that is live in memory stays, for a retry is under way.

        Returns:
            Shards that turned out to be another scheduler's.
        """
        ready = self._archivist.ready
        removals: list[Removal] = []
        while ready and len(removals) < REMOVED_PER_TURN:
            it = ready.popleft()
            mine = held.get(it.it.shard)
            if mine is None or mine.epoch != it.epoch or it.it.run in mine.runs:
                self._archivist.over(it)
            else:
                removals.append(it)
        if not removals:
            return set()
        fenced = set()
        answers = forget(client, self._keys, removals, self._key_seconds)
        for one, answer in zip(removals, answers, strict=True):
            self._archivist.over(one, removed=answer == "forgotten")
            if answer == "fenced":
                fenced.add(one.it.shard)
            elif answer == "forgotten":
                self._counts["removed"] += 1
                if not one.it.whole:
                    self._archivist.leftovers(one.it.shard)
        return fenced
