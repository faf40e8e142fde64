"""What an owner keeps in memory of one shard. A cache: forgotten at once when the shard is lost, and after any
commit that may have been applied in part; loaded again from Redis, where all of it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..core.run import Run
from ..core.states import IN_FLIGHT, NodeState
from ..store.inboxes import Entry
from ..store.keys import ShardKeys
from ..wire import AttemptId, RunId, chain_of
from .bundling import Parcel

CHECK_MS = 2_000
"""How often leases of attempts in flight are looked at: workers write them, so only Redis knows them."""


def chain_token(state: str) -> str:
    """The token with which an attempt was claimed as the next step of a chain, by its state as the store keeps it; ""
    when it was not.
    """
    parts = state.split("|", 7)
    return chain_of(parts[6]) if parts[0] == "c" else ""


class Flight(NamedTuple):
    """An attempt in flight.

    Attributes:
        run, node, epoch, attempt: which, as its id says.
        queue_class: where it takes a place.
        executor: who was found to do it when it was sent, where its node asks for a capability or tool; else "".
        parcel: what it shares its message with; None when it travels alone.
        chain: the token of the claim with which it was begun as the next step of a chain; "" when it was by a message.
            The same id may be claimed so by somebody whose step before did not count.
    """

    run: str
    node: int
    epoch: int
    attempt: int
    queue_class: str
    executor: str = ""
    parcel: Parcel | None = None
    chain: str = ""


class Held:
    """One owned shard.

    Attributes:
        runs: live runs, by id.
        flying: attempts in flight, by id.
        graced: attempts that are being cancelled and may end by themselves for a while, of those that were begun as the
            next step of a chain -> Flight.chain.
        batches_out: how many batches the store's outbox holds.
        published: how many of them, the oldest, have been sent and go with the next commit.
        read_after: the newest inbox entry that was read.
        arrived: entries that were read and are still to be taken up, oldest first.
        to_load: runs that were submitted and are not in memory yet.  loading: some of them, on their way there.
        to_open: runs that are being opened part by part, each with the node to go on with: wide ones, and those that
            a committed retry has set going, from the next turn on.
        to_follow: (run, node that has ended, first of those downstream of it that are still to be asked).
        to_adopt: runs that may take up the policy that is in force now.
        due_at_ms: when to look for leases and timers that have run out; None when there is nothing to wait for.
        count: commits of the shard so far; each of ours says it, so that one that Redis has lost is missed.
        rewound_at_ms, missing: when the shard last went back in time, and by how many commits; 0 if it never did.
        behind: another scheduler has told of commits that are missing.
    """

    def __init__(self, keys: ShardKeys, epoch: str, count: int = 0) -> None:
        self.keys = keys
        self.epoch = epoch
        self.count = count
        self.rewound_at_ms = self.missing = 0
        self.behind = False
        self.runs: dict[str, Run] = {}
        self.flying: dict[str, Flight] = {}
        self.graced: dict[str, str] = {}
        self.batches_out = 0
        self.published = 0
        self.read_after: bytes = b"0"
        self.arrived: deque[Entry] = deque()
        self.to_load: dict[RunId, None] = {}
        self.loading: Iterator[Run | None] | None = None
        self.to_open: deque[tuple[str, int]] = deque()
        self.to_follow: deque[tuple[str, int, int]] = deque()
        self.to_adopt: deque[str] = deque()
        self.due_at_ms: int | None = None

    @property
    def unfinished(self) -> bool:
        """Whether the last turn left something behind that it had no time for."""
        return bool(self.to_load or self.loading or self.to_open or self.to_follow or self.to_adopt)

    def hear(self, entries: Sequence[Entry]) -> None:
        """These were read of the inbox, behind those that were read before."""
        self.arrived += entries
        self.read_after = entries[-1].id

    def place(self, id_: str) -> tuple[str, str]:
        """(queue class, executor that was found for a capability or tool) of an attempt in flight; "" for neither."""
        flight = self.flying.get(id_)
        return ("", "") if flight is None else (flight.queue_class, flight.executor)

    def chain(self, id_: str) -> str:
        """Flight.chain of an attempt whose report may count; "" where nothing is known of it."""
        flight = self.flying.get(id_)
        return self.graced.get(id_, "") if flight is None else flight.chain

    def look_by(self, at_ms: int) -> None:
        """Look for what has run out no later than at this instant."""
        if self.due_at_ms is None or at_ms < self.due_at_ms:
            self.due_at_ms = at_ms

    def goes_on(self, id_: str, state: str) -> tuple[Run, int] | None:
        """(run, node) of an attempt that a worker has begun as the next step of a chain, and of which no record knows
        yet: the report that was made with it is on its way. For adoption; off the hot path.
        """
        attempt = AttemptId.parse(id_)
        run = self.runs.get(attempt.run) if attempt and chain_token(state) else None
        if attempt is None or run is None or attempt.node >= run.n:
            return None
        node, number = attempt.node, attempt.attempt
        pending = run.state[node] == NodeState.PENDING and number == run.attempt[node] + 1
        ready = run.state[node] == NodeState.READY and number == run.attempt[node]
        return (run, node) if attempt.epoch == run.epoch[node] and (pending or ready) else None

    def current(self, id_: str) -> AttemptId | None:
        """An attempt if it is the one that its node waits for, else None. For adoption; off the hot path."""
        attempt = AttemptId.parse(id_)
        run = self.runs.get(attempt.run) if attempt else None
        if attempt is None or run is None or attempt.node >= run.n or run.state[attempt.node] not in IN_FLIGHT:
            return None
        newest = run.epoch[attempt.node], run.attempt[attempt.node]
        return attempt if (attempt.epoch, attempt.attempt) == newest else None
