"""Reports gather only while workers have enough to do."""

from __future__ import annotations

import pytest

from scheduler.service.pacing import LONGEST_SECONDS, Pacing


def paced(**per_second: int) -> tuple[Pacing, dict[str, int]]:
    """Two seconds of attempts that end at these paces, a class each, seen ten times a second."""
    pacing, landed = Pacing(now=0.0), dict.fromkeys(per_second, 0)
    for step in range(1, 21):
        for name, pace in per_second.items():
            landed[name] += pace // 10
        pacing.pause_seconds({}, landed, step / 10)
    return pacing, landed


@pytest.mark.parametrize(
    ("flying", "pace", "pause"),
    [
        (500, 800, LONGEST_SECONDS),  # 625 ms of work: the part is 9 ms, cut at 4
        (150, 800, 0.0028),  # 188 ms of work
        (50, 800, 0.0),  # 62 ms of work: the part is not worth a wake-up
        (1, 500, 0.0),  # a chain
        (1, 20, 0.0),  # a slow chain: nobody else has anything to report
        (2, 20, 0.0015),
        (0, 800, 0.0),  # nothing out there: nothing to gather
    ],
)
def test_the_pause_is_a_small_part_of_the_work_out_there(flying: int, pace: int, pause: float) -> None:
    """A part of what the attempts in flight will take, between 1 and 4 ms, else none."""
    pacing, landed = paced(batch=pace)
    assert pacing.pause_seconds({"batch": flying}, landed, 2.0) == pytest.approx(pause, rel=0.1)


def test_the_class_with_the_least_work_decides() -> None:
    """A chain in one class is not made to wait for a flood in another."""
    pacing, landed = paced(flood=1000, chain=400)
    assert pacing.pause_seconds({"flood": 500, "chain": 1}, landed, 2.0) == 0.0


def test_a_class_of_unknown_pace_is_not_made_to_wait() -> None:
    """Its first attempts may end at any moment."""
    pacing, landed = paced(flood=1000)
    assert pacing.pause_seconds({"flood": 500, "new": 3}, landed, 2.0) == 0.0
