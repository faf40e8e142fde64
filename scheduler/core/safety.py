"""Safety checks: what must be true of a node's inputs before it is sent, and of its output before others get it.

Pure. A check is an expression of a policy; executors and graphs know nothing of it. It is asked for each attempt, for
inputs differ from step to step of a retry ladder. What a check denies has failed as `safety`, and goes the way that
the graph has for that: a step that answers `safety`, an edge, a trigger rule; or, where the check says "hold", it
stays blocked until the policy changes or a person decides. A check that has no value on what it met is a fault of the
policy: its node is held, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import masked
from .expressions import EvaluationError, Expression, Read, evaluated, follow, parse, worded

if TYPE_CHECKING:
    from .run import Run

MOST_MESSAGE: Final = 2_000
"""Characters of an error's message."""
BEFORE: Final = ("input", "args", "attempt", "executor", "graph", "labels", "node", "queue_class", "run")
"""What a check may read before its node is sent: named inputs, positional ones, number of the attempt, and names."""
AFTER: Final = ("output", *BEFORE)
FAIL, HOLD = "fail", "hold"
DENIED, BROKEN = "Blocked", "PolicyFailed"
"""Types of the errors of what a check denies, and of what it cannot judge."""


@dataclass(frozen=True, slots=True)
class Check:
    """One safety check.

    Attributes:
        before, after: must be true of what is sent, and of what comes back; None asks nothing.
        deny: FAIL, or HOLD, for what is denied before it is sent.
        message: in the words of the policy; "" for none.
    """

    name: str
    before: Expression | None
    after: Expression | None
    deny: str = FAIL
    message: str = ""

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> Check:
        """Read one of a policy.

        Raises:
            ExpressionError: what it asks cannot be read.
        """
        before, after = record.get("before"), record.get("after")
        return cls(
            name,
            None if before is None else parse(before, BEFORE),
            None if after is None else parse(after, AFTER),
            record.get("deny", FAIL),
            record.get("message", ""),
        )


class Finding(NamedTuple):
    """What a check has against something.

    Attributes:
        type: DENIED or BROKEN.  words: which check, and what it met, without passwords of URLs.
        holds: its node stays blocked.
    """

    type: str
    words: str
    holds: bool


def values_of(run: Run, node: int, executor: str, queue_class: str, inputs: list[Any]) -> dict[str, Any]:
    """What a check may read of an attempt before it is sent.

    Args:
        executor, queue_class: who does it, and where.
        inputs: [args, kwargs], as they would be sent.
    """
    return {
        "args": inputs[0],
        "input": inputs[1],
        "attempt": run.attempt[node],
        "executor": executor,
        "graph": run.name,
        "labels": run.labels.get(node, {}),
        "node": run.keys[node],
        "queue_class": queue_class,
        "run": run.id,
    }


def error_of(run: Run, found: Finding, *, after: bool) -> dict[str, Any]:
    """The error record of what a check denies."""
    version = "" if run.policy is None else f"policy {run.policy.version}: "
    phase = "collect" if after else "admit"
    message = f"{version}{found.words}"[:MOST_MESSAGE]
    return {"kind": "safety", "type": found.type, "message": message, "origin": "policy", "phase": phase}


def judge(checks: Iterable[Check], values: Mapping[str, Any], *, after: bool) -> Finding | None:
    """The first thing that a check has against an attempt; None when all are content.

    Args:
        values: by the names in BEFORE, or AFTER.
        after: the attempt has ended; else it is about to be sent.
    """

    def look(read: Read) -> Any:
        return follow(values[read.node], read.path)

    for check in checks:
        asked = check.after if after else check.before
        if asked is None:
            continue
        try:
            found, seen = evaluated(asked, look)
            if type(found) is not bool:
                raise EvaluationError(asked.text, "type", f"is {found!r:.80}, neither true nor false", seen)
        except EvaluationError as failed:
            return Finding(BROKEN, masked(f"the check {check.name!r} cannot be made: {failed}"), holds=True)
        except Exception as failed:  # noqa: BLE001  policy is data from outside; whatever it does, one node waits
            return Finding(BROKEN, f"the check {check.name!r} broke: {type(failed).__name__}: {failed}", holds=True)
        if not found:
            said = f"{check.message}: " if check.message else ""
            words = f"the check {check.name!r} denies it: {said}{worded(asked, found, seen)}"
            return Finding(DENIED, masked(words), holds=check.deny == HOLD and not after)
    return None
