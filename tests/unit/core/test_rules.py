"""Trigger rules, on every vector of counts for up to five upstream nodes.

Against two statements that share nothing: the table of our rules (airflow.py) and what Airflow's own scheduler does
(airflow_scheduler.py), each difference from the latter with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import pytest

from scheduler.core.events import Asker, NodesCancelRequested, SkipRequested, WaitOver
from scheduler.core.rules import RULE_NAMES, Answer, parse_rule, quorum_of
from scheduler.graph import Graph
from tests.unit.core import airflow, airflow_scheduler
from tests.unit.core.played import Played
from tests.unit.core.test_waits import signal

ENDS = ("success", "failed", "upstream_failed", "skipped")
RULES = (*RULE_NAMES, *(f"quorum({q})" for q in range(1, 8)))
ANSWERS = {
    airflow.START: Answer.START,
    airflow.WAIT: Answer.WAIT,
    airflow.SKIP: Answer.SKIP,
    airflow.UPSTREAM_FAIL: Answer.UPSTREAM_FAIL,
}
Vector = tuple[int, int, int, int, int]


class Difference(NamedTuple):
    """Where a rule of ours answers otherwise than Airflow's of the same name.

    Attributes:
        where: of which vectors (n, s, f, u, k) this is so.
        ours: the answer there.
        reason: why.
    """

    where: Callable[[int, int, int, int, int], bool]
    ours: Answer
    reason: str


DIFFERENCES: dict[str, list[Difference]] = {
    "one_done": [
        Difference(
            lambda n, s, f, u, k: s + f == 0 < u and u + k == n,
            Answer.UPSTREAM_FAIL,
            "Airflow skips a task of which no upstream ran although something further up failed. Here a skip says that"
            " nobody wanted the node; what could not run because of a failure says so, and a last node of that kind"
            " makes its run failed.",
        )
    ],
    "all_done_min_one_success": [
        Difference(
            lambda n, s, f, u, k: k > 0 and s + f + u + k < n,
            Answer.WAIT,
            "Airflow's scheduler skips the task at the first skipped upstream, its documentation asks for all upstream"
            " tasks that are not skipped to be done and one to have succeeded. The sentence is kept: a skipped branch"
            " is done, and the join waits for the others.",
        ),
        Difference(
            lambda n, s, f, u, k: k > 0 and s > 0 and s + f + u + k == n,
            Answer.START,
            "As above: all that was not skipped is done, one succeeded, so the sentence is fulfilled.",
        ),
        Difference(
            lambda n, s, f, u, k: k > 0 and s == 0 < f + u and f + u + k == n,
            Answer.UPSTREAM_FAIL,
            "As above: the skipped ones do not count, and of the others none succeeded, which is Airflow's own answer"
            " when none was skipped.",
        ),
    ],
}
WORD_CHANGES = {
    "all_success": "A skip came first and refused; a failure that comes later is the graver reason.",
    "quorum": "Too many skips refused; a failure that comes later is the graver reason.",
}
"""Rules whose refusal may change its word, from skip to upstream_fail, for who asks again: the node has ended by then,
and keeps the first word, unless a crash came before that was recorded."""


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


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_a_rule_answers_as_airflow_does_but_for_differences_that_have_a_reason(rule: str) -> None:
    """No difference without a reason, no reason without a difference, and each vector has at most one."""
    answer = parse_rule(rule).answer
    known = DIFFERENCES.get(rule, [])
    seen: set[int] = set()
    for vector in vectors():
        n, *counts = vector
        ends = [end for end, count in zip(ENDS, counts, strict=True) for _ in range(count)]
        airflows = ANSWERS[airflow_scheduler.answer(rule, ends, n)]
        mine = [at for at, it in enumerate(known) if it.where(*vector)]
        if answer(*vector) is airflows:
            assert mine == [], f"{vector}: no difference, yet {known[mine[0]].reason}"
            continue
        assert len(mine) == 1, f"{vector}: {answer(*vector).name}, Airflow's is {airflows.name}, and nothing says why"
        assert answer(*vector) is known[mine[0]].ours, vector
        seen.update(mine)
    assert seen == set(range(len(known)))
    assert all(len(it.reason) > 40 for it in known)


def test_differences_are_of_rules_that_both_have() -> None:
    """quorum(n) is not Airflow's; it has no set-up tasks here, so that rule is all_done, as with Airflow without any.

    Airflow knows no cancelled task (it marks them failed); ours counts among what could not run, as upstream_failed.
    """
    assert set(airflow_scheduler.RULES) == set(RULE_NAMES)
    assert set(DIFFERENCES) <= set(RULE_NAMES)


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
    before. Only the word for a refusal may change, from skip to upstream_fail, and only for the rules of WORD_CHANGES.
    """
    answer = parse_rule(rule).answer
    changed = False
    for vector in vectors():
        before = answer(*vector)
        if before is Answer.WAIT:
            continue
        for more in grown(vector):
            after = answer(*more)
            if after is not before:
                assert (before, after) == (Answer.SKIP, Answer.UPSTREAM_FAIL), (vector, more)
                changed = True
    name = "quorum" if quorum_of(rule) else rule
    assert changed == (name in WORD_CHANGES and rule != "quorum(1)")  # which refuses when all have ended


WAYS: dict[str, Callable[[Played, int], object]] = {
    "success": lambda play, node: play.happen(signal(f"s{node}", id_=f"{node}-0.0")),
    "failed": lambda play, node: play.happen(WaitOver(node, 1, 0.5)),
    "upstream_failed": lambda play, node: play.happen(NodesCancelRequested((node,), frozenset(), Asker("", "ann"))),
    "skipped": lambda play, node: play.happen(SkipRequested(node, Asker("", "ann"))),
}
"""How a node that waits for a signal comes to each end; a cancelled one counts as upstream_failed."""
STANDS = {Answer.WAIT: "pending", Answer.SKIP: "skipped", Answer.UPSTREAM_FAIL: "upstream_failed"}


@pytest.mark.parametrize("rule", [*RULE_NAMES, "quorum(1)", "quorum(2)", "quorum(3)"])
def test_a_node_keeps_its_rules_first_answer_whatever_ends_afterwards(rule: str) -> None:
    """Decided end by end, for every order of ends of up to three upstream nodes: what the rule says first stays."""
    answer = parse_rule(rule).answer
    for n in range(1, 4):
        if (quorum_of(rule) or 0) > n:
            continue
        g = Graph("g")
        g.add("x", key="join", after=[g.signal(f"s{at}", within="1h") for at in range(n)], trigger_rule=rule)
        for order in product(ENDS, repeat=n):
            play = Played(g)
            said = answer(n, 0, 0, 0, 0)
            for at, end in enumerate(order):
                WAYS[end](play, at)
                if said is Answer.WAIT:
                    said = answer(n, *(order[: at + 1].count(it) for it in ENDS))
                assert play.state("join") == STANDS.get(said, "dispatched"), (order, at)


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
