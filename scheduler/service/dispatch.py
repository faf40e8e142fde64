"""Ready nodes out to the broker: admission, numbered attempts, messages.

`admit` takes what has room and moves it to dispatched, into the batch that is about to be committed;
`publish` sends what has been committed. What the broker does not take stays in the outbox and is sent again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..core.decide import decide
from ..core.events import Admitted, Reported
from ..core.evolve import evolve
from ..core.run import Profile, Run, references
from ..core.states import IN_FLIGHT
from ..errors import ExecutorNotAllowed, shown
from ..settings import Settings
from ..store.attempts import Attempts
from ..store.runs import Runs
from ..wire import Report, RunId, error_record
from .admission import Admission
from .announcer import Announcer
from .batch import Batch
from .held import CHECK_MS, Held
from .inputs import resolve
from .pauses import Pauses
from .publisher import Letter, Template, Templates, scheduler_app
from .transport import Transport, open_transport

log = logging.getLogger("celeriac.scheduler")

ADMITTED_PER_TURN = 1000
MOST_INPUT_CHARACTERS = 16 * 1_048_576
"""Of one message's inputs; the broker holds them twice while a worker runs the attempt."""
CLAIM_GRACE_MS = 15_000
"""A message that no worker has claimed this long after its class's target wait is looked for in the broker. Workers
renew what they have taken from it, so a message that is neither there nor renewed is lost."""
LIMIT_GRACE_MS = 5_000
"""A lease outlives a time limit that Celery was told by this, so that a pool that enforces it reports first."""
BROKER_PAUSE_SECONDS = (0.1, 2.0)
"""First and longest wait before a broker that took nothing is tried again; the loop does not stand still meanwhile."""

_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_NO_OUTPUT = ord("n")


class Outgoing(NamedTuple):
    """An attempt on its way out."""

    held: Held
    run: RunId
    node: int
    id: str


