"""A run seen from the client: its state, its nodes, its outputs as they come, its events, its end.

Names follow Celery's AsyncResult where they mean the same (id, state, ready, get). What waits blocks on the run's own
log in Redis and survives its restarts (waiting.py). Every method that asks the store has a twin for coroutines with an
`a` in front (`get`, `aget`). Two differ because Python wants it so: the twin of `wait()` is ``await run``, or
`await_end(timeout)`; and `events()` and `as_completed()` are iterated by `for` as well as by `async for`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, overload

from ..core.states import ENDED_RUNS, RunState
from ..graph.handles import Node
from ..graph.limits import Duration, seconds_of
from ..store.runs import Runs
from ..store.summaries import Summary
from ..wire import RunId
from .access import Access
from .asking import Requests
from .explain import Explanation, Instant, Reading
from .given import reason_of, who_of
from .outside import Outside
from .steps import Completed, RunSteps
from .verbs import Verbs
from .views import Event, NodeView, Workers, reasons_of, view_nodes
from .waiting import Steps, Stream, Waiting

T = TypeVar("T")


class RunHandle(Verbs, Outside):
    """One run. Made by `Client.submit` and `Client.run`; cheap, and safe to share between threads.

    Attributes:
        id: the run's id.
    """

    def __init__(self, access: Access, run: RunId, keys: Sequence[str] | None = None, *, seen: bool = False) -> None:
        self.id = run
        self._access = access
        self._steps = RunSteps(access, run, keys, seen=seen)
        self._asks = Requests(access, run, self._steps)

    def __repr__(self) -> str:
        return f"RunHandle({self.id})"

    # --- now ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """Where the run stands now. One question to the store each time.

        Raises:
            RunNotFound: there is no such run.
            StoreUnreachable: no answer.
        """
        return self._access.reach(self._steps.state)

    def summary(self) -> Summary:
        """Name, state, progress, labels, instants."""
        return self._access.reach(lambda: self._access.reading(self.id, lambda runs: runs.summary(self.id)))

    def ready(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state in ENDED_RUNS

    def nodes(self) -> list[NodeView]:
        """Every node with its state, its attempts and why it is not further; from the store alone. O(nodes + edges)."""

        def look(runs: Runs) -> list[NodeView]:
            run = runs.load(self.id)
            workers = Workers.read(runs, self._access.settings)
            return list(view_nodes(run, runs.claimed(run), workers, reasons_of(runs, run)))

        return self._access.reach(lambda: self._access.reading(self.id, look))

    def explain(
        self, node: Node[Any] | str | None = None, *, at: Instant | None = None, check: bool = False
    ) -> Explanation:
        """Why a node, or the run, stands where it does: decisions, with the records that each rests on. O(log).

        Args:
            node: its handle or key; None for the run: what holds it up, or what made it end so.
            at: as it stood then: a datetime with a time zone, or how long after the run's start (seconds, "10m", a
                timedelta). None for now.
            check: make every decision again of the facts that it cites; `Explanation.differs` tells what is not so.

        Raises:
            NodeNotFound, RunNotFound, StoreUnreachable: see `wait`.
            InvalidValue: `at` is no instant.
        """
        key = node.key if isinstance(node, Node) else node

        def look(runs: Runs) -> Explanation:
            reading = Reading(runs, self.id, at, self._access.settings)
            return reading.whole(check=check) if key is None else reading.node(key, check=check)

        return self._access.reach(lambda: self._access.reading(self.id, look))

    def pause(self, reason: str = "", by: str | None = None) -> None:
        """Asks for nothing more of the run to be sent: what is out ends and counts, what becomes ready waits.

        Returns when the request is stored; `state` says "paused" when it is done. Waits between two tries and the run's
        deadline go on meanwhile. A run that is paused, is being cancelled or has ended stays as it is.

        Args:
            reason: shown wherever the run is; up to 2,000 characters.
            by: who asks; None for the user of this process.

        Raises:
            RunNotFound: there is no such run.
        """
        self._ask_as(self._access.runs.pause, reason, by)

    def resume(self, reason: str = "", by: str | None = None) -> None:
        """Asks for a paused run to go on; the arguments and errors are those of `pause`."""
        self._ask_as(self._access.runs.resume, reason, by)

    def _ask_as(self, verb: Callable[[RunId, str, str], None], reason: str, by: str | None) -> None:
        text, who = reason_of(reason), who_of(by)

        def ask() -> None:
            self._steps.state()
            verb(self.id, text, who)

        self._access.reach(ask)

    def retry(self, reason: str = "", timeout: Duration | None = None, by: str | None = None) -> None:
        """Runs what failed, or was cancelled, once more, and all that follows from it; what succeeded stays.

        Returns when the run goes on. A deadline that it had does not count any more.

        Args:
            reason: shown wherever the run is; up to 2,000 characters.
            timeout: how long to wait for a scheduler; None waits for ever.
            by: who asks; None for the user of this process.

        Raises:
            RunError: the run has not ended, or nothing in it failed.
            RunArchived: it was archived and removed from Redis.
            RunNotFound, StoreUnreachable: see `wait`.
            WaitTimeout: no scheduler has taken it up; the request stands.
        """
        text, who = reason_of(reason), who_of(by)
        self._waiting(self._steps.retry(lambda: self._access.runs.retry(self.id, text, who)), timeout).result()

    # --- waiting -----------------------------------------------------------------------------------------

    def wait(self, timeout: Duration | None = None) -> RunState:
        """Blocks until the run has ended, and says how. It raises nothing because a run failed.

        Args:
            timeout: seconds, "10m" or a timedelta; None waits for ever.

        Raises:
            WaitTimeout: the run goes on.
            RunNotFound: there is no such run.
            RunLost: it was here and is gone, since Redis lost what it had acknowledged.
            StoreUnreachable: Redis was away for a minute, or when the time was up.
        """
        return self._waiting(self._steps.end(), timeout).result()

    @overload
    def get(self, node: Node[T], timeout: Duration | None = None) -> T: ...
    @overload
    def get(self, node: str, timeout: Duration | None = None) -> Any: ...
    def get(self, node: Node[Any] | str, timeout: Duration | None = None) -> Any:
        """Blocks until a node has ended, and returns its output.

        Args:
            node: its handle from the builder, or its key. With a handle whose executor ``@executor`` made, the output
                is what the annotation says, such as a pydantic model; else it is plain JSON.
            timeout: seconds, "10m" or a timedelta; None waits for ever.

        Raises:
            NodeFailed: it failed; carries the remote error and traceback.
            NodeWithoutOutput: it was skipped, or a node before it failed.
            RunCancelled: it was cancelled with its run.
            NodeNotFound, RunNotFound, WaitTimeout, StoreUnreachable: see `wait`.
        """
        return self._waiting(self._output(node), timeout).result()

    def result(self, timeout: Duration | None = None) -> Any:
        """The output of the node that the graph `returns`, else of its only last node; plain JSON.

        Raises:
            RunFailed: there is none, and the run ended failed; names the nodes that failed.
            RunError: the graph has several last nodes and returns none of them.
            NodeFailed, NodeWithoutOutput, RunCancelled, WaitTimeout: see `get`.
        """
        return self._waiting(self._steps.result(), timeout).result()

    def results(self, timeout: Duration | None = None) -> dict[str, Any]:
        """Waits for the end of the run; then key -> output of every node that succeeded, plain JSON."""
        return self._waiting(self._steps.results(), timeout).result()

    def as_completed(self, timeout: Duration | None = None) -> Stream[Completed]:
        """Nodes in the order in which they ended, those that have ended already first, each once, to the run's end.

        For a node without output `value` is the error that `get` would raise; nothing is raised for it here.
        Iterate by `for` or by `async for`. `timeout` is for the whole; then WaitTimeout is raised.
        """
        return Stream(self._waiting(self._steps.completed(), timeout))

    def events(
        self, after: str | None = None, *, follow: bool = True, timeout: Duration | None = None
    ) -> Stream[Event]:
        """What happened, move by move, from the run's own log. Iterate by `for` or by `async for`.

        Args:
            after: id of the last event that was seen; None begins at the beginning.
            follow: go on until the run has ended; False stops at what is there.
            timeout: for the whole; then WaitTimeout is raised.
        """
        return Stream(self._waiting(self._steps.events(after, follow), timeout))

    # --- the same for coroutines ---------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, RunState]:
        return self.await_end().__await__()

    async def await_end(self, timeout: Duration | None = None) -> RunState:  # noqa: ASYNC109  a parameter like its twin's
        """`wait` for a coroutine; ``await run`` is the same without a timeout."""
        return await self._waiting(self._steps.end(), timeout).aresult()

    @overload
    async def aget(self, node: Node[T], timeout: Duration | None = None) -> T: ...  # noqa: ASYNC109  as above
    @overload
    async def aget(self, node: str, timeout: Duration | None = None) -> Any: ...  # noqa: ASYNC109  as above
    async def aget(self, node: Node[Any] | str, timeout: Duration | None = None) -> Any:  # noqa: ASYNC109  as above
        """`get` for a coroutine."""
        return await self._waiting(self._output(node), timeout).aresult()

    async def aresult(self, timeout: Duration | None = None) -> Any:  # noqa: ASYNC109  as above
        """`result` for a coroutine."""
        return await self._waiting(self._steps.result(), timeout).aresult()

    async def aresults(self, timeout: Duration | None = None) -> dict[str, Any]:  # noqa: ASYNC109  as above
        """`results` for a coroutine."""
        return await self._waiting(self._steps.results(), timeout).aresult()

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

    async def aexplain(
        self, node: Node[Any] | str | None = None, *, at: Instant | None = None, check: bool = False
    ) -> Explanation:
        """`explain` for a coroutine."""
        return await asyncio.to_thread(lambda: self.explain(node, at=at, check=check))

    async def aretry(self, reason: str = "", timeout: Duration | None = None, by: str | None = None) -> None:  # noqa: ASYNC109  as above
        """`retry` for a coroutine."""
        text, who = reason_of(reason), who_of(by)
        await self._waiting(self._steps.retry(lambda: self._access.runs.retry(self.id, text, who)), timeout).aresult()

    async def apause(self, reason: str = "", by: str | None = None) -> None:
        """`pause` for a coroutine."""
        await asyncio.to_thread(self.pause, reason, by)

    async def aresume(self, reason: str = "", by: str | None = None) -> None:
        """`resume` for a coroutine."""
        await asyncio.to_thread(self.resume, reason, by)

    # --- how it waits --------------------------------------------------------------------------------------

    def _waiting(self, steps: Steps[T], timeout: Duration | None) -> Waiting[T]:
        seconds = None if timeout is None else seconds_of(timeout, "timeout", 0)
        return Waiting(self._access, self.id, steps, seconds)

    def _output(self, node: Node[Any] | str) -> Steps[Any]:
        if isinstance(node, Node):
            return self._steps.output(node.key, node.decode or json.loads)
        return self._steps.output(node)
