"""Which attempts travel together in one message, and how many? Short ones, as many as are a moment's work.

A message costs its worker a millisecond whatever it carries. So attempts of one class that are known to be short share
one, up to their class's `bundle_seconds` of work; but never so that a free slot is left without. While all slots are
busy, few messages are let out beyond them and what is ready gathers here, so bundles grow exactly when it pays, and a
lone task leaves at once. How long an executor's attempts are is measured by the workers, or declared.

Alone travels whatever might harm those beside it or be harmed by them: what has been tried before (poison is found at
once), what must not be repeated or bear a loss, what beats a heartbeat of its own or has a time limit near the moment.
Pure, but for the clock of its caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.run import Profile, Run
from ..settings import QueueClass
from ..store.workers import classes_of, silent_ms
from ..wire import BUNDLES

OVERHEAD_US = 60
"""What an attempt in a bundle costs its worker besides its own work."""
MOST_TOGETHER = 500
LIMIT_FACTOR = 20
"""A time limit that is not this many times a bundle's work is too near for company."""
SEEN = 8
"""Attempts of an executor after which their times are believed."""
KEPT = 32
TOLD_PART = 4
QUANTILE = 0.8
_AGAIN = 8
"""Times between two sorts of what is kept."""
_MOST_ASKED = 1_000


class Pace:
    """How long attempts of one executor run: what four in five of the latest have not exceeded. O(1) mostly."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque(maxlen=KEPT)
        self._seen = 0
        self.us: int | None = None
        self.told: int | None = None
        """What the store has been told."""

    def took(self, us: int) -> None:
        """One more has run for so long."""
        self._latest.append(us)
        self._seen += 1
        if self._seen % _AGAIN == 0 and self._seen >= SEEN:
            self.us = sorted(self._latest)[int(QUANTILE * (len(self._latest) - 1))]


@dataclass(slots=True, eq=False)
class Parcel:
    """Attempts that share a message, and its place in the window of their class.

    Attributes:
        left: how many of them have not ended.
    """

    left: int = 0


@dataclass(slots=True)
class _Slots:
    """What the workers of a class have announced: how many attempts they run at a time, and whether they all can read
    messages that carry several.
    """

    count: int = 0
    able: bool = True


@dataclass(slots=True)
class Bundling:
    """What one scheduler knows of times and slots.

    Args:
        classes: the declared queue classes.

    Attributes:
        contracts: executor -> contract, as published.
        hurried: workers of an interactive class live, so somebody may be waiting at any moment.
    """

    classes: Mapping[str, QueueClass]
    contracts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hurried: bool = False
    _paces: dict[str, Pace] = field(default_factory=dict)
    _slots: dict[str, _Slots] = field(default_factory=dict)
    _may: dict[tuple[int, str], tuple[Profile, bool]] = field(default_factory=dict)

    def learn(self, contracts: Mapping[str, Mapping[str, Any]]) -> None:
        """Contracts have changed; whoever is published no more is forgotten."""
        self.contracts = contracts
        self._may.clear()
        self._paces = {name: it for name, it in self._paces.items() if name in contracts}

    def hear(self, workers: Mapping[str, Mapping[str, Any]], now_ms: int) -> None:
        """What workers have announced of themselves."""
        of_queue = {it.queue: name for name, it in self.classes.items()}
        self._slots = {}
        for it in workers.values():
            if silent_ms(it, now_ms) is not None:
                continue
            for name in classes_of(it, of_queue):
                slots = self._slots.setdefault(name, _Slots())
                concurrency = it.get("concurrency")
                slots.count += concurrency if type(concurrency) is int and concurrency > 0 else 1
                forms = it.get("bundles")
                slots.able &= isinstance(forms, list) and BUNDLES in forms
        declared = (self.classes[name] for name in self._slots if name in self.classes)
        self.hurried = any(it.latency == "interactive" for it in declared)

    def recall(self, paces: Mapping[str, int]) -> None:
        """What schedulers have measured before; our own measurements take its place."""
        for name, us in paces.items():
            pace = self._paces.setdefault(name, Pace())
            if pace.us is None:
                pace.us = pace.told = us

    def news(self) -> dict[str, int]:
        """Paces that differ from what was last told by a quarter or more; they count as told now."""
        found = {}
        for name, it in self._paces.items():
            if it.us is not None and (it.told is None or abs(it.us - it.told) * TOLD_PART > it.told):
                found[name] = it.told = it.us
        return found

    def took(self, executor: str, us: int) -> None:
        """An attempt of an executor has run for so long."""
        pace = self._paces.get(executor)
        if pace is None:
            pace = self._paces[executor] = Pace()
        pace.took(us)

    def slots(self, queue_class: str, share: float) -> int:
        """Attempts that our part of a class's workers run at a time, when they take bundles; else 0."""
        found = self._slots.get(queue_class)
        if found is None or not found.able or not self.classes[queue_class].bundle_us:
            return 0
        return max(1, round(found.count * share))

    def work_us(self, run: Run, node: int, way: Profile, queue_class: str) -> int | None:
        """What a ready node adds to the work of a message that it shares; None when it travels alone.

        Args:
            way: how it is run, with the executor that was found for a capability or tool.
        """
        if has_been_tried(run, node):
            return None
        asked = (id(way), queue_class)
        found = self._may.get(asked)
        if found is None:
            if len(self._may) >= _MOST_ASKED:
                self._may.clear()
            why = why_alone(way, self.contracts.get(way.executor, {}), self.classes[queue_class])
            found = self._may[asked] = (way, not why)  # the profile is kept, so its id is no other's
        if not found[1]:
            return None
        us = self._expected_us(way)
        if us is None or 2 * us > self.classes[queue_class].bundle_us:
            return None
        return us + OVERHEAD_US

    def _expected_us(self, way: Profile) -> int | None:
        """How long an attempt will run."""
        pace = self._paces.get(way.executor)
        return expected_us(way, self.contracts.get(way.executor, {}), None if pace is None else pace.us)


