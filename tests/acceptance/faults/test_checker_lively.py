"""The checker finds what was planted in a run with retries, waits, conditions and cancels. See test_checker.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .checker import NodeAccount, Tried
from .checksum import checksum
from .ledger import END, FAIL, START, Line
from .plan import APPROVAL, HIGH, LOW, SIGNAL, TIMER, Extras, Plan, Wait
from .told import Told

LEAST = checksum("flaky", ())
LIFE = Plan(
    {
        "flaky": (),
        "signal": (),
        "mended": ("signal",),
        "timer": ("flaky",),
        "late": ("flaky",),
        "approval": ("timer",),
        "route": ("flaky",),
        "high": ("route",),
        "low": ("route",),
        "merge": ("low", "mended"),
        "guarded": ("flaky",),
        "gone": ("mended",),
        "below": ("gone",),
        "perhaps": ("flaky",),
    },
    frozenset(),
    {},
    Extras(
        flaky={"flaky": 1},
        mended=frozenset({"mended"}),
        waits={"signal": Wait(SIGNAL, "go"), "timer": Wait(TIMER, ms=200), "approval": Wait(APPROVAL)},
        delays={"late": 150},
        choices={"route": ("flaky", LEAST)},
        guards={"guarded": ("flaky", LEAST + 1)},
        gates={("route", "high"): HIGH, ("route", "low"): LOW},
        merges=frozenset({"merge"}),
        cancels={"gone": True, "perhaps": False},
    ),
)
"""One node of each kind. The choice goes high, so low is skipped, and merge runs for the sake of mended."""


class Life(Told):
    """A run of LIFE in which all is well until a test plants something."""

    plan = LIFE

    def __init__(self) -> None:
        self.lines, self.nodes, self.ended_ms = [], {}, {"signal": 500, "timer": 1420, "approval": 1900, "route": 1230}
        self.did("flaky", 1000, 1100, "failed")
        self.did("flaky", 1205, 1210)
        self.did("mended", 600, 700, "failed")
        self.did("mended", 702, 800)
        self.did("late", 1365, 1400)
        self.did("high", 1235, 1300)
        self.did("merge", 1310, 1350)
        self.did("perhaps", 1220, 1240)
        for node in ("signal", "timer", "approval", "route"):
            self.nodes[node] = NodeAccount("succeeded", False, {})
        for node, state in {
            "low": "skipped",
            "guarded": "skipped",
            "gone": "cancelled",
            "below": "upstream_failed",
        }.items():
            self.nodes[node] = NodeAccount(state, True, {})
        self.outcomes = {node: [it.state] for node, it in self.nodes.items()}
        self.outputs = LIFE.outputs() | {"timer": {"due_ms": 1410}, "approval": {"choice": "approve", "by": "ann"}}
        self.state = "failed"

    def did(self, node: str, since_ms: int, until_ms: int, end: str = "succeeded") -> None:
        """One more attempt of a node, told by both sides."""
        tries = dict(self.nodes[node].tries) if node in self.nodes else {}
        number = len(tries) + 1
        tries[number] = Tried(since_ms, since_ms, since_ms + 1, until_ms, end)
        self.nodes[node] = NodeAccount(end, False, tries)
        what = END if end == "succeeded" else FAIL
        self.lines += [
            Line(START, "r", node, number, (since_ms + 2) / 1000, 7),
            Line(what, "r", node, number, (until_ms - 1) / 1000, 7),
        ]

    def undone(self, node: str) -> None:
        """No attempt of a node, on either side."""
        self.nodes[node] = self.nodes[node]._replace(tries={}, reason=True)
        self.lines = [line for line in self.lines if line.node != node]


def failed_too_often(it: Life) -> None:
    """More failures than its task has had."""
    it.did("flaky", 1310, 1315)
    it.tried("flaky", 2, end="failed")


def not_tried_again(it: Life) -> None:
    """Given up after a first failure."""
    it.undone("flaky")
    it.did("flaky", 1000, 1100, "failed")
    it.becomes("flaky", "failed")


def ended_well_too_early(it: Life) -> None:
    """The attempt that was declared to fail did not: it had a wrong number."""
    it.lines[1] = it.lines[1]._replace(what=END)


def tried_again_too_early(it: Life) -> None:
    """No wait before the next try."""
    it.tried("flaky", 2, claimed_at_ms=1110)


def mended_before_it_failed(it: Life) -> None:
    """Changed inputs were handed to the first attempt."""
    it.undone("mended")
    it.did("mended", 600, 700)


def timer_too_short(it: Life) -> None:
    """The wait was over before its time."""
    it.ended_ms["timer"] = 1300


def delay_too_short(it: Life) -> None:
    """Begun before its time."""
    it.tried("late", 1, claimed_at_ms=1250)


def ran_a_wait(it: Life) -> None:
    """A worker was asked to run what is no work."""
    it.lines.append(Line(START, "r", "timer", 1, 1.3, 7))


def wrong_signal(it: Life) -> None:
    """The payload of another signal."""
    it.outputs["signal"] = 5


def another_answer(it: Life) -> None:
    """The second answer has won."""
    it.outputs["approval"] = {"choice": "reject", "by": "ann"}


def started_before_a_wait_was_over(it: Life) -> None:
    """What stands behind a signal that never came has run."""
    it.becomes("signal", "waiting")


def started_before_what_a_wait_waits_for(it: Life) -> None:
    """Between the two stands a choice, which no ledger knows."""
    at = next(at for at, line in enumerate(it.lines) if line.node == "high")
    it.lines[at] = it.lines[at]._replace(at=1.1)


def wrong_branch(it: Life) -> None:
    """The other branch was told."""
    it.outputs["route"] = {"branch": LOW}


def both_branches(it: Life) -> None:
    """What hangs on the branch that was not taken has run."""
    it.did("low", 1235, 1300)
    it.becomes("low", "succeeded")


def merge_left_out(it: Life) -> None:
    """One open edge is enough for it."""
    it.undone("merge")
    it.becomes("merge", "skipped")


def guard_ignored(it: Life) -> None:
    """Ran although its guard is false."""
    it.did("guarded", 1235, 1300)
    it.becomes("guarded", "succeeded")


def cancelled_and_ran(it: Life) -> None:
    """Cancelled before it could begin, and it succeeded."""
    it.did("gone", 810, 820)
    it.becomes("gone", "succeeded")


def ran_below_a_cancelled_one(it: Life) -> None:
    """It needs the success of a node that was cancelled."""
    it.did("below", 810, 820)
    it.becomes("below", "succeeded")


def cancelled_by_nobody(it: Life) -> None:
    """No client has asked for that."""
    it.undone("late")
    it.becomes("late", "cancelled")


def succeeded_although_a_last_node_was_cancelled(it: Life) -> None:
    """The run is told to have gone well."""
    it.state = "succeeded"


DAMAGE_OF_LIFE: dict[Callable[[Life], None], str] = {
    failed_too_often: "flaky has 2 failures, it was declared to have at most 1",
    not_tried_again: "flaky is failed, the graph makes it succeeded",
    ended_well_too_early: "flaky came to its end in attempt 1, which was declared to fail",
    tried_again_too_early: "flaky was tried again 10 ms after a failure, the graph makes it wait 100",
    mended_before_it_failed: "mended succeeded with inputs that come after one failure, and it has had 0",
    timer_too_short: "timer waited 90 ms, the graph makes it wait 200",
    delay_too_short: "late waited 40 ms, the graph makes it wait 150",
    ran_a_wait: "timer is no work, and a worker ran it",
    wrong_signal: f"signal has the output 5, it should be {checksum('signal', ())}",
    another_answer: "approval was answered reject by ann, it was approve by ann",
    started_before_a_wait_was_over: "mended started, and its parent signal is waiting",
    started_before_what_a_wait_waits_for: "high started before its parent flaky had come to its end",
    wrong_branch: "route has the output {'branch': 'low'}, it should be {'branch': 'high'}",
    both_branches: "low is succeeded, the graph makes it skipped",
    merge_left_out: "merge is skipped, the graph makes it succeeded",
    guard_ignored: "guarded is succeeded, the graph makes it skipped",
    cancelled_and_ran: "gone is succeeded, the graph makes it cancelled",
    ran_below_a_cancelled_one: "below is succeeded, the graph makes it upstream_failed",
    cancelled_by_nobody: "late is cancelled, the graph makes it succeeded",
    succeeded_although_a_last_node_was_cancelled: "the run is succeeded, the graph makes it failed",
}


def test_the_checker_finds_nothing_where_all_went_as_declared() -> None:
    """Tries that follow a declared failure are no duplicates, and nobody has paid for them twice."""
    found = Life().findings()
    assert (found.violations, found.starts, found.duplicates, found.spent) == ([], 8, 0, 0)


@pytest.mark.parametrize("plant", DAMAGE_OF_LIFE, ids=lambda it: it.__name__)
def test_the_checker_finds_what_was_planted_in_a_lively_run(plant: Callable[[Life], None]) -> None:
    """Each kind of damage is told in its own words."""
    it = Life()
    plant(it)
    assert DAMAGE_OF_LIFE[plant] in it.found()


@pytest.mark.parametrize("ran", [True, False])
def test_a_cancel_that_may_come_too_late_is_right_both_ways(ran: bool) -> None:
    """The node succeeded, or is cancelled; then it may have started, in an attempt that the system had withdrawn."""
    it = Life()
    if not ran:
        it.becomes("perhaps", "cancelled")
        it.nodes["perhaps"] = it.nodes["perhaps"]._replace(reason=True)
        it.tried("perhaps", 1, claimed_at_ms=0, end="")
        it.lines = [line for line in it.lines if (line.node, line.what) != ("perhaps", END)]
    assert it.found() == []


def test_a_lost_attempt_of_a_node_that_fails_first_is_still_a_duplicate() -> None:
    """Its second try follows a failure, its third a loss."""
    it = Life()
    it.did("flaky", 1310, 1315)
    it.tried("flaky", 2, end="lost")
    found = it.findings()
    assert (found.duplicates, found.repeats_by_system, found.spent) == (1, 1, 1)
    assert not [violation for violation in found.violations if violation.startswith("flaky")]
