"""What arrives becomes events: entries of inboxes.

Each event is decided and applied at once, and noted in the shard's batch. A record that cannot be read
is refused, counted and consumed: an inbox never blocks.
"""

from __future__ import annotations

import json
import logging
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..core.decide import decide
from ..core.events import STALE, Completed, Event, Reported
from ..core.evolve import evolve
from ..core.run import Run
from ..core.states import NodeState
from ..errors import WireError
from ..store.dead import Dead
from ..store.inboxes import Entry
from ..store.runs import Runs
from ..wire import INLINE_LIMIT_BYTES, AttemptId, DeadMessage, Report, RunId, is_run_id
from .apply import apply, stopped_by
from .batch import Batch
from .dispatch import Dispatch
from .facts import facts_of
from .held import Flight, Held
from .loading import Loading
from .pacing import give_way
from .replies import Told, told
from .requests import MOST_NAME, Requests

log = logging.getLogger("celeriac.scheduler")

STUMBLES = 3
MOST_REPORT_BYTES = 128 * 1024
"""A report beside its output; workers cut errors well below this."""
MOST_OUTPUT_BYTES = 2 * INLINE_LIMIT_BYTES
"""An output in an entry; workers put aside as a blob what is larger than INLINE_LIMIT_BYTES."""
_LEAPT = frozenset((b"report", b"output", b"submit"))
"""Kinds of records that others need not come after."""
_HEAD_BYTES = 128
"""Of a report, among which workers name its attempt."""


