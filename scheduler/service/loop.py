"""The loop of a scheduler process: inbox -> decide -> commit -> publish.

One turn reads what has arrived and what has run out, decides it all, admits ready nodes to their
classes, commits once per shard and publishes once. Nothing else changes the state of a run. The loop blocks on
its inboxes until the next timer is due. Whatever goes wrong with Redis, the answer is the same: forget
what is in memory, connect again, load, go on.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..core.decide import decide, evolve
from ..core.events import (
    Admitted,
    CancelRequested,
    DeadlinePassed,
    Event,
    GraceOver,
    LeaseExpired,
    Opened,
    Reported,
    RetryDue,
)
from ..core.run import Profile, Run, references
from ..core.states import ENDED_RUNS, IN_FLIGHT, MoveKind, NodeState
from ..errors import WireError
from ..settings import QueueClass, Settings
from ..store.commits import send_commits
from ..store.connection import UNREACHABLE, connect
from ..store.inboxes import Entry, Inboxes
from ..store.owners import Owners
from ..store.runs import Runs, connect_runs
from ..wire import AttemptId, Report, RunId, is_run_id
from .admission import Admission
from .batch import Batch
from .held import CHECK_MS, Held
from .inputs import resolve
from .publisher import Letter, Templates, scheduler_app
from .shards import Shards
from .transport import Outgoing, Transport, open_transport

log = logging.getLogger("celeriac.scheduler")

ADMITTED_PER_TURN = 1000
CLAIM_GRACE_MS = 60_000
"""A message that no worker has claimed this long after its class's target wait is looked for in the broker."""
LIMIT_GRACE_MS = 5_000
"""An attempt's lease outlives its time limit by this, so that a pool that enforces limits reports first."""
CONTRACTS_MS = 500
"""How often to look for new contracts while nodes wait for one."""
RETRY_SECONDS = (0.1, 5.0)

_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_CANCEL = int(MoveKind.CANCEL)
_READY = int(NodeState.READY)
_NONE = ord("n")


class Interrupted(BaseException):  # noqa: N818  not an error: a signal asked a blocked read to return
    """Raised by a signal's callback inside a blocking read, where nothing has been acted on yet."""


