"""One simulation under way: what the service, the workers, people and the clock do to a run, in one place.

At every instant ready nodes are sent at once (queue classes are not simulated: there is always room), then what was
scripted for a wait that has begun comes, then what is due: ends of attempts, signals and answers before timers, each in
the order in which it was set.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from ..core.decide import decide
from ..core.events import (
    Admitted,
    Answered,
    Completed,
    Decision,
    Event,
    Followed,
    LeaseExpired,
    Opened,
    Reported,
    Signalled,
    StartLimitPassed,
)
from ..core.evolve import evolve
from ..core.guards import Facts
from ..core.inputs import resolve
from ..core.ladder import GROUND
from ..core.mappers import MappingError
from ..core.mapping import Mappings
from ..core.run import DEFAULT_TIMEOUT_MS, Profile, Run
from ..core.states import ENDED_RUNS, IN_FLIGHT, MoveKind, NodeState, RunState
from ..core.timers import timer_event
from ..core.waiting import wait_of
from ..errors import InvalidValue, quoted, shown
from ..graph import Graph
from ..graph.limits import seconds_of
from ..payloads import check_payload
from ..wire import error_record
from ..worker.context import Context
from ..worker.endings import Ending
from .errors import Unscripted
from .governing import Governing
from .outcomes import HANGS, UNCLAIMED, UNSET, Call, Ended, ended, exchanged, pick
from .script import Answer, Question, Script, Signal, answers_of, check_outcomes, signals_of, unused_words
from .simulation import Decided, Line, Simulation, waits_of

RUN_ID = "0" * 26
WORKER = "simulated"
UNCLAIMED_TYPES = ("NeverClaimed", "StoreRewound")
"""Types of errors of lost attempts that no worker has begun."""
_READY = int(NodeState.READY)
_PARKING = (MoveKind.PARK, MoveKind.ASK)


class End(NamedTuple):
    """An attempt, or a job outside, ends; with its output."""

    event: Reported | LeaseExpired | Completed
    raw: bytes | None


class Due(NamedTuple):
    """Something that happens at an instant. Of two at once the lower rank comes first, then the older one.

    Attributes:
        what: the name of a timer, an End, a Signal, or (Question, Answer).
    """

    at_ms: int
    rank: int
    number: int
    what: Any


class Play:
    """One run of a graph.

    Args:
        script: checked here, as soon as the graph is compiled.
        start: when the run begins.
        seed: of the chance.

    Raises:
        GraphError: the graph cannot be run, or the script does not fit it.
    """

    def __init__(self, graph: Graph, script: Script, start: datetime, seed: int) -> None:
        if start.tzinfo is None:
            raise InvalidValue("start", str(start), "has no zone", "Write datetime(..., tzinfo=UTC).")
        compiled = graph.compile(contracts=script.contracts or None)
        self._hash = compiled.hash
        self._now = round(start.timestamp() * 1000)
        self._run = run = Run.load(RUN_ID, compiled.header, compiled.pages(), created_at_ms=self._now)
        check_outcomes(run, script.outcomes)
        self._script = script
        self._signals, self._answers = signals_of(run, script.signals), answers_of(run, script.answers)
        if script.deadline is not None:
            run.deadline_at_ms = self._now + round(seconds_of(script.deadline, "deadline") * 1000)
        self._mappings = Mappings(_nothing_lies_aside)
        self._governing = None if script.policy is None else Governing(script.policy, run, script.contracts)
        self._chance = random.Random(seed)
        self._number = itertools.count()
        self._due: list[Due] = []
        self._timers: dict[str, int] = {}
        self._values: dict[int, bytes] = {}
        self._calls: dict[str, list[Call]] = {}
        self._unclaimed: set[tuple[int, int]] = set()
        self._asked: set[Question] = set()
        self._parks: Counter[int] = Counter()
        self._log: list[Line] = []
        self._decided: list[Decided] = []

    def play(self) -> Simulation:
        """Until the run has ended, or waits for what nobody has scripted."""
        for one in [it for it in self._signals if it.at is not None]:
            self._later(round(seconds_of(one.at, "Signal(at)", 0) * 1000), one)
        if self._governing is not None:
            self._happen(self._governing.adopted, self._now)
        self._happen(Opened(), self._now)
        while self._run.run_state not in ENDED_RUNS:
            self._send()
            if self._outside():
                continue
            if not self._due:
                break
            self._take(heapq.heappop(self._due))
        return self._result()

    # -- the clock ----------------------------------------------------------------------------------------

    def _later(self, after_ms: int, what: Any) -> None:
        heapq.heappush(self._due, Due(self._now + after_ms, 0, next(self._number), what))

    def _take(self, due: Due) -> None:
        """What is due happens, unless it means nothing any more; then no time passes either."""
        what = due.what
        if isinstance(what, str):
            if self._timers.get(what) == due.at_ms:
                del self._timers[what]
                self._timer(what, due.at_ms)
        elif isinstance(what, End):
            self._happen(what.event, due.at_ms, what.raw)
        elif isinstance(what, Signal):
            self._signal(what, due.at_ms)
        elif what[0] == self._question(what[0].node):
            self._answer(what[0], what[1], due.at_ms)

    def _timer(self, name: str, at_ms: int) -> None:
        event = timer_event(name, self._chance.random())
        if isinstance(event, StartLimitPassed):
            flies = self._run.state[event.node] in IN_FLIGHT
            claimed = (event.node, self._run.attempt[event.node]) not in self._unclaimed
            event = event._replace(begun=flies and claimed)
        if event is not None:
            self._happen(event, at_ms)

    def _happen(self, event: Event, at_ms: int, raw: bytes | None = None) -> Decision:
        """Decide an event and apply it, as the service does. One that is stale moves nothing, the clock included.

        Args:
            raw: JSON of the output that a report brings.
        """
        run = self._run
        decision = decide(run, event, at_ms)
        if decision.stale:
            return decision
        self._now = at_ms
        evolve(run, decision, at_ms)
        if raw is not None and isinstance(event, Reported):
            self._values[event.node] = raw
        for move in decision.moves:
            if move.error is not None:
                self._values[move.node] = json.dumps(move.error).encode()
            if move.kind in _PARKING:
                self._parks[move.node] += 1
            if move.node in decision.outputs:
                self._values[move.node] = decision.outputs[move.node]
        for timer in decision.timers:
            self._timers[timer.name] = timer.due_at_ms
            heapq.heappush(self._due, Due(timer.due_at_ms, 1, next(self._number), timer.name))
        for name in decision.cancelled:
            self._timers.pop(name, None)
        self._write(event, decision)
        for node in decision.rest:
            for first in range(run.at_once, len(run.downstream(node)), run.at_once):
                self._happen(Followed(node, first, first + run.at_once), at_ms)
        return decision

    def _write(self, event: Event, decision: Decision) -> None:
        """The lines of a decision, as the service writes them into a run's log."""
        run, at = self._run, self._now - self._run.created_at_ms
        for node, kind, cause, why, _ in decision.moves:
            number = event.attempt if kind == MoveKind.LOSE else run.attempt[node]  # type: ignore[union-attr]  # of a loss
            causer = run.keys[cause] if cause >= 0 else ""
            self._log.append(Line(at, run.keys[node], number, MoveKind(kind).word, why, causer))
        for node, word, why in decision.notes:
            key, number = (run.keys[node], run.attempt[node]) if node >= 0 else ("", 0)
            self._log.append(Line(at, key, number, word, why, ""))
        if decision.run is not None:
            self._log.append(Line(at, "", 0, decision.run.value, decision.why, ""))
        rungs = {move.node: run.rungs.get(move.node, GROUND)[0] for move in decision.moves}
        self._decided.append(Decided(event, decision, rungs))

    # -- workers ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Ready nodes go out, and it is known at once how their attempts will end."""
        run = self._run
        while run.by_state[_READY] and run.run_state is RunState.RUNNING:
            ready = [node for node, state in enumerate(run.state) if state == _READY and not self._is_stopped(node)]
            if not ready:
                break
            for move in self._happen(Admitted(ready), self._now).moves:
                self._begin(move.node)

    def _is_stopped(self, node: int) -> bool:
        """Whether the policy keeps a ready node from going out: it has failed then, or is held."""
        governing = self._governing
        if governing is None or self._run.state[node] != _READY:
            return governing is not None
        if node in governing.held:
            return True
        try:
            inputs = self._inputs(node)
        except MappingError:
            return False  # it fails as it goes out
        found = governing.before(node, inputs)
        if found is None:
            return False
        if found.holds:
            at = self._now - self._run.created_at_ms
            key, attempt = self._run.keys[node], self._run.attempt[node]
            self._log.append(Line(at, key, attempt, "wait", governing.held[node], ""))
        else:
            self._happen(Admitted([node]), self._now)
            self._fail_unsent(node, governing.denial(found))
        return True

    def _fail_unsent(self, node: int, error: dict[str, Any]) -> None:
        """An attempt fails that never went out."""
        run = self._run
        epoch, attempt = run.epoch[node], run.attempt[node]
        event = Reported(node, epoch, attempt, "failed", "none", "", None, self._now, error, None, 0.0)
        self._happen(event, self._now)

    def _inputs(self, node: int) -> list[Any]:
        """[args, kwargs] as they would be sent, secrets unread.

        Raises:
            MappingError: a mapper makes nothing of what it gets.
        """
        text, _ = resolve(self._run, self._run.template(node), self._values, self._mappings)
        found: list[Any] = json.loads(f"[{text}]")
        return found

    def _begin(self, node: int) -> None:
        run, script = self._run, self._script
        key, way, attempt = run.keys[node], run.way(node), run.attempt[node]
        try:
            inputs = exchanged(self._inputs(node), run.secret_places(node), script.secrets)
        except MappingError as failed:
            self._fail_unsent(node, error_record("contract", "MappingError", str(failed), phase="dispatch"))
            return
        once = f"{run.id}.{node}.{run.epoch[node]}"
        call = Call(key, way.executor, inputs[0], inputs[1], attempt, once)
        calls = self._calls.setdefault(key, [])
        calls.append(call)
        outcome, at = self._outcome(call, calls)
        context = Context(
            id=run.attempt_id(0, node),
            run=run.id,
            node=key,
            number=attempt,
            key=once,
            worker=WORKER,
            deadline_at_ms=run.deadline_at_ms,
            hard_end_at_ms=self._now + self._limit_ms(way),
            labels=run.labels.get(node, {}),
        )
        self._schedule(node, way, self._checked(node, ended(outcome, call, context, at)))

    def _outcome(self, call: Call, calls: list[Call]) -> tuple[Any, str]:
        """The scripted outcome of an attempt, and where it stands.

        Raises:
            Unscripted: there is none.
        """
        script = self._script
        if call.node in script.outcomes:
            at = f"outcomes[{quoted(call.node)}]"
            return pick(script.outcomes[call.node], len(calls), at), at
        if call.executor in script.executors:
            at = f"executors[{quoted(call.executor)}]"
            mine = sum(it.executor == call.executor for it in calls)
            return pick(script.executors[call.executor], mine, at), at
        if script.default is UNSET:
            raise Unscripted(call.node, call.executor)
        return pick(script.default, len(calls), "default"), "default"

    def _checked(self, node: int, found: Ended) -> Ended:
        """How an attempt ends when the policy has its say on the output."""
        if self._governing is None or found.raw is None:
            return found
        denied = self._governing.after(node, self._inputs(node), json.loads(found.raw))
        return found if denied is None else found._replace(raw=None, ending=Ending(*denied))

    def _schedule(self, node: int, way: Profile, found: Ended) -> None:
        """An attempt has been sent: when it ends, and how."""
        run = self._run
        guards = run.guards
        if found.never is UNCLAIMED:
            self._unclaimed.add((node, run.attempt[node]))
            return
        if guards is not None and (wait := guards.waits.get(node)) is not None and wait.kind == "outside":
            self._happen(self._report(node, self._now, Ended(raw=b"null")), self._now)
            if found.never is None:
                self._later(found.after_ms, End(self._completed(node, self._now + found.after_ms, found), None))
            return
        limit = self._limit_ms(way)
        silent = found.never is HANGS and way.silence_ms is not None and way.silence_ms < limit
        if silent:
            limit = way.silence_ms or 0
        if found.never is HANGS or found.after_ms > limit:
            epoch, attempt, chance = run.epoch[node], run.attempt[node], self._chance.random()
            event = LeaseExpired(node, epoch, attempt, self._now, WORKER, hard_end=True, chance=chance, silent=silent)
            self._later(limit, End(event, None))
            return
        self._later(found.after_ms, End(self._report(node, self._now + found.after_ms, found), found.raw))

    def _limit_ms(self, way: Profile) -> int:
        """The time limit of an attempt: the node's, else the executor's, else that of a class that says nothing."""
        declared = self._contract(way).get("timeout_seconds")
        return way.timeout_ms or (round(declared * 1000) if declared else DEFAULT_TIMEOUT_MS)

    def _contract(self, way: Profile) -> Any:
        return self._script.contracts.get(way.executor, {})

    def _report(self, node: int, at_ms: int, found: Ended) -> Reported:
        run, ending = self._run, found.ending
        facts = None if found.raw is None else self._facts(node, found.raw)
        error = None if ending is None else ending.error
        lost = ending is not None and ending.end == "lost"
        return Reported(
            node,
            run.epoch[node],
            run.attempt[node],
            "succeeded" if ending is None else ending.end,
            "inline" if ending is None else "none",
            WORKER,
            None if error is not None and lost and error["type"] in UNCLAIMED_TYPES else self._now,
            at_ms,
            error,
            None if ending is None else ending.retry_after_ms,
            self._chance.random(),
            facts,
            lost and self._contract(run.way(node)).get("purity") == "unsafe",
        )

    def _completed(self, node: int, at_ms: int, found: Ended) -> Completed:
        run = self._run
        raw = found.raw or b"null"
        error = None if found.ending is None else found.ending.error
        epoch, attempt, chance = run.epoch[node], run.attempt[node], self._chance.random()
        return Completed(node, epoch, attempt, at_ms, raw, error, chance, self._facts(node, raw))

    def _facts(self, node: int, raw: bytes) -> Facts | None:
        """What the graph's expressions read of an output."""
        guards = self._run.guards
        wanted = guards is not None and node in guards.wanted
        return guards.facts(node, "output", json.loads(raw)) if guards is not None and wanted else None

    # -- people, and programs outside ---------------------------------------------------------------------

    def _outside(self) -> bool:
        """A signal for which a node waits, or an answer to what has just been asked; whether there was one."""
        run = self._run
        for node in sorted(run.parked):
            wait = wait_of(run, node)
            if wait is None:
                continue
            if wait.kind == "signal":
                signal = next((it for it in self._signals if it.name == wait.name and it.at is None), None)
                if signal is not None:
                    self._signal(signal, self._now)
                    return True
            question = self._question(node)
            if wait.kind == "approval" and question is not None and question not in self._asked:
                self._asked.add(question)
                if self._answers.get(node):
                    self._later(self._answers[node][0].after_ms, (question, self._answers[node][0]))
                    return True
        return False

    def _question(self, node: int) -> Question | None:
        """What a node asks now; None when it asks nothing."""
        run = self._run
        return Question(node, run.epoch[node], self._parks[node]) if node in run.parked else None

    def _signal(self, signal: Signal, at_ms: int) -> None:
        self._signals.remove(signal)
        payload = json.dumps(signal.payload, ensure_ascii=False).encode()
        self._happen(Signalled(f"signal-{next(self._number)}", signal.name, signal.key, signal.by, payload), at_ms)

    def _answer(self, question: Question, it: Answer, at_ms: int) -> None:
        """A person answers what is still asked.

        Raises:
            InvalidValue: the scheduler would refuse the answer.
        """
        run, node = self._run, question.node
        at = f"answers[{quoted(run.keys[node])}]"
        wait = wait_of(run, node)
        who = "*" if wait is None else wait.who[0]
        said = check_payload(None if wait is None else wait.form, it.answer, at)
        by = it.by if it.by is not None else "somebody" if who == "*" else who
        self._answers[node].remove(it)
        id_ = f"answer-{next(self._number)}"
        raw = json.dumps(said, ensure_ascii=False).encode()
        event = Answered(node, question.epoch, id_, it.choice, raw, by, it.comment, at_ms)
        decision = self._happen(event, at_ms)
        if not decision.moves:
            why = decision.notes[0].why if decision.notes else "it decides nothing"
            raise InvalidValue(at, it.choice, "is refused", f"The scheduler says: {why}.")

    def _held_words(self) -> list[str]:
        """What the policy holds, a sentence for each node."""
        held = {} if self._governing is None or self._run.run_state in ENDED_RUNS else self._governing.held
        return [f"node {shown(self._run.keys[node])} is {why}" for node, why in sorted(held.items())]

    # -- the end ------------------------------------------------------------------------------------------

    def _result(self) -> Simulation:
        run = self._run
        values = {node: json.loads(raw) for node, raw in self._values.items()}
        of = {state: [node for node in range(run.n) if run.state[node] == state] for state in NodeState}
        outputs = {run.keys[node]: values.get(node) for node in of[NodeState.SUCCEEDED]}
        bad = [node for node in (*of[NodeState.FAILED], *of[NodeState.CANCELLED]) if node in values]
        returned = None if run.returns is None else outputs.get(run.keys[run.returns])
        asked = (run.keys[node] for node, left in self._answers.items() for _ in left)
        return Simulation(
            graph=self._hash,
            state=run.run_state,
            why=run.reason,
            states={key: NodeState(state).word for key, state in zip(run.keys, run.state, strict=True)},
            attempts={key: run.attempt[node] for node, key in enumerate(run.keys)},
            outputs=outputs,
            errors={run.keys[node]: values[node] for node in sorted(bad)},
            result=returned,
            log=tuple(self._log),
            calls={key: tuple(calls) for key, calls in self._calls.items()},
            seconds=(self._now - run.created_at_ms) / 1000,
            waits=(*waits_of(run), *self._held_words()),
            unused=unused_words((it for it in self._script.outcomes if it not in self._calls), self._signals, asked),
            decided=tuple(self._decided),
            asked=() if self._governing is None else tuple(self._governing.asked),
        )


def _nothing_lies_aside(_run: Run, _node: int, name: str) -> bytes:
    raise MappingError(name, "", "", "gone", "a simulation puts nothing aside")
