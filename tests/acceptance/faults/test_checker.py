"""The checker finds every kind of damage that is planted, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .checker import NodeAccount, Tried
from .ledger import END, FAIL, START, Line
from .plan import Extras, Plan
from .told import Told

PLAN = Plan({"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("c",)}, frozenset({"c"}), {})
"""b and c after a, d after both, e after c; c is declared to fail, so d and e are upstream_failed."""


class Story(Told):
    """A run of PLAN: all is well until a test plants something."""

    plan = PLAN

    def __init__(self) -> None:
        self.ended_ms = {}
        self.lines = [
            Line(START, "r", "a", 1, 1.0, 7),
            Line(END, "r", "a", 1, 1.1, 7),
            Line(START, "r", "b", 1, 1.2, 7),
            Line(START, "r", "c", 1, 1.3, 8),
            Line(FAIL, "r", "c", 1, 1.4, 8),
            Line(END, "r", "b", 1, 1.5, 7),
        ]
        self.nodes = {
            "a": NodeAccount("succeeded", False, {1: Tried(1000, 1000, 1001, 1100, "succeeded")}),
            "b": NodeAccount("succeeded", False, {1: Tried(1110, 1110, 1120, 1500, "succeeded")}),
            "c": NodeAccount("failed", False, {1: Tried(1110, 1110, 1130, 1400, "failed")}),
            "d": NodeAccount("upstream_failed", True, {}),
            "e": NodeAccount("upstream_failed", True, {}),
        }
        self.outcomes = {name: [it.state] for name, it in self.nodes.items()}
        self.outputs = dict(PLAN.outputs())
        self.state = "failed"

    def again(self, node: str) -> None:
        """A second attempt of a node, told by both sides."""
        it = self.nodes[node]
        first = it.tries[1]._replace(end="lost", ended_at_ms=1150)
        self.nodes[node] = it._replace(tries={1: first, 2: Tried(1160, 1160, 1170, 1500, "succeeded")})
        self.lines += [Line(START, "r", node, 2, 1.6, 9), Line(END, "r", node, 2, 1.7, 9)]


def never_ran(it: Story) -> None:
    """No line at all."""
    it.lines = [line for line in it.lines if line.node != "b"]


def never_ended(it: Story) -> None:
    """A start and no end."""
    it.lines = [line for line in it.lines if (line.node, line.what) != ("b", END)]


def too_early(it: Story) -> None:
    """The child starts while its parent works."""
    it.lines[2] = it.lines[2]._replace(at=1.05)


def sent_too_early(it: Story) -> None:
    """The child is sent before its parent's outcome is recorded."""
    it.tried("b", 1, dispatched_at_ms=1099)


def two_outcomes(it: Story) -> None:
    """A node fails and then succeeds."""
    it.outcomes["b"] = ["failed", "succeeded"]


def other_outcome(it: Story) -> None:
    """What was told first is not what stands at the end."""
    it.outcomes["b"] = ["failed"]


def against_the_graph(it: Story) -> None:
    """Passed over for the wrong reason."""
    it.nodes["e"] = it.nodes["e"]._replace(state="skipped")
    it.outcomes["e"] = ["skipped"]


def failed_without_failing(it: Story) -> None:
    """The task went well, the system says it failed."""
    it.nodes["b"] = it.nodes["b"]._replace(state="failed")
    it.outcomes["b"] = ["failed"]


def ran_below_a_failure(it: Story) -> None:
    """Ran although its parent failed."""
    it.lines += [Line(START, "r", "e", 1, 2.0, 7), Line(END, "r", "e", 1, 2.1, 7)]


def no_reason(it: Story) -> None:
    """Passed over, and nothing says why."""
    it.nodes["d"] = it.nodes["d"]._replace(reason=False)


def unknown_attempt(it: Story) -> None:
    """A start that the system knows nothing of."""
    it.lines.append(Line(START, "r", "b", 2, 1.6, 9))


def unclaimed_attempt(it: Story) -> None:
    """A start that the system takes for none."""
    it.tried("b", 1, claimed_at_ms=0)


def twice_the_same_attempt(it: Story) -> None:
    """Two executions under one number."""
    it.lines += [Line(START, "r", "b", 1, 1.6, 9), Line(END, "r", "b", 1, 1.7, 9)]


