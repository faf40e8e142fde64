"""What begins a wait, and what ends it: decisions about nodes that hold no worker, and about limits of time.

Pure. A node that waits is parked: only a line in the store, and timers. An event ends its wait: its instant has come, a
signal arrived, a person answered, its time is over. A job that somebody outside ends was handed over by its worker; it
ends like an attempt (decide.py). Runs without waits and limits come here never.
"""

from __future__ import annotations

import json
from typing import Any

from .events import (
    STALE,
    Answered,
    Decision,
    Escalated,
    Move,
    Note,
    Signalled,
    StartLimitPassed,
    Timer,
    TotalLimitPassed,
    WaitOver,
)
from .failures import failure
from .guards import Guards
from .ladder import Step
from .run import Run
from .states import FIRST_ENDED, IN_FLIGHT, MoveKind, NodeState
from .waits import MOST_SIGNALS, Signal, Wait

MOST_WHY = 1_000
RETRY, FAIL = "retry", "fail"
"""What a person may answer whom a ladder asks."""


# -- timers ---------------------------------------------------------------------------------------------


def timers_of(run: Run, node: int) -> list[str]:
    """Timers that a node may have set, and that nobody needs once it has ended."""
    epoch = run.epoch[node]
    found = []
    wait = None if run.guards is None else run.guards.waits.get(node)
    if wait is not None:
        found.append(f"wait:{node}:{epoch}")
        found += [f"escalate:{node}:{epoch}:{step}" for step in range(len(wait.escalations))]
    profile = run.profiles[run.profile[node]]
    if profile.start_ms is not None:
        found.append(f"start:{node}:{epoch}")
    if profile.total_ms is not None:
        found.append(f"total:{node}:{epoch}")
    if run.state[node] == NodeState.WAITING and node not in run.parked and node not in run.handed:
        found.append(f"retry:{node}:{run.attempt[node]}")
    if node in run.leaving:
        found.append(leave_timer(run, node))
    return found


def leave_timer(run: Run, node: int) -> str:
    """Name of the timer that ends the grace of a node's attempt."""
    return f"leave:{node}:{run.attempt[node]}"


def wait_of(run: Run, node: int) -> Wait | None:
    """How a node waits at this moment; None when it does not, or only for its next try."""
    if run.guards is None or not (node in run.parked or node in run.handed):
        return None
    step = ladder_question(run, node)
    if step is not None:
        return Wait("approval", question=step.question, choices=(RETRY, FAIL), who=step.to or ("*",))
    return run.guards.waits.get(node)


def may_ask(run: Run, node: int) -> bool:
    """Whether a node ever asks a person anything."""
    wait = None if run.guards is None else run.guards.waits.get(node)
    return (wait is not None and wait.kind == "approval") or run.profiles[run.profile[node]].asks


def ladder_question(run: Run, node: int) -> Step | None:
    """The step of its ladder at which a node waits for a person; None when it does not."""
    if node not in run.parked or node not in run.rungs:
        return None
    step = run.profiles[run.profile[node]].steps[run.rungs[node][0]]
    return step if step.escalates else None


def timer_of_wait(run: Run, node: int) -> str | None:
    """The timer that ends a waiting node's wait; None when only somebody outside can."""
    if node not in run.parked and node not in run.handed:
        return f"retry:{node}:{run.attempt[node]}"
    wait = None if run.guards is None else run.guards.waits.get(node)
    parked = node in run.parked
    if wait is None or not (wait.within_ms is not None or (parked and wait.puts_off)):
        return None
    return f"wait:{node}:{run.epoch[node]}"


def limit_start(run: Run, node: int, decision: Decision, now: int, *, first: bool) -> None:
    """A node becomes ready, for the `first` time in its epoch or again: from now on its limits of time run."""
    profile = run.profiles[run.profile[node]]
    epoch = run.epoch[node]
    if profile.start_ms is not None:
        decision.timers.append(Timer(f"start:{node}:{epoch}", now + profile.start_ms))
    if first and profile.total_ms is not None:
        decision.timers.append(Timer(f"total:{node}:{epoch}", now + profile.total_ms))


def _is_open(run: Run, node: int, epoch: int) -> bool:
    return 0 <= node < run.n and run.state[node] < FIRST_ENDED and run.epoch[node] == epoch


def start_limit_passed(run: Run, event: StartLimitPassed, now: int) -> Decision:
    """No worker has begun it in time: it fails, whatever its retry policy says, for nobody has tried it."""
    node = event.node
    if not _is_open(run, node, event.epoch) or event.begun:
        return STALE
    ms = run.profiles[run.profile[node]].start_ms
    return _time_is_over(run, node, f"no worker began it within {_seconds(ms)}", "StartTimeout", now)


def total_limit_passed(run: Run, event: TotalLimitPassed, now: int) -> Decision:
    """All its attempts together took too long: it fails, and what runs of it does not count any more."""
    node = event.node
    if not _is_open(run, node, event.epoch):
        return STALE
    ms = run.profiles[run.profile[node]].total_ms
    return _time_is_over(run, node, f"its attempts took longer than {_seconds(ms)} in all", "TotalTimeout", now)


