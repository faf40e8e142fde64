"""The branches of a graph's policy: what can be decided one way or another, and which way a decision went.

Pure. `branches_of` reads the compiled graph; `taken` reads what the core has decided: its moves, their reasons, outputs
and closed edges. No condition is evaluated and no rule asked here to find out what happened.
A policy that the core learns is one function that names its branches, and one that finds them in a decision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..core.branching import GUARD_WHY
from ..core.events import (
    Answered,
    Completed,
    Escalated,
    LeaseExpired,
    Move,
    Reported,
    StartLimitPassed,
    TotalLimitPassed,
    WaitOver,
)
from ..core.guards import Guards, Stop
from ..core.ladder import rung_words
from ..core.rules import Answer
from ..core.run import Profile, Run
from ..core.states import TARGET, MoveKind, NodeState
from ..core.waiting import FAIL, RETRY
from ..core.waits import Wait
from ..errors import shown
from .governing import DENIES, PASSES
from .possible import answers_of
from .simulation import Decided

ANSWERS = {Answer.START: "start", Answer.SKIP: "skip", Answer.UPSTREAM_FAIL: "upstream_failed"}
_SEEN = re.compile(r"\S+ [0-9]+,[0-9]+,[0-9]+,[0-9]+ of [0-9]+(; when: )?")
"""How the reason begins of a node whose trigger rule has answered; and whether its guard was asked then."""
_STARTS = (MoveKind.READY, MoveKind.PARK, MoveKind.DECIDE)
_TRIED = (MoveKind.RETRY, MoveKind.ASK)
_SUCCEEDED = int(NodeState.SUCCEEDED)


class Branch(NamedTuple):
    """One way that a policy may go.

    Attributes:
        what: when, edge, rule, choice, race, stop, rung, answered, wait, escalation, limit or check.
        node: its number; of a stop condition its place, of a check -1.
        way: which.
    """

    what: str
    node: int
    way: str


# -- which there are ------------------------------------------------------------------------------------


def branches_of(run: Run) -> dict[Branch, str]:
    """Every branch of a graph, in words that name the node and the expression or policy; in the order of the graph."""
    guards = run.guards or Guards()
    answers = answers_of(run)
    found: dict[Branch, str] = {}
    for node in range(run.n):
        name = f"node {shown(run.keys[node])}"
        found.update(_of_rule(run, guards, node, answers[node]))
        if (when := guards.when.get(node)) is not None:
            for way in ("true", "false"):
                found[Branch("when", node, way)] = f"{name}: when {when.text} is {way}"
        found.update(_of_retry(run, node, name))
        if (wait := guards.waits.get(node)) is not None:
            found.update(_of_wait(wait, node, f"{wait.kind} {shown(run.keys[node])}"))
        found.update(_of_limits(run, node, name))
        if (choice := guards.choices.get(node)) is not None:
            for branch, expression in choice.branches:
                told = f"choice {shown(run.keys[node])}: branch {branch}, when {expression.text}"
                found[Branch("choice", node, branch)] = told
            told = f"choice {shown(run.keys[node])}: branch {choice.otherwise}, when no other is open"
            found[Branch("choice", node, choice.otherwise)] = told
        for child, gate in guards.gates.get(node, {}).items():
            if gate.when is not None:
                edge = f"edge {shown(run.keys[node])} -> {shown(run.keys[child])}: {gate.when.text}"
                for way in ("open", "closed"):
                    found[Branch("edge", child, f"{node} {way}")] = f"{edge}: {way}"
    for number, stop in enumerate(guards.stops):
        reason = f" ({stop.reason})" if stop.reason else ""
        found[Branch("stop", number, "true")] = f"stop condition {stop.when.text}{reason}: ends the run"
        found[Branch("stop", number, "never")] = f"stop condition {stop.when.text}{reason}: a run ends without it"
    return found


def of_checks(asked: Iterable[tuple[str, str, str]]) -> dict[Branch, str]:
    """The branches of a policy's safety checks: (check, "before" | "after", what it asks)."""
    return {
        Branch("check", -1, f"{name} {moment} {way}"): f"check {shown(name)}, {moment} {text}: {way}"
        for name, moment, text in asked
        for way in (PASSES, DENIES)
    }


