"""The retry ladder: whether there is a next try, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.retry import FINAL_KINDS, backoff_ms, wait_ms

YEAR_MS = 366 * 24 * 3600 * 1000


def wait(
    kind: str = "transient",
    failures: int = 1,
    *,
    max_attempts: int = 3,
    chance: float = 0.5,
    retry_after_ms: int | None = None,
) -> int | None:
    """wait_ms with base 1 s, factor 2, cap 60 s."""
    return wait_ms(
        kind,
        failures,
        max_attempts=max_attempts,
        base_ms=1000,
        factor=2.0,
        cap_ms=60_000,
        chance=chance,
        retry_after_ms=retry_after_ms,
    )


@pytest.mark.parametrize(
    ("failures", "base_ms", "factor", "cap_ms", "chance", "expected"),
    [
        (1, 1000, 2.0, 60_000, 0.0, 0),  # 0.0 x min(60000, 1000 x 2^0)
        (1, 1000, 2.0, 60_000, 0.5, 500),  # 0.5 x 1000
        (2, 1000, 2.0, 60_000, 0.5, 1000),  # 0.5 x 1000 x 2^1
        (3, 1000, 2.0, 60_000, 0.5, 2000),  # 0.5 x 1000 x 2^2
        (6, 1000, 2.0, 60_000, 0.5, 16_000),  # 0.5 x 1000 x 2^5 = 0.5 x 32000
        (7, 1000, 2.0, 60_000, 0.5, 30_000),  # 0.5 x min(60000, 64000)
        (7, 1000, 2.0, 60_000, 0.999, 59_940),  # 0.999 x 60000
        (4, 100, 3.0, 10_000, 0.25, 675),  # 0.25 x 100 x 3^3 = 0.25 x 2700
        (9, 250, 1.0, 60_000, 0.5, 125),  # factor 1 does not grow: 0.5 x 250
        (3, 10, 1.5, 60_000, 0.9, 20),  # 0.9 x 10 x 2.25 = 20.25, whole milliseconds
        (5, 0, 2.0, 60_000, 0.9, 0),  # base 0 tries again at once
        (5, 1000, 2.0, 0, 0.9, 0),  # cap 0 too
        (1000, 1, 100.0, 5000, 0.5, 2500),  # 100^999 is out of range for a float; the cap holds
    ],
)
def test_the_wait_grows_by_the_factor_up_to_the_cap(
    failures: int, base_ms: int, factor: float, cap_ms: int, chance: float, expected: int
) -> None:
    """Chance x min(cap, base x factor^(failures - 1)), in whole milliseconds."""
    assert backoff_ms(failures, base_ms, factor, cap_ms, chance) == expected


@given(
    failures=st.integers(1, 2000),
    base_ms=st.integers(0, YEAR_MS),
    factor=st.floats(1, 100),
    cap_ms=st.integers(0, YEAR_MS),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_jitter_stays_within_its_bounds(failures: int, base_ms: int, factor: float, cap_ms: int, chance: float) -> None:
    """A wait is never negative, never over the cap, never over the bound of its failure; more chance, more wait."""
    found = backoff_ms(failures, base_ms, factor, cap_ms, chance)
    assert 0 <= found <= cap_ms
    assert found <= base_ms * factor ** min(failures - 1, 64)
    assert found <= backoff_ms(failures, base_ms, factor, cap_ms, max(chance, 0.999999999))
    assert found <= backoff_ms(failures + 1, base_ms, factor, cap_ms, chance)


@pytest.mark.parametrize(
    ("max_attempts", "failures", "again"), [(1, 1, False), (3, 1, True), (3, 2, True), (3, 3, False)]
)
def test_a_node_is_tried_at_most_max_attempts_times(max_attempts: int, failures: int, again: bool) -> None:
    """The first try counts."""
    assert (wait(failures=failures, max_attempts=max_attempts) is not None) == again


def test_what_another_try_cannot_mend_is_not_tried_again() -> None:
    """The kinds of error that are final are these six; the other four are tried again."""
    assert {"invalid_input", "contract", "permanent", "safety", "budget", "cancelled"} == FINAL_KINDS
    assert all(wait(kind, retry_after_ms=5) is None for kind in FINAL_KINDS)
    assert all(wait(kind) == 500 for kind in ("transient", "rate_limited", "timeout", "lost", "never heard of"))


@pytest.mark.parametrize(
    ("asked_ms", "expected"), [(0, 0), (1, 1), (90_000, 90_000), (-5, 0), (10**15, YEAR_MS), (None, 500)]
)
def test_a_wait_that_the_executor_names_is_kept(asked_ms: int | None, expected: int) -> None:
    """Not jittered and over the cap if it says so; but never before now, and no longer than a year."""
    assert wait("rate_limited", retry_after_ms=asked_ms) == expected


def test_a_named_wait_gives_no_further_try() -> None:
    """An executor cannot ask for more tries than its node has."""
    assert wait(failures=3, max_attempts=3, retry_after_ms=5) is None
