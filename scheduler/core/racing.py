"""Races: of some nodes the first to succeed are kept, and the others are withdrawn.

Pure. A race is a node that is no work: its trigger rule is quorum(keep) over its members, and when that is met it
decides itself, cancels the members that are still open, and says who has won. So a deferred choice between a signal and
a timer is a race of two waits, and a cancelling discriminator or partial join a race of branches (workflow patterns 16,
29, 32).
"""

from __future__ import annotations

import json
from typing import Any

from .events import Decision, Move
from .guards import Sight
from .run import Run
from .states import FIRST_ENDED, TARGET, MoveKind, NodeState
from .waiting import give, timers_of


def decide_race(run: Run, node: int, cause: int, seen: str, decision: Decision, sight: Sight) -> Move:
    """A race is decided: the members that have not ended are cancelled, their attempts with them.

    Args:
        cause: the member that decided it.
        seen: what the rule saw, for the log.
    """
    members = sight.guards.races[node]
    moved = {move.node: TARGET[move.kind] for move in decision.moves}  # some of them may not have been followed yet
    state = {member: moved.get(member, sight.state(member)) for member in members}
    won = [member for member in members if state[member] == NodeState.SUCCEEDED]
    keys = [run.keys[member] for member in won]
    why = f"race {run.keys[node]!r} was won by {', '.join(map(repr, keys))}"
    for member in members:
        if state[member] < FIRST_ENDED:
            decision.moves.append(Move(member, MoveKind.CANCEL, node, why, _withdrawn(why)))
            decision.apart = (*decision.apart, member)
            decision.cancelled += timers_of(run, member)
            sight.moved(member, int(NodeState.CANCELLED))
    output = json.dumps({"winners": keys}, ensure_ascii=False, separators=(",", ":")).encode()
    return give(sight.guards, node, MoveKind.DECIDE, output, decision, f"{seen}; {why}", cause)


def _withdrawn(why: str) -> dict[str, Any]:
    """What the store keeps in place of an output of a member that has lost."""
    return {"kind": "cancelled", "type": "Withdrawn", "message": why, "origin": "policy", "phase": "wait"}
