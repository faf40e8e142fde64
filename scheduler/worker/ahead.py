"""Steps of a chain that begin before the end of the step before them is kept: those whose executors are pure.

Nobody can tell when a pure function was called, or whether. So its step need not wait for the call that reports the one
before it and claims it; up to MOST_AHEAD such calls, or those of AHEAD_SECONDS, are made in one round trip, in order,
each both or neither. The store never knows anything but what steps that waited would have told it. What turns out not
to be wanted is forgotten, with all that was made of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from ..errors import WireError
from ..store.attempts import Asked, Claim, Onward, Verdict
from ..wire import Report
from .chain import granted
from .installation import Installation, claimant

log = logging.getLogger(__name__)

MOST_AHEAD, AHEAD_SECONDS = 100, 0.01
"""Steps that begin before the ends of those before them are kept, at most, and for how long."""


class Ahead:
    """What one bundle has begun so.

    Args:
        hostname: of the worker.
        queue: a report goes its ordinary way.
        note: the newest step that is claimed.

    Attributes:
        void: steps that are not ours after all; nothing is told of them.
        is_over: the chain ends with what runs now, for something was not as hoped.
    """

    def __init__(
        self,
        installation: Installation,
        hostname: str,
        queue: Callable[[Report, bytes | None], None],
        note: Callable[[str], None],
    ) -> None:
        self.void: set[str] = set()
        self.is_over = False
        self._installation = installation
        self._hostname = hostname
        self._queue = queue
        self._note = note
        self._begun: list[Onward] = []
        self._since = 0.0
        self._asked: tuple[Sequence[Onward], Asked] | None = None
        """Those before them, of which the store was told and has not answered."""
        self._is_unsure = False
        """The answer to what was asked of some of them was lost."""
        self._lock = threading.Lock()
        self._settling = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether the end of anything is still to be kept."""
        return bool(self._begun or self._asked)

    def begins(self, onward: Onward) -> None:
        """The next step begins now."""
        now = time.monotonic()
        with self._lock:
            self._since = self._since if self._begun else now
            self._begun.append(onward)
        if len(self._begun) >= MOST_AHEAD or now - self._since >= AHEAD_SECONDS:
            self._ask()

    def tick(self, now: float) -> None:
        """From the ticker's thread, which must not wait for a Redis that is away."""
        if (self._begun or self._asked) and now - self._since >= AHEAD_SECONDS and not self._is_unsure:
            self.settle(waits=False)

    def _ask(self) -> None:
        """Tell of what has begun, and claim it; the answer may come later."""
        with self._settling:
            self._hear()
            with self._lock:
                begun, self._begun = self._begun, []
            if begun and not self._is_unsure:
                try:
                    asked = self._installation.attempts().send_proceed(begun, claimant(self._hostname))
                except Exception:  # noqa: BLE001  no connection, or a time limit
                    self._is_unsure = True
                else:
                    self._note(begun[-1].id)  # the store knows it first
                    self._asked = begun, asked
                    return
            with self._lock:
                self._begun = begun + self._begun
        self.settle()

    def _hear(self) -> None:
        """The answer to what was asked last. Without one it is asked again, with what has begun since."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        begun, answer = asked
        try:
            done = _granted_of(answer.answers())
        except Exception:  # noqa: BLE001  whatever it was, none came
            with self._lock:
                self._begun, self._is_unsure = [*begun, *self._begun], True
            return
        self._know(begun, done)

    def settle(self, *, waits: bool = True) -> None:
        """Tell of what has begun, and claim it. What is not to be is void, and so is all that follows from it.

        Args:
            waits: through an outage of Redis; else the next call does.
        """
        with self._settling:
            self._hear()
            if self._is_unsure and not waits:
                return
            with self._lock:
                begun, self._begun = self._begun, []
            if not begun:
                return
            try:
                done = settle(self._installation, begun, self._hostname, waits=waits, unsure=self._is_unsure)
            except Exception:  # noqa: BLE001  no answer, or a time limit
                if waits:
                    self._give_up(begun)
                    return
                with self._lock:
                    self._begun, self._is_unsure = begun + self._begun, True
                return
            self._is_unsure = False
            self._know(begun, done)

    def _know(self, begun: Sequence[Onward], done: int) -> None:
        """So many of them were told of and claimed."""
        if done:
            self._note(begun[done - 1].id)
        if done < len(begun):
            self.is_over = True
            if begun[done].report.id not in self.void:
                self._queue(begun[done].report, begun[done].output)
            self.void.update(it.id for it in begun[done:])

    def _give_up(self, begun: Sequence[Onward]) -> None:
        """Nobody knows what was done: each is told again, and so is what runs now; what is wanted of it counts."""
        self.is_over, self._is_unsure = True, False
        for it in begun:
            self._queue(it.report, it.output)


def assumed(step: dict[str, Any], now_ms: int) -> Claim:
    """The claim of a step that begins ahead, as it will be."""
    lease, timeout = map(int, step["claim"].rsplit("|", 2)[1:])
    return Claim(Verdict.GRANTED, now_ms + min(lease, timeout), now_ms + timeout, now_ms)


def _granted_of(claims: Sequence[Claim]) -> int:
    """How many of them were granted before the first that was not."""
    return next((at for at, it in enumerate(claims) if it.verdict is not Verdict.GRANTED), len(claims))


def settle(
    installation: Installation, steps: Sequence[Onward], hostname: str, *, waits: bool = True, unsure: bool = False
) -> int:
    """Report and claim steps in their order; how many it was done of. What follows the first of which it was not is not
    wanted.

    Args:
        waits: through an outage.
        unsure: some of it may have been done already.

    Raises:
        OutcomeUnknown, redis.exceptions.RedisError: no answer, so any of them may have been done.
    """
    if not unsure:
        try:
            claims = installation.attempts().proceed(steps, claimant(hostname))
        except SoftTimeLimitExceeded:
            raise
        except WireError as broken:
            log.warning("a chain ends here: %s", broken)
            return 0
        except Exception:
            if not waits:
                raise
        else:
            return _granted_of(claims)
    for count in range(len(steps), 0, -1):  # the newest that is granted, again perhaps, tells of all before it
        if granted(installation, steps[count - 1], hostname) is not None:
            return count + (settle(installation, steps[count:], hostname) if count < len(steps) else 0)
    return 0
