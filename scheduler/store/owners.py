"""Who writes for which shard: leases with fencing tokens, who is there to share the shards, how many commits each has.

A token is "number.nonce": the number goes up with every take and the nonce is drawn by the taker, so no two owners ever
hold the same token, not even when Redis has lost a take and gives its number out again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis

from .keys import Keys
from .scripts import FENCE, KEEP, RAISE, RELEASE, REWIND, TAKE, TELL

_NONCE_DIGITS = 12


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


class Healed(NamedTuple):
    """A shard that went back in time and goes on: when that was noticed, commits missing at least, how
    many it counts now: far more than before, so that whoever knows of more of the lost ones finds no second loss.
    """

    at_ms: int
    missing: int
    commits: int


class Owners:
    """The table of owners, as a scheduler uses it.

    Args:
        client: of this process.
        namespace: which installation.
        scheduler: our id; never used again after a restart.
        lease_ms: how long a shard stays ours without a renewal.

    Attributes:
        known: shard -> most commits that Redis has acknowledged or shown to us. It outlives every connection: a Redis
            that shows fewer has lost them.
        raised: shards that the last `take` did not get, because the table of owners was behind their own tokens: it has
            lost its numbers. It has them again, and the next `take` gets these shards.
    """

    def __init__(self, client: Redis, namespace: str, scheduler: str, lease_ms: int) -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = Keys(namespace)
        self.scheduler = scheduler
        self.lease_ms = lease_ms
        self.known: dict[int, int] = {}
        self.raised: list[int] = []

    def keep(self, owned: Mapping[int, str]) -> Kept:
        """Renew our membership and our shards (shard -> token). One call."""
        now, lost, schedulers, table = KEEP(
            self.client, [self.keys.owners, self.keys.schedulers], [self.scheduler, self.lease_ms, *_pairs(owned)]
        )
        return Kept(int(now), frozenset(map(int, lost)), int(schedulers), _read(table))

    def take(self, shards: Iterable[int]) -> dict[int, str]:
        """Try to own shards; returns shard -> new token of those we got, fenced against the owner before."""
        self.raised = []
        wanted = list(shards)
        if not wanted:
            return {}
        numbers = TAKE(self.client, [self.keys.owners], [self.scheduler, self.lease_ms, *wanted])
        tokens = {
            shard: f"{int(number)}.{secrets.randbelow(10**_NONCE_DIGITS):0{_NONCE_DIGITS}d}"
            for shard, number in zip(wanted, numbers, strict=True)
            if number
        }
        answers = FENCE.many(self.client, [([self.keys.shard(it).epoch], [token]) for it, token in tokens.items()])
        got = {}
        for (shard, token), answer in zip(tokens.items(), answers, strict=True):
            if answer == b"fenced":
                got[shard] = token
            elif self._raise(shard, int(token.partition(".")[0])):
                self.raised.append(shard)
        return got

    def _raise(self, shard: int, number: int) -> bool:
        """A shard obeys a higher number than the one we got: has the table lost its numbers, or are we late?

        Late, when another has the shard by now; then its row is left as it is.
        """
        found = (self.client.get(self.keys.shard(shard).epoch) or b"0").partition(b".")[0]
        return bool(RAISE(self.client, [self.keys.owners], [self.scheduler, shard, number, found]))

    def release(self, owned: Mapping[int, str], *, leaving: bool) -> None:
        """Give shards back (shard -> token), and our membership too when leaving."""
        word = "leave" if leaving else "stay"
        RELEASE(self.client, [self.keys.owners, self.keys.schedulers], [self.scheduler, word, *_pairs(owned)])

    def wake(self) -> None:
        """Let every other owner look at the table now: an entry in an inbox of each, for that is what they block on."""
        inboxes = {it.scheduler: it.shard for it in self.table().values() if it.scheduler not in ("", self.scheduler)}
        for shard in inboxes.values():
            self.client.execute_command("XADD", self.keys.shard(shard).inbox, "*", "look", self.scheduler)

    def table(self) -> dict[int, Owner]:
        """The whole table, for people: shard -> owner."""
        found: dict[bytes, bytes] = self.client.hgetall(self.keys.owners)
        return _read([part for pair in found.items() for part in pair])

    # -- has Redis lost commits? --------------------------------------------------------------------

    def behind(self, shards: int) -> list[int]:
        """Shards that have fewer commits than we know of; what we know of the others is brought up to date.

        One command, for all shards of the installation.
        """
        found = self.client.mget([self.keys.shard(shard).commits for shard in range(shards)])
        behind = []
        for shard, raw in enumerate(found):
            count = int(raw or 0)
            if count < self.known.get(shard, 0):
                behind.append(shard)
            elif count:
                self.known[shard] = count
        return behind

    def tell(self, shard: int) -> None:
        """Let the owner of a shard, or whoever takes it next, know that commits of it are missing."""
        keys = self.keys.shard(shard)
        TELL(self.client, [keys.rewound, keys.inbox], [self.known[shard]])
        del self.known[shard]

    def heal(self, shard: int, token: str, known: int) -> Healed | None:
        """Make known that a shard of ours lacks commits; None when it does not, or is ours no more."""
        keys = self.keys.shard(shard)
        answer = REWIND(self.client, [keys.epoch, keys.commits, keys.rewound], [token, known])
        return Healed(*map(int, answer[1:])) if answer[0] == b"healed" else None


def _pairs(owned: Mapping[int, str]) -> list[int | str]:
    """Shard, number, ...: the table knows no nonces, for its rows name their scheduler."""
    return [part for shard, token in owned.items() for part in (shard, token.partition(".")[0])]


def _read(flat: list[bytes]) -> dict[int, Owner]:
    owners = {}
    for shard, line in zip(flat[::2], flat[1::2], strict=True):
        epoch, lease_end, scheduler = line.decode().split("|", 2)
        owners[int(shard)] = Owner(int(shard), int(epoch), int(lease_end), scheduler)
    return owners