def _of_rule(run: Run, guards: Guards, node: int, answers: frozenset[Answer]) -> Iterator[tuple[Branch, str]]:
    if node in guards.races:
        for member in guards.races[node]:
            told = f"race {shown(run.keys[node])}: {shown(run.keys[member])} is among the winners"
            yield Branch("race", node, run.keys[member]), told
        if answers - {Answer.START}:
            yield Branch("race", node, ""), f"race {shown(run.keys[node])}: nobody wins"
    elif len(run.upstream(node)):
        rule = run.profiles[run.profile[node]].rule.name
        for answer, word in ANSWERS.items():
            if answer in answers:
                yield Branch("rule", node, word), f"node {shown(run.keys[node])}: {rule} says {word}"


def _of_retry(run: Run, node: int, name: str) -> Iterator[tuple[Branch, str]]:
    """Of retry policies that somebody has declared; the default one is nobody's decision."""
    profile = run.profiles[run.profile[node]]
    if not profile.executor:
        return
    if not profile.steps:
        if not _is_default(profile):
            if profile.max_attempts > 1:
                yield Branch("rung", node, "1"), f"{name}: tried again"
            yield Branch("rung", node, ""), f"{name}: no try is left, or none would help"
        return
    for number, step in enumerate(profile.steps):
        if number or step.attempts > 1:
            yield Branch("rung", node, str(number + 1)), f"{name}: {rung_words(profile, (number, 0))}"
    if profile.asks:
        for answer in (RETRY, FAIL):
            yield Branch("answered", node, answer), f"{name}: the person who is asked says {answer}"
    if not profile.asks or profile.never:
        yield Branch("rung", node, ""), f"{name}: no rung answers"


def _is_default(profile: Profile) -> bool:
    default = Profile("", None, profile.rule)
    fields = ("max_attempts", "base_ms", "factor", "cap_ms", "never")
    return all(getattr(profile, it) == getattr(default, it) for it in fields)


def _of_wait(wait: Wait, node: int, name: str) -> Iterator[tuple[Branch, str]]:
    if wait.puts_off:
        yield Branch("wait", node, "over"), f"{name}: its instant comes"
    if wait.kind == "approval":
        for choice in wait.choices:
            yield Branch("wait", node, f"answer {choice}"), f"{name}: answered {choice}"
    elif wait.kind in ("signal", "outside"):
        yield Branch("wait", node, "came"), f"{name}: {'it comes' if wait.kind == 'signal' else 'its job is ended'}"
    if wait.within_ms is not None:
        yield Branch("wait", node, "timed out"), f"{name}: nothing comes within {wait.within_ms / 1000:g} s"
    for step, it in enumerate(wait.escalations):
        yield Branch("escalation", node, str(step)), f"{name}: {', '.join(it.to)} may answer too"


def _of_limits(run: Run, node: int, name: str) -> Iterator[tuple[Branch, str]]:
    profile = run.profiles[run.profile[node]]
    for way, ms in (("start", profile.start_ms), ("total", profile.total_ms), ("silence", profile.silence_ms)):
        if ms is not None:
            yield Branch("limit", node, way), f"{name}: its limit of {way} passes, {ms / 1000:g} s"


# -- which a decision took ------------------------------------------------------------------------------


def taken(run: Run, it: Decided) -> Iterator[Branch]:
    """The branches that one decision took.

    Args:
        run: of the same graph; only the graph is looked at.
    """
    guards = run.guards or Guards()
    for move in it.decision.moves:
        yield from _by_reason(guards, move)
        yield from _by_output(guards, move, it)
        if TARGET[move.kind] == _SUCCEEDED:
            yield from _edges(guards, move.node, it)
    yield from _by_event(run, guards, it)
    if it.decision.stopped is not None:
        why = it.decision.stopped[1]
        for number, stop in enumerate(guards.stops):
            if why.startswith(_stop_words(stop)):
                yield Branch("stop", number, "true")
                break


def not_stopped(run: Run) -> Iterator[Branch]:
    """The branches of stop conditions that a run took which has ended without one."""
    for number in range(len(run.guards.stops) if run.guards is not None else 0):
        yield Branch("stop", number, "never")


