"""What a person may ask of a run's nodes, of its deadline and its priority: cancel, skip, complete, rerun, and set.

Part of RunHandle; asking.py says what each request carries and reads the scheduler's answer. Who asks and why stands in
the run's log, and with the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ..graph.handles import Node
from ..graph.limits import Duration
from ..wire import RunId
from .asking import Planned, Request, Requests, key_of, keys_of
from .given import reason_of, who_of
from .waiting import Steps

if TYPE_CHECKING:
    from .access import Access
    from .steps import RunSteps
    from .waiting import Waiting

T = TypeVar("T")
AnyNode = Node[Any] | str


class Verbs:
    """The requests of a RunHandle."""

    id: RunId
    _access: Access
    _steps: RunSteps
    _asks: Requests

    def _waiting(self, steps: Steps[T], timeout: Duration | None) -> Waiting[T]:
        """How steps are taken is for the handle to say that mixes this in."""
        raise NotImplementedError

    # --- nodes -------------------------------------------------------------------------------------------

    def cancel(
        self,
        reason: str = "",
        by: str | None = None,
        *,
        nodes: Iterable[AnyNode] | AnyNode | None = None,
        at_once: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Asks for the run, or some of its nodes, to stop: what has not begun is cancelled, what runs gets 15 s to end.

        The whole run: returns when the request is stored; `wait()` tells when it is done. A run that has ended stays as
        it is. Of nodes: returns when the scheduler has decided it. The run goes on, and nodes downstream follow by
        their trigger rules, for which a cancelled node counts as upstream_failed.

        Args:
            reason: shown wherever the run is; up to 2,000 characters.
            by: who asks; None for the user of this process.
            nodes: handles or keys; None for the whole run.
            at_once: of nodes only: what runs gets no time either.
            timeout: of nodes only: how long to wait for a scheduler; None waits for ever.

        Raises:
            RunNotFound: there is no such run.
            NodeNotFound, RequestRefused: it has no such node, or all of them have ended.
            RunError: of nodes: the run has ended.
            WaitTimeout: no scheduler has taken it up; the request stands.
        """
        if nodes is None:
            text, who = reason_of(reason), who_of(by)

            def ask() -> None:
                self._steps.state()
                self._access.runs.cancel(self.id, text, who)

            self._access.reach(ask)
            return
        self._do(self._asks.cancel_nodes(keys_of(nodes), at_once), reason, by, timeout)

    def cancel_region(
        self,
        region: str,
        reason: str = "",
        by: str | None = None,
        *,
        at_once: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Cancels every node of a region (Graph.region), and of the regions inside it, that has not ended.

        Arguments and errors are those of `cancel(nodes=...)`.

        Raises:
            RunError: no node of the run is in a region of that name.
        """
        self._do(self._asks.cancel_region(region, at_once), reason, by, timeout)

    def skip(self, node: AnyNode, reason: str = "", by: str | None = None, *, timeout: Duration | None = None) -> None:
        """Passes over a node that is not out: it counts as skipped, and nodes downstream follow by their rules.

        Args and errors: see `cancel(nodes=...)`.

        Raises:
            RequestRefused: the node has been sent, or has ended.
        """
        self._do(self._asks.skip(key_of(node)), reason, by, timeout)

    def complete(
        self, node: AnyNode, output: Any, reason: str = "", by: str | None = None, *, timeout: Duration | None = None
    ) -> None:
        """Gives the output of a node by hand: it has succeeded with it, and an attempt that is out counts for nothing.

        A node that had ended badly, in a run that has ended or not, is completed in a new epoch: all that came after it
        runs anew, and so the run goes on. Of a choice the output is `{"branch": name}`.

        Args:
            output: a JSON value of at most 256 KB, such as the executor's published output schema allows.
            reason, by, timeout: see `cancel`.

        Raises:
            InvalidValue, TooLarge: that is no JSON, or too much.
            InputMismatch: the schema does not allow it.
            RequestRefused: the node has succeeded, or was skipped.
            NodeNotFound, RunNotFound, RunArchived, WaitTimeout: see `cancel` and `retry`.
        """
        self._do(self._asks.complete(key_of(node), output), reason, by, timeout)

    def rerun(
        self,
        from_: Iterable[AnyNode] | AnyNode,
        reason: str = "",
        by: str | None = None,
        *,
        preview: bool = False,
        timeout: Duration | None = None,
    ) -> Planned:
        """Runs nodes again, and all that follows from them, in a run that goes on or has ended: a new epoch of each.

        What is out behind them counts for nothing. Outputs of other nodes stay. A run that had ended goes on without
        the deadline that it had.

        Args:
            from_: handles or keys of nodes that have ended.
            preview: only tell what would run.
            reason, by, timeout: see `cancel`.

        Returns:
            The nodes that run again, in order, each with its present state; as they stood when it was asked.

        Raises:
            RequestRefused: none of them has ended, and nothing after them has begun.
            NodeNotFound, RunNotFound, RunArchived, WaitTimeout: see `cancel` and `retry`.
        """
        request = self._asks.rerun(keys_of(from_))
        if preview:
            return self._access.reach(lambda: self._asks.plan(request))
        found: Planned = self._do(request, reason, by, timeout)
        return found

    # --- the run -----------------------------------------------------------------------------------------

    def set_deadline(
        self,
        when: Duration | datetime | None,
        reason: str = "",
        by: str | None = None,
        *,
        timeout: Duration | None = None,
    ) -> None:
        """Sets by when the run has ended or fails.

        Args:
            when: seconds, "10m" or a timedelta from now; an instant with its time zone; or None for no deadline.
            reason, by, timeout: see `cancel`.

        Raises:
            RunError: the run has ended.
        """
        self._do(self._asks.deadline(when), reason, by, timeout)

    def set_priority(
        self, priority: int, reason: str = "", by: str | None = None, *, timeout: Duration | None = None
    ) -> None:
        """Sets whose ready nodes are sent first within a queue class; what has been sent is not called back.

        Args:
            priority: -9 to 9, 0 by default. Nodes of runs with a lower one wait as long as nodes of this run are ready.
            reason, by, timeout: see `cancel`.

        Raises:
            RunError: the run has ended.
        """
        self._do(self._asks.priority(priority), reason, by, timeout)

    # --- the same for coroutines ---------------------------------------------------------------------------

    async def acancel(
        self,
        reason: str = "",
        by: str | None = None,
        *,
        nodes: Iterable[AnyNode] | AnyNode | None = None,
        at_once: bool = False,
        timeout: Duration | None = None,  # noqa: ASYNC109  a parameter like its twin's
    ) -> None:
        """`cancel` for a coroutine."""
        if nodes is None:
            await asyncio.to_thread(self.cancel, reason, by)
        else:
            await self._ado(self._asks.cancel_nodes(keys_of(nodes), at_once), reason, by, timeout)

    async def acancel_region(
        self,
        region: str,
        reason: str = "",
        by: str | None = None,
        *,
        at_once: bool = False,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> None:
        """`cancel_region` for a coroutine."""
        await self._ado(self._asks.cancel_region(region, at_once), reason, by, timeout)

    async def askip(
        self,
        node: AnyNode,
        reason: str = "",
        by: str | None = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> None:
        """`skip` for a coroutine."""
        await self._ado(self._asks.skip(key_of(node)), reason, by, timeout)

    async def acomplete(
        self,
        node: AnyNode,
        output: Any,
        reason: str = "",
        by: str | None = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> None:
        """`complete` for a coroutine."""
        await self._ado(self._asks.complete(key_of(node), output), reason, by, timeout)

    async def arerun(
        self,
        from_: Iterable[AnyNode] | AnyNode,
        reason: str = "",
        by: str | None = None,
        *,
        preview: bool = False,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> Planned:
        """`rerun` for a coroutine."""
        request = self._asks.rerun(keys_of(from_))
        if preview:
            return await asyncio.to_thread(self.rerun, keys_of(from_), preview=True)
        found: Planned = await self._ado(request, reason, by, timeout)
        return found

    async def aset_deadline(
        self,
        when: Duration | datetime | None,
        reason: str = "",
        by: str | None = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> None:
        """`set_deadline` for a coroutine."""
        request = await asyncio.to_thread(self._asks.deadline, when)
        await self._ado(request, reason, by, timeout)

    async def aset_priority(
        self,
        priority: int,
        reason: str = "",
        by: str | None = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109  as above
    ) -> None:
        """`set_priority` for a coroutine."""
        await self._ado(self._asks.priority(priority), reason, by, timeout)

    # --- how they are made -------------------------------------------------------------------------------

    def _do(self, request: Request, reason: str, by: str | None, timeout: Duration | None) -> Any:
        return self._waiting(self._asks.answered(request, reason_of(reason), who_of(by)), timeout).result()

    async def _ado(self, request: Request, reason: str, by: str | None, timeout: Duration | None) -> Any:  # noqa: ASYNC109  as above
        return await self._waiting(self._asks.answered(request, reason_of(reason), who_of(by)), timeout).aresult()
