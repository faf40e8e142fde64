"""Graphs on their way into the store: checked, compiled, sent.

Everything is checked before anything is sent. A run has its id before its graph is sent, so what was sent and not
answered is sent again, and finds itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import CeleriacError, ExecutorNotAllowed, GraphError, NotAllSubmitted, StoreError, quoted
from ..graph import CompiledGraph, Graph
from ..graph.limits import Duration
from ..store import policies
from ..store.connection import REFUSED, UNREACHABLE
from ..versions import current
from ..wire import RunId, is_found_later, new_run_id, run_id_for_key
from .access import Access
from .given import facts_of, graph_of
from .handle import RunHandle

SUBMIT_PAUSES_SECONDS = (0.05, 0.2, 0.5)
"""Before each repetition of a submit whose reply was lost; the same run id makes that harmless."""

Contracts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Submission:
    """A graph, and what its run is to carry: the arguments of `Client.submit`, for `Client.submit_many`."""

    graph: Graph | Mapping[str, Any]
    key: str | None = None
    labels: Mapping[str, str] | None = None
    correlation_id: str | None = None
    deadline: Duration | None = None
    priority: int = 0


class Prepared(NamedTuple):
    """A run that is to be: checked, and not sent."""

    run: RunId
    graph: CompiledGraph
    facts: Mapping[str, str | int]


class Known(NamedTuple):
    """What graphs are compared with.

    Attributes:
        contracts: executor -> what workers have published of it.
        classes: queue classes known here or to any worker; None where none are declared here.
    """

    contracts: Contracts
    classes: set[str] | None


class Submitter:
    """How a client submits.

    Args:
        access: to the store.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._settings = access.settings
        self._known: tuple[int, Contracts] | None = None

    # --- checks ------------------------------------------------------------------------------------------

    def prepare(self, it: Submission, check: bool) -> Prepared:
        """A submission, checked and compiled.

        Raises:
            GraphError: it cannot be used.
            StoreUnreachable: no answer to what workers have published.
        """
        return self._prepared(it, self._access.reach(self._looked_up) if check else None)

    def prepare_many(self, given: Iterable[Submission | Graph | Mapping[str, Any]], check: bool) -> list[Prepared]:
        """The same for many, by what workers have published now."""
        known = self._access.reach(self._looked_up) if check else None
        found = []
        for number, one in enumerate(given):
            try:
                found.append(self._prepared(one if isinstance(one, Submission) else Submission(one), known))
            except GraphError as wrong:
                wrong.add_note(f"This is graphs[{number}]; nothing of any was stored.")
                raise
        return found

    def _prepared(self, it: Submission, known: Known | None) -> Prepared:
        facts = facts_of(it.key, it.labels, it.correlation_id, it.deadline, it.priority)
        graph = graph_of(it.graph)
        compiled = graph.compile() if known is None else self._checked(graph, known)
        if known is not None and (versions := current(compiled.executors, known.contracts)):
            facts["versions"] = json.dumps(versions, ensure_ascii=False)
        namespace = self._access.namespace
        run = new_run_id(time.time_ns() // 1_000_000) if it.key is None else run_id_for_key(namespace, it.key)
        return Prepared(run, compiled, facts)

    def _checked(self, graph: Graph, known: Known) -> CompiledGraph:
        contracts, classes = known
        compiled = graph.compile(contracts=contracts, classes=classes)
        if compiled.header.get("mappers"):
            mappers = self._access.reach(lambda: policies.mappers(self._access.runs))
            compiled = graph.compile(contracts=contracts, classes=classes, mappers=mappers)
        if self._settings is not None:
            self._check_classes(compiled, contracts)
        return compiled

    def _check_classes(self, compiled: CompiledGraph, contracts: Contracts) -> None:
        """Whether each executor may run in its class, as far as the classes are declared here.

        Raises:
            ExecutorNotAllowed: one may not.
        """
        assert self._settings is not None  # noqa: S101  asked for by the caller
        declared, default = self._settings.classes, self._settings.default_class.name
        for number, profile in enumerate(compiled.header["profiles"]):
            for place, way in (("", profile), *_steps(profile)):
                executor = way["executor"]
                name = way.get("queue_class") or contracts.get(executor, {}).get("queue_class") or default
                if not executor or is_found_later(executor):  # nobody executes a choice; the other shows later
                    continue
                if name in declared and not declared[name].allows(executor):
                    at = f"nodes[{quoted(compiled.key_of_profile(number))}]{place}.executor"
                    raise ExecutorNotAllowed(executor, name, declared[name].executors, at)

    def _looked_up(self) -> Known:
        contracts = self._published()
        return Known(contracts, None if self._settings is None else self._classes(contracts))

    def _published(self) -> Contracts:
        """What workers have published; read again only when it has changed."""
        runs = self._access.runs
        version, known = runs.contracts_version(), self._known
        if known is None or known[0] != version:
            known = self._known = (version, runs.contracts())
        return known[1]

    def _classes(self, contracts: Contracts) -> set[str]:
        """Queue classes known here or to any worker."""
        classes = set(self._settings.classes) if self._settings is not None else set()
        described = (*contracts.values(), *self._access.runs.workers().values())
        return classes | {str(it["queue_class"]) for it in described if it.get("queue_class")}

    # --- on the way --------------------------------------------------------------------------------------

    def send(self, it: Prepared) -> RunHandle:
        """Store it.

        Raises:
            KeyReused, StoreFull, StoreUnreachable: see Client.submit.
        """
        return self._handle(it, self._access.reach(lambda: self._stored(it)))

    def send_many(self, prepared: Sequence[Prepared]) -> list[RunHandle]:
        """Store them, as many at a time as may be. What has no answer then goes the way of a single one.

        Raises:
            NotAllSubmitted: some are not stored, or it is unknown.
        """
        answers: list[bool | None] = [None] * len(prepared)
        try:
            self._access.runs.submit.many(prepared, answers)
        except (StoreError, *UNREACHABLE, *REFUSED):
            pass  # those that it concerns are sent again, and find out for themselves
        handles: list[RunHandle | None] = []
        errors: dict[int, CeleriacError] = {}
        lost: StoreError | None = None
        for number, (it, created) in enumerate(zip(prepared, answers, strict=True)):
            try:
                if created is None and lost is not None:
                    raise lost
                handles.append(self.send(it) if created is None else self._handle(it, created))
            except CeleriacError as error:
                lost = error if isinstance(error, StoreError) else lost
                errors[number] = error
                handles.append(None)
        if errors:
            raise NotAllSubmitted([None if it is None else it.id for it in handles], errors)
        return [it for it in handles if it is not None]

    def _stored(self, it: Prepared) -> bool:
        """Store it. When the reply is lost it is sent again: if the first one arrived, the second finds its run."""
        for pause in SUBMIT_PAUSES_SECONDS:
            try:
                return self._access.runs.submit(*it)[0]
            except UNREACHABLE:
                time.sleep(pause)
        return self._access.runs.submit(*it)[0]

    def _handle(self, it: Prepared, created: bool) -> RunHandle:
        if created:
            self._access.forget(it.run)
        # a run that was there already may have its nodes in another order: then the handle asks the store
        return RunHandle(self._access, it.run, it.graph.keys if created else None, seen=True)


def _steps(profile: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, step) of the steps of a compiled profile's ladder that name an executor."""
    return (
        (f".retry.steps[{number}]", step)
        for number, step in enumerate(profile.get("steps", ()))
        if step.get("executor")
    )
