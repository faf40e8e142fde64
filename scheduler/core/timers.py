"""Timers: which event is it that the due one of a run stands for?

Pure. A timer's name is its kind and the numbers of its event, such as "retry:3:1" for attempt 1 of node 3; who set it
is decide.py or waiting.py, and the store keeps it by that name. A new timer is one row of the table.
"""

from __future__ import annotations

from collections.abc import Callable

from .events import (
    DeadlinePassed,
    Escalated,
    Event,
    GraceOver,
    NodeGraceOver,
    RetryDue,
    StartLimitPassed,
    TotalLimitPassed,
    WaitOver,
)

_TIMERS: dict[str, tuple[int, Callable[..., Event]]] = {
    "retry": (2, RetryDue),
    "leave": (2, NodeGraceOver),
    "wait": (2, lambda node, epoch: WaitOver(node, epoch, 0.0)),
    "escalate": (3, Escalated),
    "start": (2, lambda node, epoch: StartLimitPassed(node, epoch, begun=False)),
    "total": (2, TotalLimitPassed),
    "grace": (0, GraceOver),
    "deadline": (0, DeadlinePassed),
}
"""What a timer's name begins with -> how many numbers follow, and the event that they make."""


def timer_event(name: str, chance: float) -> Event | None:
    """The event that a timer of a run stands for; None for one that only a later version knows.

    Args:
        chance: a random number for the jitter of a retry, 0 <= chance < 1.

    >>> timer_event("retry:3:1", 0.5), timer_event("wait:3:1", 0.5), timer_event("later:3", 0.5)
    (RetryDue(node=3, attempt=1), WaitOver(node=3, epoch=1, chance=0.5), None)
    """
    kind, *numbers = name.split(":")
    count, event = _TIMERS.get(kind, (-1, GraceOver))
    if len(numbers) != count or not all(it.isdecimal() for it in numbers):
        return None
    found = event(*map(int, numbers))
    return found._replace(chance=chance) if isinstance(found, WaitOver) else found
