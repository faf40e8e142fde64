"""Which attempts share a message: the rules, the sizes, and what is known of times."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import Graph, Retry, Timing
from scheduler.core.run import Profile, Run
from scheduler.errors import InvalidValue
from scheduler.service.bundling import KEPT, MOST_TOGETHER, OVERHEAD_US, SEEN, Bundling, Draft, Pace, parcels
from scheduler.settings import QueueClass
from scheduler.wire import BUNDLES

MOST_US = 50_000
CLASS = QueueClass(
    name="short", latency="standard", cost="low", queue="q.short", pool="prefork", concurrency=2, prefetch=4
)


def run_of(graph: Graph) -> Run:
    """A graph as the scheduler holds it."""
    compiled = graph.compile()
    return Run.load("r" * 26, compiled.header, compiled.pages(), created_at_ms=0)


def one(**options: Any) -> Run:
    """A run of one node."""
    graph = Graph("one")
    graph.add("quick", key="n", **options)
    return run_of(graph)


def bundling(us: int | None = 100, queue_class: QueueClass = CLASS, **contract: Any) -> Bundling:
    """What is known of an executor `quick` that takes so long."""
    it = Bundling({"short": queue_class})
    it.learn({"quick": contract})
    for _ in range(SEEN if us is not None else 0):
        it.took("quick", us or 0)
    return it


def work(it: Bundling, run: Run) -> int | None:
    """What its node adds to a message that it shares; None when it travels alone."""
    return it.work_us(run, 0, run.way(0), "short")


def test_what_is_known_to_be_short_shares_a_message() -> None:
    """By measurement, by its contract, or by the node's own word, in that order."""
    assert work(bundling(100), one()) == 100 + OVERHEAD_US
    assert work(bundling(None), one()) is None, "nobody knows how long it runs"
    assert work(bundling(None, expected_seconds=0.001), one()) == 1_000 + OVERHEAD_US
    assert work(bundling(None, expected_seconds=9), one(timing=Timing(expected=0.002))) == 2_000 + OVERHEAD_US
    assert work(bundling(100, expected_seconds=9), one()) == 100 + OVERHEAD_US, "measured beats declared"