def _time_is_over(run: Run, node: int, what: str, type_: str, now: int) -> Decision:
    error = timed_out(run, what, type_)
    state = run.state[node]
    if state in IN_FLIGHT:
        ending = (None, now, "", "none")
        return Decision([Move(node, MoveKind.FAIL, -1, f"timeout: {what}", error)], ending)
    if state in (NodeState.READY, NodeState.WAITING):
        return Decision([Move(node, MoveKind.EXPIRE, -1, f"timeout: {what}", error)])
    return STALE


def timed_out(run: Run, what: str, type_: str, origin: str = "policy") -> dict[str, Any]:
    """The error record of a node whose time is over."""
    return failure(run, "timeout", type_, what, "wait") | {"origin": origin}


def _seconds(ms: int | None) -> str:
    return f"{(ms or 0) / 1000:g} s"


# -- a wait begins --------------------------------------------------------------------------------------


def begin_wait(run: Run, wait: Wait, node: int, cause: int, seen: str, decision: Decision, now: int) -> Move:
    """A node that waits may begin: it is parked, unless the signal that it waits for is here already.

    Args:
        cause: the upstream node that brought it about, or -1.
        seen: what the rule and the guard saw, for the log.
    """
    if wait.kind == "signal" and (signal := _waiting_signal(run, wait, decision)):
        return _take_signal(run, node, signal, decision, MoveKind.DECIDE, cause, f"{seen}; ")
    if wait.puts_off:
        due = wait.due_ms(now)
        decision.timers.append(Timer(f"wait:{node}:{run.epoch[node]}", due))
        how = f"until {due} ms since 1970" if due == wait.until_ms else _seconds(wait.ms)
        return Move(node, MoveKind.PARK, cause, f"{seen}; waits {how}")
    limit_wait(run, node, wait, decision, now)
    for step, it in enumerate(wait.escalations):
        decision.timers.append(Timer(f"escalate:{node}:{run.epoch[node]}:{step}", now + it.after_ms))
    return Move(node, MoveKind.PARK, cause, f"{seen}; waits for {_awaited(wait)}")


def _awaited(wait: Wait) -> str:
    who = "" if "*" in wait.who else f" of {', '.join(wait.who)}"
    return f"signal {wait.name}" if wait.kind == "signal" else f"an answer{who}"


def limit_wait(run: Run, node: int, wait: Wait, decision: Decision, now: int) -> None:
    """A wait that begins now is over in time."""
    if wait.within_ms is not None:
        decision.timers.append(Timer(f"wait:{node}:{run.epoch[node]}", now + wait.within_ms))


def take_up_signals(run: Run, decision: Decision) -> None:
    """Nodes that wait for signals that are there: a crash came between the two."""
    guards = run.guards
    if guards is None or not run.signals:
        return
    for node in run.parked:
        wait = guards.waits.get(node)
        if wait is not None and wait.kind == "signal" and (signal := _waiting_signal(run, wait, decision)):
            decision.moves.append(_take_signal(run, node, signal, decision, MoveKind.RESOLVE))


def _waiting_signal(run: Run, wait: Wait, decision: Decision) -> Signal | None:
    """The oldest signal of a name that has ended no wait yet, in this decision or before."""
    taken = {id_ for id_, _ in decision.taken}
    mine = (it for it in run.signals.values() if it.name == wait.name and it.taken is None)
    return next((it for it in mine if it.id not in taken), None)


# -- and ends -------------------------------------------------------------------------------------------


def _take_signal(
    run: Run, node: int, signal: Signal, decision: Decision, kind: MoveKind, cause: int = -1, seen: str = ""
) -> Move:
    """A signal ends a node's wait, or the node need not wait at all."""
    decision.taken.append((signal.id, (node, run.epoch[node])))
    by = f" from {signal.by}" if signal.by else ""
    return give(run.guards, node, kind, signal.payload, decision, f"{seen}signal {signal.name}{by}", cause)


def give(
    guards: Guards | None, node: int, kind: MoveKind, output: bytes, decision: Decision, why: str, cause: int = -1
) -> Move:
    """A node succeeds with an output that no worker made."""
    decision.outputs[node] = output
    if guards is not None and node in guards.wanted:
        decision.facts[node] = guards.facts(node, "output", json.loads(output))
    return Move(node, kind, cause, why[:MOST_WHY])


def still_waits(run: Run, node: int, epoch: int) -> bool:
    """Whether a node is parked, or handed over, in this epoch."""
    return _is_open(run, node, epoch) and (node in run.parked or node in run.handed)


