"""A run seen from the client: its state, its nodes, its outputs as they come, its events, its end.

Names follow Celery's AsyncResult where they mean the same (id, state, ready, get). What waits blocks on the run's own
log in Redis and survives its restarts (waiting.py). Every method that asks the store has a twin for coroutines with an
`a` in front (`get`, `aget`); two differ, because Python wants it so: the twin of `wait()` is ``await run``, or
`await_end(timeout)`; and `events()` and `as_completed()` are iterated by `for` as well as by `async for`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

from .core.run import Run
from .core.states import ENDED_RUNS, FIRST_ENDED, NodeState, RunState
from .errors import (
    InvalidValue,
    NodeFailed,
    NodeNotFound,
    NodeWithoutOutput,
    RunCancelled,
    RunError,
    RunFailed,
    StoreUnsafe,
    shown,
)
from .handles import Node
from .limits import kind_of, seconds_of
from .policy import Duration
from .store.outcomes import Outcome, log_end, read_outcomes, read_states, run_state
from .store.runs import Runs, Summary
from .views import Event, NodeView, Workers, cause_text, root_cause, view_nodes
from .waiting import Ask, Follow, Pause, Source, Steps, Stream, Tell, Waiting
from .wire import RunId

if TYPE_CHECKING:
    from .graph import Graph

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 500
MAX_REASON = 2_000
_ENDS = frozenset({"succeed", "fail", "skip", "upstream_fail", "cancel"})
_EVENT_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})(?:\.([0-9]{1,9}))?")
_PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *([1.0] * 60))
"""Between looks at a node whose end is in the log and whose record is not there yet."""


class Completed(NamedTuple):
    """A node that has ended: its key, its state, and its output, or the error that `get` would raise."""

    node: str
    state: NodeState
    value: Any


class Access(Source, Protocol):
    """What a handle needs of its client."""

    @property
    def runs(self) -> Runs:
        """The store."""
        ...

    @property
    def default_class(self) -> str | None:
        """Class of executors that declare none, when it is known."""
        ...

    def reach(self, call: Callable[[], R]) -> R:
        """The answer of the store, or its error as callers know it."""
        ...


class RunHandle:
    """One run. Made by `Client.submit` and `Client.run`; cheap, and safe to share between threads.

    Attributes:
        id: the run's id.
    """

    def __init__(self, access: Access, run: RunId, keys: Sequence[str] | None = None) -> None:
        self.id = run
        self._access = access
        self._keys = keys
        self._numbers: dict[str, int] | None = None

    def __repr__(self) -> str:
        return f"RunHandle({self.id})"

    # --- now ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """Where the run stands now. One question to the store each time.

        Raises:
            RunNotFound: there is no such run.
        """
        return self._access.reach(lambda: run_state(self._access.runs, self.id))

    def summary(self) -> Summary:
        """Name, state, progress, labels, instants."""
        return self._access.reach(lambda: self._access.runs.summary(self.id))

    def ready(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state in ENDED_RUNS

    def nodes(self) -> list[NodeView]:
        """Every node with its state, its attempts and why it is not further; from the store alone. O(nodes + edges)."""

        def look() -> list[NodeView]:
            runs = self._access.runs
            run = runs.load(self.id)
            workers = Workers(runs.contracts(), runs.workers(), self._access.default_class)
            return list(view_nodes(run, runs.claimed(run), workers))

        return self._access.reach(look)

    def cancel(self, reason: str = "") -> None:
        """Asks for the run to stop: what has not begun is cancelled at once, what runs gets some seconds to end.

        Returns when the request is stored; `wait()` tells when it is done. A run that has ended stays as it is.

        Args:
            reason: shown wherever the run is; up to 2,000 characters.

        Raises:
            RunNotFound: there is no such run.
        """
        if not isinstance(reason, str) or len(reason) > MAX_REASON:
            raise InvalidValue(
                "reason", reason, f"is {kind_of(reason)}, or too long", f"Write text of at most {MAX_REASON} characters."
            )

        def ask() -> None:
            run_state(self._access.runs, self.id)
            self._access.runs.cancel(self.id, reason)

        self._access.reach(ask)

    # --- waiting -----------------------------------------------------------------------------------------

    def wait(self, timeout: Duration | None = None) -> RunState:
        """Blocks until the run has ended, and says how. It raises nothing because a run failed.

        Args:
            timeout: seconds, "10m" or a timedelta; None waits for ever.

        Raises:
            WaitTimeout: the run goes on.
            RunNotFound: there is no such run.
            StoreUnreachable: Redis was away for a minute, or when the time was up.
        """
        return self._waiting(self._end(), timeout).result()

    @overload
    def get(self, node: Node[T], timeout: Duration | None = None) -> T: ...
    @overload
    def get(self, node: str, timeout: Duration | None = None) -> Any: ...
    def get(self, node: Node[Any] | str, timeout: Duration | None = None) -> Any:
        """Blocks until a node has ended, and returns its output.

        Args:
            node: its handle from the builder, or its key. With a handle the output is what the executor's annotation
                says, such as a pydantic model, when ``@executor`` made it; with a key it is plain JSON.
            timeout: seconds, "10m" or a timedelta; None waits for ever.

        Raises:
            NodeFailed: it failed; carries the remote error and traceback.
            NodeWithoutOutput: it was skipped, or a node before it failed.
            RunCancelled: it was cancelled with its run.
            NodeNotFound, RunNotFound, WaitTimeout, StoreUnreachable: see `wait`.
        """
        return self._waiting(self._output_of(node), timeout).result()

    def result(self, timeout: Duration | None = None) -> Any:
        """The output of the node that the graph `returns`, else of its only last node; plain JSON.

        Raises:
            RunFailed: there is none, and the run ended failed; names the nodes that failed.
            RunError: the graph has several last nodes and returns none of them.
            NodeFailed, NodeWithoutOutput, RunCancelled, WaitTimeout: see `get`.
        """
        return self._waiting(self._result(), timeout).result()

    def results(self, timeout: Duration | None = None) -> dict[str, Any]:
        """Waits for the end of the run; then key -> output of every node that succeeded, plain JSON."""
        return self._waiting(self._results(), timeout).result()

    def as_completed(self, timeout: Duration | None = None) -> Stream[Completed]:
        """Nodes in the order in which they ended, those that have ended already first, each once, to the run's end.

        For a node without output `value` is the error that `get` would raise; nothing is raised for it here.
        Iterate by `for` or by `async for`. `timeout` is for the whole; then WaitTimeout is raised.
        """
        return Stream(self._waiting(self._completed(), timeout))

    def events(
        self, after: str | None = None, *, follow: bool = True, timeout: Duration | None = None
    ) -> Stream[Event]:
        """What happened, move by move, from the run's own log. Iterate by `for` or by `async for`.

        Args:
            after: id of the last event that was seen; None begins at the beginning.
            follow: go on until the run has ended; False stops at what is there.
        """
        return Stream(self._waiting(self._events(after, follow), timeout))

    # --- the same for coroutines ---------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, RunState]:
        return self.await_end().__await__()

    async def await_end(self, timeout: Duration | None = None) -> RunState:  # noqa: ASYNC109 - as its twin
        """`wait` for a coroutine; ``await run`` is the same without a timeout."""
        return await self._waiting(self._end(), timeout).aresult()

    @overload
    async def aget(self, node: Node[T], timeout: Duration | None = None) -> T: ...
    @overload
    async def aget(self, node: str, timeout: Duration | None = None) -> Any: ...
    async def aget(self, node: Node[Any] | str, timeout: Duration | None = None) -> Any:  # noqa: ASYNC109
        """`get` for a coroutine."""
        return await self._waiting(self._output_of(node), timeout).aresult()

    async def aresult(self, timeout: Duration | None = None) -> Any:  # noqa: ASYNC109
        """`result` for a coroutine."""
        return await self._waiting(self._result(), timeout).aresult()

    async def aresults(self, timeout: Duration | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """`results` for a coroutine."""
        return await self._waiting(self._results(), timeout).aresult()

    async def astate(self) -> RunState:
        """`state` for a coroutine."""
        return await asyncio.to_thread(lambda: self.state)

    async def asummary(self) -> Summary:
        """`summary` for a coroutine."""
        return await asyncio.to_thread(self.summary)

    async def aready(self) -> bool:
        """`ready` for a coroutine."""
        return await asyncio.to_thread(self.ready)

    async def anodes(self) -> list[NodeView]:
        """`nodes` for a coroutine."""
        return await asyncio.to_thread(self.nodes)

    async def acancel(self, reason: str = "") -> None:
        """`cancel` for a coroutine."""
        await asyncio.to_thread(self.cancel, reason)

