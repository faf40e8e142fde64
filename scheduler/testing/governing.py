"""A policy in a simulation: what it sets, and what its safety checks find, as the service has it.

A denied attempt fails without having gone out; a denied output fails the attempt that gave it. What a check holds, or
cannot judge, waits: in a simulation no other policy comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from ..core.events import PolicyAdopted
from ..core.policies import BLOCKED, Place, place_of, resolved
from ..core.run import Run
from ..core.safety import BROKEN, DENIED, Finding, error_of, judge, values_of
from ..policy import policy_of

PASSES, DENIES, BREAKS = "lets it pass", "denies it", "cannot be made"
"""What becomes of a check that is asked."""
_WAYS = {DENIED: DENIES, BROKEN: BREAKS}


class Governing:
    """The policy of one simulation.

    Args:
        document: of the policy, as its file says it.
        run: in memory, nothing of it has happened.
        contracts: executor -> contract, for classes and declared limits.

    Attributes:
        held: node -> why it is held, in the words of the log.
        asked: (check, "before" | "after", PASSES | DENIES | BREAKS), once for each time that a check was asked.

    Raises:
        InvalidValue: the document is no policy.
    """

    def __init__(self, document: object, run: Run, contracts: Mapping[str, Mapping[str, Any]]) -> None:
        self.held: dict[int, str] = {}
        self.asked: list[tuple[str, str, str]] = []
        self._run = run
        self._contracts = contracts
        self._record = resolved(policy_of(document), run.name, run.declared, self._place, run.mapped)

    @property
    def adopted(self) -> PolicyAdopted:
        """The run takes it up."""
        return PolicyAdopted(self._record)

    @property
    def branches(self) -> Iterator[tuple[str, str, str]]:
        """(check, "before" | "after", what it asks), of checks that may concern what the graph's nodes do."""
        ways = {way.executor for it in self._run.profiles for way in (it, *it.ways)}
        names = {
            name
            for kind, match, checks in self._record["attached"]
            if kind != "executor" or any(fnmatchcase(it, match) for it in ways)
            for name in checks
        }
        for name, check in self._record["checks"].items():
            if name in names:
                yield from ((name, moment, check[moment]) for moment in ("before", "after") if moment in check)

    def _place(self, number: int) -> Place:
        profile = self._run.profiles[number]
        contract = self._contracts.get(profile.executor, {})
        return place_of(self._run.name, profile.executor, self._class(profile.executor, number), contract, None)

    def _class(self, executor: str, number: int) -> str:
        declared = self._contracts.get(executor, {}).get("queue_class")
        return self._run.profiles[number].queue_class or declared or ""

    def before(self, node: int, inputs: list[Any]) -> Finding | None:
        """What the checks have against what is about to be sent; what they hold is noted."""
        found = self._judge(node, inputs, {}, after=False)
        if found is not None and found.holds:
            self._hold(node, found)
        return found

    def after(self, node: int, inputs: list[Any], output: Any) -> tuple[Literal["failed", "lost"], Any] | None:
        """How an attempt ends that succeeded, and with what error; None when the checks have nothing against it."""
        found = self._judge(node, inputs, {"output": output}, after=True)
        if found is None:
            return None
        if found.holds:
            self._hold(node, found)
        return "lost" if found.holds else "failed", error_of(self._run, found, after=True)

    def denial(self, found: Finding) -> dict[str, Any]:
        """The error of an attempt that a check denies."""
        return error_of(self._run, found, after=False)

    def _judge(self, node: int, inputs: list[Any], more: Mapping[str, Any], *, after: bool) -> Finding | None:
        run = self._run
        if run.policy is None:
            return None
        executor = run.way(node).executor
        queue_class = run.way(node).queue_class or self._class(executor, run.profile[node])
        values = {**more, **values_of(run, node, executor, queue_class, inputs)}
        moment = "after" if after else "before"
        for check in run.policy.checks_of(executor, queue_class):
            if (check.after if after else check.before) is None:
                continue
            found = judge([check], values, after=after)
            self.asked.append((check.name, moment, PASSES if found is None else _WAYS[found.type]))
            if found is not None:
                return found
        return None

    def _hold(self, node: int, found: Finding) -> None:
        self.held[node] = f"{BLOCKED}{self._record['version']}: {found.words}"
