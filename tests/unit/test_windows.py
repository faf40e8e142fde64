"""A window follows its workers, whatever they are: simulated against a queue, in milliseconds."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import pytest

from scheduler.service.windows import ENOUGH, MOMENT_SECONDS, Window
from scheduler.settings import QueueClass


def declared(window: int = 500, concurrency: int = 2, prefetch: int = 8) -> QueueClass:
    """A queue class."""
    return QueueClass(
        name="work",
        latency="standard",
        cost="low",
        queue="work",
        pool="prefork",
        concurrency=concurrency,
        prefetch=prefetch,
        window=window,
    )


@dataclass
class Workers:
    """Slots that take messages from a queue, each holding `prefetch` of them, the one at work included."""

    slots: int
    prefetch: int
    seconds: float
    queue: deque[int] = field(default_factory=deque)
    """Whose each waiting message is."""
    held: deque[int] = field(default_factory=deque)
    busy: list[tuple[float, int]] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)
    idle_seconds: float = 0.0
    at: float = 0.0

    def until(self, now: float) -> None:
        """Work up to an instant."""
        while True:
            self._take()
            upto = min(now, self.busy[0][0]) if self.busy else now
            self.idle_seconds += (self.slots - len(self.busy)) * (upto - self.at)
            self.at = upto
            if not self.busy or self.busy[0][0] > now:
                return
            _, whose = heapq.heappop(self.busy)
            self.ended[whose] = self.ended.get(whose, 0) + 1

    def _take(self) -> None:
        while self.queue and len(self.busy) + len(self.held) < self.slots * self.prefetch:
            self.held.append(self.queue.popleft())
        while self.held and len(self.busy) < self.slots:
            heapq.heappush(self.busy, (self.at + self.seconds, self.held.popleft()))


@dataclass
class Owner:
    """A scheduler whose runs never end: it fills its window at each turn."""

    window: Window
    number: int = 0
    share: float = 1.0
    sent: int = 0

    def turn(self, workers: Workers, now: float) -> None:
        """As the loop does it: take up what ended, look, send."""
        ended = workers.ended.get(self.number, 0)
        flying = self.sent - ended
        self.window.turn(ended, now)
        if self.window.wants_look(now):
            self.window.look(flying, len(workers.queue), ended, self.share, now)
        room = self.window.size(self.share) - flying
        if room > 0:
            workers.queue += [self.number] * room
            self.sent += room
        self.window.short = True


def simulate(workers: Workers, *owners: Owner, seconds: float, turn_seconds: float = 0.005) -> None:
    """Turns at an even pace."""
    end = workers.at + seconds
    while workers.at < end:
        workers.until(workers.at + turn_seconds)
        for owner in owners:
            owner.turn(workers, workers.at)


@pytest.mark.parametrize(
    ("slots", "prefetch", "task"),
    [
        (1, 1, 0.001),
        (2, 8, 0.001),
        (2, 64, 0.001),
        (4, 1, 0.1),
        (8, 4, 0.02),
        (100, 1, 0.5),
        (64, 1, 60.0),
        (30, 4, 3.0),
    ],
)
def test_no_slot_stands_idle_and_the_queue_is_short(slots: int, prefetch: int, task: float) -> None:
    """Once it has grown: workers always have the next message, and no more than a moment's work waits in the queue."""
    workers = Workers(slots, prefetch, task)
    owner = Owner(Window(declared(concurrency=1, prefetch=prefetch)))
    simulate(workers, owner, seconds=max(5.0, 2 * task))
    workers.idle_seconds = 0.0
    simulate(workers, owner, seconds=(passed := max(5.0, 2 * task)))
    assert workers.idle_seconds <= 0.01 * passed * slots
    pace = slots / task
    assert len(workers.queue) <= max(2 * min(MOMENT_SECONDS * pace, ENOUGH) + 0.01 * pace, 4 + slots * prefetch)


def test_the_declared_window_is_never_exceeded() -> None:
    """Not by many hungry slots, and not by our part of it."""
    for share in (1.0, 0.25):
        window = Window(declared(window=40))
        owner = Owner(window, share=share)
        simulate(Workers(1000, 1, 1.0), owner, seconds=3.0)
        assert window.size(share) == 40 * share


