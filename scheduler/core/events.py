"""What can happen to a run, and the Decision it leads to.

Pure data. The list of things that can happen is the list of event classes below. Instants are
Redis's, in milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .guards import Facts
from .run import Act
from .states import RunState
from .waits import Signal


class Asker(NamedTuple):
    """Who asks for something, and why, in that person's words.

    Attributes:
        number: of the request, 0 for none; the same number again is the same request.
    """

    reason: str = ""
    by: str = ""
    number: int = 0


class Opened(NamedTuple):
    """The run was submitted, or taken up again by an owner that has just loaded it.

    A wide run is opened part by part, so that others have their turns in between.

    Attributes:
        first, end: of this part, node numbers; an end of None is the end of the run.
    """

    first: int = 0
    end: int | None = None


class Followed(NamedTuple):
    """A node has ended that more nodes wait for than are asked in one decision: here some of the others.

    Attributes:
        node: that has ended.
        first, end: which of those downstream of it, in the order of their numbers.
    """

    node: int
    first: int
    end: int


class Admitted(NamedTuple):
    """There is room for these ready nodes in their queue class: send them.

    Attributes:
        begun: the worker of the node before each has begun it already, so a run that is paused lets it go on.
    """

    nodes: list[int]
    begun: bool = False


class Reported(NamedTuple):
    """A worker told how an attempt ended.

    Attributes:
        end: succeeded, failed, lost or retried (see wire.Report).
        output: inline, blob or none: where the output is.
        chance: a random number for the jitter of a retry, 0 <= chance < 1.
        facts: what the graph's expressions read of the output; None for nothing.
        unsafe: its executor says that what may have begun must not be repeated unasked.
    """

    node: int
    epoch: int
    attempt: int
    end: str
    output: str
    worker: str
    claimed_at_ms: int | None
    at_ms: int
    error: dict[str, Any] | None
    retry_after_ms: int | None
    chance: float
    facts: Facts | None = None
    unsafe: bool = False


class LeaseExpired(NamedTuple):
    """Nothing was heard of an attempt for too long.

    Attributes:
        claimed_at_ms: None when it was sent and never claimed.
        hard_end: its time limit had passed too, so this is a timeout and not a loss.
        chance: a random number for the jitter of a retry, 0 <= chance < 1.
        silent: its worker lives, and its executor has said nothing for as long as it may; hard_end is true then.
        unsafe: as for Reported.
    """

    node: int
    epoch: int
    attempt: int
    claimed_at_ms: int | None
    worker: str
    hard_end: bool
    chance: float
    silent: bool = False
    unsafe: bool = False


class RetryDue(NamedTuple):
    """The wait before a node's next try is over."""

    node: int
    attempt: int


class DeadlinePassed(NamedTuple):
    """The run was to have ended by now."""


class CancelRequested(NamedTuple):
    """Somebody wants the run to stop.

    Attributes:
        running: nodes whose attempts a worker has claimed; they get a grace to end.
        end: nodes from this number on that are not in flight are left to later parts, each an Opened, in which a run
            that is being cancelled goes on with that. None leaves nothing.
    """

    reason: str
    running: frozenset[int]
    end: int | None = None
    by: str = ""


class RetryRequested(NamedTuple):
    """Somebody wants what failed in an ended run, and what follows from it, to run again.

    Attributes:
        reason: in that person's words.  by: who that is.
    """

    reason: str
    by: str = ""


class PauseRequested(NamedTuple):
    """Somebody wants nothing more of the run to be sent for now; what runs ends by itself.

    Attributes:
        reason: in that person's words.  by: who that is.
    """

    reason: str
    by: str


class ResumeRequested(NamedTuple):
    """Somebody wants a paused run to go on; the same."""

    reason: str
    by: str


class GraceOver(NamedTuple):
    """What was still running when the run was cancelled has had its time."""


class WaitOver(NamedTuple):
    """A node's instant has come, or the time is over in which somebody was to end its wait.

    Attributes:
        chance: a random number for the jitter of a retry, 0 <= chance < 1.
    """

    node: int
    epoch: int
    chance: float


class Escalated(NamedTuple):
    """Nobody has answered an approval for as long as one of its escalations says; `step` is its number."""

    node: int
    epoch: int
    step: int


class StartLimitPassed(NamedTuple):
    """A node was to have begun by now.

    Attributes:
        begun: a worker has claimed its attempt.
    """

    node: int
    epoch: int
    begun: bool


class TotalLimitPassed(NamedTuple):
    """A node was to have ended by now, all its attempts and the waits between them included."""

    node: int
    epoch: int


class Signalled(NamedTuple):
    """A signal was sent to the run.

    Attributes:
        id: of the entry of the inbox that brought it.
        key: idempotency key, "" for none.  by: who sent it, as they say.  payload: raw JSON, checked already.
    """

    id: str
    name: str
    key: str
    by: str
    payload: bytes


class Answered(NamedTuple):
    """A person answers an approval.

    Attributes:
        id: of the answer, so that whoever gave it finds what became of it in the log.
        answer: raw JSON of what the form asks for, checked already; "null" for nothing.
        comment: in that person's words.  at_ms: when.
    """

    node: int
    epoch: int
    id: str
    choice: str
    answer: bytes
    by: str
    comment: str
    at_ms: int


class Completed(NamedTuple):
    """Somebody outside ends a job that an attempt has begun.

    Attributes:
        error: of a job that failed; None when it succeeded, and then it has an output.
        chance: a random number for the jitter of a retry, 0 <= chance < 1.
        facts: what the graph's expressions read of the output; None for nothing.
    """

    node: int
    epoch: int
    attempt: int
    at_ms: int
    output: bytes
    error: dict[str, Any] | None
    chance: float
    facts: Facts | None = None


