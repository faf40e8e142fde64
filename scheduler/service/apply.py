"""One event, decided and applied to its run in memory, and noted in its shard's batch.

Reports take the same way in intake.py, for they are most of what arrives and bring an output along.
"""

from __future__ import annotations

from ..core.decide import decide
from ..core.events import CancelRequested, Decision, Event
from ..core.evolve import evolve
from ..core.recorded import FOLLOWS
from ..core.run import Run
from ..core.states import FIRST_ENDED, IN_FLIGHT, TARGET, MoveKind
from .batch import Batch
from .dispatch import Dispatch
from .held import Held

_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_REOPEN = int(MoveKind.REOPEN)


def stopped_by(run: Run, decision: Decision) -> list[int]:
    """Nodes of which an attempt is out that counts for nothing after a decision; to be asked before it is applied."""
    return [
        move.node
        for move in decision.moves
        if (TARGET[move.kind] >= FIRST_ENDED or move.kind == _REOPEN) and run.state[move.node] in _IN_FLIGHT
    ]


def apply(dispatch: Dispatch, held: Held, batch: Batch, run: Run, event: Event, attempt: str = "") -> bool:
    """Decide an event, apply and note it. False when it was stale."""
    decision = decide(run, event, batch.now)
    if decision.stale:
        return False
    stopped = stopped_by(run, decision)
    if isinstance(event, CancelRequested):
        stopped += event.running
    stopped += decision.leaving
    fenced = [run.attempt_id(held.keys.shard, node) for node in stopped]  # as they are: the moves may number anew
    evolve(run, decision, batch.now)
    changes = decision.moves or decision.run is not None or decision.act is not None
    if type(event) not in FOLLOWS and (changes or decision.signals or decision.policy):
        batch.heard(run, event)
    batch.take(run, decision, attempt)
    for id_ in fenced:
        batch.over.append(id_)
        if chain := held.chain(id_):
            held.graced[id_] = chain
        dispatch.landed(held, id_)
    if attempt:
        dispatch.landed(held, attempt)
    return True
