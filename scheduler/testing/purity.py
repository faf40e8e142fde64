"""check_purity: an executor is run again, as after a lost report; is what it leaves behind what it declares?

    check_purity(charge, {"order": 7, "sum": 100}, effects=lambda: ledger.rows())

The scheduler and whoever writes graphs rely on what is declared: a pure executor may be run as often as anybody likes,
an idempotent one too, a keyed one under the same idempotency key, an unsafe one not again once it may have begun.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidValue, shown
from ..worker.context import Context
from .errors import PurityFailed
from .executing import AnyExecutor, as_json, checked_executor, run_executor

Effects = Callable[[], Any]
"""A snapshot of all that the executor may change, to be compared by ==: rows of a table, files, messages sent."""


@dataclass(frozen=True, slots=True)
class PurityReport:
    """What was tried.

    Attributes:
        executor: its name.  purity: as declared.  runs: how often it was run.
        said: what that shows, in words.
    """

    executor: str
    purity: str
    runs: int
    said: str


def check_purity(
    executor: AnyExecutor,
    inputs: Mapping[str, Any],
    *,
    args: Sequence[Any] = (),
    effects: Effects | None = None,
    key: str = "purity-1",
    other_key: str = "purity-2",
) -> PurityReport:
    """Run an executor as its declaration says it may be run, and compare.

    pure        twice: the same output, and no effect.
    idempotent  twice, as the second attempt of one node: the second leaves what the first has left.
    keyed       the same, and once more under another key: that makes an effect of its own.
    unsafe      not at all: nothing is promised of a second run, so there is nothing to check.

    Args:
        inputs, args: of every run, JSON values; those of a case that has an effect, if it has any.
        effects: a snapshot, taken before and after each run; may be left out for pure ones only, and then only outputs
            are compared.
        key, other_key: idempotency keys.

    Raises:
        PurityFailed: an AssertionError: it is not what it declares, or a run failed.
        InvalidValue: it is no executor, declares nothing, or `effects` is missing.
    """
    it = checked_executor(executor, "executor")
    if it.purity is None:
        remedy = 'Write @executor(purity="pure"), "idempotent", "keyed" or "unsafe".'
        raise InvalidValue(f"executor {it.name}", None, "declares no purity", remedy)
    if it.purity == "unsafe":
        return PurityReport(it.name, it.purity, 0, "unsafe: a second run may do anything, so there is nothing to check")
    if effects is None and it.purity != "pure":
        remedy = "Hand over a function that returns a snapshot of what it changes."
        raise InvalidValue("effects", None, f"is missing for an executor that is {it.purity}", remedy)
    trial = _Trial(it, as_json(list(args), "args"), as_json(dict(inputs), "inputs"), effects)
    first = Context(id="purity.1", node="purity", number=1, key=key, worker="purity")
    return _CHECKS[it.purity](trial, first, replace(first, id="purity.3", key=other_key))


class _Trial:
    """Runs of one executor with the same inputs."""

    def __init__(self, executor: AnyExecutor, args: list[Any], inputs: dict[str, Any], effects: Effects | None) -> None:
        self.executor = executor
        self.purity = str(executor.purity)
        self.runs = 0
        self._args = args
        self._inputs = inputs
        self._effects = effects

    def look(self) -> Any:
        """What there is to see now; a copy, for a test may hand over the very thing that changes."""
        return None if self._effects is None else copy.deepcopy(self._effects())

    def run(self, context: Context) -> tuple[Any, Any]:
        """(output, effects) of one more run.

        Raises:
            PurityFailed: it fails.
        """
        self.runs += 1
        ran = run_executor(self.executor, copy.deepcopy(self._args), copy.deepcopy(self._inputs), context)
        if ran.ending is not None:
            raise self.failed(f"its run {self.runs} ended with {ran.words}")
        return ran.output, self.look()

    def failed(self, problem: str) -> PurityFailed:
        """The error to raise."""
        return PurityFailed(self.executor.name, self.purity, problem)

    def passed(self, said: str) -> PurityReport:
        """The report of a trial that went well."""
        return PurityReport(self.executor.name, self.purity, self.runs, said)


def _pure(trial: _Trial, first: Context, _other: Context) -> PurityReport:
    before = trial.look()
    output, after = trial.run(first)
    if after != before:
        raise trial.failed(f"it has an effect: {_change(before, after)}")
    again, later = trial.run(replace(first, id="purity.2", number=2))
    if again != output:
        raise trial.failed(f"the same inputs gave {shown(output)}, then {shown(again)}")
    if later != before:
        raise trial.failed(f"its second run has an effect: {_change(before, later)}")
    return trial.passed("the same output twice, and no effect")


def _idempotent(trial: _Trial, first: Context, _other: Context) -> PurityReport:
    before = trial.look()
    _, after = trial.run(first)
    _, later = trial.run(replace(first, id="purity.2", number=2))
    if later != after:
        raise trial.failed(f"its second run with the same key changed more: {_change(after, later)}")
    return trial.passed(f"the second run left what the first had left{_unseen(before, after)}")


def _keyed(trial: _Trial, first: Context, other: Context) -> PurityReport:
    before = trial.look()
    _, after = trial.run(first)
    if after == before:
        raise trial.failed("its first run has no effect that `effects` sees, so keys cannot matter. Look at more")
    _, later = trial.run(replace(first, id="purity.2", number=2))
    if later != after:
        raise trial.failed(f"its second run with the same key changed more: {_change(after, later)}")
    _, last = trial.run(other)
    if last == later:
        raise trial.failed("another key has no effect of its own; what depends on inputs alone is idempotent")
    return trial.passed("the same key had its effect once, and another key its own")


_CHECKS: dict[str, Callable[[_Trial, Context, Context], PurityReport]] = {
    "pure": _pure,
    "idempotent": _idempotent,
    "keyed": _keyed,
}


def _change(before: Any, after: Any) -> str:
    return f"{shown(before, 300)} became {shown(after, 300)}"


def _unseen(before: Any, after: Any) -> str:
    return "" if after != before else " (no effect was seen at all)"