class Intake:
    """Events in, decisions into batches.

    Args:
        runs: the store.
        loading: brings runs into memory.
        dispatch: knows which attempts fly, and what the broker still holds.
        counts: of the scheduler; events by kind.
        archive: hears of ended runs that somebody wants archived now.
        learn: reads again what holds for all runs, for somebody has changed it; what comes later in the same inbox,
            a run that was submitted since, say, finds the change.
        stumbled: how often an entry has thrown the loop, by `reading`; after STUMBLES it is put aside unread.
    """

    def __init__(
        self,
        runs: Runs,
        loading: Loading,
        dispatch: Dispatch,
        counts: Counter[str],
        archive: Callable[[RunId], None] = lambda _: None,
        learn: Callable[[], None] = lambda: None,
        stumbled: Counter[str] | None = None,
    ) -> None:
        self._runs = runs
        self._loading = loading
        self._dispatch = dispatch
        self._counts = counts
        self._requests = Requests(runs, loading, dispatch, archive)
        self._learn = learn
        self.look_wanted = False
        """Another scheduler has given shards back."""
        self.steps = self.steps_left = 0
        """Reports of this turn whose worker has gone on with the next step of a chain; and if the last is among them,
        how many may follow."""
        self.reading = ""
        """The entry that is being taken at this moment, for whoever catches what it brings about."""
        self._stumbled = Counter() if stumbled is None else stumbled

    def take(self, held: Held, batch: Batch, until: float = math.inf) -> None:
        """The records of entries that have arrived, in order, for as long as there is time.

        Args:
            until: of this process's clock, seconds. One entry is taken in any case.
        """
        while held.arrived:
            self._take_entry(held, batch, held.arrived.popleft())
            if self.steps_left:
                give_way()
            if time.monotonic() >= until:
                break
        self._loading.load_some(held, batch, until)

    def awaited(self, held: Held) -> list[Entry]:
        """What somebody may be waiting for, out of what has arrived, to be taken ahead of reports that came before it:
        runs, and reports of attempts of interactive classes. Nothing from behind a record of another kind, for what
        comes after that may rely on it. O(entries that have arrived).
        """
        awaited, rest = list[Entry](), deque[Entry]()
        left = iter(held.arrived)
        for entry in left:
            if not _LEAPT.issuperset(entry.fields[::2]):
                rest.append(entry)
                break
            (awaited if self._is_awaited(held, entry) else rest).append(entry)
        if awaited:
            held.arrived = rest
            rest.extend(left)
        return awaited

    def take_all(self, held: Held, batch: Batch, entries: Sequence[Entry], until: float) -> None:
        """The records of these entries.

        Args:
            until: when runs are no more loaded, as for `take`.
        """
        for entry in entries:
            self._take_entry(held, batch, entry)
        self._loading.load_some(held, batch, until)

    def _is_awaited(self, held: Held, entry: Entry) -> bool:
        """Whether an entry begins with a run, or with a report of an attempt of an interactive class."""
        kind, record = entry.fields[:2]
        if kind == b"submit":
            return True
        found = _ATTEMPT.search(record[:_HEAD_BYTES])
        flight = held.flying.get(found[0].decode()) if found else None
        return flight is not None and flight.queue_class in self._dispatch.interactive

    def _take_entry(self, held: Held, batch: Batch, entry: Entry) -> None:
        """The records of one entry. It is consumed with this batch, whatever it holds."""
        self.reading = f"{held.keys.shard}-{entry.id.decode()}"
        batch.consumed.append(entry.id)
        if self._stumbled and self._stumbled[self.reading] >= STUMBLES:
            why = f"the scheduler stumbled {STUMBLES} times over this entry"
            batch.dead.append(Dead.made("record", why, {}, list(entry.records())))
            self.reading = ""
            return
        for number, (kind, record, output) in enumerate(_paired(entry)):
            try:
                if kind == b"report":
                    self._take_report(held, batch, record, output, entry.at_ms)
                elif kind == b"submit":
                    self._take_submit(held, record)
                else:
                    self._take_other(held, batch, kind, f"{entry.id.decode()}.{number}", record)
            except WireError as broken:
                self._counts["refused"] += 1
                log.warning("%s", broken)
                parts = [(kind, record), *([] if output is None else [(b"output", output)])]
                batch.dead.append(Dead.made("record", str(broken), _belongs(kind, record), parts))
        self.reading = ""

    def _take_other(self, held: Held, batch: Batch, kind: bytes, id_: str, record: bytes) -> None:
        """A record that comes seldom.

        Args:
            id_: of the entry, and the record's place in it.

        Raises:
            WireError: it cannot be used.
        """
        if kind in (b"signal", b"answer", b"job"):
            self._loading.load_some(held, batch, math.inf)
            self._take_told(held, batch, kind.decode(), id_, record)
            return
        if self._requests.take(held, batch, kind, record):
            return
        if kind == b"look":
            if not self.look_wanted:  # whoever has put further ones beside it has done so before all of them were read
                self._learn()
            self.look_wanted = True
        elif kind == b"rewound":
            held.behind |= record.isdigit() and held.count < int(record)
        elif kind == b"dead":
            batch.dead.append(_dead_message(record))
            self._counts["rejected"] += 1
        else:
            raise WireError("inbox", "a kind of record that this version does not know", kind)

    def _take_submit(self, held: Held, record: bytes) -> None:
        """A run to load. The store lists it as live, so its entry may be consumed before it is in memory."""
        run = RunId(record.decode("ascii", "replace"))
        if is_run_id(run) and self._runs.shard(run) == held.keys.shard and run not in held.runs:
            held.to_load[run] = None

    def _take_report(self, held: Held, batch: Batch, raw: bytes, output: bytes | None, at_ms: int) -> None:
        if len(raw) > MOST_REPORT_BYTES:
            raise WireError("report", f"has {len(raw):,} bytes, at most {MOST_REPORT_BYTES:,} are taken", raw[:200])
        report = Report.from_json(raw)
        id_ = report.id
        flight = held.flying.get(id_)
        run_id, event = _event_of(report, flight, held.keys.shard, at_ms)
        self._counts["reports"] += 1
        run = held.runs.get(run_id)
        if run is None:
            self._counts["late"] += 1
            return
        if event.end != "succeeded" or run.policy is not None or run.guards is not None:
            report, event, output = self._looked_into(held, run, report, event, output)
        now = min(at_ms, batch.now) if report.goes_on else batch.now  # so that the next step begins when it did
        mine = held.chain(id_) == (report.chain if report.chained else "")
        decision = decide(run, event, now) if mine else STALE
        if decision.stale:
            self._late(held, batch, run, event, report)
            return
        if event.output != "none" or output is not None:
            _check_output(report, output, bool(run.readers[event.node]))
        self._dispatch.took(held, run, event.node, report)
        lost = stopped_by(run, decision) if run.guards is not None and run.guards.races else ()
        evolve(run, decision, now)
        if report.end != "succeeded" or event.facts is not None:
            batch.heard(run, event)
        if report.end == "succeeded" and run.state[event.node] == NodeState.SUCCEEDED:
            if output is not None and run.readers[event.node]:
                run.outputs[event.node] = output
            if report.output == "blob":
                batch.blobs.append(id_)
            batch.take(run, decision, id_, output)
        else:
            batch.take(run, decision, id_)
        self.steps_left = 0
        if report.goes_on:
            self.steps, self.steps_left = self.steps + 1, run.by_state[NodeState.PENDING]
            self._dispatch.goes_on(held, batch, run, report, now)
        self._dispatch.landed(held, id_)
        for node in lost:  # a race was decided
            other = run.attempt_id(held.keys.shard, node)
            batch.over.append(other)
            self._dispatch.landed(held, other)

    def _late(self, held: Held, batch: Batch, run: Run, event: Reported, report: Report) -> None:
        """A report that counts for nothing, nor does what its worker has begun with it."""
        self._counts["late"] += 1
        if report.goes_on:
            self._dispatch.void(held, batch, report.goes_on)
        if event.node < run.n:
            batch.note(run, event.node, "late", f"{report.end}, attempt {event.attempt}, from {report.worker}")

    def _looked_into(
        self, held: Held, run: Run, report: Report, event: Reported, output: bytes | None
    ) -> tuple[Report, Reported, bytes | None]:
        """A report with what the core cannot know: what the run's policy has against its output, and what expressions
        read of that; of a loss, whether its executor is unsafe.
        """
        if event.node >= run.n:
            return report, event, output
        if run.policy is not None and output is not None and _is_to_be_checked(run, event):
            report, event, output = self._checked(held, run, report, event, output)
        if event.end == "lost":
            return report, event._replace(unsafe=self._dispatch.is_unsafe(held, run, event.node, report.id)), output
        if run.guards is None or event.end != "succeeded" or event.node not in run.guards.wanted:
            return report, event, output
        _check_output(report, output, wanted=True)
        return report, event._replace(facts=facts_of(self._runs, run, event.node, report.output, output)), output

    def _checked(
        self, held: Held, run: Run, report: Report, event: Reported, output: bytes
    ) -> tuple[Report, Reported, bytes | None]:
        """The same as far as the policy goes."""
        _check_output(report, output, wanted=True)
        denied = self._dispatch.policies.refused(run, event.node, *held.place(report.id), report.output, output)
        if denied is None:
            return report, event, output
        self._counts["denied"] += 1
        end, error = denied
        return (
            report._replace(end=end, output="none", error=error),
            event._replace(end=end, output="none", error=error),
            None,
        )

    def _judged(self, held: Held, found: Told) -> Event:
        """What was told; the end of a job outside has to pass the checks of its run's policy, like a report."""
        event, run = found.event, found.run
        assert event is not None  # noqa: S101  it was refused otherwise
        if run.policy is None or not isinstance(event, Completed) or event.error is not None:
            return event
        id_ = str(AttemptId(held.keys.shard, RunId(run.id), event.node, event.epoch, event.attempt))
        denied = self._dispatch.policies.refused(run, event.node, *held.place(id_), "inline", event.output)
        return event if denied is None else event._replace(error=denied.error, output=b"null", facts=None)

    def _take_told(self, held: Held, batch: Batch, kind: str, id_: str, record: bytes) -> None:
        """What people and programs outside tell: it is decided, or the run's log says why not."""
        found = told(held, batch, kind, id_, record)
        if found is None:
            self._counts["late"] += 1
        elif found.event is None:
            batch.note(found.run, found.node, "refused", found.refused)
        elif not apply(self._dispatch, held, batch, found.run, self._judged(held, found)) and kind == "job":
            self._counts["late"] += 1
            batch.note(found.run, found.node, "late", "completed from outside")