class Scheduler:
    """One scheduler process.

    Args:
        settings: redis_url must be set.
        transport: how messages get to the broker; by default what the settings name.

    Attributes:
        name: this process, as the table of owners shows it; never used twice.
        counts: events by kind, stale ones and refused commits among them, since the start.
    """

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        if settings.redis_url is None:
            raise ValueError(
                "a scheduler needs settings.redis_url; the embedded Redis gives one: see scheduler.embedded"
            )
        self.settings = settings
        self.name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"
        self.counts: Counter[str] = Counter()
        self._url = settings.redis_url
        self._app = scheduler_app(settings)
        self._templates = Templates(self._app)
        self._transport = transport or open_transport(settings, self._app)
        self._stopping = False
        self._blocked = False
        self._classes = settings.classes
        self._admission = Admission(self._classes, settings.default_class.name)
        self._held: dict[int, Held] = {}
        self._unsent: list[tuple[Held, RunId, int, str]] = []
        self._look_at = 0.0
        self._contracts_at = 0.0
        self._contracts_version = -1
        self._more = False
        self._runs: Runs
        self._inboxes: Inboxes
        self._shards: Shards | None = None

    # -- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`. Returns after everything owned has been given back."""
        first, longest = RETRY_SECONDS
        wait = first
        while not self._stopping:
            try:
                self._open()
                while not self._stopping:
                    self._turn()
                    wait = first
            except Interrupted:
                continue
            except UNREACHABLE as lost:
                log.warning("Redis does not answer (%s); trying again in %.1f s", type(lost).__name__, wait)
            except Exception:
                self.counts["crashes"] += 1
                log.exception("the loop stumbled; loading everything again in %.1f s", wait)
            self._forget_all()
            if not self._stopping:
                time.sleep(wait)
                wait = min(2 * wait, longest)
        self._leave()

    def stop(self) -> None:
        """Ask the loop to end; it does so after its current turn."""
        self._stopping = True

    def interrupt(self, *_signal: object) -> None:
        """`stop`, for a signal's callback in the thread that runs the loop: a blocked read returns at once."""
        self._stopping = True
        if self._blocked:
            self._blocked = False
            raise Interrupted

    def _open(self) -> None:
        client = connect(self._url)
        self._runs = connect_runs(connect(self._url), self.settings.namespace, self.settings.shards)
        self._inboxes = Inboxes(client)
        lease_ms = round(self.settings.shard_lease_seconds * 1000)
        owners = Owners(self._runs.client, self.settings.namespace, self.name, lease_ms)
        owned = self._shards.owned if self._shards else {}
        self._shards = Shards(owners, self._runs.shards)
        self._contracts_version = -1
        self._look_at = self._contracts_at = 0.0
        if owned:
            owners.release(owned, leaving=False)

    def _leave(self) -> None:
        try:
            if self._shards is not None:
                self._shards.leave()
        except UNREACHABLE:
            log.warning("Redis does not answer; our shards become free when their lease ends")
        self._transport.close()
        log.info("stopped; %s", dict(self.counts))

    def _forget_all(self) -> None:
        for held in self._held.values():
            self._admission.forget(held.runs)
        self._held.clear()
        self._admission.flying = dict.fromkeys(self._classes, 0)
        self._unsent.clear()

    # -- one turn -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look()
        entries, now = self._read()
        batches: dict[int, Batch] = {}

        def batch_of(held: Held) -> Batch:
            found = batches.get(held.keys.shard)
            if found is None:
                found = batches[held.keys.shard] = Batch(held.keys, held.epoch, now)
            return found

        for held in self._held.values():
            arrived = entries.get(held.keys.inbox)
            if arrived:
                self._take_entries(held, batch_of(held), arrived)
            if held.due_at_ms is not None and held.due_at_ms <= now:
                self._take_due(held, batch_of(held))
        if now and time.monotonic() >= self._contracts_at:
            self._learn_contracts()
        self._settle(batches, now)

    def _settle(self, batches: dict[int, Batch], now: int) -> None:
        """Admit what is ready, commit all batches, publish what goes out."""
        for batch in batches.values():
            self._queue(batch)
        admitted = self._admit(batches, now)
        self._commit(batches)
        self._unsent += [it for it in admitted if it[0].keys.shard in self._held]
        if self._unsent:
            self._publish()

    def _read(self) -> tuple[dict[str, list[Entry]], int]:
        """What has arrived, and Redis's time; blocks until something does, or something is due."""
        wait_ms = max(1, int((min(self._look_at, self._contracts_at) - time.monotonic()) * 1000))
        if not self._held:
            time.sleep(min(wait_ms, 200) / 1000)
            return {}, 0
        due = [held.due_at_ms for held in self._held.values() if held.due_at_ms is not None]
        if due:
            wait_ms = min(wait_ms, max(1, min(due) - self._now()))
        if self._more or self._unsent:
            wait_ms = 1
        after = {held.keys.inbox: held.read_after for held in self._held.values()}
        self._blocked = not self._stopping
        try:
            entries, now = self._inboxes.read(after, wait_ms)
        finally:
            self._blocked = False
        self._clock = (now, time.monotonic())
        return entries, now

    _clock: tuple[int, float] = (0, 0.0)

    def _now(self) -> int:
        """Redis's time as of the last read plus what has passed here since: for how long to block, nothing else."""
        at, then = self._clock
        return at + int((time.monotonic() - then) * 1000)

    # -- shards -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Renew our shards; load those gained, forget those lost."""
        assert self._shards is not None  # noqa: S101  _open has set it
        change = self._shards.look()
        self._look_at = time.monotonic() + self._shards.next_look_ms / 1000
        for shard in change.lost:
            self._drop(shard)
        for shard, epoch in change.gained.items():
            self._adopt(shard, epoch)
        if change.gained or change.lost:
            log.info("own %d of %d shards, %d schedulers live", len(self._held), self._runs.shards, self._shards.live)
        if self.settings.heartbeat_file is not None:
            Path(self.settings.heartbeat_file).touch()

    def _drop(self, shard: int) -> None:
        held = self._held.pop(shard, None)
        if held is not None:
            self._admission.forget(held.runs)
            for queue_class in held.flying.values():
                self._admission.flying[queue_class] -= 1
            self._unsent = [it for it in self._unsent if it[0] is not held]

    def _adopt(self, shard: int, epoch: int) -> None:
        """Load a shard and take up every live run: what was decided and not recorded is decided again."""
        keys = self._runs.keys.shard(shard)
        found = self._inboxes.adopt(keys)
        now = self._runs.now_ms()
        held = self._held[shard] = Held(keys, epoch)
        held.look_by(now)
        for id_, state in found.attempts.items():
            self._flies(held, id_, state.split("|", 2)[1])
        batch = Batch(keys, epoch, now)
        self._load(held, batch, [RunId(run) for run in found.live])
        for id_ in (id_ for ids in found.outbox for id_ in ids):
            attempt = AttemptId.parse(id_)
            if attempt and found.attempts.get(id_, "")[:1] == "s" and attempt.run in held.runs:
                self._unsent.append((held, attempt.run, attempt.node, id_))
        held.batches_out = len(found.outbox)
        self._settle({shard: batch}, now)

    def _load(self, held: Held, batch: Batch, runs: Iterable[RunId]) -> None:
        """Bring runs into memory and open them."""
        for run in self._runs.load_many([it for it in runs if it not in held.runs]):
            if run.run_state in ENDED_RUNS:
                batch.ended.append(run)
                continue
            held.runs[run.id] = run
            batch.ready += ((run, node) for node, state in enumerate(run.state) if state == _READY)
            self._apply(held, batch, run, Opened())

    # -- events -------------------------------------------------------------------------------------

    def _take_entries(self, held: Held, batch: Batch, entries: list[Entry]) -> None:
        submitted = []
        for entry in entries:
            report: bytes | None = None
            for kind, record in entry.records():
                try:
                    if kind == b"output":
                        if report is not None:
                            self._take_report(held, batch, report, record, entry)
                            report = None
                        continue
                    if report is not None:
                        self._take_report(held, batch, report, None, entry)
                        report = None
                    if kind == b"report":
                        report = record
                    elif kind == b"submit":
                        submitted.append(RunId(record.decode()))
                    elif kind == b"cancel":
                        self._load(held, batch, submitted)
                        self._take_cancel(held, batch, record)
                    else:
                        raise WireError("inbox", "a kind of record that this version does not know", kind)
                except WireError as broken:
                    self._refuse(broken)
            if report is not None:
                try:
                    self._take_report(held, batch, report, None, entry)
                except WireError as broken:
                    self._refuse(broken)
            batch.consumed.append(entry.id)
        held.read_after = entries[-1].id
        if submitted:
            self._load(held, batch, [run for run in submitted if is_run_id(run)])

    def _refuse(self, broken: WireError) -> None:
        self.counts["refused"] += 1
        log.warning("%s", broken)

    def _take_report(self, held: Held, batch: Batch, raw: bytes, output: bytes | None, entry: Entry) -> None:
        report = Report.from_json(raw)
        id_ = report.id
        try:
            _shard, run_id, node, epoch, attempt = id_.split(".")
            event = Reported(
                int(node),
                int(epoch),
                int(attempt),
                report.end,
                report.output,
                report.worker,
                report.claimed_at_ms,
                entry.at_ms,
                report.error,
                report.retry_after_ms,
                random.random(),  # noqa: S311  jitter, no secret
            )
        except ValueError:
            raise WireError("report", "id is not shard.run.node.epoch.attempt", id_) from None
        self.counts["reports"] += 1
        run = held.runs.get(run_id)
        if run is None:
            self.counts["late"] += 1
            return
        now = batch.now
        decision = decide(run, event, now)
        if decision.stale:
            self.counts["late"] += 1
            if event.node < run.n:
                batch.note(run, event.node, "late", f"{report.end}, attempt {event.attempt}, from {report.worker}")
            return
        evolve(run, decision, now)
        if report.end == "succeeded":
            if output is not None and run.readers[event.node]:
                run.outputs[event.node] = output
            if report.output == "blob":
                batch.blobs.append(id_)
            batch.take(run, decision, id_, output)
        else:
            batch.take(run, decision, id_)
        self._landed(held, id_)

    def _take_cancel(self, held: Held, batch: Batch, record: bytes) -> None:
        try:
            asked = json.loads(record)
            run = held.runs.get(asked["run"])
            reason = str(asked.get("reason", ""))
        except (ValueError, TypeError, KeyError, AttributeError) as broken:
            raise WireError("cancel", f"{type(broken).__name__}: {broken}", record[:200]) from broken
        if run is not None:
            self._apply(held, batch, run, CancelRequested(reason, frozenset(self._runs.claimed(run))))

    def _apply(self, held: Held, batch: Batch, run: Run, event: Event, attempt: str = "") -> bool:
        """Decide an event, apply and note it. False when it was stale."""
        decision = decide(run, event, batch.now)
        if decision.stale:
            return False
        stopped = [move.node for move in decision.moves if move.kind == _CANCEL and run.state[move.node] in _IN_FLIGHT]
        if isinstance(event, CancelRequested):
            stopped += event.running
        evolve(run, decision, batch.now)
        batch.take(run, decision, attempt)
        for node in stopped:
            id_ = self._id(held, run, node)
            batch.over.append(id_)
            self._landed(held, id_)
        if attempt:
            self._landed(held, attempt)
        for timer in decision.timers:
            held.look_by(timer.due_at_ms)
        return True

    def _take_due(self, held: Held, batch: Batch) -> None:
        """Leases and timers that have run out become events."""
        due = self._inboxes.due(held.keys)
        nexts = [it for it in (due.next_timer_ms, due.next_lease_ms) if it is not None]
        if held.flying:
            nexts.append(due.now_ms + CHECK_MS)
        held.due_at_ms = min(nexts, default=None)
        for id_, state in due.attempts.items():
            self._lease_ended(held, batch, id_, state, due.now_ms)
        for timer in due.timers:
            run_id, _, name = timer.partition(" ")
            batch.timers_done.append(timer)
            run = held.runs.get(run_id)
            if run is not None:
                self._apply(held, batch, run, _timer_event(name))

    def _lease_ended(self, held: Held, batch: Batch, id_: str, state: str, now: int) -> None:
        attempt = AttemptId.parse(id_)
        run = held.runs.get(attempt.run) if attempt else None
        parts = state.split("|", 7)
        if attempt is None or run is None or len(parts) < 4:
            batch.over.append(id_)
            self._landed(held, id_)
            return
        if parts[0] == "s" and self._still_queued(id_, parts[1]):
            again = now + self._claim_by_ms(self._classes[parts[1]], run, attempt.node)
            batch.deadlines[id_] = again
            return
        claimed_at, worker = (int(parts[4]), parts[7]) if parts[0] == "c" else (None, "")
        hard_end = parts[0] == "c" and int(parts[5]) <= now
        chance = random.random()  # noqa: S311  jitter, no secret
        event = LeaseExpired(attempt.node, attempt.epoch, attempt.attempt, claimed_at, worker, hard_end, chance)
        self.counts["leases ended"] += 1
        if not self._apply(held, batch, run, event, id_):
            batch.over.append(id_)
            self._landed(held, id_)

    def _still_queued(self, id_: str, queue_class: str) -> bool:
        """Whether an unclaimed attempt simply waits in its queue: then it is not lost, however long it takes."""
        if queue_class not in self._classes:
            return False
        try:
            waiting = self._transport.waiting(self._classes[queue_class].queue)
        except Exception as broken:
            log.warning("the broker does not answer (%s); unclaimed attempts wait on", type(broken).__name__)
            return True
        return waiting is None or id_ in waiting

    # -- admission and dispatch ---------------------------------------------------------------------

    def _queue(self, batch: Batch) -> None:
        """Ready nodes into admission; those that have no class yet wait with a reason in the log."""
        for run, node in batch.ready:
            why = self._admission.add(run, node)
            if why:
                batch.note(run, node, "wait", why)
        batch.ready.clear()

    def _learn_contracts(self) -> None:
        """Read contracts when their version went up; more often while nodes wait for one."""
        version = self._runs.contracts_version()
        if version != self._contracts_version:
            self._contracts_version = version
            self._admission.learn(self._runs.contracts())
        pause = CONTRACTS_MS / 1000 if self._admission.waits() else self.settings.shard_lease_seconds / 3
        self._contracts_at = time.monotonic() + pause

    def _admit(self, batches: dict[int, Batch], now: int) -> list[tuple[Held, RunId, int, str]]:
        """Take what has room in its class and number its attempts: (shard, run, node, attempt) to be published."""
        share = len(self._held) / self._runs.shards
        taken = self._admission.take(share, ADMITTED_PER_TURN)
        outgoing: list[tuple[Held, RunId, int, str]] = []
        for name, run, nodes in taken:
            run_id = RunId(run.id)
            held = self._held[self._runs.shard(run_id)]
            shard = held.keys.shard
            batch = batches.get(shard)
            if batch is None:
                batch = batches[shard] = Batch(held.keys, held.epoch, now)
            decision = decide(run, Admitted(nodes), now)
            if decision.stale:
                continue
            evolve(run, decision, now)
            queue_class = self._classes[name]
            for node in nodes:
                id_ = f"{shard}.{run.id}.{node}.1.{run.attempt[node]}"
                timeout_ms = self._timeout_ms(run.profiles[run.profile[node]], queue_class)
                grace = LIMIT_GRACE_MS if queue_class.pool == "prefork" else 0
                state = f"s|{name}|{queue_class.lease_ms}|{timeout_ms + grace}"
                batch.send(run, node, id_, state, now + self._claim_by_ms(queue_class, run, node))
                self._flies(held, id_, name)
                outgoing.append((held, run_id, node, id_))
            held.look_by(now + CHECK_MS)
        self._more = len(outgoing) >= ADMITTED_PER_TURN
        return outgoing

    def _timeout_ms(self, profile: Profile, queue_class: QueueClass) -> int:
        """Hard limit of an attempt: the node's, else the executor's, else the class's."""
        if profile.timeout_ms is not None:
            return profile.timeout_ms
        declared = self._admission.contracts.get(profile.executor, {}).get("timeout_seconds")
        return round(declared * 1000) if declared else queue_class.timeout_ms

    def _claim_by_ms(self, queue_class: QueueClass, run: Run, node: int) -> int:
        """How long a message may stay unclaimed before it is looked for; doubled each time it was lost."""
        unclaimed = run.attempt[node] - 1 - run.failures[node] - run.losses[node]
        return (round(queue_class.target_wait_seconds * 1000) + CLAIM_GRACE_MS) << max(0, min(unclaimed, 6))

    def _flies(self, held: Held, id_: str, queue_class: str) -> None:
        held.flying[id_] = queue_class
        self._admission.flying[queue_class] = self._admission.flying.get(queue_class, 0) + 1

    def _landed(self, held: Held, id_: str) -> None:
        queue_class = held.flying.pop(id_, None)
        if queue_class is not None:
            self._admission.flying[queue_class] -= 1

    def _id(self, held: Held, run: Run, node: int) -> str:
        return f"{held.keys.shard}.{run.id}.{node}.1.{run.attempt[node]}"

    # -- commit and publish -------------------------------------------------------------------------

    def _commit(self, batches: dict[int, Batch]) -> None:
        made = [(self._held[shard], batch) for shard, batch in batches.items()]
        commits = [(held, batch, batch.commit(held.published)) for held, batch in made]
        commits = [it for it in commits if it[2]]
        if not commits:
            return
        refused = send_commits(self._runs.client, [commit for _, _, commit in commits])
        for held, batch, _ in commits:
            if held.keys.shard in refused:
                self.counts["fenced"] += 1
                log.warning("shard %d belongs to another scheduler now; a commit was refused", held.keys.shard)
                self._drop(held.keys.shard)
                self._shards.owned.pop(held.keys.shard, None)  # type: ignore[union-attr]  # _open has set it
                continue
            held.batches_out += batch.outbox_batches - held.published
            held.published = 0
            for timer_at in batch.timers.values():
                held.look_by(timer_at)
            for run in batch.ended:
                held.runs.pop(run.id, None)
                self._admission.forget((run.id,))
                self.counts[f"runs {run.run_state}"] += 1

    def _publish(self) -> None:
        """Send what is committed. When the broker is away it stays in the outbox and is sent again."""
        outgoing = self._letters()
        try:
            if outgoing:
                self._transport.send(outgoing)
        except Exception as broken:
            self.counts["unpublished"] += 1
            log.warning("the broker took no messages (%s: %s); sending them again", type(broken).__name__, broken)
            time.sleep(RETRY_SECONDS[0])
            return
        self.counts["published"] += len(outgoing)
        for held, *_ in self._unsent:
            held.published = held.batches_out
        self._unsent.clear()

    def _letters(self) -> Outgoing:
        letters = []
        self._fetch_values()
        for held, run_id, node, id_ in self._unsent:
            run = held.runs.get(run_id)
            if run is None or run.state[node] not in _IN_FLIGHT or not id_.endswith(f".{run.attempt[node]}"):
                continue
            profile = run.profiles[run.profile[node]]
            queue_class = self._classes[held.flying.get(id_) or self._admission.default]
            timeout_ms = self._timeout_ms(profile, queue_class)
            template = self._templates.get(profile.executor, queue_class, timeout_ms, profile.soft_timeout_ms)
            text, deferred = resolve(run, run.inputs[node], run.outputs)
            letter = Letter(
                id_,
                run_id,
                run.keys[node],
                node,
                run.attempt[node],
                text,
                run.deadline_at_ms,
                run.correlation_id,
                deferred,
            )
            letters.append((template, letter))
        self._let_go()
        return letters

    def _fetch_values(self) -> None:
        """Outputs and errors that the inputs of outgoing attempts refer to and that are not in memory."""
        missing: dict[str, tuple[Run, set[int]]] = {}
        for held, run_id, node, _ in self._unsent:
            run = held.runs.get(run_id)
            if run is None or type(run.inputs[node]) is str:
                continue
            for source in references(run.inputs[node]):
                if source not in run.outputs and run.output_kind[source] != _NONE:
                    missing.setdefault(run_id, (run, set()))[1].add(source)
        for run, nodes in missing.values():
            run.outputs |= self._runs.values(RunId(run.id), sorted(nodes))

    def _let_go(self) -> None:
        """Forget outputs that no node will ask for any more; one that is asked for again is fetched again."""
        for held, run_id, node, _ in self._unsent:
            run = held.runs.get(run_id)
            if run is None or type(run.inputs[node]) is str:
                continue
            for source in references(run.inputs[node]):
                run.readers[source] -= run.readers[source] > 0
                if not run.readers[source]:
                    run.outputs.pop(source, None)


def _timer_event(name: str) -> Event:
    """The event that a timer of a run stands for. Unknown names are of a later version: nothing happens."""
    kind, *numbers = name.split(":")
    if kind == "retry" and len(numbers) == 2:
        return RetryDue(int(numbers[0]), int(numbers[1]))
    if kind == "grace":
        return GraceOver()
    if kind == "deadline":
        return DeadlinePassed()
    return RetryDue(-1 & 0xFFFFFFFF, 0)
