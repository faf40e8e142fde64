"""What Airflow's own scheduler makes of a task whose upstream tasks stand so: what core/rules.py is compared with.

Written from how Airflow 3.1 behaves (its class TriggerRuleDep, for plain tasks: none mapped, none a set-up), as two
questions in its order: does the task get an end now, and else, is anything still missing? airflow.py beside this file
is the table of our rules; where the two differ, test_rules.py says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .airflow import SKIP, START, UPSTREAM_FAIL, WAIT

RULES = (
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_done_setup_success",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)


def answer(rule: str, ends: Sequence[str], n: int) -> str:
    """Airflow's answer, for the upstream tasks that have ended so far; arguments as for `airflow.answer`."""
    if rule == "always":
        return START
    counted = Counter(ends)
    failed = counted["failed"] + counted["upstream_failed"]
    return _end(rule, counted, failed, n) or (WAIT if _missing(rule, counted, failed, n) else START)


def _end(rule: str, counted: Counter[str], failed: int, n: int) -> str | None:
    """The end that a task gets without running; None: none yet. The first row that holds counts."""
    success, skipped, over = counted["success"], counted["skipped"], counted.total() == n
    rows = {
        "all_success": [(failed > 0, UPSTREAM_FAIL), (skipped > 0, SKIP)],
        "all_failed": [(success + skipped > 0, SKIP)],
        "one_success": [(over and skipped == n, SKIP), (over and not success, UPSTREAM_FAIL)],
        "one_failed": [(over and not failed, SKIP)],
        "one_done": [(over and not success + counted["failed"], SKIP)],
        "none_failed": [(failed > 0, UPSTREAM_FAIL)],
        "none_failed_min_one_success": [(failed > 0, UPSTREAM_FAIL), (skipped == n, SKIP)],
        "none_skipped": [(skipped > 0, SKIP)],
        "all_skipped": [(success + failed > 0, SKIP)],
        "all_done_min_one_success": [(skipped > 0, SKIP), (over and not success, UPSTREAM_FAIL)],
    }
    return next((end for holds, end in rows.get(rule, ()) if holds), None)


def _missing(rule: str, counted: Counter[str], failed: int, n: int) -> bool:
    """Whether a task that has no end yet may not start either."""
    success, skipped, open_ = counted["success"], counted["skipped"], n - counted.total()
    return {
        "all_success": n - success,
        "all_failed": n - failed,
        "all_done": open_,
        "all_done_setup_success": open_,
        "all_done_min_one_success": open_ or not success,
        "all_skipped": n - skipped,
        "one_success": not success,
        "one_failed": not failed,
        "one_done": not success + counted["failed"],
        "none_failed": n - success - skipped,
        "none_failed_min_one_success": n - success - skipped,
        "none_skipped": open_ or skipped,
    }[rule] > 0
