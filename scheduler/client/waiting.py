"""Waiting for a run, written once for threads and for coroutines.

What a waiting call does is a generator of steps: ask the store something (`Ask`), wait for news in the run's log
(`Follow`), pause, hand an item to the caller (`Tell`). `Waiting` drives it, either way: in a thread the steps
block; in an event loop a `Follow` joins the loop's one reader and an `Ask`, which is short, runs in a thread. Both
bring a lost connection back, with growing pauses, and give up when the caller's time or RECONNECT_SECONDS is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar

from ..errors import CeleriacError, WaitTimeout
from ..store.connection import BLOCK_SECONDS, REFUSED, UNREACHABLE
from ..wire import RunId
from .access import Access

T = TypeVar("T")

RECONNECT_SECONDS = 60.0
"""How long a waiting call puts up with a Redis that does not answer."""
RECHECK_SECONDS = 30.0
"""After so long a silence of the log, a waiting call looks at the run itself: it may have been removed."""
_LONGEST_PAUSE_SECONDS = 2.0


class Ask(NamedTuple):
    """A short question to the store. Its answer is what `call` returns."""

    call: Callable[[], Any]


class Follow(NamedTuple):
    """Wait for entries of the log after an id.

    The answer is those entries; it is empty when the connection was lost meanwhile, or after RECHECK_SECONDS.

    Attributes:
        state: of the run or the node, as last seen, for the message when the time is up.
        node: the node waited for, None for the run.
        wait: False reads what is there.
        nodes: False for who asks for the run alone: a thread's entries may then lack the moves of its nodes.
    """

    after: str
    state: str = ""
    node: str | None = None
    wait: bool = True
    nodes: bool = True


class Pause(NamedTuple):
    """Nothing for a moment."""

    seconds: float


class Lull(NamedTuple):
    """A moment in which news may gather, for a thread that waits by itself. Coroutines share one reader, whom it would
    spare nothing.
    """

    seconds: float


class Tell(NamedTuple):
    """An item for the caller."""

    item: Any


Step = Ask | Follow | Pause | Lull | Tell
Steps = Generator[Step, Any, T]


class Waiting(Generic[T]):
    """One call that waits, under way.

    Args:
        access: to the store.
        run: the run waited for.
        steps: what to do.
        seconds: how long the caller is willing to wait; None means for ever.
    """

    def __init__(self, access: Access, run: RunId, steps: Steps[T], seconds: float | None) -> None:
        self._access = access
        self._run = run
        self._steps = steps
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._step: Step | None = None
        self._answer: Any = None
        self._silent_since = 0.0
        self._lost_since: float | None = None
        self._pause = 0.0

    def result(self) -> T:
        """Drive the steps to their end; items on the way are dropped."""
        while True:
            try:
                self.next()
            except StopIteration as end:
                result: T = end.value
                return result

    async def aresult(self) -> T:
        """The same in a coroutine."""
        while True:
            over, value = await self.anext()
            if over:
                result: T = value
                return result

    def next(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none; its value is the result of the steps.
            WaitTimeout: the time is up.
        """
        while True:
            step = self._current()
            if isinstance(step, Tell):
                return self._done(step.item)
            try:
                if isinstance(step, Ask):
                    answer = step.call()
                elif isinstance(step, Pause | Lull):
                    time.sleep(self._bounded(step.seconds))
                    answer = None
                else:
                    seconds = self._follow_seconds(step)
                    answer = self._access.follow(self._run, step.after, seconds, nodes=step.nodes)
            except CeleriacError:
                raise
            except UNREACHABLE as lost:
                time.sleep(self._lost(lost, step))
            except REFUSED as refused:
                raise self._access.told(refused) from refused
            else:
                self._found(step, answer)

    async def anext(self) -> tuple[bool, Any]:
        """(False, the next item), or (True, the result of the steps). May be cancelled and called again."""
        while True:
            try:
                step = self._current()
            except StopIteration as end:
                return True, end.value
            if isinstance(step, Tell):
                return False, self._done(step.item)
            try:
                if isinstance(step, Ask):
                    answer = await asyncio.to_thread(step.call)
                elif isinstance(step, Pause):
                    await asyncio.sleep(self._bounded(step.seconds))
                    answer = None
                elif isinstance(step, Lull):
                    answer = None
                else:
                    answer = await self._access.afollow(self._run, step.after, self._follow_seconds(step))
            except CeleriacError:
                raise
            except UNREACHABLE as lost:
                await asyncio.sleep(self._lost(lost, step))
            except REFUSED as refused:
                raise self._access.told(refused) from refused
            else:
                self._found(step, answer)

    def _current(self) -> Step:
        """The step to be done now: a new one, or one that was interrupted."""
        if self._step is None:
            answer, self._answer = self._answer, None
            self._step = self._steps.send(answer)
            self._silent_since = time.monotonic()
        return self._step

    def _done(self, item: Any) -> Any:
        self._step = None
        return item

    def _found(self, step: Step, answer: Any) -> None:
        """Redis answered. A follower that heard nothing goes on following, until it is time to look around."""
        self._lost_since = None
        if isinstance(step, Follow) and not answer and step.wait:
            if self._left() == 0:
                raise WaitTimeout(run=self._run, seconds=self._seconds or 0, state=step.state, node=step.node)
            if time.monotonic() - self._silent_since < RECHECK_SECONDS:
                return
        self._step, self._answer = None, answer

    def _lost(self, lost: BaseException, step: Step) -> float:
        """Seconds to pause before the next try.

        Raises:
            StoreUnreachable: it has been away for too long.
        """
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since, self._pause = now, 0.05
        if now - self._lost_since > RECONNECT_SECONDS or self._left() == 0:
            raise self._access.told(lost) from lost
        if isinstance(step, Follow):  # what was to be read may have gone with the server: the steps look again
            self._step, self._answer = None, []
        pause = self._bounded(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return pause

    def _left(self) -> float | None:
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    def _bounded(self, seconds: float) -> float:
        left = self._left()
        return seconds if left is None else min(seconds, left)

    def _follow_seconds(self, step: Follow) -> float:
        return self._bounded(BLOCK_SECONDS) if step.wait else 0.0


class Stream(Iterator[T], AsyncIterator[T], Generic[T]):
    """Items of a run as they come: `for item in stream:` in a thread, `async for item in stream:` in a coroutine."""

    def __init__(self, waiting: Waiting[None]) -> None:
        self._waiting = waiting

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item: T = self._waiting.next()
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        over, item = await self._waiting.anext()
        if over:
            raise StopAsyncIteration
        found: T = item
        return found
