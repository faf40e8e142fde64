"""A run in memory: built from the store's form, written back node by node, and small."""

from __future__ import annotations

import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from scheduler.core.decide import decide
from scheduler.core.events import (
    Admitted,
    CancelRequested,
    Decision,
    GraceOver,
    LeaseExpired,
    Move,
    Opened,
    RetryDue,
)
from scheduler.core.evolve import evolve
from scheduler.core.run import KEPT_TRIES, Profile, Run, Try, references
from scheduler.core.states import MoveKind, NodeState
from tests.unit.core.compiled import (
    PROFILE,
    RUN_ID,
    T0,
    Spec,
    compiled,
    happen,
    loaded,
    meaning,
    node,
    opened,
    rebuilt,
    reported,
    sent,
    words,
)


def test_a_run_is_built_from_pages_in_any_number() -> None:
    """Edges cross pages; upstream and downstream lists, profiles, keys and inputs come out the same."""
    specs = [node(), node(0), node(0, rule="all_done"), node(1, 2), node(0, 3, inputs='["x"],{}')]
    for nodes_per_page in (1, 2, 5, 1000):
        run = loaded(specs, nodes_per_page=nodes_per_page)
        assert run.n == run.open == 5
        assert run.keys == ["n0", "n1", "n2", "n3", "n4"]
        assert [list(run.upstream(at)) for at in range(5)] == [[], [0], [0], [1, 2], [0, 3]]
        assert [list(run.downstream(at)) for at in range(5)] == [[1, 2, 4], [3], [3], [4], []]
        assert [run.is_sink(at) for at in range(5)] == [False, False, False, False, True]
        assert [run.profiles[at].rule.name for at in run.profile] == ["all_success"] * 2 + ["all_done"] + [
            "all_success"
        ] * 2
        assert run.inputs[4] == '["x"],{}'
        assert words(run) == ["pending"] * 5
        assert run.tally_by_state() == {"pending": 5}
        assert [run.counts(at)[0] for at in range(5)] == [0, 1, 1, 2, 2]


def test_references_say_whose_output_is_still_wanted() -> None:
    """Each reference in a node's inputs counts as one reader of the node that it names."""
    both = ['[{"a":', [0, ["x"], "output"], ',"b":', [1, [], "error"], "}],{}"]
    run = loaded([node(), node(), node(0, 1, inputs=both), node(0, inputs=["[", [0, [], "output"], "],{}"])])
    assert list(references(both)) == [0, 1]
    assert list(references("[],{}")) == []
    assert list(run.readers) == [2, 1, 0, 0]


def test_labels_and_the_returned_node_are_kept() -> None:
    """What the header and a page say beside the nodes."""
    header, _ = compiled([node()])
    page = b'{"keys":["a","b"],"profile":[0,0],"up":[[],[]],"inputs":["[],{}","[],{}"],"labels":{"1":{"team":"x"}}}'
    run = Run.load(RUN_ID, header | {"returns": 1}, [zlib.compress(page)], created_at_ms=T0)
    assert run.returns == 1
    assert run.labels == {1: {"team": "x"}}


def test_an_empty_graph_is_a_run() -> None:
    """No page, no node, nothing open."""
    run = loaded([])
    assert (run.n, run.open, run.tally_by_state()) == (0, 0, {})


def test_a_profile_of_a_later_version_is_read() -> None:
    """Fields that this version does not know are ignored."""
    assert Profile.from_record(PROFILE | {"since_v2": True, "rule": "quorum(2)"}).rule.name == "quorum(2)"


# --- records --------------------------------------------------------------------------------------------------

DIAMOND = [node(), node(0), node(0, rule="all_done"), node(1, 2, rule="one_failed")]


def at_work(run: Run) -> None:
    """Node 0's first attempt is out."""
    happen(run, Opened(), T0 + 5)
    happen(run, Admitted([0]), T0 + 12)


def after_a_success(run: Run) -> None:
    """It succeeded; two nodes are ready."""
    at_work(run)
    happen(run, reported(run, 0, at_ms=T0 + 90, claimed_at_ms=T0 + 20), T0 + 91)