def _is_to_be_checked(run: Run, event: Reported) -> bool:
    """Whether this is the output of the current attempt, and not of one that only begins what somebody outside ends."""
    node = event.node
    if event.end != "succeeded" or (event.epoch, event.attempt) != (run.epoch[node], run.attempt[node]):
        return False
    wait = None if run.guards is None else run.guards.waits.get(node)
    return wait is None or wait.kind != "outside"


def _event_of(report: Report, flight: Flight | None, shard: int, at_ms: int) -> tuple[str, Reported]:
    """(run, event) of a report to a shard.

    Args:
        flight: its attempt, if that is in flight.

    Raises:
        WireError: it is about no attempt of this shard.
    """
    run_id, node, epoch, attempt = _attempt_of(report.id, shard) if flight is None else flight[:4]
    return run_id, Reported(
        node,
        epoch,
        attempt,
        report.end,
        report.output,
        report.worker[:MOST_NAME],
        report.claimed_at_ms,
        at_ms,
        report.error,
        report.retry_after_ms,
        random.random(),
    )


def _attempt_of(id_: str, shard: int) -> tuple[str, int, int, int]:
    try:
        mine, run_id, node, epoch, attempt = id_.split(".")
        if not (node + epoch + attempt).isdigit() or not id_.isascii() or int(mine) != shard:
            raise ValueError
        return run_id, int(node), int(epoch), int(attempt)
    except ValueError:
        problem = "id is no attempt of this shard, shard.run.node.epoch.attempt"
        raise WireError("report", problem, id_) from None