def test_what_takes_half_a_message_travels_alone() -> None:
    """Two of them would not fit."""
    assert work(bundling(MOST_US // 2), one()) is not None
    assert work(bundling(MOST_US // 2 + 1), one()) is None


@pytest.mark.parametrize(
    ("contract", "options"),
    [
        ({"purity": "unsafe"}, {}),
        ({"bundle": False}, {}),
        ({"timeout_seconds": 0.5}, {}),
        ({}, {"timing": Timing(alone=True)}),
        ({}, {"timing": Timing(silence=5)}),
        ({}, {"timeout": 0.5}),
        ({}, {"retry": Retry(3, max_losses=0)}),
    ],
)
def test_who_might_harm_its_neighbours_or_be_harmed_travels_alone(
    contract: dict[str, Any], options: dict[str, Any]
) -> None:
    """Unsafe, unwilling, with a limit near the moment, with heartbeats of its own, or unable to bear a loss."""
    assert work(bundling(100, **contract), one(**options)) is None


@pytest.mark.parametrize("count", ["failures", "losses", "excused"])
def test_what_was_tried_before_travels_alone(count: str) -> None:
    """So that poison is found at once."""
    run = one()
    getattr(run, count)[0] = 1
    assert work(bundling(100), run) is None


def test_a_class_can_do_without() -> None:
    """bundle_seconds = 0 in queues.toml; interactive classes share little by themselves."""
    without = CLASS.model_copy(update={"bundle_seconds": 0.0})
    it = bundling(100, without)
    it.hear({"w": worker()}, 1_000)
    assert it.slots("short", 1.0) == 0
    assert CLASS.bundle_us == MOST_US
    assert CLASS.model_copy(update={"latency": "interactive"}).bundle_us == MOST_US // 10


def worker(**said: Any) -> dict[str, Any]:
    """What a worker announces."""
    return {"queue_class": "short", "concurrency": 2, "seen_at_ms": 1_000, "bundles": [BUNDLES], **said}


def test_turns_are_short_while_interactive_workers_live() -> None:
    """A worker of an interactive class hurries the scheduler; one of a class that is not declared here does not."""
    quick = CLASS.model_copy(update={"name": "quick", "latency": "interactive", "queue": "q.quick"})
    it = Bundling({"short": CLASS, "quick": quick})
    here = {"a": worker()}
    found = []
    for other in (worker(queue_class="long"), worker(queue_class="quick")):
        it.hear(here | {"b": other}, 1_000)
        found.append(it.hurried)
    it.hear(here | {"b": {**worker(queue_class="quick"), "seen_at_ms": -(10**9)}}, 1_000)
    assert [*found, it.hurried] == [False, True, False], "the last has gone"


def test_slots_are_those_of_living_workers_that_can() -> None:
    """A worker of another version in the class, or none at all: every attempt has a message of its own."""
    it = bundling()
    assert it.slots("short", 1.0) == 0
    it.hear({"a": worker(), "b": worker(concurrency=6), "other": worker(queue_class="long")}, 1_000)
    assert (it.slots("short", 1.0), it.slots("short", 0.5), it.slots("short", 0.01)) == (8, 4, 1)
    for forms in (BUNDLES, BUNDLES - 1, [BUNDLES - 1, BUNDLES + 1], None):
        it.hear({"a": worker(), "other": worker(bundles=forms)}, 1_000)
        assert it.slots("short", 1.0) == 0
    it.hear({"a": worker(), "later": worker(bundles=[BUNDLES, BUNDLES + 1])}, 1_000)
    assert it.slots("short", 1.0) == 4
    it.hear({"a": worker(), "old": {**worker(), "bundles": None, "seen_at_ms": -(10**9)}}, 1_000)
    assert it.slots("short", 1.0) == 2, "one that has gone does not count"


def test_a_pace_is_not_moved_by_outliers() -> None:
    """Four in five count: some slow ones change nothing, a slower executor is noticed within a few attempts."""
    pace = Pace()
    for _ in range(SEEN - 1):
        pace.took(100)
    before: int | None = pace.us
    assert before is None
    for at in range(KEPT):
        pace.took(1_000_000 if at % 8 == 0 else 100)
    assert pace.us == 100
    for _ in range(KEPT // 2):
        pace.took(5_000)
    assert pace.us is not None
    assert pace.us >= 5_000


def test_what_was_measured_is_told_once_and_remembered() -> None:
    """A scheduler that starts knows at once what another has measured; small changes are not worth a word."""
    it = bundling(100)
    assert it.news() == {"quick": 100}
    assert it.news() == {}
    other = bundling(None)
    assert work(other, one()) is None
    other.recall({"quick": 100, "gone": 5})
    assert work(other, one()) == 100 + OVERHEAD_US
    assert other.news() == {}, "what it has been told is no news"
    for _ in range(KEPT):
        other.took("quick", 110)
    assert other.news() == {}
    for _ in range(KEPT):
        other.took("quick", 200)
    assert other.news() == {"quick": 200}


@given(
    st.lists(st.integers(61, MOST_US // 2), min_size=1, max_size=1200), st.integers(-5, 40), st.integers(1_000, MOST_US)
)
def test_parcels_hold_all_and_leave_no_slot_without(works: list[int], free: int, most_us: int) -> None:
    """Everything goes out once and in order; no message is larger than may be; free slots get one each."""
    sizes = parcels(works, free, most_us)
    assert sum(sizes) == len(works)
    assert all(0 < it <= MOST_TOGETHER for it in sizes)
    at = 0
    for size in sizes:
        assert size == 1 or sum(works[at : at + size]) <= most_us + max(works), "to the nearest work"
        at += size


@pytest.mark.parametrize("count", [1, 2, 7, 8, 40])
@pytest.mark.parametrize("free", range(1, 9))
def test_equal_works_fill_every_free_slot(count: int, free: int) -> None:
    """No slot waits while another has two works of which it could have had one."""
    assert len(parcels([100] * count, free, MOST_US)) == min(free, count)


def drafted(draft: Draft, *works: int | None) -> list[int]:
    """Sizes of the messages of nodes with these works, those that found no room left out."""
    run = one()
    found = [work for work in works if draft.takes(work)]
    taken = draft.took(run, list(range(len(found))), {})
    draft.share_out()
    seen: dict[int, int] = {}
    for at, parcel in enumerate(taken.parcels):
        name = -at - 1 if parcel is None else id(parcel)
        seen[name] = seen.get(name, 0) + 1
    return list(seen.values())


def test_a_lone_node_leaves_at_once_and_without_company() -> None:
    """Free slots or not, and whether it is short or not."""
    for flying in (0, 1, 2):
        assert drafted(Draft("short", 8, 2, flying, MOST_US), 100) == [1]
    assert drafted(Draft("short", 8, 2, 0, MOST_US), None) == [1]


def test_short_ones_gather_while_all_slots_are_busy() -> None:
    """A little more than the slots is let out; what comes then stays, and nothing that is alone passes the window."""
    assert drafted(Draft("short", 8, 2, 3, MOST_US), 100, 100) == [], "two at work, one waiting"
    assert drafted(Draft("short", 8, 2, 2, MOST_US), *[100] * 50) == [50]
    assert drafted(Draft("short", 8, 2, 0, MOST_US), *[100] * 50) == [25, 25]
    assert drafted(Draft("short", 2, 0, 0, MOST_US), None, None, None) == [1, 1]


def test_long_ones_do_not_travel_with_short_ones() -> None:
    """In one turn: those that share go together, those that do not have messages of their own."""
    assert sorted(drafted(Draft("short", 8, 2, 0, MOST_US), 100, None, 100, None, 100)) == [1, 1, 3]


def test_a_profile_keeps_its_word_over_the_wire() -> None:
    """`Timing(alone=True)` is in the compiled graph and in the document, and only there where it is said."""
    graph = Graph("g")
    graph.add("quick", key="a", timing=Timing(alone=True))
    graph.add("quick", key="b")
    again = Graph.from_document(graph.document())
    assert again.hash == graph.hash
    profiles = [Profile.from_record(it) for it in again.compile().header["profiles"]]
    assert sorted(it.alone for it in profiles) == [False, True]


def test_what_is_no_word_for_alone_is_refused() -> None:
    """In Python and in documents, with the place."""
    with pytest.raises(InvalidValue, match=r"timing\.alone.*neither true nor false"):
        Timing(alone="yes")  # type: ignore[arg-type]  # what a user may write
    node = {"key": "a", "executor": "x", "timing": {"alone": 1}}
    with pytest.raises(InvalidValue, match=r"alone"):
        Graph.from_document({"celeriac": 1, "name": "g", "nodes": [node]})
