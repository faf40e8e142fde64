"""The retry ladder: does a failed attempt get another try, and when?

Pure. The random number is an argument, so a decision can be replayed. Backoff is exponential with
full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ERROR_KINDS
from .safety import BROKEN

FINAL_KINDS = frozenset(kind for kind, it in ERROR_KINDS.items() if not it.again)
"""Kinds of error that another try of the same cannot mend."""

MOST_EXCUSED = 100
"""Attempts of one epoch that may go by without any of them counting as poison: messages that no worker claimed, and
attempts whose worker was shut down in good order. So many are no accident, and a node must not go on for ever."""

UNSAFE_LOST = "lost: its executor is unsafe, so an attempt that may have begun is not repeated"
"""Why a node fails whose executor may not be run twice for the same."""

_NO_WORD = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_MS = 366 * 24 * 3600 * 1000


def backoff_ms(failures: int, base_ms: int, factor: float, cap_ms: int, chance: float) -> int:
    """The wait before the next try, in milliseconds.

    Args:
        failures: attempts that have failed so far, >= 1.
        base_ms: upper bound of the first wait.
        factor: growth of that bound per failure, >= 1.
        cap_ms: it grows no further than this.
        chance: a random number, 0 <= chance < 1.

    >>> [backoff_ms(n, 1000, 2.0, 5000, 0.5) for n in (1, 2, 3, 4)]
    [500, 1000, 2000, 2500]
    """
    growth = min(float(factor) ** min(failures - 1, 64), float(_LONGEST_MS))
    return int(chance * min(cap_ms, base_ms * growth))


def wait_ms(
    kind: str,
    failures: int,
    *,
    max_attempts: int,
    base_ms: int,
    factor: float,
    cap_ms: int,
    chance: float,
    retry_after_ms: int | None = None,
) -> int | None:
    """How long a node waits for its next try, or None when there is none.

    An executor that names a wait itself (rate limited, or Celery's retry countdown) gets at least that.
    """
    if kind in FINAL_KINDS or failures >= max_attempts:
        return None
    jittered = backoff_ms(failures, base_ms, factor, cap_ms, chance)
    return jittered if retry_after_ms is None else asked_ms(retry_after_ms)


def asked_ms(retry_after_ms: int) -> int:
    """A wait that an executor asks for, as it is kept: no less than nothing, no more than a year.

    >>> asked_ms(-5), asked_ms(90_000)
    (0, 90000)
    """
    return max(0, min(retry_after_ms, _LONGEST_MS))


def word_of(type_: object) -> str:
    """The type of an error as one short word, as a timeline may hold it.

    >>> word_of("WorkerLostError"), word_of("a|b;c,d e"), word_of(None)
    ('WorkerLostError', 'a?b?c?d?e', 'Unknown')
    """
    return _NO_WORD.sub("?", str(type_))[:60] if type_ else "Unknown"


_EXCUSED = ("NeverClaimed", "WorkerShutdown", "GivenBack", "StoreRewound", BROKEN)


def counts_as_loss(error: Mapping[str, Any] | None) -> bool:
    """Whether a lost attempt may have been poison: it ran, and neither its worker's good order nor a broken check is
    why it counts for nothing.
    """
    return error is not None and error.get("type") not in _EXCUSED


def may_have_begun(claimed_at_ms: int | None, error: Mapping[str, Any]) -> bool:
    """Whether a lost attempt may have done some of its work: a worker had claimed it, or the store forgot whether."""
    return claimed_at_ms is not None or error.get("type") == "StoreRewound"