def _dead_message(record: bytes) -> Dead:
    """A message that a worker rejected, as a dead letter."""
    message = DeadMessage.from_json(record)
    facts: dict[str, Any] = {
        name: value
        for name, value in message._asdict().items()
        if name in ("queue", "worker", "task", "id", "size", "passed_over", "form") and value
    }
    attempt = AttemptId.parse(message.id)
    if attempt is not None:
        facts |= {"run": attempt.run, "number": attempt.node, "attempt": message.id}
    return Dead.made("message", message.cause, facts, [(b"message", record)], cut=message.cut)


def _belongs(kind: bytes, record: bytes) -> dict[str, Any]:
    """What a record that could not be used was about, as far as it says."""
    facts: dict[str, Any] = {"record": kind.decode("utf-8", "backslashreplace")[:MOST_NAME]}
    found = _ATTEMPT.search(record[:MOST_REPORT_BYTES])
    if found:
        attempt = AttemptId.parse(found[0].decode())
        if attempt is not None:
            facts |= {"run": attempt.run, "number": attempt.node, "attempt": found[0].decode()}
    return facts


_ATTEMPT = re.compile(rb"\b[0-9]{1,4}\.[0-9a-z]{26}\.[0-9]{1,9}\.[0-9]{1,6}\.[0-9]{1,9}\b")


def _paired(entry: Entry) -> Iterable[tuple[bytes, bytes, bytes | None]]:
    """(kind, record, output) of an entry: an output belongs to the report before it."""
    kind, record = b"", b""
    for name, value in entry.records():
        if name == b"output":
            if kind == b"report":
                yield kind, record, value
                kind = b""
            continue
        if kind:
            yield kind, record, None
        kind, record = name, value
    if kind:
        yield kind, record, None


def _check_output(report: Report, output: bytes | None, wanted: bool) -> None:
    """An output is there when its report says so, and JSON when other nodes will get it.

    Raises:
        WireError: the report is refused, and the attempt counts as lost when its lease ends.
    """
    if (report.output == "none") != (output is None) or report.end != "succeeded":
        raise WireError("report", f"{report.end}, its output is said to be {report.output}", output and output[:200])
    if output is not None and len(output) > MOST_OUTPUT_BYTES:
        problem = f"has {len(output):,} bytes, at most {MOST_OUTPUT_BYTES:,} are taken in a report"
        raise WireError("output", problem, output[:200])
    if wanted and output is not None:
        try:
            value = json.loads(output.decode())  # bytes might be UTF-16 to it, which no message could carry
        except (ValueError, RecursionError) as broken:
            raise WireError("output", f"is not JSON: {broken}", output[:200]) from broken
        if report.output == "blob" and not (isinstance(value, dict) and isinstance(value.get("blob"), str)):
            raise WireError("output", "does not name a blob", output[:200])
