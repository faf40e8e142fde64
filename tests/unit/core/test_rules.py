"""Trigger rules against an independent statement of their table, on every vector of counts for up to five nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scheduler.core.rules import RULE_NAMES, Answer, parse_rule, quorum_of
from tests.unit.core import airflow

ENDS = ("success", "failed", "upstream_failed", "skipped")
RULES = (*RULE_NAMES, *(f"quorum({q})" for q in range(1, 8)))
ANSWERS = {
    airflow.START: Answer.START,
    airflow.WAIT: Answer.WAIT,
    airflow.SKIP: Answer.SKIP,
    airflow.UPSTREAM_FAIL: Answer.UPSTREAM_FAIL,
}
Vector = tuple[int, int, int, int, int]


def vectors(most: int = 5) -> Iterator[Vector]:
    """Every (n, s, f, u, k) with 1 <= n <= most."""
    for n in range(1, most + 1):
        for s in range(n + 1):
            for f in range(n + 1 - s):
                for u in range(n + 1 - s - f):
                    for k in range(n + 1 - s - f - u):
                        yield n, s, f, u, k


def grown(vector: Vector) -> Iterator[Vector]:
    """The vectors in which one more upstream node has ended."""
    n, *counts = vector
    if sum(counts) < n:
        for place in range(4):
            s, f, u, k = (count + (place == at) for at, count in enumerate(counts))
            yield n, s, f, u, k


def test_the_thirteen_names_are_airflows() -> None:
    """Nobody has to learn a second set of names."""
    assert set(RULE_NAMES) == {
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
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_answers_as_its_row_of_the_table_says(rule: str) -> None:
    """Every count vector of up to five upstream nodes, against a statement that reads lists of ends."""
    answer = parse_rule(rule).answer
    for vector in vectors():
        n, *counts = vector
        ends = [end for end, count in zip(ENDS, counts, strict=True) for _ in range(count)]
        assert answer(*vector) is ANSWERS[airflow.answer(rule, ends, n)], vector


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_whose_upstream_has_ended_never_waits(rule: str) -> None:
    """Otherwise a node would wait for ever."""
    answer = parse_rule(rule).answer
    for vector in vectors():
        if sum(vector[1:]) == vector[0]:
            assert answer(*vector) is not Answer.WAIT, vector


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_does_not_take_back_what_it_has_answered(rule: str) -> None:
    """Once START always START, once refused never START nor WAIT, whatever else ends.

    Recovery stands on this: a node that was ready and is not recorded asks again, with more upstream ends than
    before. Only the word for a refusal may change, from skip to upstream_fail.
    """
    answer = parse_rule(rule).answer
    for vector in vectors():
        before = answer(*vector)
        if before is Answer.WAIT:
            continue
        for more in grown(vector):
            after = answer(*more)
            assert (after is Answer.START) == (before is Answer.START), (vector, more)
            assert after is not Answer.WAIT, (vector, more)
            assert not (before is Answer.UPSTREAM_FAIL and after is Answer.SKIP), (vector, more)


def test_a_quorum_of_all_is_decided_by_successes_alone() -> None:
    """quorum(n) of n starts exactly when all_success does; quorum(1) exactly when one_success does."""
    everyone, one = parse_rule("all_success").answer, parse_rule("one_success").answer
    for vector in vectors():
        of_all = parse_rule(f"quorum({vector[0]})").answer
        assert (of_all(*vector) is Answer.START) == (everyone(*vector) is Answer.START)
        assert parse_rule("quorum(1)").answer(*vector) is one(*vector)


@pytest.mark.parametrize(
    "text", ["", "quorum", "quorum()", "quorum(0)", "quorum(-1)", "quorum(01)", "quorum(2) ", "ALL_DONE"]
)
def test_a_name_that_is_no_rule_is_refused_with_those_there_are(text: str) -> None:
    """The error lists what may be written instead."""
    with pytest.raises(ValueError, match=r"use one of all_success, .* or quorum\(n\)"):
        parse_rule(text)


def test_a_rule_keeps_the_text_of_its_document() -> None:
    """The log names the rule as the user wrote it, quorum with its number."""
    assert [parse_rule(rule).name for rule in RULES] == list(RULES)
    assert quorum_of("quorum(12)") == 12
    assert quorum_of("all_done") is None