def has_been_tried(run: Run, node: int) -> bool:
    """Whether attempts of a node have failed or were lost, in this epoch of it."""
    return bool(run.failures[node] or run.losses[node] or run.excused[node])


def why_alone(way: Profile, contract: Mapping[str, Any], queue_class: QueueClass) -> str:
    """Why attempts of a node share no message however short they are; "" when they may."""
    limit_ms = way.timeout_ms or 1000 * (contract.get("timeout_seconds") or 0)
    reasons = {
        f"its class {queue_class.name} has bundle_seconds = 0": not queue_class.bundle_us,
        "its executor is unsafe to repeat": contract.get("purity") == "unsafe",
        "its executor says bundle=False": contract.get("bundle") is False,
        "it says Timing(alone=True)": way.alone,
        "it may be silent for a while only": way.silence_ms is not None,
        "it may bear no loss (max_losses=0)": way.max_losses == 0,
        f"its time limit is below {LIMIT_FACTOR * queue_class.bundle_us / 1e6:g} s": (
            0 < 1000 * limit_ms < LIMIT_FACTOR * queue_class.bundle_us
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def expected_us(way: Profile, contract: Mapping[str, Any], measured: int | None) -> int | None:
    """How long an attempt will run: as measured, else as declared by its node or executor, else None."""
    if measured is not None:
        return measured
    if way.expected_ms is not None:
        return 1000 * way.expected_ms
    declared = contract.get("expected_seconds")
    return round(declared * 1e6) if isinstance(declared, int | float) and 0 < declared < 3600 else None


class Taken(NamedTuple):
    """Nodes of one run that go out now.

    Attributes:
        queue_class: theirs.
        parcels: for each node the one that it shares with others, or None.
        steps: node -> those that follow it in its message, of those that some do.
    """

    queue_class: str
    run: Run
    nodes: list[int]
    parcels: list[Parcel | None]
    steps: dict[int, list[int]]


class Draft:
    """What goes out of one class in a turn, on its way to be messages.

    Args:
        queue_class: its name.
        room: messages that the window has room for.
        slots: of its workers; 0 when nothing travels together.
        flying: messages that are out.
        most_us: of work in one message.
    """

    def __init__(self, queue_class: str, room: int, slots: int, flying: int, most_us: int) -> None:
        self.room = room
        self.slots = slots
        self.is_full = room <= 0
        self._queue_class = queue_class
        self._free = slots - flying
        self._most_us = most_us
        beyond = max(1, slots // 2)  # these wait near their worker, so that a slot finds its next work at once
        self._shared_us = max(0, min(room, slots + beyond - flying)) * most_us
        self._works: list[int] = []
        self._taken: list[Taken] = []

    def left_us(self, *, alone: bool) -> int:
        """Work that one more node may bring along.

        Args:
            alone: nothing else of its class is ready, so nobody waits for the slot that it keeps for longer.
        """
        return self._shared_us if alone else min(self._most_us, self._shared_us)

    def takes(self, work_us: int | None) -> bool:
        """Whether one more node finds room; then it has it.

        Args:
            work_us: what it adds to a message that it shares; None when it travels alone.
        """
        if self.is_full:
            return False
        if work_us is None:
            self.room -= 1
            self._free -= 1
            self.is_full = self.room <= 0
        elif work_us > self._shared_us:
            self.is_full = True
            return False
        else:
            self._shared_us -= work_us
        self._works.append(work_us or 0)
        return True

    def took(self, run: Run, nodes: list[int], steps: dict[int, list[int]]) -> Taken:
        """The nodes that have just found room, all of one run, with the steps that follow them."""
        found = Taken(self._queue_class, run, nodes, [None] * len(nodes), steps)
        self._taken.append(found)
        return found

    def share_out(self) -> None:
        """Put those that travel together into parcels, in the order in which they came."""
        works = [work for work in self._works if work]
        if not works:
            return
        sizes = iter(parcels(works, self._free, self._most_us))
        parcel, left = None, 0
        places = ((taken, at, node) for taken in self._taken for at, node in enumerate(taken.nodes))
        for work, (found, at, node) in zip(self._works, places, strict=True):
            if not work:
                continue
            if not left:
                left = next(sizes)
                parcel = Parcel() if left > 1 or node in found.steps else None
                self.room -= 1
            found.parcels[at] = parcel
            left -= 1


def parcels(works_us: Sequence[int], free: int, most_us: int) -> list[int]:
    """How to share works out among messages: how many of them, in their order, go into each.

    A free slot is left without a message only when there are fewer works than slots; beyond that there are as few
    messages as hold the work, all of much the same size.

    Args:
        works_us: of each node.
        free: slots that are free now.
        most_us: of work in one message, to the nearest work; at least one work goes into each.

    >>> parcels([100] * 10, free=2, most_us=50_000), parcels([100] * 10, free=0, most_us=50_000)
    ([5, 5], [10])
    >>> parcels([100] * 10, free=0, most_us=400), parcels([100] * 3, free=8, most_us=50_000)
    ([3, 4, 3], [1, 1, 1])
    """
    total, left = sum(works_us), len(works_us)
    wanted = min(left, max(free, -(-total // most_us), -(-left // MOST_TOGETHER)))
    counts: list[int] = []
    count = us = 0
    for work in works_us:
        behind = wanted - len(counts) - 1  # messages that are still to come
        beyond = us + work / 2 > total * (len(counts) + 1) / wanted and behind > 0
        if count and (beyond or left <= behind or count >= MOST_TOGETHER):
            counts.append(count)
            count = 0
        count, us, left = count + 1, us + work, left - 1
    return [*counts, count] if count else counts
