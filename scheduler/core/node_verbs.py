"""What people ask of nodes of a run: cancel, skip, complete by hand, run again; and of its deadline and priority.

Pure. Each function says what is asked for, or why it is refused; decide.py follows what ends to the nodes downstream.
A request has a number. One that a crash broke off comes again and goes on from what is recorded; one that is recorded
whole is answered again and changes nothing.

A node that ended by such a request is marked in its record, so that it is not taken for one of a run that was being
cancelled when a crash came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from .branching import SHOWN_REASON
from .events import (
    STALE,
    Asker,
    CompleteRequested,
    DeadlineRequested,
    Decision,
    Move,
    NodeGraceOver,
    NodesCancelRequested,
    PriorityRequested,
    RerunRequested,
    SkipRequested,
    Timer,
)
from .run import ACT_REASON, AGAIN, Act, Run
from .states import BAD_ENDS, ENDED_RUNS, FIRST_ENDED, GOING_ON, IN_FLIGHT, MoveKind, NodeState, RunState
from .verbs import GRACE_MS, words
from .waiting import leave_timer, timers_of

MOST_PRIORITY = 9
SHOWN_NODES = 3
"""Of a request about many, in words."""
_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_PENDING, _SUCCEEDED = int(NodeState.PENDING), int(NodeState.SUCCEEDED)


def nodes_cancel_requested(run: Run, event: NodesCancelRequested, now: int) -> Decision:
    """Nodes stop and the run goes on: what has not begun is cancelled, what runs gets a grace. O(nodes asked for)."""
    verb, asker = "cancel", event.asker
    if (told := _unfit(run, verb, asker)) is not None:
        return told
    why = words("cancelled", asker.reason, asker.by)[:SHOWN_REASON]
    decision, ended = Decision(), []
    for node in sorted(set(event.nodes)):
        state = run.state[node]
        if state >= FIRST_ENDED:
            ended.append(node)
        elif state in _IN_FLIGHT and node in event.running and not event.at_once:
            if node not in run.leaving:
                decision.leaving[node] = why
                decision.timers.append(Timer(leave_timer(run, node), now + GRACE_MS))
        else:
            decision.moves.append(Move(node, MoveKind.CANCEL, -1, why, _record("cancelled", why)))
            decision.cancelled += timers_of(run, node)
    decision.apart = tuple(move.node for move in decision.moves)
    nodes = sorted({*decision.apart, *decision.leaving})
    if not nodes and asker.number in run.begun:  # a crash has kept only the end of this from the record
        named = sorted(set(event.nodes))
        nodes, ended = [it for it in named if run.state[it] == NodeState.CANCELLED or it in run.leaving], []
    if not nodes:
        left = "are being cancelled already" if len(ended) < len(set(event.nodes)) else "have ended already"
        return _refused(verb, asker, f"{_named(run, ended or event.nodes)} {left}")
    what = f"region {event.region}: {_named(run, nodes)}" if event.region else _named(run, nodes)
    if ended and not event.region:
        what += f"; not {_named(run, ended)}, for that has ended"
    return _act(run, decision, verb, asker, now, nodes, what)


def node_grace_over(run: Run, event: NodeGraceOver, _now: int) -> Decision:
    """An attempt that was to end by itself has not: its node is cancelled now."""
    node = event.node
    if node not in run.leaving or run.state[node] not in _IN_FLIGHT or run.attempt[node] != event.attempt:
        return STALE
    why = run.leaving[node]
    return Decision([Move(node, MoveKind.CANCEL, -1, why, _record("cancelled", why))])


def graces_again(run: Run, decision: Decision, now: int) -> None:
    """A new owner gives nodes that are being cancelled their grace once more."""
    decision.timers += (Timer(leave_timer(run, node), now + GRACE_MS) for node in run.leaving)


def skip_requested(run: Run, event: SkipRequested, now: int) -> Decision:
    """A node that is not out is passed over; what follows asks its rule."""
    verb, asker, node = "skip", event.asker, event.node
    if (told := _unfit(run, verb, asker)) is not None:
        return told
    state = NodeState(run.state[node])
    if state in IN_FLIGHT:
        return _refused(verb, asker, f"{_named(run, [node])} has been sent; cancel it, or complete it by hand")
    if state is NodeState.SKIPPED and asker.number in run.begun:  # as above
        return _act(run, Decision(), verb, asker, now, [node])
    if state >= FIRST_ENDED:
        return _refused(verb, asker, f"{_named(run, [node])} is {state.word} already")
    why = words("skipped", asker.reason, asker.by)[:SHOWN_REASON]
    move = Move(node, MoveKind.SKIP, -1, why, _record("skipped", why))
    decision = Decision([move], cancelled=timers_of(run, node), apart=(node,))
    return _act(run, decision, verb, asker, now, [node])


def complete_requested(run: Run, event: CompleteRequested, now: int) -> Decision:
    """A person gives a node's output, and it has succeeded. O(nodes + edges) when the node had ended, else O(1).

    Of a node that had ended badly the run goes on with it: all that came after it is pending again.
    """
    verb, asker, node = "complete", event.asker, event.node
    if (told := _unfit(run, verb, asker, ended=True)) is not None:
        return told
    state = NodeState(run.state[node])
    why = words("completed", asker.reason, asker.by)
    broken_off = _completion(run, node) if state is NodeState.SUCCEEDED else ""
    if broken_off not in (str(asker.number), f"{asker.number}{AGAIN}"):
        broken_off = ""
    if state >= FIRST_ENDED and state not in BAD_ENDS and not broken_off:
        return _refused(
            verb, asker, f"{_named(run, [node])} is {state.word}; only what is open or failed can be completed"
        )
    anew = state in BAD_ENDS or broken_off.endswith(AGAIN)
    if run.run_state in ENDED_RUNS and not anew and not broken_off:
        return _refused(
            verb, asker, f"the run is {run.run_state}, and a crash has left {_named(run, [node])} open; retry it"
        )
    if (wrong := _no_branch(run, node, event.output)) and not broken_off:
        return _refused(verb, asker, wrong)
    if anew and run.stopped:
        return _refused(verb, asker, f"the run has been {run.stopped[1]}")
    decision = Decision()
    if not broken_off:
        decision.moves.append(Move(node, MoveKind.COMPLETE, -1, why))
        decision.outputs[node] = event.output
        decision.cancelled += timers_of(run, node)
        if event.facts:
            decision.facts[node] = event.facts
    if anew:
        _open(run, decision, [it for it in following(run, [node]) if it != node], why)
    return _act(run, decision, verb, asker, now, [node])


def _no_branch(run: Run, node: int, output: bytes) -> str:
    """What is wrong with the output of a choice, which must name a branch; "" for nothing, and for other nodes."""
    choice = None if run.guards is None else run.guards.choices.get(node)
    if choice is None:
        return ""
    names = [*(name for name, _ in choice.branches), choice.otherwise]
    found = json.loads(output)
    if isinstance(found, dict) and found.get("branch") in names:
        return ""
    return f'{_named(run, [node])} is a choice: its output is {{"branch": name}}, with one of {", ".join(names)}'


def rerun_requested(run: Run, event: RerunRequested, now: int) -> Decision:
    """Nodes that have ended, and all that has begun or ended after them, are pending again. O(nodes + edges)."""
    verb, asker = "rerun", event.asker
    if (told := _unfit(run, verb, asker, ended=True)) is not None:
        return told
    if run.stopped and run.run_state in GOING_ON:
        return _refused(verb, asker, f"the run has been {run.stopped[1]}")
    nodes = following(run, event.nodes)
    if not nodes and asker.number not in run.begun:
        what = f"{_named(run, event.nodes)} has not ended, and nothing after it has begun: it runs anyway"
        return _refused(verb, asker, what)
    decision = Decision()
    _open(run, decision, nodes, words("rerun", asker.reason, asker.by))
    return _act(run, decision, verb, asker, now, nodes, f"from {_named(run, event.nodes)}: {_count(len(nodes))}")


def following(run: Run, nodes: Iterable[int]) -> list[int]:
    """What a re-run from these nodes opens again: those of them that have ended, and all that has begun or ended after
    any of them. What is pending runs anyway, and so do the named nodes that are open.

    In topological order. O(nodes + edges).
    """
    named = set(nodes)
    again = bytearray(run.n)
    found = []
    for node in range(min(named, default=run.n), run.n):
        state = run.state[node]
        if node in named:
            again[node] = 1
            if state >= FIRST_ENDED or any(again[up] for up in run.upstream(node)):
                found.append(node)
        elif any(again[up] for up in run.upstream(node)):
            again[node] = 1
            found.append(node)
    return [node for node in found if run.state[node] != _PENDING]


def deadline_requested(run: Run, event: DeadlineRequested, now: int) -> Decision:
    """By when the run is to have ended; None takes the deadline away."""
    verb, asker, at_ms = "deadline", event.asker, event.at_ms
    if (told := _unfit(run, verb, asker)) is not None:
        return told
    decision = Decision(deadline=(at_ms,))
    if at_ms is None:
        decision.cancelled.append("deadline")
    else:
        decision.timers.append(Timer("deadline", at_ms))
    return _act(run, decision, verb, asker, now, (), "none" if at_ms is None else f"{at_ms} ms since 1970")


def priority_requested(run: Run, event: PriorityRequested, now: int) -> Decision:
    """Whose ready nodes go first within a class."""
    verb, asker = "priority", event.asker
    if (told := _unfit(run, verb, asker)) is not None:
        return told
    if not -MOST_PRIORITY <= event.priority <= MOST_PRIORITY:
        return _refused(verb, asker, f"{event.priority} is not between -{MOST_PRIORITY} and {MOST_PRIORITY}")
    return _act(run, Decision(priority=event.priority), verb, asker, now, (), f"{event.priority}")


def _unfit(run: Run, verb: str, asker: Asker, *, ended: bool = False) -> Decision | None:
    """The answer to a request that was answered before, or that the run cannot take; None to go on."""
    if asker.number and any(act.number == asker.number for act in run.acts):
        return Decision(told=(verb, asker.number, f"{words(verb, asker.reason, asker.by)} (asked twice)"))
    if run.run_state in GOING_ON or (ended and run.run_state in ENDED_RUNS):
        return None
    return _refused(verb, asker, f"the run is {run.run_state}")


def _refused(verb: str, asker: Asker, why: str) -> Decision:
    said = words(verb, asker.reason[:SHOWN_REASON], asker.by)
    return Decision(told=("refused", asker.number, f"{why} ({said})"))


def _act(
    run: Run, decision: Decision, verb: str, asker: Asker, now: int, nodes: Sequence[int], what: str = ""
) -> Decision:
    """Note who asked for what, with the run and in its log."""
    what = what or _named(run, nodes)
    decision.act = Act(now, verb, asker.by, asker.reason[:ACT_REASON], asker.number, len(nodes), what)
    decision.told = (verb, asker.number, f"{words(verb, asker.reason, asker.by)} ({what})")
    return decision


def _open(run: Run, decision: Decision, nodes: Sequence[int], why: str) -> None:
    """Nodes begin a new epoch, and with them the run, if it had ended."""
    for node in nodes:
        decision.moves.append(Move(node, MoveKind.REOPEN, -1, why[:SHOWN_REASON]))
        decision.cancelled += timers_of(run, node)
    if run.run_state in ENDED_RUNS:
        moved = {move.node for move in decision.moves}
        decision.apart = tuple(node for node in cancelled_with_the_run(run) if node not in moved)
        decision.run, decision.why = RunState.RUNNING, why


def cancelled_with_the_run(run: Run) -> list[int]:
    """Nodes that were cancelled because their run was, and not by themselves. O(nodes)."""
    if not run.by_state[NodeState.CANCELLED]:
        return []
    state, kind = run.state, run.output_kind
    return [node for node in range(run.n) if state[node] == NodeState.CANCELLED and not kind[node]]


def _completion(run: Run, node: int) -> str:
    """The mark of the completion by hand that ended a node; "" when none did."""
    words_ = run.ended.get(node, "").split(",", 5)
    end, _, mark = words_[4].partition(" ") if len(words_) > 4 else ("", "", "")
    return mark if end == "completed" else ""


def _named(run: Run, nodes: Iterable[int]) -> str:
    """Nodes by their keys, the first few."""
    some = list(nodes)
    shown = ", ".join(repr(run.keys[node][:60]) for node in some[:SHOWN_NODES])
    return f"node {shown}{f' and {len(some) - SHOWN_NODES} more' if len(some) > SHOWN_NODES else ''}"


def _count(nodes: int) -> str:
    return f"{nodes} node{'' if nodes == 1 else 's'}"


def _record(type_: str, why: str) -> dict[str, Any]:
    """What the store keeps in place of an output of a node that a person has ended."""
    return {"kind": "cancelled", "type": type_.capitalize(), "message": why, "origin": "external", "phase": "request"}
