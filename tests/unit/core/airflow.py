"""The table of the trigger rules once more, over the list of upstream ends: each column a function.

An independent statement to hold core/rules.py against: it looks at lists of states, not at counts, and
says for each rule when it fires and when it can fire no more. Names and sentences are those of Airflow's documentation;
what Airflow's scheduler does is in airflow_scheduler.py.
"""

from __future__ import annotations

from collections.abc import Sequence

START, WAIT, SKIP, UPSTREAM_FAIL = "start", "wait", "skip", "upstream_fail"


def answer(rule: str, ends: Sequence[str], n: int) -> str:
    """What a rule says of the upstream ends known so far.

    Args:
        rule: its name.
        ends: of the upstream nodes that have ended: success, failed, upstream_failed or skipped.
        n: how many upstream nodes there are, >= 1.
    """
    if fires(rule, ends, n):
        return START
    return lost(rule, ends, n) or WAIT


def fires(rule: str, ends: Sequence[str], n: int) -> bool:
    """The column "fires when" of the table."""
    done = len(ends) == n
    succeeded = [end for end in ends if end == "success"]
    broken = [end for end in ends if end in ("failed", "upstream_failed")]
    if rule.startswith("quorum("):
        return len(succeeded) >= int(rule[7:-1])
    return {
        "all_success": len(succeeded) == n,
        "all_failed": len(broken) == n,
        "all_done": done,
        "all_done_min_one_success": done and bool(succeeded),
        "all_done_setup_success": done,
        "all_skipped": list(ends) == ["skipped"] * n,
        "one_success": bool(succeeded),
        "one_failed": bool(broken),
        "one_done": "success" in ends or "failed" in ends,
        "none_failed": done and not broken,
        "none_failed_min_one_success": done and not broken and bool(succeeded),
        "none_skipped": done and "skipped" not in ends,
        "always": True,
    }[rule]


def lost(rule: str, ends: Sequence[str], n: int) -> str | None:  # noqa: PLR0911 - one return a row of the table
    """The column "if it can no longer fire"; None while it still can."""
    done = len(ends) == n
    broken = any(end in ("failed", "upstream_failed") for end in ends)
    skipped = "skipped" in ends
    if rule.startswith("quorum("):
        could = n - sum(end != "success" for end in ends)
        return None if could >= int(rule[7:-1]) else UPSTREAM_FAIL if broken else SKIP
    match rule:
        case "all_success":
            return UPSTREAM_FAIL if broken else SKIP if skipped else None
        case "all_failed":
            return SKIP if "success" in ends or skipped else None
        case "all_skipped":
            return SKIP if any(end != "skipped" for end in ends) else None
        case "none_skipped":
            return SKIP if skipped else None
        case "none_failed":
            return UPSTREAM_FAIL if broken else None
        case "none_failed_min_one_success":
            return UPSTREAM_FAIL if broken else SKIP if done else None
        case "one_failed":
            return SKIP if done else None
        case "one_done":
            return None if not done else UPSTREAM_FAIL if broken else SKIP
        case "one_success" | "all_done_min_one_success":
            return None if not done else UPSTREAM_FAIL if broken else SKIP
    return None
