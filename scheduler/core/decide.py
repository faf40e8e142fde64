"""decide(run, event, now) -> Decision: what follows from what happened.

Pure. Reads the run and changes nothing; evolve.py applies what was decided. Completing a node costs
O(its out-edges): a rule sees the counts that evolve keeps, never the graph. `now` is Redis's time in ms.

An event for a past attempt or an ended node decides nothing, so events may come twice, late and in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from typing import Any

from .branching import begin, see, stop_if_true
from .events import (
    STALE,
    Admitted,
    Answered,
    CancelRequested,
    Completed,
    CompleteRequested,
    DeadlinePassed,
    DeadlineRequested,
    Decision,
    Ending,
    Escalated,
    Event,
    Followed,
    GraceOver,
    LeaseExpired,
    Move,
    NodeGraceOver,
    NodesCancelRequested,
    Note,
    Opened,
    PauseRequested,
    PolicyAdopted,
    PriorityRequested,
    Reported,
    RerunRequested,
    ResumeRequested,
    RetryDue,
    RetryRequested,
    Signalled,
    SkipRequested,
    StartLimitPassed,
    Timer,
    TotalLimitPassed,
    WaitOver,
)
from .failures import completed, failure, is_too_late
from .guards import Sight
from .ladder import GROUND, Rung, next_rung, rung_words
from .node_verbs import (
    cancelled_with_the_run,
    complete_requested,
    deadline_requested,
    graces_again,
    node_grace_over,
    nodes_cancel_requested,
    priority_requested,
    rerun_requested,
    skip_requested,
)
from .retry import MOST_EXCUSED, UNSAFE_LOST, counts_as_loss, may_have_begun, word_of
from .rules import Answer
from .run import CLOSED, COUNTED_AS, GOOD_ENDS, Run
from .states import (
    BAD_ENDS,
    ENDED_RUNS,
    FIRST_ENDED,
    GOING_ON,
    IN_FLIGHT,
    TARGET,
    MoveKind,
    NodeState,
    RunState,
)
from .verbs import (
    cancel_requested,
    deadline_passed,
    grace_over,
    pause_requested,
    resume_requested,
    retry_requested,
    wind_down,
)
from .waiting import (
    answered,
    escalated,
    leave_timer,
    limit_start,
    limit_wait,
    signalled,
    start_limit_passed,
    still_waits,
    take_up_signals,
    timed_out,
    total_limit_passed,
    wait_over,
)
from .waits import Wait

_READY, _DISPATCH, _SUCCEED, _SKIP, _UPSTREAM_FAIL = (
    int(MoveKind.READY),
    int(MoveKind.DISPATCH),
    int(MoveKind.SUCCEED),
    int(MoveKind.SKIP),
    int(MoveKind.UPSTREAM_FAIL),
)
_WAIT, _START = Answer.WAIT, Answer.START
_PENDING, _AT_READY, _WAITING = int(NodeState.PENDING), int(NodeState.READY), int(NodeState.WAITING)
_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_RUNNING, _PAUSED = RunState.RUNNING, RunState.PAUSED


def decide(run: Run, event: Event, now: int) -> Decision:
    """What follows from an event. Changes nothing.

    Args:
        run: as it stands.
        event: what happened.
        now: ms since 1970, by Redis.

    Returns:
        The moves, in order, and what else is to be done; STALE when the event concerns what is over.
    """
    if run.run_state in ENDED_RUNS:
        if type(event) not in _OPENING:
            return STALE
    elif type(event) is RetryRequested:
        return STALE
    return _ANSWERS[type(event)](run, event, now)


def _is_current(run: Run, node: int, epoch: int, attempt: int) -> bool:
    """Whether this attempt of a node is the one in flight."""
    return (
        0 <= node < len(run.state)
        and run.state[node] in _IN_FLIGHT
        and attempt == run.attempt[node]
        and epoch == run.epoch[node]
    )


def _reported(run: Run, event: Reported, now: int) -> Decision:
    node = event.node
    if not _is_current(run, node, event.epoch, event.attempt):
        return STALE
    ending = (event.claimed_at_ms, event.at_ms, event.worker, event.output)
    if event.end == "succeeded":
        if run.guards is not None and (wait := run.guards.waits.get(node)) is not None and wait.kind == "outside":
            return _handed_over(run, node, wait, ending, now)
        decision = Decision([Move(node, _SUCCEED)], ending)
        if event.facts:
            decision.facts[node] = event.facts
        return _finish(run, decision, now)
    error = event.error or {"type": "Unknown", "message": "the worker gave no error"}
    if event.end == "lost":
        return _lost(run, node, error, ending, now, event.chance, unsafe=event.unsafe)
    return _failed(run, node, error, ending, now, event.chance, event.retry_after_ms)


def _handed_over(run: Run, node: int, wait: Wait, ending: Ending, now: int) -> Decision:
    """Its worker has begun a job that somebody outside will end."""
    if run.run_state is RunState.CANCELLING:
        return _finish(run, Decision([Move(node, MoveKind.CANCEL, -1, run.reason)], ending), now)
    decision = Decision([Move(node, MoveKind.HAND_OVER, -1, "the job is begun; waits for somebody outside")], ending)
    limit_wait(run, node, wait, decision, now)
    return decision


def _completed(run: Run, event: Completed, now: int) -> Decision:
    """Somebody outside ends a job, perhaps before its worker has told that it is begun."""
    node = event.node
    handed = run.handed.get(node)
    current = _is_current(run, node, event.epoch, event.attempt) or (
        handed is not None and event.attempt == run.attempt[node] and event.epoch == run.epoch[node]
    )
    wait = None if run.guards is None else run.guards.waits.get(node)
    if not current or wait is None or wait.kind != "outside":
        return STALE
    claimed_at_ms, worker = handed or (None, "")
    if event.error is not None:
        ending = (claimed_at_ms, event.at_ms, worker, "none")
        return _failed(run, node, event.error, ending, now, event.chance)
    decision = Decision(
        [Move(node, _SUCCEED, -1, "completed from outside")], (claimed_at_ms, event.at_ms, worker, "inline")
    )
    decision.outputs[node] = event.output
    if event.facts:
        decision.facts[node] = event.facts
    return _finish(run, decision, now)


def _wait_over(run: Run, event: WaitOver, now: int) -> Decision:
    """The same for nodes that are parked and for jobs that nobody has ended in time."""
    node = event.node
    if still_waits(run, node, event.epoch) and node in run.handed:
        claimed_at_ms, worker = run.handed[node]
        error = timed_out(run, "nobody has ended the job outside in time", "JobTimeout", "external")
        return _failed(run, node, error, (claimed_at_ms, now, worker, "none"), now, event.chance)
    return _followed(wait_over)(run, event, now)


def _failed(
    run: Run,
    node: int,
    error: dict[str, Any],
    ending: Ending,
    now: int,
    chance: float,
    retry_after_ms: int | None = None,
) -> Decision:
    """A failed attempt: the node waits for its next try, or has failed for good."""
    error = completed(run, error)
    if run.run_state is RunState.CANCELLING or node in run.leaving:
        return _cancelled(run, node, error, ending, now)
    kind, failures = str(error["kind"]), run.failures[node] + 1
    rung = _next_rung(run, node, kind, chance, retry_after_ms, elsewhere=is_too_late(error))
    if rung is None:
        profile = run.profiles[run.profile[node]]
        none = "; no rung answers it" if profile.steps and not run.stopped else _last_one(run)
        none = none or "; not again by the same executor, for the run's deadline is too near" * is_too_late(error)
        why = f"{kind}: attempt failed {failures} of at most {profile.max_attempts} times{none}"
        return _finish(run, Decision([Move(node, MoveKind.FAIL, -1, why, error)], ending), now)
    return _again(run, node, rung, error, ending, now)


def _next_rung(
    run: Run, node: int, kind: str, chance: float, retry_after_ms: int | None = None, *, elsewhere: bool = False
) -> Rung | None:
    """Where a node goes on after an attempt that has just failed; None when it has failed for good."""
    if run.stopped:
        return None
    profile, at = run.profiles[run.profile[node]], run.rungs.get(node, GROUND)
    failures = run.failures[node] + 1
    return next_rung(profile, at, failures, kind, chance=chance, retry_after_ms=retry_after_ms, elsewhere=elsewhere)


def _again(
    run: Run, node: int, rung: Rung, error: dict[str, Any], ending: tuple[int | None, int, str, str], now: int
) -> Decision:
    """The node waits for its next try, on this rung, or for a person to say whether there is one."""
    profile = run.profiles[run.profile[node]]
    where = rung_words(profile, rung.at) if profile.steps else "try again"
    count = f"failed {run.failures[node] + 1} of at most {profile.max_attempts} times"
    if profile.steps and profile.steps[rung.at[0]].escalates:
        move = Move(node, MoveKind.ASK, -1, f"{error['kind']}: {where}, {count}", error)
        return Decision([move], ending, rungs={node: rung.at})
    move = Move(node, MoveKind.RETRY, -1, f"{error['kind']}: {where} in {rung.wait_ms} ms, {count}", error)
    decision = Decision([move], ending, [Timer(f"retry:{node}:{run.attempt[node]}", now + rung.wait_ms)])
    if rung.at != run.rungs.get(node, GROUND):
        decision.rungs[node] = rung.at
    return decision


def _lost(
    run: Run, node: int, error: dict[str, Any], ending: Ending, now: int, chance: float, *, unsafe: bool = False
) -> Decision:
    """An attempt that infrastructure took: at once again, under a cap of its own against poison.

    Args:
        unsafe: its executor must not be run again for what may have begun, unless the node's ladder answers losses.
    """
    error = completed(run, error)
    if run.run_state is RunState.CANCELLING or node in run.leaving:
        return _cancelled(run, node, error, ending, now)
    if counts_as_loss(error):
        losses, most, what = run.losses[node] + 1, run.profiles[run.profile[node]].max_losses, "losses"
        why = f"lost: {losses} attempts lost to infrastructure, at most {most} allowed"
    else:
        losses, most, what = run.excused[node] + 1, MOST_EXCUSED, "that were never claimed or shut down with a worker"
        why = f"lost: {losses} attempts never claimed or shut down with their worker, at most {most} allowed"
    if unsafe and may_have_begun(ending[0], error):
        most, why = 0, UNSAFE_LOST
    if losses > most or run.stopped:
        why += _last_one(run)
        message = f"{error.get('message', '')} ({why.removeprefix('lost: ')}: {_causes(run, node, error)})"
        last = error | {"kind": "lost", "message": message}
        if run.profiles[run.profile[node]].steps and (rung := _next_rung(run, node, "lost", chance)) is not None:
            return _again(run, node, rung, last, ending, now)
        return _finish(run, Decision([Move(node, MoveKind.FAIL, -1, why, last)], ending), now)
    why = f"lost: again at once, {losses} of at most {most} {what} ({word_of(error.get('type'))})"
    decision = Decision([Move(node, MoveKind.LOSE, -1, why, error)], ending)
    limit_start(run, node, decision, now, first=False)
    return decision


def _cancelled(run: Run, node: int, error: dict[str, Any], ending: Ending, now: int) -> Decision:
    """An attempt of what is being cancelled ended otherwise than well: it is not tried again."""
    why = run.leaving.get(node, run.reason)
    return _finish(run, Decision([Move(node, MoveKind.CANCEL, -1, why, error)], ending), now)


def _last_one(run: Run) -> str:
    """Why a node of a stopped run gets no other try, as words that follow others."""
    return f"; no other, for the run has been {run.stopped[1]}" if run.stopped else ""


def _causes(run: Run, node: int, error: dict[str, Any]) -> str:
    """Why the attempts of this epoch were lost, the commonest cause first, such as "WorkerLostError x5"."""
    mine = run.failures[node] + run.losses[node] + run.excused[node]
    ended = [it for it in run.tries(node) if it.end][-mine:] if mine else []
    causes = Counter(it.why for it in ended if it.end == "lost")
    causes[word_of(error.get("type"))] += 1
    return ", ".join(f"{cause or 'Unknown'} x{number}" for cause, number in causes.most_common())


def _lease_expired(run: Run, event: LeaseExpired, now: int) -> Decision:
    node = event.node
    if not _is_current(run, node, event.epoch, event.attempt):
        return STALE
    ending = (event.claimed_at_ms, now, event.worker, "none")
    if event.claimed_at_ms is None:
        message = "the message was sent and no worker claimed it in time"
        error = failure(run, "lost", "NeverClaimed", message, "dispatch")
        return _lost(run, node, error, ending, now, event.chance)
    if event.hard_end:
        name, message = "TimeLimitExceeded", "the attempt ran longer than its time limit and did not end"
        if event.silent:
            seconds = (run.profiles[run.profile[node]].silence_ms or 0) / 1000
            name, message = "Silent", f"the executor sent no heartbeat for {seconds:g} s"
        error = failure(run, "timeout", name, message, "execute")
        return _failed(run, node, error, ending, now, event.chance)
    message = f"nothing was heard of worker {event.worker} for the length of a lease"
    error = failure(run, "lost", "LeaseExpired", message, "execute")
    return _lost(run, node, error, ending, now, event.chance, unsafe=event.unsafe)


def _opened(run: Run, event: Opened, now: int) -> Decision:
    """Every pending node asks its rule. What was decided before a crash and not recorded is decided again."""
    if run.run_state is RunState.CANCELLING:
        return _end(run, wind_down(run, event, now))
    decision = Decision()
    if run.deadline_at_ms is not None and not event.first:
        decision.timers.append(Timer("deadline", run.deadline_at_ms))
    if run.leaving and not event.first:
        graces_again(run, decision, now)
    if _stop_broken_off(run):
        return decision
    sight = Sight.of(run, decision, now)
    if run.signals and not event.first:
        take_up_signals(run, decision)
    if sight is not None and stop_if_true(run, decision, sight):
        return _end(run, decision)
    extra: dict[int, list[int]] = {}
    for node, state in enumerate(run.state[event.first : event.end], event.first):
        if state == _PENDING and _ask(run, node, decision, sight):
            extra[node] = [-1, 0, 0, 0]
    _cascade(run, decision, extra, sight)
    return _end(run, decision)


def _followed_on(run: Run, event: Followed, now: int) -> Decision:
    """Some of those downstream of a node that has ended ask their rules, which have counted that end already."""
    node = event.node
    if run.state[node] < FIRST_ENDED or run.run_state not in GOING_ON or _stop_broken_off(run):
        return STALE
    decision = Decision()
    sight = Sight.of(run, decision, now)
    extra: dict[int, list[int]] = {}
    first = run.down_at[node] + event.first
    for child in run.down[first : min(first + event.end - event.first, run.down_at[node + 1])]:
        if run.state[child] == _PENDING and _ask(run, child, decision, sight, node):
            extra[child] = [-1, 0, 0, 0]
    _cascade(run, decision, extra, sight)
    if not decision.moves:
        return STALE
    if sight is not None:
        stop_if_true(run, decision, sight, {move.node for move in decision.moves})
    return _end(run, decision)


def _ask(run: Run, node: int, decision: Decision, sight: Sight | None, cause: int = -1) -> bool:
    """Ask a pending node's rule; True when the node is decided. Without upstream nodes it starts.

    Args:
        cause: the upstream node whose end has led to this; -1 when that is not known.
    """
    rule = run.profiles[run.profile[node]].rule
    counts = run.counts(node)
    answer = rule.answer(*counts) if counts[0] else _START
    if answer is _WAIT:
        return False
    n, s, f, u, k = counts
    seen = f"{rule.name} {s},{f},{u},{k} of {n}"
    moves = decision.moves
    if answer is _START:
        move = Move(node, _READY, cause, seen)
        moves.append(move if sight is None else begin(run, node, cause, seen, decision, sight))
    elif answer is Answer.SKIP:
        moves.append(Move(node, _SKIP, _cause(run, node, (NodeState.SKIPPED,)) if cause < 0 else cause, seen))
    else:
        moves.append(Move(node, _UPSTREAM_FAIL, _cause(run, node, BAD_ENDS) if cause < 0 else cause, seen))
    return True


def _cause(run: Run, node: int, states: Container[int]) -> int:
    """An upstream node for whose sake `node` will not start: one in `states`, else the last that ended. O(in-edges)."""
    ended = [up for up in run.upstream(node) if run.state[up] >= FIRST_ENDED]
    return next((up for up in ended if run.state[up] in states), ended[-1] if ended else -1)


def _finish(run: Run, decision: Decision, now: int) -> Decision:
    """The moves that follow from nodes that end, then perhaps the end of the run."""
    if run.run_state is _RUNNING or run.run_state is _PAUSED:  # the hash of an enum's member takes Python's time
        sight = Sight.of(run, decision, now)
        _cascade(run, decision, {}, sight)
        if sight is not None:
            stop_if_true(run, decision, sight, {move.node for move in decision.moves})
    return _end(run, decision)


def _cascade(run: Run, decision: Decision, extra: dict[int, list[int]], sight: Sight | None) -> None:
    """Follow each ending move to the nodes downstream; what ends there follows too.

    `extra` holds the counts of nodes already touched, as they will be. O(out-edges of what ends), of which no more than
    `run.at_once` of one node are followed; it is in `decision.rest` then. Not so where expressions see edges close.
    """
    state, tally, up_at, down_at, down = run.state, run.tally, run.up_at, run.down_at, run.down
    profiles, profile, moves = run.profiles, run.profile, decision.moves
    shut: dict[int, str] = {}
    at = 0
    while at < len(moves):
        ended, kind = moves[at][:2]
        target = TARGET[kind]
        if sight is not None:
            shut = see(run, moves[at], target, decision, sight, extra)
        at += 1
        if target < FIRST_ENDED:
            continue
        place = COUNTED_AS[target]
        first, end = down_at[ended], down_at[ended + 1]
        if end - first > run.at_once and sight is None:
            end = first + run.at_once
            decision.rest += (ended,)
        for child in down[first:end]:
            if state[child] != _PENDING:
                continue
            counts = extra.get(child)
            if counts is None:
                counts = extra[child] = list(tally[4 * child : 4 * child + 4])
            elif counts[0] < 0:
                continue
            counts[CLOSED if child in shut else place] += 1
            s, f, u, k = counts
            n = up_at[child + 1] - up_at[child]
            rule = profiles[profile[child]].rule
            answer = rule.answer(n, s, f, u, k)
            if answer is _WAIT:
                continue
            counts[0] = -1
            seen = f"{rule.name} {s},{f},{u},{k} of {n}"
            if answer is _START:
                move = Move(child, _READY, ended, seen)
                moves.append(move if sight is None else begin(run, child, ended, seen, decision, sight))
            else:
                seen += f"; {shut[child]}" if child in shut else ""
                moves.append(Move(child, _SKIP if answer is Answer.SKIP else _UPSTREAM_FAIL, ended, seen))


def _end(run: Run, decision: Decision) -> Decision:
    """The end of the run, once no node is open: failed when a sink ended badly, else succeeded."""
    closing = bad = 0
    for move in decision.moves:
        target = TARGET[move[1]]
        if target >= FIRST_ENDED:
            closing += 1
            if target not in GOOD_ENDS and run.is_sink(move[0]):
                bad += 1
    if run.leaving:
        gone = (move.node for move in decision.moves if TARGET[move.kind] >= FIRST_ENDED and move.node in run.leaving)
        decision.cancelled += (leave_timer(run, node) for node in gone)
    if run.open == closing and not _stop_broken_off(run):
        decision.cancelled.append("deadline")
        if run.run_state is RunState.CANCELLING:
            decision.cancelled.append("grace")
            decision.run, decision.why = RunState.CANCELLED, run.reason
        elif stopped := decision.stopped or run.stopped:
            decision.run, decision.why = stopped
        elif bad + run.bad:
            decision.run, decision.why = RunState.FAILED, f"{bad + run.bad} of the last nodes did not succeed"
        else:
            decision.run, decision.why = RunState.SUCCEEDED, "every last node succeeded or was skipped"
    return decision


def _stop_broken_off(run: Run) -> bool:
    """Whether a crash kept the end of a stop from the record. The event that stops the run comes again and ends it."""
    return run.run_state in GOING_ON and bool(cancelled_with_the_run(run))


def _admitted(run: Run, event: Admitted, _now: int) -> Decision:
    state = run.state
    ready = [node for node in dict.fromkeys(event.nodes) if 0 <= node < len(state) and state[node] == _AT_READY]
    going = run.run_state is _RUNNING or (event.begun and run.run_state is _PAUSED)
    if not ready or not going:
        return STALE
    return Decision([Move(node, _DISPATCH) for node in ready])


def _retry_due(run: Run, event: RetryDue, now: int) -> Decision:
    node = event.node
    if not 0 <= node < len(run.state) or run.state[node] != _WAITING or run.attempt[node] != event.attempt:
        return STALE
    if node in run.parked or node in run.handed:
        return STALE
    decision = Decision([Move(node, MoveKind.WAKE, -1, "the wait before the next try is over")])
    limit_start(run, node, decision, now, first=False)
    return decision


def _policy_adopted(run: Run, event: PolicyAdopted, _now: int) -> Decision:
    """What has been decided stays as it is; whatever comes next is decided by the new policy."""
    before = run.policy
    if before is not None and before.record == event.policy:
        return STALE
    instead = "" if before is None else f", instead of version {before.version}"
    return Decision(notes=[Note(-1, "policy", f"version {event.policy['version']}{instead}")], policy=event.policy)


def _grace_over(run: Run, event: GraceOver, now: int) -> Decision:
    decision = grace_over(run, event, now)
    return decision if decision.stale else _end(run, decision)


def _opens_again(run: Run, decision: Decision) -> bool:
    return any(run.state[it.node] >= FIRST_ENDED or it.kind == MoveKind.REOPEN for it in decision.moves)


def _followed(answer: Callable[[Run, Any, int], Decision]) -> Callable[[Run, Any, int], Decision]:
    """What somebody asks of nodes of a run that goes on, followed to the nodes downstream, which ask their rules."""

    def follow(run: Run, event: Event, now: int) -> Decision:
        decision = answer(run, event, now)
        if not decision.moves:
            return decision
        if run.run_state is RunState.CANCELLING:
            return _end(run, decision)
        sight, moved = Sight.of(run, decision, now), {move.node: [-1, 0, 0, 0] for move in decision.moves}
        if _opens_again(run, decision):  # what follows asks its rule when the run is opened, in the next turn
            if sight is not None:
                see(run, decision.moves[0], TARGET[decision.moves[0].kind], decision, sight, moved)
            return decision
        if sight is not None:
            for move in decision.moves:
                sight.moved(move.node, TARGET[move.kind])
        _cascade(run, decision, moved, sight)
        if sight is not None:
            stop_if_true(run, decision, sight, {move.node for move in decision.moves})
        return _end(run, decision)

    return follow


_ANSWERS: dict[type, Callable[[Run, Any, int], Decision]] = {
    Opened: _opened,
    Followed: _followed_on,
    Admitted: _admitted,
    Reported: _reported,
    LeaseExpired: _lease_expired,
    RetryDue: _retry_due,
    DeadlinePassed: deadline_passed,
    CancelRequested: cancel_requested,
    GraceOver: _grace_over,
    RetryRequested: retry_requested,
    PauseRequested: pause_requested,
    ResumeRequested: resume_requested,
    NodesCancelRequested: _followed(nodes_cancel_requested),
    NodeGraceOver: _followed(node_grace_over),
    SkipRequested: _followed(skip_requested),
    CompleteRequested: _followed(complete_requested),
    RerunRequested: _followed(rerun_requested),
    DeadlineRequested: deadline_requested,
    PriorityRequested: priority_requested,
    Completed: _completed,
    WaitOver: _wait_over,
    Escalated: escalated,
    StartLimitPassed: _followed(start_limit_passed),
    TotalLimitPassed: _followed(total_limit_passed),
    Signalled: _followed(signalled),
    Answered: _followed(answered),
    PolicyAdopted: _policy_adopted,
}
_OPENING = frozenset({RetryRequested, CompleteRequested, RerunRequested})
"""Requests that an ended run takes."""