def skipped_branch(run: Run) -> None:
    """All before the last node succeeded, and it runs on failures only."""
    after_a_success(run)
    happen(run, Admitted([1, 2]), T0 + 95)
    happen(run, reported(run, 2, at_ms=T0 + 99), T0 + 100)
    happen(run, reported(run, 1, at_ms=T0 + 99), T0 + 100)


def waiting(run: Run) -> None:
    """Node 0 failed once and waits for its next try."""
    at_work(run)
    happen(run, reported(run, 0, "failed", at_ms=T0 + 50), T0 + 51)


def second_try(run: Run) -> None:
    """That wait is over."""
    waiting(run)
    happen(run, RetryDue(0, 1), T0 + 600)


def third_try_after_loss(run: Run) -> None:
    """The second attempt was lost with its worker; the third is out."""
    second_try(run)
    happen(run, Admitted([0]), T0 + 700)
    happen(run, LeaseExpired(0, 1, 2, T0 + 710, "w1@host", False, 0.5), T0 + 2000)
    happen(run, Admitted([0]), T0 + 2001)


def lost_before_claim(run: Run) -> None:
    """No worker took the first attempt."""
    at_work(run)
    happen(run, LeaseExpired(0, 1, 1, None, "", False, 0.5), T0 + 3000)


def failed_for_good(run: Run) -> None:
    """The third attempt cannot be mended."""
    third_try_after_loss(run)
    happen(run, reported(run, 0, "failed", kind="permanent", at_ms=T0 + 2100, claimed_at_ms=T0 + 2050), T0 + 2101)


def succeeded_at_last(run: Run) -> None:
    """The third attempt succeeded."""
    third_try_after_loss(run)
    happen(run, reported(run, 0, at_ms=T0 + 2100, claimed_at_ms=T0 + 2050), T0 + 2101)


def claimed(run: Run) -> None:
    """The claim is known in memory."""
    at_work(run)
    evolve(run, Decision([Move(0, MoveKind.CLAIM)]), T0 + 30)


def cancelled_while_waiting(run: Run) -> None:
    """A cancel met node 0 between two tries."""
    waiting(run)
    happen(run, CancelRequested("enough", frozenset()), T0 + 70)


def cancelled_while_running(run: Run) -> None:
    """Node 0 did not end within the grace of a cancel."""
    third_try_after_loss(run)
    happen(run, CancelRequested("enough", frozenset({0})), T0 + 2200)
    happen(run, GraceOver(), T0 + 20_000)


def cancelling(run: Run) -> None:
    """Node 0 has its grace."""
    third_try_after_loss(run)
    happen(run, CancelRequested("enough", frozenset({0})), T0 + 2200)


STORIES: list[Callable[[Run], None]] = [
    at_work,
    after_a_success,
    skipped_branch,
    waiting,
    second_try,
    third_try_after_loss,
    lost_before_claim,
    failed_for_good,
    succeeded_at_last,
    claimed,
    cancelled_while_waiting,
    cancelled_while_running,
    cancelling,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda it: it.__name__)
def test_a_run_rebuilt_from_its_records_is_the_run(story: Callable[[Run], None]) -> None:
    """States, counts, tallies, causes and timelines survive the store, in every state and after several attempts."""
    run = loaded(DIAMOND)
    story(run)
    again = rebuilt(run, DIAMOND)
    assert meaning(again) == meaning(run)
    assert again.by_state == run.by_state
    assert meaning(rebuilt(again, DIAMOND)) == meaning(run)


def test_the_stories_above_leave_no_state_out() -> None:
    """Among them is a node in every state there is."""
    seen = set()
    for story in STORIES:
        run = loaded(DIAMOND)
        story(run)
        seen |= set(run.state)
    assert seen == {int(state) for state in NodeState}


