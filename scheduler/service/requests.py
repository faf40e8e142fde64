"""What people ask of runs: records of the inbox that come seldom, each with the run it is about, who asks, and why.

One table says who answers which kind of record, and one reader reads what they carry. Whatever is asked is decided in
core and applied like any other event.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.events import (
    Asker,
    CancelRequested,
    CompleteRequested,
    DeadlineRequested,
    Event,
    NodesCancelRequested,
    PauseRequested,
    PriorityRequested,
    RerunRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
)
from ..core.node_verbs import following
from ..core.run import REGION, Run
from ..core.states import ENDED_RUNS, FIRST_ENDED
from ..core.verbs import words
from ..errors import WireError, shown
from ..store.runs import Runs
from ..wire import INLINE_LIMIT_BYTES, RunId, is_run_id
from .apply import apply
from .batch import Batch
from .dispatch import Dispatch
from .facts import facts_of, recall
from .held import Held
from .loading import Loading
from .rewinds import renumber

MOST_REASON = 2_000
MOST_NAME = 200
MOST_NUMBER = 2**53
"""Of a request."""


class Asked(NamedTuple):
    """One request.

    Attributes:
        kind: of record.  run: the run's id, as it was written.  reason, by: why, and who asks; "" when not said.
        more: everything that the record holds.
    """

    kind: str
    run: str
    reason: str
    by: str
    more: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Of the request, 0 when it has none; the same number again is the same request."""
        number = self.more.get("number")
        return number if type(number) is int and 0 < number <= MOST_NUMBER else 0

    @property
    def asker(self) -> Asker:
        """Who asks, and why."""
        return Asker(self.reason, self.by, self.number)