class NodesCancelRequested(NamedTuple):
    """Somebody wants some nodes of a run to stop; the run goes on.

    Attributes:
        running: those whose attempts a worker has claimed; they get a grace to end, unless it is to be at once.
        region: the name by which they were asked for; "" for by their own.
    """

    nodes: tuple[int, ...]
    running: frozenset[int]
    asker: Asker
    at_once: bool = False
    region: str = ""


class NodeGraceOver(NamedTuple):
    """An attempt of a node that is being cancelled has had its time."""

    node: int
    attempt: int


class SkipRequested(NamedTuple):
    """Somebody wants a node that has not been sent to be passed over."""

    node: int
    asker: Asker


class CompleteRequested(NamedTuple):
    """Somebody gives the output of a node that has none.

    Attributes:
        output: raw JSON, checked.
        facts: what the graph's expressions read of it; None for nothing.
    """

    node: int
    output: bytes
    asker: Asker
    facts: Facts | None = None


class RerunRequested(NamedTuple):
    """Somebody wants nodes, and all that follows from them, to run again."""

    nodes: tuple[int, ...]
    asker: Asker


class DeadlineRequested(NamedTuple):
    """Somebody sets the run's deadline, ms since 1970, or takes it away."""

    at_ms: int | None
    asker: Asker


class PriorityRequested(NamedTuple):
    """Somebody sets the run's priority, -9 to 9."""

    priority: int
    asker: Asker


class PolicyAdopted(NamedTuple):
    """The run takes up a policy: the one in force when it begins, or a newer one that says so.

    Attributes:
        policy: what it comes to for this run (core/policies.py).
    """

    policy: dict[str, Any]


Event = (
    Opened
    | Followed
    | Admitted
    | Reported
    | LeaseExpired
    | RetryDue
    | DeadlinePassed
    | CancelRequested
    | GraceOver
    | RetryRequested
    | PauseRequested
    | ResumeRequested
    | WaitOver
    | Escalated
    | StartLimitPassed
    | TotalLimitPassed
    | Signalled
    | Answered
    | Completed
    | NodesCancelRequested
    | NodeGraceOver
    | SkipRequested
    | CompleteRequested
    | RerunRequested
    | DeadlineRequested
    | PriorityRequested
    | PolicyAdopted
)


class Move(NamedTuple):
    """One state change of one node, with its reason.

    Attributes:
        node: number of the node.
        kind: MoveKind.
        cause: the upstream node that brought it about, or -1.
        why: the reason in the words of the log: a rule with the counts seen, an error kind, ...
        error: the error record of a failed or lost attempt.
    """

    node: int
    kind: int
    cause: int = -1
    why: str = ""
    error: dict[str, Any] | None = None


class Timer(NamedTuple):
    """An event with a due instant. `name` is unique in its run, as long as it is not due."""

    name: str
    due_at_ms: int


class Note(NamedTuple):
    """A line for the run's log that is no move; of the run itself when `node` is -1."""

    node: int
    word: str
    why: str


Ending = tuple[int | None, int, str, str]
"""Of an attempt: claimed at, ended at, worker, output kind."""


@dataclass(slots=True)
class Decision:
    """What follows from an event: moves of nodes, timers, perhaps the end of the run.

    Attributes:
        moves: in the order in which they take effect.
        attempt: the worker's facts for a move that ends an attempt: claimed at, ended at, worker, output kind.
        timers: to be set.
        cancelled: names of timers that are not needed any more.
        run: the run's new state, with its reason in `why`.
        facts: node -> what expressions may see of it from now on.
        closed: node -> downstream nodes for which the edge from it is closed.
        rungs: node -> where on its retry ladder it goes on (Run.rungs), when that is another step.
        outputs: node -> raw JSON of an output that no worker reported: the branch of a choice, a signal, an answer,
            what a person gave.
        signals: that the run takes.
        taken: (id of a signal, (node, epoch) whose wait it ends).
        notes: lines for the log that are no moves.
        resumes: a paused run goes on, with what it had.
        stopped: a stop condition is true: how the run ends, and why in words.
        act: what somebody asked for and gets; kept with the run.
        told: a line for the run's log about a request: its verb or "refused", its number, and why.
        apart: nodes that are cancelled or skipped by themselves, not by a rule or with their run.
        leaving: nodes that are being cancelled while their attempts have a grace, each with the reason.
        deadline: the run's deadline from now on, (None,) for none; () leaves it.  priority: the same.
        policy: that the run takes up.
        rest: nodes that end, and of whose nodes downstream only the first `Run.at_once` were asked; the others are to
            be, by `Followed`, as long as no owner has opened the run anew.
        stale: the event concerned a past attempt or an ended node, so it decided nothing.
    """

    moves: list[Move] = field(default_factory=list)
    ending: Ending | None = None
    timers: list[Timer] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    run: RunState | None = None
    why: str = ""
    facts: dict[int, Facts] = field(default_factory=dict)
    closed: dict[int, tuple[int, ...]] = field(default_factory=dict)
    rungs: dict[int, tuple[int, int]] = field(default_factory=dict)
    outputs: dict[int, bytes] = field(default_factory=dict)
    stopped: tuple[RunState, str] | None = None
    signals: list[Signal] = field(default_factory=list)
    taken: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    resumes: bool = False
    act: Act | None = None
    told: tuple[str, int, str] | None = None
    apart: tuple[int, ...] = ()
    leaving: dict[int, str] = field(default_factory=dict)
    deadline: tuple[int | None] | tuple[()] = ()
    priority: int | None = None
    policy: dict[str, Any] | None = None
    rest: tuple[int, ...] = ()
    stale: bool = False


STALE = Decision(stale=True)
"""The answer to an event that comes twice, late, or for something that has ended."""
