"""Ready nodes on their way out: admission, numbered attempts, and what is known of attempts in flight.

`admit` takes what has room and moves it to dispatched, into the batch that is about to be committed. What has been
committed goes to the broker from the outbox (outbox.py).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

from ..core.decide import decide
from ..core.events import Admitted, Reported
from ..core.evolve import evolve
from ..core.run import Profile, Run
from ..core.states import NodeState, RunState
from ..settings import QueueClass, Settings
from ..store.runs import Runs
from ..wire import AttemptId, Report, RunId, placed
from .admission import UNKNOWN, Admission
from .batch import Batch, Sent
from .held import CHECK_MS, Flight, Held
from .outbox import Outbox, Outgoing
from .pacing import part_of_turn
from .policies import Policies
from .publisher import scheduler_app
from .transport import Transport, open_transport

log = logging.getLogger("celeriac.scheduler")

ADMITTED_PER_TURN = 1000
CLAIM_GRACE_MS = 15_000
"""A message that no worker has claimed this long after its class's target wait is looked for in the broker. Workers
renew what they have taken from it, so a message that is neither there nor renewed is lost."""
SWEEP_SECONDS = 60.0
_PAUSED = RunState.PAUSED


class Dispatch:
    """From ready to sent.

    Args:
        settings: classes and broker.
        transport: how messages get to the broker; None opens what the settings name.
        counts: of the scheduler.
    """

    def __init__(self, settings: Settings, transport: Transport | None, counts: Counter[str]) -> None:
        self.admission = Admission(settings.classes, settings.default_class.name)
        self.policies = Policies(self.admission)
        self.landings: Counter[str] = Counter()
        """Queue class -> messages whose attempts have ended, since the start."""
        self.more = False
        """The last turn left ready nodes behind although there was room."""
        self.interactive = frozenset(it.name for it in settings.classes.values() if it.latency == "interactive")
        """Queue classes whose nodes somebody waits for."""
        self._classes = settings.classes
        self._default = settings.default_class
        app = scheduler_app(settings)
        self._transport = transport or open_transport(settings, app)
        self.outbox = Outbox(settings, app, self._transport, self.admission, counts)
        self._counts = counts
        self._passed_by: dict[str, int] = {}
        self._sweep_at = time.monotonic() + SWEEP_SECONDS

    @property
    def unsent(self) -> list[Outgoing]:
        """Committed and not yet taken by the broker."""
        return self.outbox.unsent

    @property
    def pace(self) -> float:
        """Part of the nodes that a turn usually opens and admits, for now."""
        return part_of_turn(self.admission.flying, self.interactive) if self.is_hurried else 1.0

    @property
    def is_hurried(self) -> bool:
        """Whether somebody may be waiting for a single node at any moment."""
        return self.admission.bundling.hurried

    def close(self) -> None:
        """Let go of the broker."""
        self._transport.close()

    def forget(self, held: Held) -> None:
        """A shard is not ours any more."""
        self.admission.forget(held.runs)
        for flight in held.flying.values():
            self._frees(flight)
        held.flying.clear()
        self.outbox.forget(held)

    # -- in flight ----------------------------------------------------------------------------------

    def flies(self, held: Held, id_: str, flight: Flight) -> None:
        """An attempt takes a place in its class's window; those that share a message take one."""
        held.flying[id_] = flight
        parcel = flight.parcel
        if parcel is not None:
            parcel.left += 1
            if parcel.left > 1:
                return
        self.admission.flying[flight.queue_class] = self.admission.flying.get(flight.queue_class, 0) + 1

    def landed(self, held: Held, id_: str) -> None:
        """An attempt gives its place back."""
        flight = held.flying.pop(id_, None)
        if flight is not None and self._frees(flight):
            self.landings[flight.queue_class] += 1
        if self._passed_by:
            self._passed_by.pop(id_, None)

    def took(self, held: Held, run: Run, node: int, report: Report) -> None:
        """How long an attempt has run, for those of its executor that come after it. The run has not moved on yet."""
        if report.ran_us is not None:
            _, found = held.place(report.id)
            self.admission.bundling.took(found or run.way(node).executor, report.ran_us)

    def goes_on(self, held: Held, batch: Batch, run: Run, report: Report, at_ms: int) -> None:
        """The worker of an attempt that has just ended well has begun the next step of its chain. That takes the place
        of the one before; if it is not to be, the step counts for nothing.

        Args:
            at_ms: when, by Redis.
        """
        id_ = report.goes_on
        newest, node = batch.ready[-1] if batch.ready else (None, -1)
        if newest is run and run.attempt_id(held.keys.shard, node) == id_ and self._begun(batch, run, node, at_ms):
            batch.ready.pop()
            before = held.flying.get(report.id)
            name, parcel = (self._default.name, None) if before is None else (before.queue_class, before.parcel)
            epoch, attempt = run.epoch[node], run.attempt[node]
            self.flies(held, id_, Flight(run.id, node, epoch, attempt, name, parcel=parcel, chain=report.chain))
        else:
            self.void(held, batch, id_)

    def adopt_steps(self, held: Held, batch: Batch, attempts: Mapping[str, str]) -> None:
        """What workers have begun as the next step of a chain, where a crash kept the record of that from the store and
        not the record of the end before it. Before attempts in flight are looked for.

        Args:
            attempts: id -> state, as the store has them.
        """
        for id_, state in attempts.items():
            run, node = held.goes_on(id_, state) or (None, -1)
            if run is not None and run.state[node] == NodeState.READY:
                at_ms = run.created_at_ms + run.ready_at[node]
                if self._begun(batch, run, node, at_ms):
                    batch.ready = [it for it in batch.ready if it[0] is not run or it[1] != node]

    def _begun(self, batch: Batch, run: Run, node: int, at_ms: int) -> bool:
        """A ready node is dispatched, for a worker has begun it already; False when it is not to be."""
        decision = decide(run, Admitted([node], begun=True), at_ms)
        if decision.stale:
            return False
        evolve(run, decision, at_ms)
        batch.goes_on(run, node)
        self.outbox.let_go(run, node)
        return True

    def void(self, held: Held, batch: Batch, id_: str) -> None:
        """A worker has begun an attempt that is not wanted of it; it is told so when it next renews its lease."""
        self._counts["begun for nothing"] += 1
        if id_ not in held.flying:
            batch.void.append(id_)

    def _frees(self, flight: Flight) -> bool:
        """An attempt needs its place no more; whether that is free now, for it shares it with none that does."""
        if flight.parcel is not None:
            flight.parcel.left -= 1
            if flight.parcel.left:
                return False
        self.admission.flying[flight.queue_class] -= 1
        return True

    def is_unsafe(self, held: Held, run: Run, node: int, id_: str) -> bool:
        """Whether the executor of a node's current attempt says that what may have begun must not be repeated."""
        return self.admission.is_unsafe(run.way(node), held.place(id_)[1])

    def is_cut_short(self, run: Run, node: int, queue_class: str, executor: str, state: Sequence[str]) -> bool:
        """Whether a claimed attempt ends before its time limit, because its executor may not be silent for so long.

        Args:
            executor: that was found for a capability or tool; "" for none.
            state: its parts, as claim.lua writes them.
        """
        way = run.way(node)
        if way.silence_ms is None or queue_class not in self._classes:
            return False
        limit = self.admission.limit_ms(self.admission.bound(way, executor), self._classes[queue_class])
        return int(state[5]) < int(state[4]) + limit

    def still_queued(self, id_: str, queue_class: str, seen: dict[str, frozenset[str] | None]) -> bool:
        """Whether an unclaimed attempt simply waits in its queue: then it is not lost, however long it takes.

        A broker that tells only that something waits is asked again later, and then the order of the queue tells:
        once more attempts of the class have ended than were on their way when it was first looked for, one that was
        sent after it has ended, so it does not wait there any more.

        Args:
            seen: queue class -> what its queue was found to hold, so that one look serves many attempts.
        """
        if queue_class not in self._classes:
            return False
        if queue_class not in seen:
            try:
                seen[queue_class] = self._transport.waiting(self._classes[queue_class].queue)
            except Exception as broken:  # noqa: BLE001  any broker, any client library
                log.warning("the broker does not answer (%s); unclaimed attempts wait on", type(broken).__name__)
                seen[queue_class] = None
        waiting = seen[queue_class]
        if waiting is not None:
            return id_ in waiting
        passed_by = self.landings[queue_class] + self.admission.flying[queue_class]
        return self.landings[queue_class] <= self._passed_by.setdefault(id_, passed_by)

    def claim_by_ms(self, queue_class: str, unclaimed: int) -> int:
        """How long a message may stay unclaimed before it is looked for.

        Args:
            unclaimed: how often one of its node was lost; it is doubled each time.
        """
        target = self._classes.get(queue_class, self._default).target_wait_seconds
        return (round(target * 1000) + CLAIM_GRACE_MS) << max(0, min(unclaimed, 6))

    # -- admission ----------------------------------------------------------------------------------

    def queue(self, batch: Batch, look: Callable[[], None]) -> bool:
        """Ready nodes into admission; those that have no class yet wait, with a reason in the run's log.

        Args:
            look: reads what workers have published and what is bound, before a tool is taken for unknown.

        Returns whether any must wait so: its contract may have been published since we looked.
        """
        waits, unknown = False, list[tuple[Run, int]]()
        alike: tuple[int, int] | None = None  # run and profile whose nodes all go the way of the one before
        for run, node in batch.ready:
            if alike == (id(run), run.profile[node]) and (lane := self.admission.lane) is not None:
                lane.append(node)
                continue
            if run.run_state is _PAUSED or (batch.reopened and any(it is run for it in batch.reopened)):
                continue  # it is asked for again when the run goes on, or in the next turn
            alike = id(run), run.profile[node]
            why = self.admission.add(run, node)
            if why == UNKNOWN:
                unknown.append((run, node))
            elif why:
                batch.note(run, node, "wait", why)
                waits |= not self.admission.is_blocked(run, node)
        batch.ready.clear()
        if unknown:
            look()
        for run, node in unknown:
            if why := self.admission.add(run, node, sure=True):
                batch.note(run, node, "wait", why)
                waits = True
        return waits

    def refuse(self, held_of: Callable[[str], Held], batch_of: Callable[[Held], Batch]) -> bool:
        """Nodes that are not to be sent fail, as an attempt that never goes out; whether any did.

        Args:
            held_of, batch_of: as for `admit`.
        """
        refused, self.admission.refused = self.admission.refused, []
        found = False
        for run, node, error, counted in refused:
            held = held_of(run.id)
            batch = batch_of(held)
            decision = decide(run, Admitted([node]), batch.now)
            if decision.stale:
                continue
            evolve(run, decision, batch.now)
            batch.take(run, decision)
            epoch, attempt = run.epoch[node], run.attempt[node]
            event = Reported(node, epoch, attempt, "failed", "none", "", None, batch.now, error, None, 0.0)
            decision = decide(run, event, batch.now)
            evolve(run, decision, batch.now)
            batch.heard(run, event)
            batch.take(run, decision)
            self._counts[counted] += 1
            found = True
        return found

    def admit(
        self,
        held_of: Callable[[str], Held],
        batch_of: Callable[[Held], Batch],
        share: float,
        classes: Collection[str] | None = None,
    ) -> list[Outgoing]:
        """Take what has room in its class, number its attempts and note them in their batches.

        Args:
            held_of: run id -> the shard that holds it.
            batch_of: shard -> its batch of this turn.
            share: our part of every window, 0 to 1.
            classes: whose nodes may go; None for all.
        """
        self._look_at_queues(share)
        going: list[Outgoing] = []
        most = round(ADMITTED_PER_TURN * self.pace)
        for name, run, nodes, parcels, steps in self.admission.take(share, most, classes):
            held = held_of(run.id)
            batch = batch_of(held)
            careful = self.admission.may_object(run)
            may = [node for node in nodes if self._may_go(run, node, batch.now)] if careful else nodes
            decision = decide(run, Admitted(may), batch.now)
            if decision.stale:
                continue
            evolve(run, decision, batch.now)
            queue_class, run_id, prefix = self._classes[name], RunId(run.id), f"{held.keys.shard}.{run.id}."
            shared = dict(zip(nodes, parcels, strict=True))
            known: dict[int, tuple[str, str, str]] = {}  # by id: a profile is long to hash, and its run keeps it
            usual_ms = batch.now + self.claim_by_ms(name, 0)
            sent: list[Sent] = []
            for node in may:
                way, epoch, attempt = run.way(node), run.epoch[node], run.attempt[node]
                sending = known.get(id(way))
                if sending is None:
                    sending = known[id(way)] = self._sending(run, way, queue_class, careful=careful)
                executor, state, why = sending
                id_ = f"{prefix}{node}.{epoch}.{attempt}"
                unclaimed = run.excused[node]
                claim_by_ms = batch.now + self.claim_by_ms(name, unclaimed) if unclaimed else usual_ms
                sent.append((node, id_, state, claim_by_ms, why))
                parcel = shared[node]
                self.flies(held, id_, Flight(run_id, node, epoch, attempt, name, executor, parcel))
                going.append(Outgoing(held, run_id, node, id_, parcel, steps.get(node, ()) if steps else ()))
            batch.send(run, sent)
            held.look_by(batch.now + CHECK_MS)
        self.more = len(going) >= most
        return going

    def _sending(self, run: Run, way: Profile, queue_class: QueueClass, *, careful: bool) -> tuple[str, str, str]:
        """How nodes of one profile go out: the executor that was found for a capability or tool, the state of their
        attempts, and the log's words.

        Args:
            careful: something may speak against sending nodes of this run.
        """
        profile = self.admission.bound(way)
        limit = self.admission.limit_ms(profile, queue_class)
        found = "" if profile is way else profile.executor
        place = placed(queue_class.name, found)
        state = f"s|{place}|{queue_class.lease_ms}|{min(limit, profile.silence_ms or limit)}"
        plain = profile is way and not careful
        return found, state, "" if plain else self.admission.told(run, way, profile.executor)

    def _may_go(self, run: Run, node: int, now: int) -> bool:
        """Whether nothing speaks against sending a node for which there is room; else it is refused."""
        objection = self.admission.objection(run, node, now)
        if objection is not None:
            self.admission.refused.append(objection)
        return objection is None

    def _look_at_queues(self, share: float) -> None:
        """Fit the windows of classes that are short of room to what their queues hold."""
        now = time.monotonic()
        for name in self.admission.busy():
            window, ended = self.admission.windows[name], self.landings[name]
            window.turn(ended, now)
            if window.wants_look(now) and not self.unsent:
                try:
                    waiting = self._transport.depth(self._classes[name].queue)
                except Exception:  # noqa: BLE001  any broker, any client library; whoever sends tells of it
                    waiting = None
                window.look(self.admission.flying[name], waiting, ended, share, now)

    def sweep(self, held: Mapping[int, Held], runs: Runs) -> None:
        """Let go of what killed workers took from the broker and nobody waits for; of our shards, now and then."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_SECONDS
        known = cache(runs.known)

        def is_over(id_: str) -> bool:
            attempt = AttemptId.parse(id_)
            mine = held.get(attempt.shard) if attempt is not None else None
            if attempt is None or mine is None or id_ in mine.flying:
                return False
            return attempt.run in mine.runs or known(attempt.run)  # other installations may have this broker too

        try:
            self._counts["unacknowledged"] += self._transport.sweep(is_over)
        except Exception as broken:  # noqa: BLE001  any broker; a user of Redis may not be granted it
            log.info("what killed workers left in the broker stays there: %s: %s", type(broken).__name__, broken)

    def looks_in(self, share: float) -> float | None:
        """Seconds until a queue should be looked at although nothing else happens; None for never."""
        if self.unsent:
            return None
        now, windows = time.monotonic(), self.admission.windows
        found = (windows[name].looks_in(share, now) for name in self.admission.busy())
        return min((it for it in found if it is not None), default=None)