def _by_reason(guards: Guards, move: Move) -> Iterator[Branch]:
    """What the trigger rule has answered, and what the guard."""
    seen = _SEEN.match(move.why)
    if seen is None:
        return
    node, race = move.node, move.node in guards.races
    if move.kind in _STARTS or (move.kind == MoveKind.SKIP and seen[1]):
        if not race:
            yield Branch("rule", node, "start")
        if seen[1]:
            yield Branch("when", node, "false" if move.kind == MoveKind.SKIP else "true")
    elif move.kind in (MoveKind.SKIP, MoveKind.UPSTREAM_FAIL):
        word = "skip" if move.kind == MoveKind.SKIP else "upstream_failed"
        yield Branch("race", node, "") if race else Branch("rule", node, word)


def _by_output(guards: Guards, move: Move, it: Decided) -> Iterator[Branch]:
    """Which branch a choice took, and who won a race."""
    if move.kind == MoveKind.DECIDE and move.node in it.decision.outputs:
        output = json.loads(it.decision.outputs[move.node])
        if move.node in guards.choices:
            yield Branch("choice", move.node, output["branch"])
        elif move.node in guards.races:
            yield from (Branch("race", move.node, winner) for winner in output["winners"])


def _edges(guards: Guards, node: int, it: Decided) -> Iterator[Branch]:
    """Which of a node's guarded edges are open, and which closed; one whose guard has no value is neither."""
    shut = it.decision.closed.get(node, ())
    refused = {one.node for one in it.decision.moves if one.kind == MoveKind.REFUSE and one.cause == node}
    for child, gate in guards.gates.get(node, {}).items():
        if gate.when is not None and child not in refused:
            yield Branch("edge", child, f"{node} {'closed' if child in shut else 'open'}")


def _by_event(run: Run, guards: Guards, it: Decided) -> Iterator[Branch]:
    """What followed from the event itself: tries, waits and limits."""
    event, decision = it.event, it.decision
    for _, (node, _) in decision.taken:
        yield Branch("wait", node, "came")
    if isinstance(event, Escalated) and decision.notes:
        yield Branch("escalation", event.node, str(event.step))
    if not isinstance(event, _OF_ONE_NODE) or not decision.moves or decision.moves[0].node != event.node:
        return
    node, kind = event.node, decision.moves[0].kind  # the event's own move is the first
    if isinstance(event, Answered):
        yield _answered(event, kind)
    elif isinstance(event, StartLimitPassed | TotalLimitPassed):
        yield Branch("limit", node, "start" if isinstance(event, StartLimitPassed) else "total")
    elif isinstance(event, WaitOver):
        over = kind == MoveKind.WAKE or guards.waits[node].kind == "timer"
        yield Branch("wait", node, "over" if over else "timed out")
    elif isinstance(event, Completed) and kind == MoveKind.SUCCEED:
        yield Branch("wait", node, "came")
    elif isinstance(event, LeaseExpired) and event.silent:
        yield Branch("limit", node, "silence")
    if kind in _TRIED:
        stepped = run.profiles[run.profile[node]].steps
        yield Branch("rung", node, str(it.rungs[node] + 1) if stepped else "1")
    elif kind == MoveKind.FAIL and isinstance(event, Reported | LeaseExpired | Completed | WaitOver):
        yield Branch("rung", node, "")


_OF_ONE_NODE = (
    Answered,
    Completed,
    LeaseExpired,
    Reported,
    StartLimitPassed,
    TotalLimitPassed,
    WaitOver,
)


def _answered(event: Answered, kind: int) -> Branch:
    """An answer to an approval resolves it; one to a retry ladder wakes or ends the node."""
    if kind == MoveKind.RESOLVE:
        return Branch("wait", event.node, f"answer {event.choice}")
    return Branch("answered", event.node, event.choice)


def _stop_words(stop: Stop) -> str:
    """How the reason of a run begins that this condition has ended, as core/branching.py and `worded` write it."""
    text = stop.when.text if len(stop.when.text) <= 160 else stop.when.text[:157] + "..."
    return f"stopped: {stop.reason + ': ' if stop.reason else ''}{text} is true"[:GUARD_WHY]
