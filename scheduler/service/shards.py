"""Which shards are mine? Leases with epochs, shared out evenly among the schedulers that live.

A scheduler wants its even share. It takes free shards up to that, gives some back when another
scheduler has come, and takes over a dead one's shards at the instant their lease ends. Its own
clock only decides when to look; leases are judged by Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..store.owners import Kept, Owners

RENEWALS_PER_LEASE = 3
_LATE_MS = 20


@dataclass(slots=True)
class Change:
    """What a look at the table of owners changed: shards gained (shard -> token) and shards lost.

    Attributes:
        raised: shards whose number the table had lost; the next look, which is soon, can take them.
    """

    gained: dict[int, str] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    raised: list[int] = field(default_factory=list)


class Shards:
    """The shards of this scheduler.

    Attributes:
        owned: shard -> token.
        live: how many schedulers live, this one included.
        next_look_ms: how long until `look` should be called again.
    """

    def __init__(self, owners: Owners, shards: int) -> None:
        self.owners = owners
        self.count = shards
        self.owned: dict[int, str] = {}
        self.live = 1
        self.next_look_ms = 0

    def look(self) -> Change:
        """Renew, find what was lost, take or give back. One call to Redis when nothing changes."""
        kept = self.owners.keep(self.owned)
        change = Change(lost=set(kept.lost))
        for shard in kept.lost:
            del self.owned[shard]
        self.live = max(kept.schedulers, 1)
        share = -(-self.count // self.live)
        surplus = sorted(self.owned)[share:]
        if surplus:
            given = {shard: self.owned.pop(shard) for shard in surplus}
            self.owners.release(given, leaving=False)
            change.lost |= given.keys()
        free = [
            shard
            for shard in range(self.count)
            if shard not in self.owned
            and shard not in change.lost
            and (shard not in kept.owners or kept.owners[shard].lease_end_ms <= kept.now_ms)
        ]
        change.gained = self.owners.take(free[: share - len(self.owned)])
        self.owned |= change.gained
        change.raised = self.owners.raised
        self.next_look_ms = _LATE_MS if change.raised else self._next_look(kept)
        return change

    def renew(self) -> set[int]:
        """Renew only, while shards are loaded; returns those that were lost."""
        lost = set(self.owners.keep(self.owned).lost)
        for shard in lost:
            del self.owned[shard]
        return lost

    def _next_look(self, kept: Kept) -> int:
        """Our own renewal, or the first instant at which somebody else's lease may have ended."""
        renewal = self.owners.lease_ms // RENEWALS_PER_LEASE
        ends = [
            it.lease_end_ms - kept.now_ms + _LATE_MS
            for shard, it in kept.owners.items()
            if shard not in self.owned and it.lease_end_ms > kept.now_ms
        ]
        return max(_LATE_MS, min(renewal, *ends)) if ends else renewal

    def leave(self) -> None:
        """Give everything back at once: a clean exit. The others are told, so that they take it at once."""
        owned, self.owned = self.owned, {}
        self.owners.release(owned, leaving=True)
        if owned:
            self.owners.wake()