def test_many_idle_slots_are_filled_at_once() -> None:
    """500 slots with tasks of ten minutes have work within a fifth of a second, and workers added later within two."""
    workers = Workers(500, 1, 600.0)
    owner = Owner(Window(declared(window=2000)))
    simulate(workers, owner, seconds=0.2)
    assert len(workers.busy) == 500
    simulate(workers, owner, seconds=30.0)
    workers.slots = 1000
    simulate(workers, owner, seconds=2.0)
    assert len(workers.busy) == 1000


def test_a_window_asks_to_be_looked_after_only_while_that_could_matter() -> None:
    """Short of room and below the declared window; less and less often while nothing ends."""
    workers, owner = Workers(2, 1, 600.0), Owner(window := Window(declared()))
    assert window.looks_in(1.0, 0.0) is None
    pauses: list[float] = []
    while sum(pauses) < 20.0:
        owner.turn(workers, sum(pauses))
        pauses.append(max(window.looks_in(1.0, sum(pauses)) or 0.0, 0.001))
        workers.until(sum(pauses))
    assert len(pauses) < 40
    assert pauses[-1] > 0.9
    now = sum(pauses)
    window.short = False
    assert window.looks_in(1.0, now) is None


def test_a_window_shrinks_when_workers_go_and_slowly() -> None:
    """Nine of ten workers leave: the queue that they leave behind is not made up again."""
    workers, owner = Workers(100, 1, 0.05), Owner(window := Window(declared()))
    simulate(workers, owner, seconds=5.0)
    before = window.size(1.0)
    workers.slots = 10
    simulate(workers, owner, seconds=0.25)
    assert window.size(1.0) > before / 2
    simulate(workers, owner, seconds=10.0)
    assert window.size(1.0) < 60


def test_turns_that_find_most_of_it_ended_let_it_grow_no_further() -> None:
    """Workers faster than the scheduler: a longer queue would only make its turns longer."""
    workers, owner = Workers(1000, 1, 0.0001), Owner(window := Window(declared(window=10_000)))
    simulate(workers, owner, seconds=5.0)
    assert ENOUGH <= window.size(1.0) <= 2 * ENOUGH


def test_slots_that_end_all_at_once_are_not_mistaken_for_quick_ones() -> None:
    """A turn finds hundreds ended, but not the next one: the window still grows until no slot is idle."""
    workers, owner = Workers(400, 1, 1.0), Owner(Window(declared(window=1000)))
    simulate(workers, owner, seconds=5.0)
    workers.idle_seconds = 0.0
    simulate(workers, owner, seconds=5.0)
    assert workers.idle_seconds < 0.02 * 5.0 * 400


def test_a_scheduler_that_comes_later_gets_a_fair_part() -> None:
    """Beside one whose window has grown long ago: at least a sixth of what the workers do, and no slot is idle."""
    for slots, prefetch, task in ((2, 8, 0.001), (50, 1, 0.1), (8, 4, 0.02)):
        workers = Workers(slots, prefetch, task)
        first, second = Owner(Window(declared())), Owner(Window(declared()), 1)
        simulate(workers, first, seconds=3.0)
        first.share = second.share = 0.5
        simulate(workers, first, second, seconds=3.0)
        before = dict(workers.ended)
        workers.idle_seconds = 0.0
        simulate(workers, first, second, seconds=5.0)
        did = [workers.ended[it] - before[it] for it in (0, 1)]
        assert did[1] > sum(did) / 6
        assert workers.idle_seconds < 0.02 * 5.0 * slots


def test_a_broker_that_cannot_tell_gets_the_declared_window() -> None:
    """As much as the settings allow, and it is asked once a second."""
    window = Window(declared(window=77))
    window.turn(0, 0.0)
    window.short = True
    assert window.wants_look(0.0)
    window.look(32, None, 0, 1.0, 0.0)
    assert window.size(1.0) == 77
    assert not window.wants_look(0.9)
    assert window.wants_look(1.1)


def test_what_was_learned_fades_while_there_is_nothing_to_do() -> None:
    """A day later nobody knows how many workers there are."""
    window = Window(declared())
    simulate(Workers(200, 1, 1.0), Owner(window), seconds=3.0)
    assert window.size(1.0) > 150
    window.short = False
    window.turn(1000, 90_000.0)
    assert window.size(1.0) == 32