@pytest.mark.parametrize(
    ("story", "records"),
    [
        (at_work, ["D|1|1|0|0|5,7|", "P|1|0|0|0||", "P|1|0|0|0||", "P|1|0|0|0||"]),
        (after_a_success, ["S|1|1|0|0|5,7,8,70,succeeded,w@host|i", "R|1|1|0|0|91,|", "R|1|1|0|0|91,|", "P|1|0|0|0||"]),
        (waiting, ["W|1|1|1|0|5,7,0,38,failed,w@host|", "P|1|0|0|0||", "P|1|0|0|0||", "P|1|0|0|0||"]),
        (
            failed_for_good,
            [
                (
                    "F|1|3|2|1|5,7,0,38,failed,w@host;"
                    "600,100,10,1290,lost LeaseExpired,w1@host;2000,1,49,50,failed,w@host|"
                ),
                "U|1|0|0|0||0",
                "R|1|1|0|0|2101,|",
                "R|1|1|0|0|2101,|",
            ],
        ),
    ],
    ids=["at work", "success", "waiting", "failed for good"],
)
def test_a_record_is_one_short_line(story: Callable[[Run], None], records: list[str]) -> None:
    """The form that the store keeps, worked out by hand from the instants of the story."""
    run = loaded(DIAMOND)
    story(run)
    assert [run.record(at) for at in range(run.n)] == records


def test_tries_tell_each_attempt_with_its_instants() -> None:
    """Ready, dispatched, claimed and ended, in ms since 1970; 0 where it did not come to that."""
    run = loaded(DIAMOND)
    third_try_after_loss(run)
    assert list(run.tries(0)) == [
        Try(1, T0 + 5, T0 + 12, T0 + 12, T0 + 50, "failed", "w@host"),
        Try(2, T0 + 600, T0 + 700, T0 + 710, T0 + 2000, "lost", "w1@host", "LeaseExpired"),
        Try(3, T0 + 2000, T0 + 2001, 0, 0, "", ""),
    ]
    assert list(run.tries(3)) == []
    assert [it.attempt for it in rebuilt(run, DIAMOND).tries(0)] == [1, 2, 3]


def test_an_attempt_that_nobody_claimed_has_no_claim_in_its_timeline() -> None:
    """Its end is known all the same."""
    run = loaded(DIAMOND)
    lost_before_claim(run)
    assert next(run.tries(0)) == Try(1, T0 + 5, T0 + 12, 0, T0 + 3000, "lost", "", "NeverClaimed")


@pytest.mark.parametrize("worker", ["a|b", "a;b", "a,b", "w\ud800", "", "日本@host", "a|b;c,d|"])
def test_a_workers_name_cannot_break_a_record(worker: str) -> None:
    """Workers name themselves; whatever stands in the name, the record is read back and is UTF-8."""
    run = sent(node(), node(0))
    happen(run, reported(run, 0)._replace(worker=worker), T0)
    again = rebuilt(run, [node(), node(0)])
    assert meaning(again) == meaning(run)
    [tried] = again.tries(0)
    assert tried.end == "succeeded"
    assert tried.worker == worker.replace("|", "?").replace(";", "?").replace("\ud800", "?")


@pytest.mark.parametrize(("claimed_at_ms", "at_ms"), [(T0 - 99, T0 - 50), (T0 + 10**9, T0 + 5), (0, 0)])
def test_a_clock_that_went_back_gives_no_negative_time(claimed_at_ms: int, at_ms: int) -> None:
    """Claimed is not before dispatched and ended not before claimed, whatever a report says."""
    run = opened(node())
    happen(run, Admitted([0]), T0 + 40)
    happen(run, reported(run, 0, at_ms=at_ms, claimed_at_ms=claimed_at_ms), T0)
    [tried] = run.tries(0)
    assert tried.ready_at_ms <= tried.dispatched_at_ms <= tried.claimed_at_ms <= tried.ended_at_ms
    assert meaning(rebuilt(run, [node()])) == meaning(run)


def test_attempts_may_be_many() -> None:
    """Losses that are nobody's fault are not counted against a node, so its attempts may pass 65,535."""
    run = sent(node())
    run.attempt[0] = 65_535
    happen(run, LeaseExpired(0, 1, 65_535, None, "", False, 0.5), T0)
    assert run.attempt[0] == 65_536


