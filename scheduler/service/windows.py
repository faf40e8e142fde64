"""How many attempts of a class are let out at one time? As many as its workers hold, and a moment's work besides.

Nothing overtakes what is in the broker's queue, so a long queue makes every run of the class wait behind the one that
filled it, and a short one does: the scheduler is back with more in a few milliseconds. How short follows from two
numbers, attempts in flight and messages that still wait in the queue. The difference is with the workers, however
many slots they have and however much each takes in advance. An empty queue means that workers may be idle, so the
window grows by half, look after look; more than a moment's work in the queue lets it shrink slowly. It
never exceeds the declared window. Pure: whoever has asked the broker tells what it said.
"""

from __future__ import annotations

from math import inf

from ..settings import QueueClass

MOMENT_SECONDS = 0.08
"""Of work in the queue, beside what workers hold."""
ENOUGH = 160
"""In flight, when one turn finds MOST_OF_IT ended and the queue empty: turns are the limit then and not the workers,
and more would only make them longer."""
MOST_OF_IT = 0.5
GROWS, SHRINKS = 1.5, 0.9
PERIOD_SECONDS = 0.2
"""How often a window may shrink, by the most that workers held meanwhile."""
SOON_SECONDS, BUSY_SECONDS, IDLE_SECONDS = 0.01, 0.05, 1.0
"""Between two looks into the queue: after one that found it empty; at most, while attempts end; while none does."""


class Window:
    """The window of one class, as one scheduler sees it.

    Args:
        queue_class: its declared window is the most, the slots and prefetch of one worker are the least.

    Attributes:
        short: ready nodes were left behind for lack of room. Only then there is anything to find out.
    """

    def __init__(self, queue_class: QueueClass) -> None:
        self.short = False
        self._most = queue_class.window
        self._least = queue_class.concurrency * queue_class.prefetch
        self._size = 2.0 * self._least
        self._held = 0.0
        self._margin = 1.0
        self._at_once = self._most_at_once = 0
        """Most attempts that one turn has found ended, since the last look and in this period."""
        self._turned = self._looked = self._began = 0
        """Attempts ended by the last turn, by the last look, by the begin of the period."""
        self._turned_at = self._looked_at = self._began_at = self._look_at = -inf
        self._pause = SOON_SECONDS

    def size(self, share: float) -> int:
        """Most attempts in flight now.

        Args:
            share: our part of the class, 0 to 1.
        """
        return max(1, min(int(self._most * share), int(self._size)))

    def turn(self, ended: int, now: float) -> None:
        """A turn of the loop has ready nodes of the class.

        Args:
            ended: attempts of the class that have ended since the start.
            now: of this process's clock, seconds.
        """
        if self.short:
            self._at_once = max(self._at_once, ended - self._turned)
        elif now - self._turned_at > IDLE_SECONDS:  # who knows which workers there are now
            gone = min((now - self._turned_at) / PERIOD_SECONDS, 1000.0)
            self._size = max(self._size * SHRINKS**gone, 2.0 * self._least)
            self._begin(ended, now)
        self._turned, self._turned_at = ended, now

    def wants_look(self, now: float) -> bool:
        """Whether a turn that happens anyway should ask how many messages wait in the queue."""
        return self.short and now >= min(self._look_at, self._looked_at + BUSY_SECONDS)

    def looks_in(self, share: float, now: float) -> float | None:
        """Seconds until a look is worth a turn of its own; None for never."""
        return max(self._look_at - now, 0.0) if self.short and self.size(share) < int(self._most * share) else None

    def look(self, flying: int, waiting: int | None, ended: int, share: float, now: float) -> None:
        """Grow or shrink by what a look into the queue has found. O(1).

        Args:
            flying: attempts in flight, sent by us.
            waiting: messages in the queue, sent by anybody; None when the broker can't tell.
            ended, share, now: as above.
        """
        if waiting is None:
            self._size = float(self._most)
            self._looked_at = self._look_at = now + IDLE_SECONDS
            return
        ours = waiting * share
        self._held = max(self._held, flying - ours)
        self._most_at_once = max(self._most_at_once, self._at_once)
        enough = not waiting and self._size >= ENOUGH and self._at_once >= self._size * MOST_OF_IT
        grown = not waiting and not enough
        if grown:
            self._size *= GROWS
        if now - self._began_at >= PERIOD_SECONDS:
            self._begin(ended, now)
            wanted = ENOUGH if enough else self._held + self._margin
            if not grown:
                self._size = max(min(self._size, wanted), self._size * SHRINKS)
            self._held = 0.0
        self._size = min(max(self._size, self._least * share, ours), self._most * share)
        idle = BUSY_SECONDS if ended > self._looked else IDLE_SECONDS
        self._pause = SOON_SECONDS if grown else min(2 * self._pause, idle)
        self._looked, self._looked_at, self._look_at = ended, now, now + self._pause
        self._at_once = 0

    def _begin(self, ended: int, now: float) -> None:
        """Another period, with the pace of the last one."""
        pace = (ended - self._began) / max(now - self._began_at, PERIOD_SECONDS)
        self._margin = max(1.0, min(max(self._most_at_once, pace * MOMENT_SECONDS), ENOUGH))
        self._most_at_once = 0
        self._began, self._began_at = ended, now