class Requests:
    """Requests into batches.

    Args:
        runs: the store.
        loading: brings runs into memory.
        dispatch: knows which attempts fly.
        archive: hears of ended runs that somebody wants archived now.
    """

    def __init__(self, runs: Runs, loading: Loading, dispatch: Dispatch, archive: Callable[[RunId], None]) -> None:
        self._runs = runs
        self._loading = loading
        self._dispatch = dispatch
        self._archive = archive
        self._answers: dict[bytes, Callable[[Held, Batch, Asked], None]] = {
            b"cancel": self._cancel,
            b"retry": self._retry,
            b"pause": self._pause,
            b"resume": self._pause,
            b"archive": self._take_archive,
            b"cancel_nodes": self._to_live,
            b"skip": self._to_live,
            b"set_deadline": self._to_live,
            b"set_priority": self._to_live,
            b"complete": self._to_any,
            b"rerun": self._to_any,
        }
        self._events: dict[str, EventOf] = {
            "cancel_nodes": self._cancel_nodes,
            "skip": _skip,
            "set_deadline": _deadline,
            "set_priority": _priority,
            "complete": self._complete,
            "rerun": _rerun,
        }

    def take(self, held: Held, batch: Batch, kind: bytes, record: bytes) -> bool:
        """Answer a request; False when that is none.

        Raises:
            WireError: it cannot be used.
        """
        answer = self._answers.get(kind)
        if answer is None:
            return False
        asked = read(kind.decode(), record)
        if kind != b"archive":
            self._loading.load_some(held, batch, math.inf)
        answer(held, batch, asked)
        return True

    def _is_ours(self, held: Held, run: str) -> bool:
        return is_run_id(run) and self._runs.shard(RunId(run)) == held.keys.shard

    # -- of runs as a whole -------------------------------------------------------------------------

    def _cancel(self, held: Held, batch: Batch, asked: Asked) -> None:
        run = held.runs.get(asked.run)
        if run is None:
            return
        event = CancelRequested(asked.reason, frozenset(self._runs.claimed(run)), self._loading.at_once, asked.by)
        if apply(self._dispatch, held, batch, run, event) and run.run_state not in ENDED_RUNS:
            self._dispatch.admission.forget([run.id])
            self._loading.rest_later(held, run)

    def _retry(self, held: Held, batch: Batch, asked: Asked) -> None:
        """An ended run goes on. Nothing happens when it has not ended or nothing in it failed."""
        if asked.run not in held.runs:
            self._to_ended(held, batch, asked, _retried)

    def _pause(self, held: Held, batch: Batch, asked: Asked) -> None:
        """A run stops sending, or goes on with what has become ready meanwhile."""
        run = held.runs.get(asked.run)
        if run is None:
            return
        pauses = asked.kind == "pause"
        event = PauseRequested(asked.reason, asked.by) if pauses else ResumeRequested(asked.reason, asked.by)
        if not apply(self._dispatch, held, batch, run, event):
            return
        if pauses:
            self._dispatch.admission.forget([run.id])
        else:
            batch.queue_again(run)

    def _take_archive(self, held: Held, _batch: Batch, asked: Asked) -> None:
        """Pass it on to the retention, which does nothing with a run that has not ended."""
        if self._is_ours(held, asked.run):
            self._archive(RunId(asked.run))

    # -- of nodes, deadline and priority ------------------------------------------------------------

    def _to_live(self, held: Held, batch: Batch, asked: Asked) -> None:
        """What only a run can take that has not ended; one that has is left alone, and who asked sees that it has."""
        run = held.runs.get(asked.run)
        if run is None:
            return
        self._decide(held, batch, run, asked, self._events[asked.kind])
        self._queue_again(batch, run)

    def _to_any(self, held: Held, batch: Batch, asked: Asked) -> None:
        """What a run can take whether it has ended or not; what it opens again begins in the next turn."""
        run = held.runs.get(asked.run)
        if run is None:
            self._to_ended(held, batch, asked, self._events[asked.kind])
        elif self._decide(held, batch, run, asked, self._events[asked.kind]) and run.run_state not in ENDED_RUNS:
            self._queue_again(batch, run)
            held.to_open.append((run.id, 0))

    def _queue_again(self, batch: Batch, run: Run) -> None:
        """Some of a run's ready nodes may not be ready any more, or are to be sent in another order."""
        if run.run_state not in ENDED_RUNS:
            self._dispatch.admission.forget([run.id])
            batch.queue_again(run)

    def _to_ended(self, held: Held, batch: Batch, asked: Asked, event_of: EventOf) -> None:
        """An ended run is loaded and goes on, if what is asked for lets it.

        It is opened in the next turn: no node may begin in the commit that makes its run live, for a cut between the
        two would leave an attempt that no owner looks for.
        """
        if not self._is_ours(held, asked.run):
            return
        for run in self._runs.load_many([RunId(asked.run)], self._loading.unreadable):
            held.runs[run.id] = run
            recall(self._runs, run)
            renumber(held, batch, run)
            if run.run_state not in ENDED_RUNS:  # a crash kept the end of this request from the record
                batch.reopened.append(run)
            self._decide(held, batch, run, asked, event_of)
            if run.run_state in ENDED_RUNS:
                del held.runs[run.id]
            else:
                held.to_open.append((run.id, 0))

    def _decide(self, held: Held, batch: Batch, run: Run, asked: Asked, event_of: EventOf) -> bool:
        """Decide what is asked; the run's log has the answer. False when it changed nothing."""
        try:
            event = event_of(run, asked)
        except Unusable as wrong:
            batch.tell(run, "refused", asked.number, f"{wrong} ({words(asked.kind, asked.reason, asked.by)})")
            return False
        if isinstance(event, RerunRequested | CompleteRequested):
            self._recall_ends(run, event.nodes if isinstance(event, RerunRequested) else (event.node,))
        return apply(self._dispatch, held, batch, run, event)

    def _recall_ends(self, run: Run, nodes: Sequence[int]) -> None:
        """What is opened again keeps its timeline, of which memory lets go as nodes end. One round trip."""
        opened = {*nodes, *following(run, nodes)}
        gone = [node for node in opened if run.state[node] >= FIRST_ENDED and node not in run.ended]
        wanted = sorted(node for node in gone if run.attempt[node])
        for node, record in self._runs.records(RunId(run.id), wanted).items() if wanted else ():
            run.recall_end(node, record)

    def _cancel_nodes(self, run: Run, asked: Asked) -> Event:
        region = str(asked.more.get("region", ""))
        nodes = region_of(run, region) if region else numbers_of(run, asked)
        if not nodes:
            raise Unusable(f"no node is in a region {region!r}")
        claimed = frozenset(self._runs.claimed(run))
        return NodesCancelRequested(nodes, claimed, asked.asker, bool(asked.more.get("at_once")), region)

    def _complete(self, run: Run, asked: Asked) -> Event:
        output = checked_output(asked)
        [node] = one_of(run, asked)
        facts = facts_of(self._runs, run, node, "inline", output)
        return CompleteRequested(node, output, asked.asker, facts)


