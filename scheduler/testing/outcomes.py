"""What a test may say of an attempt: how it ends, and when by the simulation's clock.

"a value"                       it succeeds with this output (any JSON value but a list; see Returns)
Fails("timeout"), SomeError()   it fails with this kind, or with the kind that this exception means to a worker
[Fails(), "a value"]            one for each attempt, the last for all that follow
lambda call: call.kwargs["x"]   called with the inputs; what it returns or raises is the outcome
an @executor                    really run, as a worker runs it
Takes("5s", outcome)            the same outcome, later
HANGS, UNCLAIMED                it begins and never ends; no worker ever takes it
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ..errors import ERROR_KINDS, ORIGINS, InvalidValue, did_you_mean
from ..graph.limits import seconds_of
from ..wire import error_record
from ..worker.context import Context
from ..worker.endings import Ending, ending
from ..worker.executor import Executor
from .executing import raw_json, run_executor

Duration = int | float | str | timedelta


class Call(NamedTuple):
    """One attempt on its way to its executor.

    Attributes:
        node: its key.  executor: the name of what would run it.
        args, kwargs: the inputs, JSON values, references resolved as the scheduler resolves them.
        attempt: which try of the node, from 1.
        key: the idempotency key, the same for all tries of the node.
    """

    node: str
    executor: str
    args: list[Any]
    kwargs: dict[str, Any]
    attempt: int
    key: str


@dataclass(frozen=True, slots=True)
class Fails:
    """An attempt that fails; kind "lost" is one whose worker was killed.

    Attributes:
        kind: one of errors.ERROR_KINDS.  message, type: of its error.
        origin: who is at fault, one of errors.ORIGINS; None for whom the kind means.
        retry_after_seconds: the wait that its executor asks for; None for none.

    Raises:
        InvalidValue: no such kind or origin.
    """

    kind: str = "transient"
    message: str = "scripted to fail"
    type: str = "Scripted"
    origin: str | None = None
    retry_after_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ERROR_KINDS:
            hint = did_you_mean(str(self.kind), ERROR_KINDS)
            raise InvalidValue("Fails(kind)", self.kind, "is not an error kind", f"Use one of {_KINDS}.{hint}")
        if self.origin is not None and self.origin not in ORIGINS:
            raise InvalidValue("Fails(origin)", self.origin, "is not an origin", f"Use one of {', '.join(ORIGINS)}.")


@dataclass(frozen=True, slots=True)
class Returns:
    """An attempt that succeeds with exactly this output, also when it is a list."""

    value: Any


@dataclass(frozen=True, slots=True)
class Takes:
    """An outcome that comes after a time: seconds, "20s", "2h" or a timedelta. Longer than its limit is a timeout."""

    time: Duration
    outcome: Any


class Never(enum.Enum):
    """Attempts that end only because something else ends them."""

    HANGS = "hangs"
    UNCLAIMED = "unclaimed"


HANGS: Final = Never.HANGS
"""A worker begins the attempt and is never heard of it: its silence, its time limit or a limit of the node ends it."""
UNCLAIMED: Final = Never.UNCLAIMED
"""No worker takes the attempt: a start limit, a total limit, a race or the run's deadline ends it."""


class Unset(enum.Enum):
    """What stands where nothing was given."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
_KINDS = ", ".join(ERROR_KINDS)


class Ended(NamedTuple):
    """How and when an attempt ends.

    Attributes:
        after_ms: it was sent.
        raw: JSON of its output; None when it has none.
        ending: its report otherwise; None when it succeeds.
        never: it does not end by itself.
    """

    after_ms: int = 0
    raw: bytes | None = None
    ending: Ending | None = None
    never: Never | None = None


def pick(outcome: Any, attempt: int, at: str) -> Any:
    """The outcome of one attempt, of a list of them.

    Raises:
        InvalidValue: the list is empty.
    """
    if not isinstance(outcome, list):
        return outcome
    if not outcome:
        raise InvalidValue(at, outcome, "scripts no attempt", "Name an outcome, or Returns([]) for an empty list.")
    return outcome[min(attempt, len(outcome)) - 1]


def ended(outcome: Any, call: Call, context: Context, at: str) -> Ended:
    """What an outcome means for an attempt; executors and functions are called now.

    Args:
        at: where it was scripted, for errors.

    Raises:
        NotJson: an output that could not travel.
        AssertionError: a function's own; it is the test's, not the attempt's.
    """
    if isinstance(outcome, Takes):
        after = round(seconds_of(outcome.time, f"{at}: Takes", 0) * 1000)
        found = ended(outcome.outcome, call, context, at)
        return found._replace(after_ms=found.after_ms + after)
    if isinstance(outcome, Never):
        return Ended(never=outcome)
    if isinstance(outcome, Fails):
        return Ended(ending=_scripted(outcome))
    if isinstance(outcome, BaseException) or (isinstance(outcome, type) and issubclass(outcome, BaseException)):
        return Ended(ending=ending(outcome() if isinstance(outcome, type) else outcome))
    if isinstance(outcome, Executor):
        ran = run_executor(outcome, call.args, call.kwargs, context)
        return Ended(raw=ran.raw, ending=ran.ending)
    if isinstance(outcome, Returns):
        return Ended(raw=raw_json(outcome.value, at))
    if callable(outcome):
        return _called(outcome, call, context, at)
    return Ended(raw=raw_json(outcome, at))


def _called(outcome: Callable[[Call], Any], call: Call, context: Context, at: str) -> Ended:
    try:
        found = outcome(call)
    except AssertionError:
        raise
    except Exception as raised:  # noqa: BLE001  what a scripted outcome raises is how its attempt ends
        return Ended(ending=ending(raised))
    return ended(Returns(found) if isinstance(found, list) else found, call, context, at)


def _scripted(it: Fails) -> Ending:
    error = error_record(it.kind, it.type, it.message, origin=it.origin)
    after = None if it.retry_after_seconds is None else round(it.retry_after_seconds * 1000)
    return Ending("lost" if it.kind == "lost" else "failed", error, after)


def exchanged(inputs: list[Any], places: Sequence[Sequence[str | int]], secrets: Mapping[str, str]) -> list[Any]:
    """Inputs with the values of secrets in their places, as far as these are known; as workers do it.

    Args:
        inputs: [args, kwargs], changed in place.  places: where in them secrets are named.
    """
    for place in places:
        holder: Any = inputs
        for step in place[:-1]:
            holder = holder[step]
        name = holder[place[-1]]["$secret"]
        if name in secrets:
            holder[place[-1]] = secrets[name]
    return inputs