def test_a_node_takes_little_memory() -> None:
    """30,000 nodes with two parents each take under 400 bytes a node, loaded and with every node ended."""
    n = 30_000
    specs: list[Spec] = [node(*((at - 1, at // 2) if at > 2 else ())) for at in range(n)]
    header, pages = compiled(specs)
    del specs
    tracemalloc.start()
    try:
        run = Run.load(RUN_ID, header, pages, created_at_ms=T0)
        fresh = tracemalloc.get_traced_memory()[0] / n
        for at in range(n):
            run.ended[at] = run.close_try(at, T0 + at, T0 + at + 100, "succeeded", "celery@some-host")
        ended = tracemalloc.get_traced_memory()[0] / n
    finally:
        tracemalloc.stop()
    assert fresh < 250, f"{fresh:.0f} bytes a node"
    assert ended < 400, f"{ended:.0f} bytes a node"


def test_equal_inputs_share_their_memory() -> None:
    """A thousand nodes without inputs hold one text between them."""
    run = loaded([node() for _ in range(1000)])
    assert len({id(it) for it in run.inputs}) == 1
    assert sys.getsizeof(run.inputs) < 10_000


def test_decide_reads_and_does_not_write() -> None:
    """A decision that is not applied leaves the run as it was, for every kind of event."""
    run = loaded(DIAMOND)
    third_try_after_loss(run)
    before = meaning(run)
    for event in (
        Opened(),
        Admitted([0]),
        reported(run, 0),
        reported(run, 0, "failed"),
        reported(run, 0, "lost"),
        LeaseExpired(0, 1, 3, T0, "w", False, 0.5),
        CancelRequested("enough", frozenset()),
    ):
        decide(run, event, T0 + 9000)
        assert meaning(run) == before


def test_after_a_loss_of_the_store_new_numbers_lie_above_all_that_may_have_been_given_out() -> None:
    """The gap shows in the record, outlives loading, costs nothing of the node's limits, and each attempt keeps its
    number.
    """
    specs = [node(), node(0)]
    run = sent(*specs)
    run.raise_floor(T0 + 5)
    floor = run.floor
    profile = run.profiles[0]
    assert floor > 1 + profile.max_attempts + profile.max_losses
    happen(run, reported(run, 0, "lost", kind="lost", type_="StoreRewound"), T0 + 6)
    assert (run.attempt[0], run.losses[0]) == (floor + 1, 0)
    happen(run, Admitted([0]), T0 + 7)
    again = rebuilt(run, specs)
    again.floor = run.floor
    assert again.record(0) == run.record(0)
    happen(again, reported(again, 0), T0 + 9)
    assert [(it.attempt, it.end) for it in again.tries(0)] == [(1, "lost"), (floor + 1, "succeeded")]
    assert again.attempt[1] == floor + 1
    again.raise_floor(T0 + 20)
    assert again.floor > floor + 1
    assert again.renumbered_at_ms == T0 + 20


def test_a_timeline_tells_of_the_newest_attempts_only() -> None:
    """However often a node is tried, its record stays some kilobytes; numbers go on, and the store brings all back."""
    run = sent(node(max_losses=1_000))
    for number in range(1, 500):
        happen(run, LeaseExpired(0, 1, number, T0, "w" * 500, False, 0.5), T0 + number)
        happen(run, Admitted([0]), T0 + number)
    assert len(run.record(0)) < 200 * 300
    tries = list(run.tries(0))
    assert len(tries) == KEPT_TRIES
    assert [it.attempt for it in tries] == list(range(301, 501))
    assert run.losses[0] == 499
    assert meaning(rebuilt(run, [node(max_losses=1_000)])) == meaning(run)


def test_an_older_reader_takes_a_record_with_excused_losses() -> None:
    """They stand where an open node's record had nothing, which older versions do not look at."""
    run = sent(node())
    happen(run, LeaseExpired(0, 1, 1, None, "", False, 0.5), T0)
    letter, epoch, attempt, failures, losses, _timeline, last = run.record(0).split("|", 6)
    assert (letter, epoch, attempt, failures, losses, last) == ("R", "1", "2", "0", "0", "1")
    assert rebuilt(run, [node()]).excused[0] == 1
