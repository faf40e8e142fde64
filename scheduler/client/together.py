"""Waiting for many runs at once: however many of them have ended, that is one question to the store.

One that goes on is waited for as if it were alone; when it has ended, all are asked for again. The newest comes first,
for it is likely to be the last to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator

from ..core.states import ENDED_RUNS, RunState
from ..errors import StoreUnreachable, WaitTimeout
from ..graph.limits import Duration, seconds_of
from ..store.outcomes import run_states
from ..wire import RunId
from .access import Access
from .handle import RunHandle


class Together:
    """One wait for many runs.

    Args:
        access: to the store.
        runs: what is waited for.
        timeout: for all of them; None for ever.
    """

    def __init__(self, access: Access, runs: Iterable[RunHandle], timeout: Duration | None) -> None:
        self._access = access
        self._runs = list(runs)
        self._seconds = None if timeout is None else seconds_of(timeout, "timeout", 0)
        self._end = None if self._seconds is None else time.monotonic() + self._seconds
        self._states: dict[RunId, RunState] = {}

    def result(self) -> list[RunState]:
        """How they ended, in their order."""
        while (run := self._open()) is not None:
            with self._in_time():
                self._states[run.id] = run.wait(self._left())
        return [self._states[it.id] for it in self._runs]

    async def aresult(self) -> list[RunState]:
        """The same in a coroutine."""
        while (run := await asyncio.to_thread(self._open)) is not None:
            with self._in_time():
                self._states[run.id] = await run.await_end(self._left())
        return [self._states[it.id] for it in self._runs]

    def _open(self) -> RunHandle | None:
        """The newest run of which no end is known, after a look at all such; None when there is none."""
        asked = [run for run in self._runs if run.id not in self._states]
        with contextlib.suppress(StoreUnreachable):  # whoever waits for a single run has patience with that
            found = self._access.reach(lambda: run_states(self._access.runs, [run.id for run in asked]))
            self._states |= {run.id: it for run, it in zip(asked, found, strict=True) if it in ENDED_RUNS}
        return next((run for run in reversed(asked) if run.id not in self._states), None)

    def _left(self) -> float | None:
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """A run that has not ended in the time that was left is told by the time that there was for all."""
        try:
            yield
        except WaitTimeout as late:
            raise WaitTimeout(run=late.run, seconds=self._seconds or 0, state=late.state) from None
