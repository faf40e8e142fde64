"""Python's collector of garbage, in processes that run for months and make little for it.

It looks for objects that refer to each other in circles, of which neither scheduler nor workers make many, by going
through all that there is: 30 to 100 ms each time it goes through all modules of Celery's, for which everything waits.
What stands when a process is ready is put aside (gc.freeze), and the young are gone through less often.
"""

from __future__ import annotations

import gc

YOUNG = 10_000
"""Containers made and not freed, after which the young are gone through; Python's own is 700."""


def spare() -> None:
    """What this process has by now is there for good, and is not gone through again. O(1).

    Whoever has set more than YOUNG, or switched the collector off, keeps that.
    """
    first, second, third = gc.get_threshold()
    if 0 < first < YOUNG:
        gc.set_threshold(YOUNG, second, third)
    gc.freeze()
