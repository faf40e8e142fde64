"""The policy in force, and what it says of runs: which of them take it up, and what its safety checks find.

A scheduler reads the deployed policy when its version went up. A run keeps what it has taken up (core/policies.py), so
checks are asked by the run's own record. What they find enters the core as events like any other: a denied attempt
is one that failed and never went out, a denied output is a report that failed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from ..core.events import PolicyAdopted
from ..core.inputs import pick, resolve
from ..core.mappers import MappingError
from ..core.mapping import Mappings
from ..core.policies import RUNNING, Place, RunPolicy, place_of, resolved
from ..core.run import Run, references
from ..core.safety import BROKEN, Finding, error_of, judge, values_of
from ..errors import CeleriacError
from ..store.runs import Runs
from ..wire import RunId
from .admission import Admission
from .aside import fetcher

log = logging.getLogger("celeriac.scheduler")

_NO_OUTPUT = ord("n")
_NO_RUN = Run("", "", 0, [])
_UNREADABLE = (CeleriacError, LookupError, TypeError, ValueError, AttributeError)
"""What a record may raise that another hand, or a much later version, has written."""


class Denied(NamedTuple):
    """How an attempt counts whose output may not be passed on.

    Attributes:
        end: failed; or lost, for one that no check could judge, which is held and done again.
        error: its record.
    """

    end: Literal["failed", "lost"]
    error: dict[str, Any]


class Policies:
    """The policy of one scheduler.

    Args:
        admission: knows classes and contracts.

    Attributes:
        current: record of the policy that is deployed; None for none.
        runs: the store; set when it has answered.
    """

    def __init__(self, admission: Admission) -> None:
        self.current: Mapping[str, Any] | None = None
        self.runs: Runs | None = None
        self._admission = admission
        admission.gate = self.before
        self._unjudged: dict[tuple[str, int], str] = {}
        """Nodes whose output a check could not judge -> why; they stay blocked while their run keeps its policy."""

    def learn(self, runs: Runs, read: Callable[[Runs], Mapping[str, Any] | None]) -> None:
        """Another policy is in force now. One that cannot be read is told, and the one before goes on counting.

        Args:
            read: gives its record.
        """
        self.runs = runs
        try:
            policy = read(runs)
            if policy is not None:
                RunPolicy.from_record(resolved(policy, "", (), partial(self._place, _NO_RUN)))
        except _UNREADABLE as broken:
            going_on = "none" if self.current is None else f"version {self.current['version']}"
            log.error("the policy in force cannot be read (%s); %s goes on counting here", broken, going_on)
            return
        self.current = policy

    @property
    def _store(self) -> Runs:
        assert self.runs is not None  # noqa: S101  a run has a policy only after one was learned of
        return self.runs

    def wanted(self, run: Run) -> PolicyAdopted | None:
        """The policy that a run is to take up now, if any."""
        policy = self.current
        if policy is None:
            return None
        mine = run.policy
        if mine is None:
            takes = run.is_fresh or policy["adopt"] == RUNNING
        else:
            takes = policy["adopt"] == RUNNING and mine.version != policy["version"]
        if not takes:
            return None
        return PolicyAdopted(resolved(policy, run.name, run.declared, partial(self._place, run), run.mapped))

    def forget(self, run: Run) -> None:
        """A run has taken up another policy: what the one before could not judge is to be tried again."""
        for asked in [it for it in self._unjudged if it[0] == run.id]:
            del self._unjudged[asked]

    def _place(self, run: Run, number: int) -> Place:
        """Where a profile of a run stands, by contracts as they are now."""
        profile, admission = run.profiles[number], self._admission
        name = admission.place(profile)[0] or profile.queue_class or admission.default
        contract = admission.contracts.get(admission.bound(profile).executor, {})
        queue_class = admission.classes.get(name)
        limit = None if queue_class is None else queue_class.timeout_ms
        return place_of(run.name, profile.executor, name, contract, limit)

    # -- safety checks ------------------------------------------------------------------------------

    def before(self, run: Run, node: int, executor: str, queue_class: str) -> Finding | None:
        """What the checks have against a node that is about to be sent."""
        assert run.policy is not None  # noqa: S101  nobody asks otherwise
        if (why := self._unjudged.get((run.id, node))) is not None:
            return Finding(BROKEN, why, holds=True)
        checks = [it for it in run.policy.checks_of(executor, queue_class) if it.before is not None]
        if not checks:
            return None
        try:
            values = self._values(run, node, executor, queue_class)
        except MappingError:
            return None  # it will not go out, and fails with what is wrong
        return judge(checks, values, after=False)

    def refused(self, run: Run, node: int, queue_class: str, bound: str, kind: str, output: bytes) -> Denied | None:
        """How an attempt that succeeded ends, when a check has something against its output; None when none has.

        Args:
            queue_class: where it ran; "" when that is not known any more.
            bound: executor that its capability was bound to; "" for none.
            kind: inline or blob.
            output: raw JSON that came with the report, read already.
        """
        admission = self._admission
        way = run.way(node)
        executor = admission.bound(way, bound).executor
        queue_class = queue_class or admission.place(way)[0] or admission.default
        found = self._after(run, node, executor, queue_class, kind, output)
        if found is None:
            return None
        return Denied("lost" if found.holds else "failed", error_of(run, found, after=True))

    def _after(self, run: Run, node: int, executor: str, queue_class: str, kind: str, output: bytes) -> Finding | None:
        """What the checks have against an output."""
        assert run.policy is not None  # noqa: S101  nobody asks otherwise
        checks = [it for it in run.policy.checks_of(executor, queue_class) if it.after is not None]
        if not checks:
            return None
        value = json.loads(output)
        if kind == "blob":
            value = self._aside(run, value, [])
        try:
            values = {"output": value, **self._values(run, node, executor, queue_class)}
        except MappingError as failed:
            found: Finding | None = Finding(BROKEN, f"the inputs cannot be looked at any more: {failed}", holds=True)
        else:
            found = judge(checks, values, after=True)
        if found is not None and found.holds:
            self._unjudged[run.id, node] = found.words
        return found

    def _values(self, run: Run, node: int, executor: str, queue_class: str) -> dict[str, Any]:
        """What a check may read of an attempt. Inputs are read as they are sent, with what lies aside in its place."""
        runs = self._store
        template = run.template(node)
        if type(template) is not str:
            missing = {it for it in references(template) if it not in run.outputs and run.output_kind[it] != _NO_OUTPUT}
            if missing:
                run.outputs |= runs.values(RunId(run.id), sorted(missing))
        text, aside = resolve(run, template, run.outputs, Mappings(fetcher(runs)))
        inputs = json.loads(f"[{text}]")
        for *path, last in aside:
            around = pick(inputs, path)
            around[last] = self._aside(run, around[last], around[last]["path"])
        return values_of(run, node, executor, queue_class, inputs)

    def _aside(self, run: Run, named: Any, path: list[str | int]) -> Any:
        """A value that lies aside as a blob: one GET, in the loop. A key of another kind is not looked at."""
        key, runs = str(named["blob"]), self._store
        if not key.startswith(runs.keys_of(RunId(run.id)).blob("")):
            return None
        raw = runs.blob(key)
        try:
            return None if raw is None else pick(json.loads(raw), path)
        except (ValueError, RecursionError):  # nobody has read a blob before; it must stop neither loop nor shard
            return None