def wait_over(run: Run, event: WaitOver, now: int) -> Decision:
    """A parked node's instant has come, or the time in which somebody was to do something is over."""
    node = event.node
    if not still_waits(run, node, event.epoch) or run.guards is None:
        return STALE
    wait = run.guards.waits[node]
    decision = Decision()
    if wait.kind in ("delay", "outside"):
        decision.moves.append(Move(node, MoveKind.WAKE, -1, "its delay is over"))
        limit_start(run, node, decision, now, first=True)
    elif wait.kind == "timer":
        output = json.dumps({"due_ms": wait.due_ms(run.created_at_ms + run.parked[node])}).encode()
        decision.moves.append(give(run.guards, node, MoveKind.RESOLVE, output, decision, "its instant has come"))
    elif wait.default is not None:
        why = f"nothing came within {_seconds(wait.within_ms)}: the default stands for it"
        output = wait.default.encode()
        decision.moves.append(give(run.guards, node, MoveKind.RESOLVE, output, decision, why))
    else:
        what = f"{_awaited(wait)} did not come within {_seconds(wait.within_ms)}"
        kind = "SignalTimeout" if wait.kind == "signal" else "AnswerTimeout"
        decision.moves.append(Move(node, MoveKind.EXPIRE, -1, f"timeout: {what}", timed_out(run, what, kind)))
    return decision


def escalated(run: Run, event: Escalated, _now: int) -> Decision:
    """Nobody has answered for so long that others may, too."""
    if not still_waits(run, event.node, event.epoch) or run.guards is None:
        return STALE
    to = ", ".join(run.guards.waits[event.node].escalations[event.step].to)
    return Decision(notes=[Note(event.node, "escalate", f"nobody has answered; {to} may answer now")])


def signalled(run: Run, event: Signalled, _now: int) -> Decision:
    """A signal arrives: it ends the wait of the first node that waits for it, else it waits for one, or is lost.

    The same entry again is the same signal, so an event that comes twice, or after a crash, changes nothing more.
    """
    guards = run.guards
    mine = [] if guards is None else [(node, it) for node, it in guards.waits.items() if it.name == event.name]
    known = run.signals.get(event.id)
    if known is not None and known.taken is not None:
        return STALE
    if not mine:
        return _refused(-1, f"signal {event.name} from {event.by}: no node waits for such a signal")
    if known is None:
        if event.key and any(it.key == event.key and it.name == event.name for it in run.signals.values()):
            return Decision(notes=[Note(-1, "ignored", f"signal {event.name}: there was one of the same key already")])
        if len(run.signals) >= MOST_SIGNALS:
            return _refused(-1, f"signal {event.name} from {event.by}: the run has had {MOST_SIGNALS} signals")
    signal = known or Signal(event.id, event.name, event.key, event.by, event.payload)
    decision = Decision(signals=[] if known else [signal])
    for node, _ in sorted(mine):
        if node in run.parked:
            decision.moves.append(_take_signal(run, node, signal, decision, MoveKind.RESOLVE))
            return decision
    if mine[0][1].transient:
        return Decision(notes=[Note(-1, "ignored", f"signal {event.name}: nobody waits for it at this moment")])
    if not known:
        decision.notes.append(
            Note(-1, "signal", f"{event.name} from {event.by or 'somebody'}: kept until a node waits")
        )
    return decision if not known else STALE


def answered(run: Run, event: Answered, now: int) -> Decision:
    """A person answers. Late and double answers, and those of people who may not, are refused and logged."""
    node, guards = event.node, run.guards
    what = f"answer {event.choice} from {event.by} ({event.id})"
    wait = wait_of(run, node)
    if wait is None or wait.kind != "approval" or not _is_open(run, node, event.epoch):
        state = NodeState(run.state[node]).word
        return _refused(node, f"{what}: nothing is asked, the node is {state} in epoch {run.epoch[node]}")
    if event.choice not in wait.choices:
        return _refused(node, f"{what}: is none of {', '.join(wait.choices)}")
    if not wait.may_answer(event.by, now - run.created_at_ms - run.parked[node]):
        return _refused(node, f"{what}: may not answer this")
    if ladder_question(run, node) is not None:
        return _ladder_answered(run, event, now)
    said = {"choice": event.choice, "by": event.by, "comment": event.comment, "answer": json.loads(event.answer)}
    output = json.dumps({**said, "at_ms": event.at_ms}, ensure_ascii=False, separators=(",", ":")).encode()
    decision = Decision()
    comment = f": {event.comment}" if event.comment else ""
    why = f"{event.choice}, by {event.by}{comment} ({event.id})"
    decision.moves.append(give(guards, node, MoveKind.RESOLVE, output, decision, why))
    return decision


def _ladder_answered(run: Run, event: Answered, now: int) -> Decision:
    """A person says what becomes of a node whose ladder has come to its end: from the ground again, or failed."""
    node = event.node
    comment = f": {event.comment}" if event.comment else ""
    why = f"{event.choice}, by {event.by}{comment} ({event.id})"
    if event.choice == FAIL:
        error = failure(run, "permanent", "GivenUp", f"{event.by} gave it up{comment}", "wait") | {"origin": "external"}
        return Decision([Move(node, MoveKind.EXPIRE, -1, why[:MOST_WHY], error)])
    decision = Decision([Move(node, MoveKind.WAKE, -1, why[:MOST_WHY])], rungs={node: (0, run.failures[node])})
    limit_start(run, node, decision, now, first=False)
    return decision


def _refused(node: int, why: str) -> Decision:
    """Nothing changes, and the run's log says why."""
    return Decision(notes=[Note(node, "refused", why[:MOST_WHY])])
