"""Which nodes follow another in its message? Those of a chain: each with the one before it as its only parent, and as
its only child.

Their worker runs one after the other, reports each, claims the next with that report, and puts the one's output into
the other's inputs; nobody waits for the scheduler between two steps. For the store each is an attempt like any other,
begun when the end of the one before it is kept. Whenever a chain breaks, for whatever reason, what comes next is sent
as ever.

Only where nothing can come between two steps: a run without policy, expressions, waits and deadline; executors
that need not be found first; short work of one class. Nor (admission.py) while any executor has a version, which is
compared as each node is sent, or anything is paused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..core.run import Run
from ..core.states import FIRST_ENDED, NodeState
from .bundling import MOST_TOGETHER, has_been_tried

_PENDING = int(NodeState.PENDING)

WorkOf = Callable[[Run, int], int | None]
"""(run, node) -> what it adds to the work of a message of the class that is meant; None when it is of another class, or
travels alone."""


def may_chain(run: Run) -> bool:
    """Whether nothing in a run can come between the end of a node and the beginning of the next."""
    return (
        run.guards is None
        and run.policy is None
        and run.deadline_at_ms is None
        and run.stopped is None
        and not (run.floor or run.leaving or run.rungs)
    )


def steps_after(run: Run, node: int, work_us: int, most_us: int, work_of: WorkOf) -> tuple[list[int], int]:
    """The nodes that follow a ready one in its message, and the work of all of them, in us. O(steps).

    Args:
        work_us: of the node itself.
        most_us: of all.
    """
    steps: list[int] = []
    at = node
    works: dict[int, int | None] = {}  # by profile
    while len(steps) < MOST_TOGETHER - 1:
        first = run.down_at[at]
        if run.down_at[at + 1] - first != 1:
            break
        child = run.down[first]
        if run.up_at[child + 1] - run.up_at[child] != 1 or run.state[child] != _PENDING or has_been_tried(run, child):
            break
        profile = run.profile[child]
        if profile not in works:
            fits = run.profiles[profile].rule.name == "all_success"
            works[profile] = work_of(run, child) if fits else None
        more = works[profile]
        if more is None or work_us + more > most_us or not can_be_bound(run, child, at):
            break
        work_us += more
        steps.append(child)
        at = child
    return steps, work_us


def can_be_bound(run: Run, node: int, before: int) -> bool:
    """Whether a worker can make the inputs of a node: of all that they refer to, only the output of the node before it
    is still to come, and no mapper is to see that.
    """
    template = run.inputs[node]
    if type(template) is str:
        return True
    asked: Iterable[Any] = template[1::2]
    return all(
        (what == "output" and not mapper) if source == before else run.state[source] >= FIRST_ENDED
        for source, _path, what, *mapper in asked
    )
