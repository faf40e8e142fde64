"""Who writes for which shard: leases with epochs, and who is there to share the shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from .keys import Keys
from .scripts import FENCE, KEEP, RELEASE, TAKE


@dataclass(frozen=True, slots=True)
class Owner:
    """One row of the table of owners. `lease_end_ms` is 0 when the shard was given back."""

    shard: int
    epoch: int
    lease_end_ms: int
    scheduler: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What a renewal found: Redis's time, shards that are ours no more, live schedulers, the whole table."""

    now_ms: int
    lost: frozenset[int]
    schedulers: int
    owners: dict[int, Owner]


class Owners:
    """The table of owners, as a scheduler uses it.

    Args:
        client: of this process.
        namespace: which installation.
        scheduler: our id; never used again after a restart.
        lease_ms: how long a shard stays ours without a renewal.
    """

    def __init__(self, client: Redis, namespace: str, scheduler: str, lease_ms: int) -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = Keys(namespace)
        self.scheduler = scheduler
        self.lease_ms = lease_ms

    def keep(self, owned: Mapping[int, int]) -> Kept:
        """Renew our membership and our shards (shard -> epoch). One call."""
        pairs = [part for pair in owned.items() for part in pair]
        now, lost, schedulers, table = KEEP(
            self.client, [self.keys.owners, self.keys.schedulers], [self.scheduler, self.lease_ms, *pairs]
        )
        return Kept(int(now), frozenset(map(int, lost)), int(schedulers), _read(table))

    def take(self, shards: Iterable[int]) -> dict[int, int]:
        """Try to own shards; returns shard -> new epoch of those we got, fenced against the owner before."""
        wanted = list(shards)
        if not wanted:
            return {}
        epochs = TAKE(self.client, [self.keys.owners], [self.scheduler, self.lease_ms, *wanted])
        got = {shard: int(epoch) for shard, epoch in zip(wanted, epochs, strict=True) if epoch}
        for shard, epoch in list(got.items()):
            if FENCE(self.client, [self.keys.shard(shard).epoch], [epoch]) != b"fenced":
                del got[shard]
        return got

    def release(self, owned: Mapping[int, int], *, leaving: bool) -> None:
        """Give shards back (shard -> epoch), and our membership too when leaving."""
        pairs = [part for pair in owned.items() for part in pair]
        word = "leave" if leaving else "stay"
        RELEASE(self.client, [self.keys.owners, self.keys.schedulers], [self.scheduler, word, *pairs])

    def wake(self) -> None:
        """Let every other owner look at the table now: an entry in an inbox of each, for that is what they block on."""
        inboxes = {it.scheduler: it.shard for it in self.table().values() if it.scheduler not in ("", self.scheduler)}
        for shard in inboxes.values():
            self.client.execute_command("XADD", self.keys.shard(shard).inbox, "*", "look", self.scheduler)

    def table(self) -> dict[int, Owner]:
        """The whole table, for people: shard -> owner."""
        found: dict[bytes, bytes] = self.client.hgetall(self.keys.owners)
        return _read([part for pair in found.items() for part in pair])


def _read(flat: list[bytes]) -> dict[int, Owner]:
    owners = {}
    for shard, line in zip(flat[::2], flat[1::2], strict=True):
        epoch, lease_end, scheduler = line.decode().split("|", 2)
        owners[int(shard)] = Owner(int(shard), int(epoch), int(lease_end), scheduler)
    return owners