class Dispatch:
    """From ready to sent.

    Args:
        settings: classes and broker.
        transport: how messages get to the broker; None opens what the settings name.
        counts: of the scheduler.
    """

    def __init__(self, settings: Settings, transport: Transport | None, counts: Counter[str]) -> None:
        self.admission = Admission(settings.classes, settings.default_class.name)
        self.landings: Counter[str] = Counter()
        """Queue class -> attempts that have ended since the start."""
        self.more = False
        """The last turn left ready nodes behind although there was room."""
        self.unsent: list[Outgoing] = []
        """Committed and not yet taken by the broker."""
        self._too_large: list[Report] = []
        self._refused = 0.0
        """The pause before the next try, while the broker takes nothing."""
        self._classes = settings.classes
        self._default = settings.default_class
        app = scheduler_app(settings)
        self._templates = Templates(app)
        self._transport = transport or open_transport(settings, app)
        self._announcer = Announcer(self._transport)
        self._counts = counts
        self._pauses = Pauses(*BROKER_PAUSE_SECONDS)
        self._send_at = 0.0
        self._passed_by: dict[str, int] = {}

    def close(self) -> None:
        """Let go of the broker."""
        self._transport.close()

    def forget(self, held: Held) -> None:
        """A shard is not ours any more."""
        self.admission.forget(held.runs)
        for queue_class in held.flying.values():
            self.admission.flying[queue_class] -= 1
        held.flying.clear()
        self.unsent = [it for it in self.unsent if it.held is not held]

    # -- in flight ----------------------------------------------------------------------------------

    def flies(self, held: Held, id_: str, queue_class: str) -> None:
        """An attempt takes a place in its class's window."""
        held.flying[id_] = queue_class
        self.admission.flying[queue_class] = self.admission.flying.get(queue_class, 0) + 1

    def landed(self, held: Held, id_: str) -> None:
        """An attempt gives its place back."""
        queue_class = held.flying.pop(id_, None)
        if queue_class is not None:
            self.admission.flying[queue_class] -= 1
            self.landings[queue_class] += 1
        if self._passed_by:
            self._passed_by.pop(id_, None)

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

    def claim_by_ms(self, queue_class: str, run: Run, node: int) -> int:
        """How long a message may stay unclaimed before it is looked for; doubled each time that one was lost."""
        unclaimed = run.excused[node]
        target = self._classes.get(queue_class, self._default).target_wait_seconds
        return (round(target * 1000) + CLAIM_GRACE_MS) << max(0, min(unclaimed, 6))

    # -- admission ----------------------------------------------------------------------------------

    def queue(self, batch: Batch) -> bool:
        """Ready nodes into admission; those that have no class yet wait, with a reason in the run's log.

        Returns whether any must wait so: its contract may have been published since we looked.
        """
        waits = False
        for run, node in batch.ready:
            why = self.admission.add(run, node)
            if why:
                batch.note(run, node, "wait", why)
                waits = True
        batch.ready.clear()
        return waits

    def refuse(self, held_of: Callable[[str], Held], batch_of: Callable[[Held], Batch]) -> bool:
        """Nodes whose executor may not run in their class fail, as an attempt that never goes out; whether any did.

        Args:
            held_of, batch_of: as for `admit`.
        """
        refused, self.admission.refused = self.admission.refused, []
        found = False
        for run, node, name in refused:
            held = held_of(run.id)
            batch = batch_of(held)
            decision = decide(run, Admitted([node]), batch.now)
            if decision.stale:
                continue
            evolve(run, decision, batch.now)
            batch.take(run, decision)
            executor = run.profiles[run.profile[node]].executor
            told = ExecutorNotAllowed(executor, name, self._classes[name].executors, at=f"node {shown(run.keys[node])}")
            error = error_record("permanent", "ExecutorNotAllowed", str(told), origin="policy")
            epoch, attempt = run.epoch[node], run.attempt[node]
            event = Reported(node, epoch, attempt, "failed", "none", "", None, batch.now, error, None, 0.0)
            decision = decide(run, event, batch.now)
            evolve(run, decision, batch.now)
            batch.take(run, decision)
            self._counts["not allowed"] += 1
            found = True
        return found

    def admit(self, held_of: Callable[[str], Held], batch_of: Callable[[Held], Batch], share: float) -> list[Outgoing]:
        """Take what has room in its class, number its attempts and note them in their batches.

        Args:
            held_of: run id -> the shard that holds it.
            batch_of: shard -> its batch of this turn.
            share: our part of every window, 0 to 1.
        """
        self._look_at_queues(share)
        going: list[Outgoing] = []
        for name, run, nodes in self.admission.take(share, ADMITTED_PER_TURN):
            held = held_of(run.id)
            batch = batch_of(held)
            decision = decide(run, Admitted(nodes), batch.now)
            if decision.stale:
                continue
            evolve(run, decision, batch.now)
            queue_class, run_id, shard = self._classes[name], RunId(run.id), held.keys.shard
            for node in nodes:
                id_ = run.attempt_id(shard, node)
                told = self._told_timeout_ms(run.profiles[run.profile[node]])
                limit = queue_class.timeout_ms if told is None else told + LIMIT_GRACE_MS
                state = f"s|{name}|{queue_class.lease_ms}|{limit}"
                batch.send(run, node, id_, state, batch.now + self.claim_by_ms(name, run, node))
                self.flies(held, id_, name)
                going.append(Outgoing(held, run_id, node, id_))
            held.look_by(batch.now + CHECK_MS)
        self.more = len(going) >= ADMITTED_PER_TURN
        return going

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

    def looks_in(self, share: float) -> float | None:
        """Seconds until a queue should be looked at although nothing else happens; None for never."""
        if self.unsent:
            return None
        now, windows = time.monotonic(), self.admission.windows
        found = (windows[name].looks_in(share, now) for name in self.admission.busy())
        return min((it for it in found if it is not None), default=None)

    def _told_timeout_ms(self, profile: Profile) -> int | None:
        """The hard limit that the node or its executor declares, which Celery is told too; None for neither.

        The class's limit is the lease's affair alone: Celery would keep a timer for each message, and kombu keeps
        timers that were cancelled until they would have been due (some 500 bytes a task, for an hour).
        """
        if profile.timeout_ms is not None:
            return profile.timeout_ms
        declared = self.admission.contracts.get(profile.executor, {}).get("timeout_seconds")
        return round(declared * 1000) if declared else None

    def _soft_timeout_ms(self, profile: Profile) -> int | None:
        """Soft limit of an attempt: the node's, else the executor's, else none."""
        if profile.soft_timeout_ms is not None:
            return profile.soft_timeout_ms
        declared = self.admission.contracts.get(profile.executor, {}).get("soft_timeout_seconds")
        return round(declared * 1000) if declared and profile.timeout_ms is None else None

    # -- publish ------------------------------------------------------------------------------------

    def republish(self, held: Held, attempts: Mapping[str, str], outbox: list[list[str]]) -> None:
        """Send again what a former owner left in the outbox and no worker has claimed. The claim makes it harmless."""
        again = []
        for id_ in (id_ for ids in outbox for id_ in ids):
            _shard, run, node, _epoch, _attempt = id_.split(".")
            if attempts.get(id_, "")[:1] == "s" and run in held.runs:
                again.append(Outgoing(held, RunId(run), int(node), id_))
        self.unsent += again
        held.batches_out = len(outbox)
        held.published = 0 if again else len(outbox)

    def publish(self, runs: Runs) -> None:
        """Send everything that is committed and not sent, unless the broker took nothing a moment ago."""
        if not self.unsent or time.monotonic() < self._send_at:
            return
        self._fetch_values(runs)
        letters = [it for it in map(self._letter, self.unsent) if it is not None]
        if self._too_large:  # their nodes fail by a report like any other, and no broker is burdened
            Attempts(runs.client, runs.namespace).report((report, None) for report in self._too_large)
            self._too_large.clear()
        try:
            if letters:
                self._transport.send(letters)
        except Exception as broken:  # noqa: BLE001  any broker, any client library
            self._counts["unpublished"] += 1
            if not self._pauses.now:
                log.warning("the broker took no messages (%s: %s); sending them again", type(broken).__name__, broken)
            self._send_at = time.monotonic() + self._pauses.next()
            return
        if self._pauses.now:
            log.warning("the broker takes messages again")
            self._pauses.over()
        self._announcer.tell(letters)
        self._let_go()
        self._counts["published"] += len(letters)
        for going in self.unsent:
            going.held.published = going.held.batches_out
        self.unsent.clear()

    def sends_in(self) -> float | None:
        """Seconds until what is unsent is tried again, 0 for at once; None when nothing is unsent."""
        return max(self._send_at - time.monotonic(), 0.0) if self.unsent else None

    def _letter(self, going: Outgoing) -> tuple[Template, Letter] | None:
        """The message of an attempt, or None when it is over by now."""
        held, run_id, node, id_ = going
        run = held.runs.get(run_id)
        if run is None or run.state[node] not in _IN_FLIGHT or int(id_.rpartition(".")[2]) != run.attempt[node]:
            return None
        profile = run.profiles[run.profile[node]]
        queue_class = self._classes.get(held.flying.get(id_, ""), self._default)
        template = self._templates.get(
            profile.executor, queue_class, self._told_timeout_ms(profile), self._soft_timeout_ms(profile)
        )
        text, deferred = resolve(run, run.inputs[node], run.outputs)
        if len(text) > MOST_INPUT_CHARACTERS:
            problem = (
                f"the inputs of this node have {len(text):,} characters with all outputs in their places, at most "
                f"{MOST_INPUT_CHARACTERS:,} go into a message. Let upstream nodes store their outputs elsewhere and "
                "return addresses, or join them in stages."
            )
            error = error_record("invalid_input", "InputTooLarge", problem, origin="contract")
            self._too_large.append(Report(id_, "failed", "", None, "none", error))
            return None
        return template, Letter(
            id_,
            run_id,
            run.keys[node],
            node,
            run.attempt[node],
            text,
            run.deadline_at_ms,
            run.correlation_id,
            deferred,
            run.secrets.get(node, ()),
        )

    def _fetch_values(self, runs: Runs) -> None:
        """Outputs and errors that the inputs of outgoing attempts refer to and that are not in memory."""
        missing: dict[str, tuple[Run, set[int]]] = {}
        for held, run_id, node, _ in self.unsent:
            run = held.runs.get(run_id)
            if run is None or type(run.inputs[node]) is str:
                continue
            for source in references(run.inputs[node]):
                if source not in run.outputs and run.output_kind[source] != _NO_OUTPUT:
                    missing.setdefault(run_id, (run, set()))[1].add(source)
        for run, nodes in missing.values():
            run.outputs |= runs.values(RunId(run.id), sorted(nodes))

    def _let_go(self) -> None:
        """Forget outputs that no node will ask for any more; one that is asked for again is fetched again."""
        for held, run_id, node, _ in self.unsent:
            run = held.runs.get(run_id)
            if run is None or type(run.inputs[node]) is str:
                continue
            for source in references(run.inputs[node]):
                run.readers[source] -= run.readers[source] > 0
                if not run.readers[source]:
                    run.outputs.pop(source, None)
