"""The shards of this scheduler in memory: gained and loaded, committed, lost and forgotten.

What stands here is a cache (held.py). A shard that is not ours any more is dropped with all that is known of it; one
that lacks commits is dropped too, and loaded again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..core.run import FOLLOWED_AT_ONCE
from ..settings import Settings
from ..store.commits import Commit, send_commits
from ..store.inboxes import Inboxes
from ..store.owners import Owners
from ..store.runs import Runs
from ..wire import RunId, read_place
from .batch import Batch
from .clock import Clock
from .dispatch import Dispatch
from .held import Flight, Held, chain_token
from .loading import Loading
from .outbox import Laid
from .retention import Retention
from .rewinds import Rewinds
from .shards import RENEWALS_PER_LEASE, Shards

log = logging.getLogger("celeriac.scheduler")

Settle = Callable[[dict[int, Batch], int], None]
"""Takes batches by shard and Redis's time: admits, commits and publishes."""


class Owned:
    """Which shards are ours and what stands in them.

    Args:
        name: of this scheduler.
        client: for everything but blocking reads.
        counts: of the scheduler.
        clock: told whenever Redis tells the time.

    Attributes:
        held: shard -> what is in memory of it.
        to_load: shards that are ours and not in memory yet.
        look_at: of this process's clock, seconds: when to look at the table of owners again.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        client: Any,
        dispatch: Dispatch,
        retention: Retention,
        counts: Counter[str],
        clock: Clock,
    ) -> None:
        self.held: dict[int, Held] = {}
        self.to_load: dict[int, None] = {}
        self.look_at = self._renewed_at = 0.0
        self.owners = Owners(client, settings.namespace, name, round(settings.shard_lease_seconds * 1000))
        self.shards = Shards(self.owners, 0)
        self._settings = settings
        self._client = client
        self._dispatch = dispatch
        self._retention = retention
        self._clock = clock
        self._counts = counts
        self._rewinds = Rewinds(self.owners, self._counts)
        self._runs: Runs | None = None

    @property
    def runs(self) -> Runs:
        """The runs of the store.

        Raises:
            ConnectionError: it has not answered yet.
        """
        if self._runs is None:
            raise ConnectionError("the store has not answered yet")
        return self._runs

    @property
    def share(self) -> float:
        """How much of all shards is in memory here."""
        return len(self.held) / self.runs.shards

    # -- all of them --------------------------------------------------------------------------------

    def forget(self) -> None:
        """Memory is a cache."""
        for shard in list(self.held):
            self._drop(shard)
        self._retention.reset()
        self.to_load.clear()

    def begin(self) -> Runs:
        """With a new connection and nothing in memory: give back what was ours, for whoever takes it first."""
        self._runs = self._rewinds.connect(self._client, self._settings, self._runs)
        self._rewinds.look(self._runs.shards, ())  # before another can take what is ours
        self.owners.release(self.shards.owned, leaving=False)
        self.shards = Shards(self.owners, self._runs.shards)
        self.look_at = 0.0
        return self._runs

    def look(self) -> None:
        """Renew our shards; those gained are to be loaded, those lost forgotten, and anew those that lack commits."""
        self._runs = self._rewinds.connect(self._client, self._settings, self.runs)
        self._rewinds.look(self._runs.shards, self.shards.owned)
        change = self.shards.look()
        self._renewed_at = time.monotonic()
        self.look_at = time.monotonic() + self.shards.next_look_ms / 1000
        for shard in change.lost:
            self._drop(shard)
        self.to_load |= dict.fromkeys(change.gained)
        for shard in self._rewinds.again(self.shards.owned):
            self._drop(shard)
            self.to_load[shard] = None
        if change.raised:
            log.error(
                "the table of owners lacked the numbers of %d shards, among them %s, which their own tokens still "
                "have; it has them again. Was %s deleted or restored alone?",
                len(change.raised),
                change.raised[0],
                self.owners.keys.owners,
            )
        if change.gained or change.lost:
            self._retention.own(self.held)
            owned = len(self.shards.owned)
            log.info("own %d of %d shards; schedulers live: %d", owned, self.shards.count, self.shards.live)

    def look_again(self) -> None:
        """Look at the table before anything else is done."""
        self.look_at = 0.0

    def heed_the_told(self) -> None:
        """Other schedulers may have told of commits that shards of ours lack."""
        told = {shard for shard, held in self.held.items() if held.behind}
        if told:
            self._rewinds.behind |= told
            self.look_again()

    # -- one of them --------------------------------------------------------------------------------

    def load_some(self, inboxes: Inboxes, loading: Loading, settle: Settle, seconds: float) -> None:
        """Load shards that are ours and not in memory yet, for so long; one in any case."""
        until = time.monotonic() + seconds
        while self.to_load:
            shard = next(iter(self.to_load))
            del self.to_load[shard]
            if shard in self.shards.owned and shard not in self.held:
                self._load(shard, self.shards.owned[shard], inboxes, loading, settle)
                self._renew_in_time()
                self._retention.own(self.held)
                if time.monotonic() >= until:
                    return

    def _renew_in_time(self) -> None:
        """Over a slow network loading one shard takes longer than from one renewal to the next."""
        if time.monotonic() - self._renewed_at > self._settings.shard_lease_seconds / RENEWALS_PER_LEASE:
            for shard in self.shards.renew():
                self._drop(shard)
            self._renewed_at = time.monotonic()

    def _load(self, shard: int, token: str, inboxes: Inboxes, loading: Loading, settle: Settle) -> None:
        """Load a shard: live runs, attempts in flight, and what may not have been published."""
        keys = self.runs.keys.shard(shard)
        found = inboxes.adopt(keys)
        now = self.runs.now_ms()
        self._clock.hear(now)
        held = self.held[shard] = Held(keys, token, found.commits)
        held.rewound_at_ms, held.missing = found.rewound_at_ms, found.missing
        self._rewinds.heal(held, found)
        held.look_by(now)
        batch = Batch(keys, token, now)
        if found.gone:
            self._retention.leftovers(shard)
        loading.load(held, batch, [RunId(run) for run in found.live], found.attempts)
        self._dispatch.adopt_steps(held, batch, found.attempts)
        broken_off = loading.broken_off(held, found, now)
        if broken_off:
            if send_commits(self._client, [broken_off]):
                self._refused(shard, rewound=broken_off.rewound)
                return
            self._committed(held, broken_off)
        for id_, state in found.attempts.items():
            if (attempt := held.current(id_)) is not None:
                queue_class, executor = read_place(state.split("|", 2)[1])
                flight = Flight(*attempt[1:], queue_class, executor, chain=chain_token(state))
                self._dispatch.flies(held, id_, flight)
        self._dispatch.outbox.republish(held, found.attempts, found.outbox)
        settle({shard: batch}, now)

    def _drop(self, shard: int) -> None:
        held = self.held.pop(shard, None)
        if held is not None:
            self._dispatch.forget(held)

    # -- commits ------------------------------------------------------------------------------------

    def commit(self, batches: Mapping[int, Batch], laid: Laid | None = None) -> bool:
        """One script call per shard. A shard that is not ours any more is forgotten.

        Args:
            laid: messages of all that goes out, of one shard.

        Returns:
            Whether these messages have gone with the commit of their shard.
        """
        commits = [
            (held, batch, commit)
            for held, batch in ((self.held[shard], batch) for shard, batch in batches.items())
            if (commit := batch.commit(held.published, held.count, _queues(laid, held)))
        ]
        pushed = False
        if not commits:
            return False
        refused = send_commits(self._client, [commit for _, _, commit in commits])
        for held, batch, commit in commits:
            if held.keys.shard in refused:
                self._refused(held.keys.shard, rewound=commit.rewound)
                continue
            self._committed(held, commit)
            pushed |= commit.pushed
            held.batches_out += (0 if commit.pushed else batch.outbox_batches) - held.published
            held.published = 0
            for due_at_ms in batch.timers.values():
                held.look_by(due_at_ms)
            held.to_follow += ((run_id, node, FOLLOWED_AT_ONCE) for run_id, node in batch.rest)
            for run in batch.ended:
                held.runs.pop(run.id, None)
                self._counts[f"runs {run.run_state}"] += 1
            if batch.ended:
                ended = {run.id for run in batch.ended}
                held.graced = {id_: it for id_, it in held.graced.items() if id_.split(".")[1] not in ended}
                self._retention.ended(held.keys.shard)
            self._dispatch.admission.forget(run.id for run in batch.ended)
        return pushed

    def fenced(self, shards: Collection[int]) -> None:
        """Something else than a commit of ours was refused: these shards are another's now."""
        for shard in shards:
            self._refused(shard, rewound=False)

    def _committed(self, held: Held, commit: Commit) -> None:
        """Count commits as Redis does: it counts each call."""
        held.count += commit.cuts
        self.owners.known[held.keys.shard] = held.count

    def _refused(self, shard: int, *, rewound: bool) -> None:
        """A shard that is not ours any more is forgotten; one that lacks commits is loaded again at the next look."""
        self._drop(shard)
        self.look_again()
        if rewound:
            self._rewinds.behind.add(shard)
        else:
            self._counts["fenced"] += 1
            log.warning("shard %d belongs to another scheduler now; a commit was refused", shard)
            self.shards.owned.pop(shard, None)
            self._retention.own(self.held)


def _queues(laid: Laid | None, held: Held) -> Mapping[str, Sequence[bytes]]:
    """The messages that are to go with the commit of this shard, by queue."""
    return laid.queues if laid is not None and laid.held is held else {}
