"""How many rejected messages are told of."""

from __future__ import annotations

from scheduler.worker.rejects import DEAD_A_SECOND, DEAD_BYTES_A_SECOND, Allowance


def test_so_many_a_second_are_told_of_and_the_rest_is_counted() -> None:
    """The first after a flood says how many were passed over; nothing is counted twice."""
    now = [100.0]
    allowance = Allowance(lambda: now[0])
    told = [allowance.take(10) for _ in range(500)]
    assert told == [0] * DEAD_A_SECOND + [None] * (500 - DEAD_A_SECOND)
    now[0] += 1
    assert [allowance.take(10), allowance.take(10)] == [500 - DEAD_A_SECOND, 0]


def test_so_many_bytes_a_second_are_told_of() -> None:
    """A few large ones use up the allowance too."""
    now = [100.0]
    allowance = Allowance(lambda: now[0])
    size = DEAD_BYTES_A_SECOND // 3
    assert [allowance.take(size) for _ in range(5)] == [0, 0, 0, None, None]