EventOf = Callable[[Run, Asked], Event]


class Unusable(Exception):
    """A request that does not fit its run; the text says why."""


def _retried(_run: Run, asked: Asked) -> Event:
    return RetryRequested(asked.reason, asked.by)


def _skip(run: Run, asked: Asked) -> Event:
    [node] = one_of(run, asked)
    return SkipRequested(node, asked.asker)


def _rerun(run: Run, asked: Asked) -> Event:
    return RerunRequested(numbers_of(run, asked), asked.asker)


def _deadline(_run: Run, asked: Asked) -> Event:
    at_ms = asked.more.get("at_ms")
    if at_ms is not None and type(at_ms) is not int:
        raise Unusable("the deadline is no instant")
    return DeadlineRequested(at_ms, asked.asker)


def _priority(_run: Run, asked: Asked) -> Event:
    priority = asked.more.get("priority")
    if type(priority) is not int:
        raise Unusable("the priority is no number")
    return PriorityRequested(priority, asked.asker)


def numbers_of(run: Run, asked: Asked) -> tuple[int, ...]:
    """The nodes that a request names by their keys.

    Raises:
        Unusable: it names none, or one that the run does not have.
    """
    keys = asked.more.get("nodes")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise Unusable("no node is named")
    wanted = set(keys)
    found = {key: node for node, key in enumerate(run.keys) if key in wanted}
    if unknown := [key for key in keys if key not in found]:
        raise Unusable(f"the run has no node {shown(unknown[0])}")
    return tuple(sorted(found.values()))


def one_of(run: Run, asked: Asked) -> tuple[int, ...]:
    """The one node that a request names.

    Raises:
        Unusable: it names none, several, or one that the run does not have.
    """
    found = numbers_of(run, asked)
    if len(found) != 1:
        raise Unusable("more than one node is named")
    return found


def region_of(run: Run, region: str) -> tuple[int, ...]:
    """The nodes of a region, and of regions inside it. O(nodes with labels)."""
    inside = f"{region}/"
    names = ((node, labels.get(REGION, "")) for node, labels in run.labels.items())
    return tuple(sorted(node for node, name in names if name == region or name.startswith(inside)))


def checked_output(asked: Asked) -> bytes:
    """The output that a request brings, raw JSON.

    Raises:
        Unusable: it is none, or too large.
    """
    text = asked.more.get("output")
    if not isinstance(text, str):
        raise Unusable("it brings no output")
    raw = text.encode("utf-8", "replace")
    if len(raw) > INLINE_LIMIT_BYTES:
        raise Unusable(f"its output has {len(raw):,} bytes, at most {INLINE_LIMIT_BYTES:,} are taken")
    try:
        json.loads(raw, parse_constant=_no_json)
    except (ValueError, RecursionError) as broken:
        raise Unusable(f"its output is not JSON: {broken}") from None
    return raw


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no number there")


def read(kind: str, record: bytes) -> Asked:
    """What somebody asks of a run.

    Raises:
        WireError: it cannot be read, or names no run.
    """
    try:
        asked = json.loads(record)
        said = (str(asked.get("reason", ""))[:MOST_REASON], str(asked.get("by", ""))[:MOST_NAME])
        reason, by = (text.encode("utf-8", "replace").decode() for text in said)
        return Asked(kind, str(asked["run"]), reason, by, asked)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
        raise WireError(kind, f"{type(broken).__name__}: {broken}", record[:200]) from broken
