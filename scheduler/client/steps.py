"""What a waiting client does, step by step: for the end of a run or a node, for outputs, for news.

Generators of the steps of waiting.py, so each is written once for threads and for coroutines. The log tells that
something has ended and wakes whoever waits; what it came to is read from the node's record and value.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..core.run import Run
from ..core.states import ENDED_RUNS, FIRST_ENDED, TARGET, MoveKind, NodeState, RunState
from ..errors import (
    InvalidValue,
    NodeFailed,
    NodeNotFound,
    NodeWithoutOutput,
    RunArchived,
    RunCancelled,
    RunError,
    RunFailed,
    RunLost,
    RunNotFound,
    StoreUnsafe,
    escaped,
    shown,
)
from ..store.follow import Entries
from ..store.outcomes import Outcome, log_end, read_outcomes, read_states, run_state
from ..store.runs import Runs
from ..store.summaries import Summary
from ..wire import RunId
from .access import Access
from .views import Event, cause_text
from .waiting import Ask, Follow, Lull, Pause, Steps, Tell

Decode = Callable[[bytes], Any]

CHUNK = 500
"""Nodes whose outputs are read at once."""
MOST_CAUSES = 100
_ENDS = frozenset(kind.word for kind in MoveKind if TARGET[kind] >= FIRST_ENDED)
_EVENT_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})(?:\.([0-9]{1,9}))?")
LULL_PART, LONGEST_LULL_SECONDS = 0.02, 0.02
"""Who waits for the end of a run or node need not be woken by each of its thousand decisions."""
_PAUSES_SECONDS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *([1.0] * 60))
"""Before each look at a node whose end is in the log and whose record is not there yet."""


class Completed(NamedTuple):
    """A node that has ended: its key, its state, and its output, or the error that `get` would raise."""

    node: str
    state: NodeState
    value: Any


@dataclass(slots=True)
class _Reading:
    """How far a log has been read.

    Attributes:
        after: id of the last entry that was read.
        state: of the run, as last seen.
        dry: everything is read; the next read may wait.
        ended: the run has.  over: and there is nothing more to read.
    """

    after: str
    state: str = RunState.RUNNING.value
    dry: bool = False
    ended: bool = False
    over: bool = False


class RunSteps:
    """The steps of one run.

    Args:
        access: to the store.
        run: its id.
        keys: the user's key of every node, by number, when known; else asked for once.
        seen: the store has acknowledged the run.
    """

    def __init__(self, access: Access, run: RunId, keys: Sequence[str] | None = None, *, seen: bool = False) -> None:
        self.access = access
        self.run = run
        self._known_keys = keys
        self._seen = seen
        self._numbers: dict[str, int] | None = None

    def state(self) -> RunState:
        """The run's state; not a step but a plain question.

        Raises:
            RunNotFound: there is no such run.
            RunLost: it was here before.
        """
        try:
            found = self.access.reading(self.run, lambda runs: run_state(runs, self.run))
        except RunArchived:
            raise
        except RunNotFound:
            if self._seen:
                raise RunLost(self.run) from None
            raise
        self._seen = True
        return found

    @property
    def runs(self) -> Runs:
        """Where the run is read, as far as that is known by now."""
        return self.access.runs_of(self.run)

    def _summary(self) -> Summary:
        return self.access.reading(self.run, lambda runs: runs.summary(self.run))

    # --- ends --------------------------------------------------------------------------------------------

    def end(self) -> Steps[RunState]:
        """The run's state, once it has ended."""
        state: RunState = yield Ask(self.state)
        if state in ENDED_RUNS:  # most are, where many are waited for one after the other
            return state
        after: str = yield Ask(self.log_end)
        began = time.monotonic()
        while True:
            state = yield Ask(self.state)
            if state in ENDED_RUNS:
                return state
            while entries := (yield Follow(after, state.value, nodes=False)):
                after = entries[-1][0]
                ended = _run_end(entries)
                if ended is not None:
                    return ended
                yield Lull(_lull(began))

    def retry(self, ask: Callable[[], None]) -> Steps[None]:
        """Ask for an ended run to be tried again, and wait until its scheduler has taken it up."""
        after: str = yield Ask(self.log_end)
        summary: Summary = yield Ask(self._summary)
        if self.access.is_archived(self.run):
            what = "It cannot be retried; submit its graph again"
            raise RunArchived(self.run, self.access.runs.archive_place(), what)
        if summary.state not in ENDED_RUNS:
            raise RunError(
                f"run {self.run} is {summary.state}; only an ended run can be retried. Wait for its end, or cancel it.",
                run=self.run,
            )
        if not any(summary.progress.get(state) for state in ("failed", "upstream_failed", "cancelled")):
            raise RunError(
                f"run {self.run} has nothing to retry: no node failed or was cancelled. Submit the graph again to "
                "run it anew.",
                run=self.run,
            )
        yield Ask(ask)
        while True:
            entries = yield Follow(after, summary.state.value)
            if not entries:
                yield Ask(self.state)  # it may have been removed a moment ago
                if self.access.is_archived(self.run):
                    raise RunArchived(self.run, self.access.runs.archive_place(), "It was, before it could be retried")
                continue
            after = entries[-1][0]
            if any(move[:2] == [-1, RunState.RUNNING.value] for _, moves in entries for move in moves):
                return

    def output(self, key: str, decode: Decode = json.loads) -> Steps[Any]:
        """A node's output, once it has ended.

        Raises:
            NodeNotFound, NodeFailed, NodeWithoutOutput, RunCancelled: see RunHandle.get.
        """
        node = yield from self._number(key)
        outcome = yield from self._node_end(node, key)
        value = yield from self._value(node, outcome, decode)
        if isinstance(value, RunError):
            raise value
        return value

    def result(self) -> Steps[Any]:
        """The output of the run; see RunHandle.result."""
        run: Run = yield Ask(self.load)
        node = run.returns
        if node is None:
            sinks = [node for node in range(run.n) if run.is_sink(node)]
            if len(sinks) != 1:
                raise RunError(
                    f"run {self.run} has {len(sinks)} last nodes and returns none of them. Use get(node) or results(), "
                    "or let the graph say which: Graph.returns(node).",
                    run=self.run,
                )
            node = sinks[0]
        outcome = yield from self._node_end(node, run.keys[node])
        value = yield from self._value(node, outcome)
        if isinstance(value, NodeWithoutOutput):
            state = yield from self.end()
            if state is RunState.FAILED:
                causes = yield from self._causes()
                raise RunFailed(self.run, causes) from value
        if isinstance(value, RunError):
            raise value
        return value

    def results(self) -> Steps[dict[str, Any]]:
        """Key -> output of every node that succeeded, once the run has ended."""
        yield from self.end()
        keys = yield from self._keys()
        states = yield from self._states()
        succeeded = [node for node, outcome in enumerate(states) if outcome.state is NodeState.SUCCEEDED]
        results: dict[str, Any] = {}
        for at in range(0, len(succeeded), CHUNK):
            outcomes = yield from self._settled(succeeded[at : at + CHUNK])
            for node, outcome in outcomes.items():
                results[keys[node]] = yield from self._value(node, outcome)
        return results

    # --- news --------------------------------------------------------------------------------------------

    def completed(self) -> Steps[None]:
        """Tells each node that has ended, once, in the order of the log, until the run has ended."""
        keys = yield from self._keys()
        told = bytearray(len(keys))
        reading = _Reading("0")
        over = False
        while not over:
            entries = yield from self._news(reading, follow=True)
            over = reading.over
            news = [move[0] for _, moves in entries for move in moves if move[0] >= 0 and move[1] in _ENDS]
            if over:  # what a crash may have kept out of the log stands in the records all the same
                states = yield from self._states()
                news += [node for node, outcome in enumerate(states) if outcome.state >= FIRST_ENDED]
            news = [node for node in dict.fromkeys(news) if not told[node]]
            for at in range(0, len(news), CHUNK):
                outcomes = yield from self._settled(news[at : at + CHUNK])
                for node in news[at : at + CHUNK]:
                    told[node] = 1
                    value = yield from self._value(node, outcomes[node])
                    yield Tell(Completed(keys[node], outcomes[node].state, value))

    def events(self, after: str | None, follow: bool) -> Steps[None]:
        """Tells every move of the log behind an event's id.

        Raises:
            InvalidValue: that is no event's id.
        """
        read_after, skip_in, skip = _place(after)
        keys = yield from self._keys()
        reading = _Reading(read_after)
        while not reading.over:
            for id_, moves in (yield from self._news(reading, follow)):
                at_ms = int(id_.partition("-")[0])
                for at, (node, word, attempt, cause, why) in enumerate(moves):
                    if id_ == skip_in and at < skip:
                        continue
                    key, because = (keys[it] if it >= 0 else None for it in (node, cause))
                    yield Tell(Event(f"{id_}.{at}", at_ms, key, word, attempt, because, why))

    def _news(self, reading: _Reading, follow: bool) -> Steps[Entries]:
        """The next entries of the log; none, and `reading.over`, when there will be no more.

        Reads what is there, then looks whether the run has ended, and only then waits. A run that ended and was
        taken up again has further entries behind its end.
        """
        entries: Entries = yield Follow(reading.after, reading.state, wait=reading.dry)
        if entries:
            reading.after = entries[-1][0]
            reading.dry = reading.ended = False
        elif not follow or reading.ended:
            reading.over = True
        else:
            found: RunState = yield Ask(self.state)
            reading.state = found.value
            reading.ended = found in ENDED_RUNS  # then once more: its last entries may just have come
            reading.dry = not reading.ended
        return entries

    # --- one node ----------------------------------------------------------------------------------------

    def _node_end(self, node: int, key: str) -> Steps[Outcome]:
        """A node's outcome, once it has ended."""
        after: str = yield Ask(self.log_end)
        began = time.monotonic()
        yield Ask(self.state)  # a run that is not there has no nodes either
        while True:
            found: dict[int, Outcome] = yield Ask(partial(read_outcomes, self.runs, self.run, [node]))
            if found[node].settled:
                return found[node]
            while entries := (yield Follow(after, found[node].state.word, key)):
                after = entries[-1][0]
                moves = [move for _, moves in entries for move in moves if move[0] == node]
                if _run_end(entries) or any(move[1] in _ENDS for move in moves):
                    settled = yield from self._settled([node])
                    return settled[node]
                yield Lull(_lull(began))
            yield Ask(self.state)

    def _settled(self, nodes: Sequence[int]) -> Steps[dict[int, Outcome]]:
        """Outcomes of nodes that have ended. Log, record and value may come with different calls of one commit."""
        found: dict[int, Outcome] = {}
        missing = list(nodes)
        for seconds in _PAUSES_SECONDS:
            if seconds:
                yield Pause(seconds)
                yield Ask(self.state)  # the run may have been archived meanwhile
            some: dict[int, Outcome] = yield Ask(partial(read_outcomes, self.runs, self.run, missing))
            found |= some
            missing = [node for node in missing if not found[node].settled]
            if not missing:
                return found
        keys = yield from self._keys()
        raise StoreUnsafe(
            f"run {self.run}: node {shown(keys[missing[0]])} has ended, and its record or output is not there",
            "Redis lost what it had acknowledged, or no scheduler runs; see `celeriac doctor`",
        )

    def _states(self) -> Steps[list[Outcome]]:
        """Outcomes of all nodes, without values."""
        keys = yield from self._keys()
        found: list[Outcome] = yield Ask(partial(read_states, self.runs, self.run, len(keys)))
        if any(it.state < FIRST_ENDED for it in found):
            where = self.runs
            yield Ask(self.state)
            if self.runs is not where:  # archived meanwhile
                found = yield Ask(partial(read_states, self.runs, self.run, len(keys)))
        return found

    def _value(self, node: int, outcome: Outcome, decode: Decode = json.loads) -> Steps[Any]:
        """The output of a node that has ended, or the error that says why there is none."""
        keys = yield from self._keys()
        key, state = keys[node], outcome.state
        if state is NodeState.SUCCEEDED:
            raw = outcome.raw
            if outcome.output == "b":
                raw = yield Ask(partial(self._blob, key, outcome))
            return decode(b"null" if raw is None or outcome.output == "n" else raw)
        if state is NodeState.FAILED:
            return NodeFailed(run=self.run, node=key, attempt=outcome.attempt, error=_error(outcome))
        if state in (NodeState.CANCELLED, NodeState.SKIPPED) and outcome.output == "n":  # by itself, by a person
            cause = str(_error(outcome).get("message", ""))
        elif state is NodeState.CANCELLED:
            summary: Summary = yield Ask(self._summary)
            if summary.state is not RunState.FAILED:
                return RunCancelled(self.run, summary.reason)
            cause = summary.reason
        else:
            cause = yield from self._root(outcome)
        return NodeWithoutOutput(run=self.run, node=key, state=state.word, cause=cause)

    def _root(self, outcome: Outcome) -> Steps[str]:
        """Why a node was passed over, from the node that began it; one question per step upstream."""
        keys = yield from self._keys()
        while (node := outcome.cause) is not None:
            found: dict[int, Outcome] = yield Ask(partial(read_outcomes, self.runs, self.run, [node]))
            outcome = found[node]
            if outcome.cause is None:
                said = ""
                error = _error(outcome)
                if outcome.state is NodeState.FAILED:
                    said = f": {error.get('type', '')}: {error.get('message', '')}"
                elif outcome.output == "n" and error.get("message"):
                    said = f": {error['message']}"
                return f"{cause_text(keys[node], outcome.state)}{escaped(said, 300)}"
        return ""

    def _causes(self) -> Steps[list[tuple[str, dict[str, Any]]]]:
        """Nodes that failed themselves, with their errors; the first hundred."""
        keys = yield from self._keys()
        states = yield from self._states()
        failed = [node for node, outcome in enumerate(states) if outcome.state is NodeState.FAILED][:MOST_CAUSES]
        found: dict[int, Outcome] = yield Ask(partial(read_outcomes, self.runs, self.run, failed))
        return [(keys[node], _error(found[node])) for node in failed]

    # --- questions ---------------------------------------------------------------------------------------

    def log_end(self) -> str:
        """Id of the newest entry of the run's log; not a step but a plain question."""
        return log_end(self.runs, self.run)

    def load(self) -> Run:
        """The run with all its nodes; not a step but a plain question."""
        found = self.access.reading(self.run, lambda runs: runs.load(self.run))
        self._known_keys = found.keys
        return found

    def _keys(self) -> Steps[Sequence[str]]:
        if self._known_keys is None:
            yield Ask(self.load)
        assert self._known_keys is not None  # noqa: S101  load has set it
        return self._known_keys

    def _number(self, key: str) -> Steps[int]:
        keys = yield from self._keys()
        if self._numbers is None:
            self._numbers = {key: number for number, key in enumerate(keys)}
        number = self._numbers.get(key)
        if number is None:
            raise NodeNotFound(self.run, str(key), keys)
        return number

    def _blob(self, key: str, outcome: Outcome) -> bytes:
        """A large output, whole."""
        known = json.loads(outcome.raw or b"{}")
        data = self.runs.blob(str(known.get("blob")))
        if data is None:
            problem = "is gone"
        elif known.get("sha256") and known["sha256"] != hashlib.sha256(data).hexdigest():
            problem = "is not what was stored"
        else:
            return data
        raise StoreUnsafe(
            f"run {self.run}: the large output of node {shown(key)} {problem}",
            "Redis lost what it had acknowledged; check maxmemory-policy (noeviction)",
        )


