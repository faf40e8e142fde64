"""What a move rested on that no rule decides: how an attempt was sent and ended, what was asked of the run.

Pure; for explain.py. A move that a later version adds needs nothing here as long as the log tells its event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .derived import candidates
from .events import Event, LeaseExpired, PolicyAdopted, Reported
from .facts import LAST_ONE, Fact, laid, spent
from .history import History, Line
from .readings import TRIGGERS
from .recorded import event_of, record_of
from .run import Run
from .states import IN_FLIGHT, NodeState, RunState

_WAITS = {"park": "parked", "hand_over": "handed", "ask": "parked"}
"""Move that made a node wait without a worker -> the fact that it waits so."""
_RUNG = re.compile(r": rung ([0-9]+) of ")
Found = tuple[tuple[Fact, ...], tuple[str, ...]]
"""The facts, and what is not known any more."""


class Grounds:
    """The attempts and requests of one run.

    Args:
        run, history: as for Explainer.
    """

    def __init__(self, run: Run, history: History) -> None:
        self.run = run
        self.history = history

    def facts_for(self, line: Line, at: int) -> Found:
        """What a move rests on that no rule decides."""
        node = line.node
        if line.word in ("succeed", "fail", "retry", "lose", "ask", "hand_over"):
            return self._attempt(line, at)
        mine = self.history.last(node, at)
        before = None if mine is None else self.history.lines[mine]
        if line.word == "dispatch":
            facts = (
                [Fact(before.id, node, "ready", before.attempt)] if before and before.state is NodeState.READY else []
            )
            return tuple(facts), () if facts else ("the line that made it ready is gone",)
        if line.word == "wake" and (before is None or before.word not in _WAITS):
            facts = [Fact(before.id, node, "waits", before.attempt)] if before and before.word == "retry" else []
            return tuple(facts), () if facts else ("the failed try before this wait is gone",)
        if line.word == "cancel":
            return self._cancelled(line, at, before)
        return self._of_request(line, at, before)

    def _attempt(self, line: Line, at: int) -> Found:
        """An attempt ended: it was sent, this was told of it, and so many had ended badly before."""
        history, node = self.history, line.node
        mine = history.epoch(node, at)
        facts, unknown = [], []
        sent = history.lines[mine[-1]] if mine and history.lines[mine[-1]].word == "dispatch" else None
        if sent is None:
            unknown.append("the line that sent the attempt is gone")
        else:
            facts.append(Fact(sent.id, node, "dispatched", sent.attempt))
        event = self._event(line, at)
        if event is None:
            return tuple(facts), (*unknown, "how the attempt ended is not told")
        facts.append(Fact(line.id, node, "report", record_of(event, line.at_ms, whole=True)))
        if line.word not in ("succeed", "hand_over"):
            what = spent(event)
            facts += self._spent_before(mine, what)
            facts += self._rung(mine)
            facts += self._policy(at)
        if LAST_ONE in line.why:
            facts.append(Fact(self._stop_id(at), -1, "stopped", line.why.partition(LAST_ONE)[2]))
        return tuple(facts), tuple(unknown)

    def _spent_before(self, mine: Sequence[int], what: str) -> Iterator[Fact]:
        """Earlier attempts of the same epoch that count as the same."""
        for number in mine:
            one = self.history.lines[number]
            if one.word in ("retry", "lose", "ask"):
                event = self._event(one, number)
                if event is not None and spent(event) == what:
                    yield Fact(one.id, one.node, what, one.attempt)

    def _rung(self, mine: Sequence[int]) -> Iterator[Fact]:
        """Where on its retry ladder a node stood after some of its lines, if that is not the ground."""
        step, since, failures, came = 0, 0, 0, None
        for one in (self.history.lines[it] for it in mine):
            found = _RUNG.search(one.why) if one.word in ("retry", "ask") else None
            failures += one.word in ("retry", "ask")
            if found is not None and int(found[1]) - 1 != step:
                step, since, came = int(found[1]) - 1, failures, one
            elif one.word == "wake" and (one.told or {}).get("event") == "Answered":
                step, since, came = 0, failures, one
        if came is not None:
            yield Fact(came.id, came.node, "rung", [step, since])

    def _policy(self, at: int) -> Iterator[Fact]:
        """The policy that counted then, if any did."""
        if self.run.policy is None:
            return
        for one in reversed(self.history.lines[:at]):
            if one.node < 0 and one.word == "policy" and one.told is not None:
                event = event_of(one.told)
                if isinstance(event, PolicyAdopted):
                    yield Fact(one.id, -1, "policy", event.policy)
                return

    def _event(self, line: Line, at: int) -> Event | None:
        """The event behind the end of an attempt: as told, else as it follows from the line."""
        if line.told is not None and "event" in line.told:
            try:
                return event_of(line.told)
            except ValueError:
                return None
        stage = laid(self.run, ())
        stage.attempt[line.node] = line.attempt
        if line.word == "retry":
            earlier = [self.history.lines[it] for it in self.history.epoch(line.node, at)]
            stage.failures[line.node] = sum(it.word == "retry" for it in earlier)
        found = candidates(stage, self.history.lines, at, lambda _node, _epoch: None)
        return next((it for it in found if isinstance(it, Reported | LeaseExpired)), None)

    def _stop_id(self, at: int) -> str:
        """The line that first tells of the run's stop."""
        lines = self.history.lines[: at + 1]
        return next((it.id for it in lines if it.why.startswith("stopped: ")), self.history.lines[at].id)

    def _cancelled(self, line: Line, at: int, before: Line | None) -> Found:
        """Cancelled with its run: where it stood, and what was asked of the run. Or withdrawn from a race that others
        have won.
        """
        facts = []
        if before is not None:
            facts.append(Fact(before.id, line.node, "state", before.state.word))
        else:
            facts.append(Fact("graph", line.node, "state", NodeState.PENDING.word))
        races = {} if self.run.guards is None else self.run.guards.races
        if line.cause in races:
            ends = (self.history.last(member, at) for member in races[line.cause])
            won = [self.history.lines[it] for it in ends if it is not None]
            facts += [Fact(it.id, it.node, "state", it.state.word) for it in won if it.state is NodeState.SUCCEEDED]
            return tuple(facts), ()
        told = line.told or {}
        if told.get("event") in ("Reported", "LeaseExpired"):
            facts[0] = Fact(facts[0].id, line.node, "dispatched", line.attempt)
            facts.append(Fact(line.id, line.node, "report", dict(told)))
        state = self.history.run_state(at)
        number = self.history.run_line(at) if state is RunState.CANCELLING else self.history.run_line_from(at)
        if number is None:
            return tuple(facts), ("the line that cancelled the run is gone",)
        of_run = self.history.lines[number]
        if state is RunState.CANCELLING:
            facts.append(Fact(of_run.id, -1, "run", state.value))
        if "report" not in {it.what for it in facts}:
            facts.append(Fact(of_run.id, -1, "asked", self._request(number, at, state)))
        return tuple(facts), ()

    def _request(self, number: int, at: int, state: RunState) -> dict[str, object]:
        """The event that cancelled a run, or what went on with that; as the log tells it, else as its words say."""
        line = self.history.lines[at]
        if state is RunState.CANCELLING:
            if self.history.state(line.node, at) in IN_FLIGHT:
                return {"event": "GraceOver"}
            return {"event": "Opened", "first": line.node, "end": line.node + 1}
        for one in self.history.lines[at::-1]:
            if one.told is not None and one.told.get("event") in ("CancelRequested", "DeadlinePassed"):
                return dict(one.told)
            if one.is_of_run and one.word not in ("running", "paused"):
                break
        of_run = self.history.lines[number]
        if of_run.word == RunState.FAILED:
            return {"event": "DeadlinePassed"}
        reason = of_run.why.removeprefix("cancelled: ")
        return {"event": "CancelRequested", "reason": reason, "running": {"$set": []}}

    def _of_request(self, line: Line, at: int, before: Line | None) -> Found:
        """What somebody asked for: as the log tells it. A node that is opened again was bad, or follows such a one."""
        facts = []
        if before is not None and before.word in _WAITS and line.word != "reopen":
            since = before.at_ms - self.run.created_at_ms
            facts.append(
                Fact(before.id, line.node, _WAITS[before.word], since if before.word != "hand_over" else before.attempt)
            )
        elif before is not None and (line.word != "reopen" or not line.why):
            facts.append(Fact(before.id, line.node, "state", before.state.word))
        if before is not None and before.word == "ask":
            facts += self._rung(self.history.epoch(line.node, at))
        if line.word == "reopen":
            if line.why:
                facts += self._opened_before(line, at)
            if (number := self.history.run_line_from(at)) is None:
                return tuple(facts), ("the line that set the run going again is gone",)
            of_run = self.history.lines[number]
            reason = of_run.why.removeprefix("retry: ")
            facts.append(Fact(of_run.id, -1, "asked", {"event": "RetryRequested", "reason": reason}))
            return tuple(facts), ()
        told = self._told(at)
        if told is None:
            return tuple(facts), ("what was asked for is not told",)
        return (*facts, Fact(told.id, -1, "asked", dict(told.told or {}))), ()

    def _opened_before(self, line: Line, at: int) -> Iterator[Fact]:
        """An upstream node that was opened again in the same decision."""
        for up in self.run.upstream(line.node):
            last = self.history.last(up, at)
            if last is not None and self.history.lines[last].word == "reopen":
                yield Fact(self.history.lines[last].id, up, "reopened", True)
                return

    def _told(self, at: int) -> Line | None:
        """The line at which the decision of a line begins, when the log tells its event."""
        for number in range(at, -1, -1):
            one = self.history.lines[number]
            if one.told is not None and "event" in one.told:
                return one
            if one.word in TRIGGERS:
                return None
        return None