def told_and_never_started(it: Story) -> None:
    """An outcome without any execution."""
    it.lines = [line for line in it.lines if line.node != "c"]


def open_node(it: Story) -> None:
    """Neither ended nor passed over."""
    it.nodes["b"] = it.nodes["b"]._replace(state="dispatched")


def unknown_node(it: Story) -> None:
    """A node of no graph."""
    it.lines.append(Line(START, "r", "x", 1, 1.6, 9))


def missing_node(it: Story) -> None:
    """The system has lost a node."""
    del it.nodes["d"]


def wrong_end_of_the_run(it: Story) -> None:
    """Succeeded in spite of a failed node."""
    it.state = "succeeded"


def wrong_output(it: Story) -> None:
    """Wrong data."""
    it.outputs["b"] += 1


def missing_output(it: Story) -> None:
    """No data."""
    del it.outputs["b"]


def output_of_a_failed_node(it: Story) -> None:
    """Data from nowhere."""
    it.outputs["c"] = 1


DAMAGE: dict[Callable[[Story], None], str] = {
    never_ran: "b is succeeded, and its task never came to its end",
    never_ended: "b is succeeded, and its task never came to its end",
    too_early: "b started before its parent a had come to its end",
    sent_too_early: "b was sent before the outcome of its parent a was recorded",
    two_outcomes: "b has 2 outcomes: failed, succeeded",
    other_outcome: "b is succeeded, and its outcome was told as failed",
    against_the_graph: "e is skipped, the graph makes it upstream_failed",
    failed_without_failing: "b is failed, and its task never failed",
    ran_below_a_failure: "e is upstream_failed, and it ran",
    no_reason: "d is upstream_failed, and nothing says why",
    unknown_attempt: "b started attempt 2, which the system does not know",
    unclaimed_attempt: "b started attempt 1, which never began, says the system (end: succeeded)",
    twice_the_same_attempt: "b started attempt 1 2 times",
    told_and_never_started: "c is said to have failed in attempt 1, which never started",
    open_node: "b is dispatched, the graph makes it succeeded",
    unknown_node: "x ran and is not in the graph",
    missing_node: "d is in the graph and not told of",
    wrong_end_of_the_run: "the run is succeeded, the graph makes it failed",
    wrong_output: f"b has the output {PLAN.outputs()['b'] + 1}, it should be {PLAN.outputs()['b']}",
    missing_output: "b has no output",
    output_of_a_failed_node: "c has the output 1, it should have none",
}


def test_the_checker_finds_nothing_in_a_good_run() -> None:
    """A run that went as the graph says has no violation and no duplicate."""
    it = Story()
    found = it.findings()
    assert (found.violations, found.starts, found.duplicates, found.spent) == ([], 3, 0, 0)


@pytest.mark.parametrize("plant", DAMAGE, ids=lambda it: it.__name__)
def test_the_checker_finds_what_was_planted(plant: Callable[[Story], None]) -> None:
    """Each kind of damage is told in its own words."""
    it = Story()
    plant(it)
    assert DAMAGE[plant] in it.found()


def test_a_repeated_execution_that_both_sides_tell_is_counted_and_no_violation() -> None:
    """A lost attempt that was run again is a duplicate; both executions came to their end, so it was paid twice."""
    it = Story()
    it.again("b")
    found = it.findings()
    assert found.violations == []
    assert (found.starts, found.duplicates, found.spent, found.repeats_by_system) == (4, 1, 1, 1)


def test_a_claim_whose_task_was_killed_before_its_first_line_is_counted() -> None:
    """The system tells of an attempt that began, was lost and left no line: no violation, but told."""
    it = Story()
    it.again("b")
    it.lines = [line for line in it.lines if (line.node, line.attempt) != ("b", 1)]
    found = it.findings()
    assert (found.violations, found.duplicates, found.claims_without_start) == ([], 0, 1)


def test_a_failing_node_is_tried_as_often_as_it_was_declared_to_be() -> None:
    """One failure too few, or one too many, is told."""
    it = Story()
    it.plan = PLAN._replace(extras=Extras(tries={"c": 2}))
    assert "c is failed after 1 failures, the graph has it tried 2 times" in it.found()