def _lull(began: float) -> float:
    """Seconds in which the log may gather before it is read on: a small part of how long somebody has been waiting.

    Args:
        began: since when, by time.monotonic().
    """
    return min(LULL_PART * (time.monotonic() - began), LONGEST_LULL_SECONDS)


def _run_end(entries: Entries) -> RunState | None:
    """The run's last state, if these entries hold its end."""
    words = [move[1] for _, moves in entries for move in moves if move[0] == -1 and move[1] in ENDED_RUNS]
    return RunState(words[-1]) if words else None


def _error(outcome: Outcome) -> dict[str, Any]:
    error = json.loads(outcome.raw or b"{}")
    return error if isinstance(error, dict) else {}


def _place(after: str | None) -> tuple[str, str, int]:
    """An event's id as (read the log after this, in this entry, skip so many moves)."""
    if after is None:
        return "0", "", 0
    found = _EVENT_ID.fullmatch(str(after))
    if found is None:
        raise InvalidValue("after", after, "is not the id of an event", "Give Event.id, or None for all events.")
    instant, number, move = found.groups()
    if move is None:
        return after, "", 0
    before = f"{instant}-{int(number) - 1}" if int(number) else f"{int(instant) - 1}-{2**64 - 1}"
    return before if int(instant) else "0", f"{instant}-{number}", int(move) + 1
