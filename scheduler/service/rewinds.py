"""A shard that went back in time: Redis lost commits that it had acknowledged. Noticed, said aloud, and gone on from.

A failover to a replica that lagged, a restored backup, a restart without the append-only file: the store then shows
fewer commits of a shard than a scheduler knows of. Every scheduler remembers how many each shard had, across all its
connections; the owner says the number in each commit, and all compare at every look. What is left is consistent,
for Redis loses the end of its history and nothing else, so the runs go on from there. Two things are not
as before: attempts of the lost commits may be running, so no number that they may have is given out again; and runs
submitted in those commits are gone, which their clients are told (RunLost).
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

from ..core.events import Reported
from ..core.run import Run
from ..core.states import IN_FLIGHT
from ..settings import Settings, redacted
from ..store.inboxes import Shard
from ..store.owners import Owners
from ..store.runs import Runs, connect_runs
from ..wire import error_record
from .batch import Batch
from .held import Held

log = logging.getLogger("celeriac.scheduler")

KEYED_AGAIN_MS = 24 * 3600 * 1000
"""How long after a rewind a run that is submitted under its old key counts as one that may have attempts running."""
_REWOUND = "Redis lost commits that it had acknowledged, and with them whether a worker began this attempt"
_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))


class Rewinds:
    """What a scheduler does about lost commits.

    Args:
        owners: remembers how many commits each shard had.
        counts: of the scheduler; rewound and emptied are counted here.

    Attributes:
        behind: shards of ours that lack commits and are to be loaded again.
    """

    def __init__(self, owners: Owners, counts: Counter[str]) -> None:
        self.behind: set[int] = set()
        self._owners = owners
        self._counts = counts

    def connect(self, client: Any, settings: Settings, before: Runs | None) -> Runs:
        """The runs of this store. One that was there before and is empty now is said aloud, and used as it is."""
        if before is None:
            return connect_runs(client, settings.namespace, settings.shards)
        if client.exists(before.keys.meta):
            return before
        self._counts["emptied"] += 1
        log.error(
            "%s came back empty: every run that it had acknowledged is gone. Is its data directory the right one, and "
            "appendonly on? `celeriac doctor` looks",
            redacted(settings.redis_url or ""),
        )
        return connect_runs(client, settings.namespace, before.shards)

    def look(self, shards: int, owned: Container[int]) -> None:
        """Has Redis lost what it had acknowledged? Connections may have come through that unbroken. One command.

        Shards that we own are loaded again; of the others their owner, or whoever takes them next, is told.
        """
        for shard in self._owners.behind(shards):
            if shard in owned:
                self.behind.add(shard)
            else:
                self._owners.tell(shard)

    def again(self, owned: Mapping[int, str]) -> list[int]:
        """Shards of ours to be loaded again now."""
        behind, self.behind = self.behind, set()
        return sorted(behind & owned.keys())

    def heal(self, held: Held, found: Shard) -> None:
        """A shard that has just been loaded: were there more commits? Then it is said aloud, and counted on from there.

        Args:
            held: the shard; gets its count, and when it last went back.
            found: what stands in the store.
        """
        shard = held.keys.shard
        held.rewound_at_ms, held.missing = found.rewound_at_ms, found.missing
        known = max(self._owners.known.get(shard, 0), found.known)
        healed = self._owners.heal(shard, held.epoch, known) if held.count < known else None
        if healed is not None:
            held.count, held.rewound_at_ms, held.missing = healed.commits, healed.at_ms, healed.missing
            self._counts["rewound"] += 1
            log.error(
                "shard %d went back in time: Redis has lost %d or more commits that it had acknowledged. %d runs go on "
                "from where it stands; runs submitted in those commits are gone",
                shard,
                healed.missing,
                len(found.live),
            )
        self._owners.known[shard] = max(held.count, known)


def renumber(held: Held, batch: Batch, run: Run) -> bool:
    """Whether the shard went back in time since this run was numbered; then its new attempts get higher numbers.

    An attempt number is a fencing token, and attempts of the commits that Redis has lost may be running. So none of
    their numbers is given out again, nor to a run that is submitted anew under the id that its key gives it.
    """
    until = held.rewound_at_ms + (KEYED_AGAIN_MS if run.keyed else 0)
    if run.renumbered_at_ms >= held.rewound_at_ms or run.created_at_ms > until:
        return False
    run.raise_floor(held.rewound_at_ms)
    why = f"the store went back in time, {held.missing} or more commits of shard {held.keys.shard} are missing"
    batch.renumber(run, f"{why}; new attempts are numbered from {run.floor + 1} on")
    return True


def unclaimed(held: Held, run: Run, flying: Mapping[str, str], now: int) -> Iterator[tuple[str, Reported]]:
    """Attempts that were sent and not claimed when the lost commits began, each with its loss: each is sent anew.

    In those commits a worker may have claimed and finished them; their messages may be back in the broker.

    Args:
        flying: attempt id -> state, as the store has it.
    """
    for node, state in enumerate(run.state):
        id_ = run.attempt_id(held.keys.shard, node) if state in _IN_FLIGHT else ""
        if flying.get(id_, "")[:1] == "s":
            error = error_record("lost", "StoreRewound", _REWOUND, phase="dispatch")
            number, epoch = run.attempt[node], run.epoch[node]
            yield id_, Reported(node, epoch, number, "lost", "none", "", None, now, error, None, random.random())
