"""Steps of a chain in one message: each begins when the end of the one before it is kept, and takes its output."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from scheduler.worker.chain import MOST_BYTES
from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import BundledPost, Told, Worker, until


@pytest.fixture
def pool(queue: str, request: pytest.FixtureRequest) -> Worker:
    """The worker that `bundles` sends to."""
    found: Worker = request.getfixturevalue(queue)
    return found


@pytest.fixture
def processes_post(store: str, processes: Worker) -> BundledPost:
    """Chains for the prefork worker."""
    return BundledPost(store, processes.queue)


def send(post: BundledPost, head: dict[str, Any], *steps: dict[str, Any], beside: Any = ()) -> list[str]:
    """Send a chain in one message, perhaps with others behind it; the ids of its attempts."""
    post.send_bundle([{**head, "then": list(steps)}, *beside])
    return [it["id"] for it in (head, *steps)]


def only(post: BundledPost, id_: str) -> Told:
    """The one report of an attempt."""
    found = post.wait(id_)
    assert post.told(id_) == [found]
    return found


def never_begun(post: BundledPost, *ids: str) -> bool:
    """Nobody has claimed these or reported of them; asked when all before them is over."""
    post.settled()
    return all(post.state(it) is None and post.told(it) == [] for it in ids)


def start_of(worker: Worker, id_: str) -> str:
    """The line that an attempt leaves when it starts."""
    found = until(lambda: [it for it in worker.notes() if it.startswith(f"start {id_} ")], f"{id_} runs")
    assert len(found) == 1
    return found[0]


def test_outputs_flow_from_step_to_step(bundles: BundledPost) -> None:
    """Whole, in part, in several places, or not at all; each is told once, which went on, and how it was begun."""
    part = bundles.step("sample.add", None, 100)
    part["holes"] = [[[0, 0], ["rows", 1]]]
    ids = send(
        bundles,
        bundles.entry("sample.echo", {"rows": [1, 2]}),
        part,
        bundles.step("sample.add", into=((0, 0), (1, "b")), kwargs={"b": None}) | {"inputs": [[None], {"b": None}]},
        bundles.step("sample.add", 5, 6, into=()),
        bundles.step("sample.facts", into=()),
        beside=[bundles.entry("sample.echo", "beside")],
    )
    told = [bundles.wait(it) for it in ids]
    assert [it.output for it in told[:4]] == [{"rows": [1, 2]}, 102, 204, 11]
    assert told[4].output["id"] == ids[4]
    assert told[4].output["hard_end"] is True
    bundles.settled()
    assert [len(bundles.told(it)) for it in ids] == [1] * 5
    assert [it.report.get("goes_on") for it in told] == [*ids[1:], None]
    assert [it.report.get("chained", False) for it in told] == [False, True, True, True, True]
    assert all(it.report["claimed_at_ms"] for it in told)


def test_a_step_is_claimed_before_it_runs(bundles: BundledPost, pool: Worker) -> None:
    """When it starts, the store says so, and the report of the one before it is kept."""
    head, *steps = ids = send(
        bundles,
        bundles.entry("sample.sleeps", 0.2),
        *(bundles.step("sample.sleeps", 0.2, into=()) for _ in range(3)),
    )
    assert all(bundles.state(it) is None for it in steps[1:])
    start_of(pool, head)
    for before, step in zip(ids, steps, strict=False):
        start_of(pool, step)
        state = (bundles.state(step) or "").split("|")
        assert state[0] == "c"
        assert state[6].endswith("n")
        assert only(bundles, before).report["goes_on"] == step
        assert (bundles.state(before) or "").split("|")[6].startswith("x"), "its claim is over"
    assert only(bundles, ids[-1]).output == "slept"


@pytest.mark.parametrize(
    ("task", "args", "short"),
    [
        ("sample.fails", ("ZeroDivisionError",), ("failed", "permanent", "ZeroDivisionError")),
        ("sample.retries", ("countdown",), ("retried", "transient", "ValueError")),
        ("sample.nowhere", (), ("failed", "permanent", "NotRegistered")),
        ("sample.echo", (1, 2, 3), ("failed", "invalid_input", "TypeError")),
        ("sample.requeues", (), ("lost", "lost", "GivenBack")),
    ],
)
def test_a_chain_ends_with_a_step_that_does_not_end_well(
    bundles: BundledPost, task: str, args: tuple[Any, ...], short: tuple[str, str, str]
) -> None:
    """It failed, wants to be tried again or goes back: it is told once, and those behind it neither claimed nor run.

    What came beside it in the message runs.
    """
    beside = bundles.entry("sample.echo", "beside")
    first, bad, *behind = send(
        bundles,
        bundles.entry("sample.echo", 1),
        bundles.step(task, *args, into=()),
        bundles.step("sample.echo"),
        bundles.step("sample.echo"),
        beside=[beside],
    )
    assert only(bundles, first).output == 1
    told = bundles.wait(bad)
    assert told.short == short
    assert told.report["chained"] is True
    assert bundles.wait(beside["id"]).output == "beside"
    assert never_begun(bundles, *behind)
    assert len(bundles.told(bad)) == 1


def test_a_large_output_goes_by_the_scheduler(bundles: BundledPost) -> None:
    """Just above what a chain carries, and one that is put aside as a blob: told as ever, and nothing follows."""
    fits, large = "x" * (MOST_BYTES - 2), "x" * (MOST_BYTES - 1)  # and two quotes
    one, two, *behind = send(
        bundles,
        bundles.entry("sample.echo", fits),
        bundles.step("sample.echo", large, into=()),
        bundles.step("sample.echo"),
    )
    blob, after = send(bundles, bundles.entry("sample.returns", "large"), bundles.step("sample.echo"))
    assert only(bundles, one).output == fits
    assert only(bundles, one).report["goes_on"] == two
    assert only(bundles, two).output == large
    assert only(bundles, blob).report["output"] == "blob"
    assert never_begun(bundles, *behind, after)
    assert "goes_on" not in only(bundles, two).report


def test_a_part_that_the_output_lacks_ends_the_chain(bundles: BundledPost) -> None:
    """The scheduler makes the inputs of what is next, or says what is wrong."""
    step = bundles.step("sample.echo")
    step["holes"] = [[[0, 0], ["rows", 3]]]
    head, behind = send(bundles, bundles.entry("sample.echo", {"rows": []}), step)
    assert "goes_on" not in only(bundles, head).report
    assert never_begun(bundles, behind)


def test_a_chain_ends_when_it_has_taken_long(bundles: BundledPost) -> None:
    """Others shall have their turn; the step that took so long is told as ever."""
    first, slow, behind = send(
        bundles,
        bundles.entry("sample.echo", 1),
        bundles.step("sample.sleeps", 1.3, into=()),
        bundles.step("sample.echo"),
    )
    assert only(bundles, first).report["goes_on"] == slow
    assert only(bundles, slow).output == "slept"
    assert "goes_on" not in only(bundles, slow).report
    assert never_begun(bundles, behind)


def test_a_chain_that_is_not_wanted_any_more_ends(bundles: BundledPost, pool: Worker) -> None:
    """The scheduler has ended the attempt, or sent what is next itself: nothing more begins, the end is told."""
    gone, gone_after = send(bundles, bundles.entry("sample.sleeps", 0.5), bundles.step("sample.echo"))
    start_of(pool, gone)
    bundles.forget(gone)
    assert "goes_on" not in only(bundles, gone).report
    assert never_begun(bundles, gone_after)
    head, sent = send(bundles, bundles.entry("sample.sleeps", 0.5), bundles.step("sample.echo"))
    start_of(pool, head)
    bundles.client.hset(bundles.keys.attempts, sent, "s|some|20000|60000")
    assert "goes_on" not in only(bundles, head).report
    bundles.settled()
    assert bundles.state(sent) == "s|some|20000|60000"
    assert bundles.told(sent) == []


def test_a_second_delivery_of_a_chain_runs_nothing(bundles: BundledPost, pool: Worker) -> None:
    """Its head is not granted again, so nothing follows."""
    head = bundles.entry("sample.sleeps", 0.0)
    steps = [bundles.step("sample.sleeps", 0.0, into=()) for _ in range(2)]
    ids = send(bundles, head, *steps)
    send(bundles, head, *steps)
    assert [bundles.wait(it).output for it in ids] == ["slept"] * 3
    bundles.settled()
    assert [len(bundles.told(it)) for it in ids] == [1] * 3
    assert all(start_of(pool, it) for it in ids)


def test_a_killed_process_takes_one_step_with_it(processes_post: BundledPost, processes: Worker) -> None:
    """SIGKILL during the third: two have succeeded, it is lost, the fourth was never begun; others of the message go
    back.
    """
    post = processes_post
    beside = post.entry("sample.echo", "beside")
    first, second, hit, behind = send(
        post,
        post.entry("sample.echo", 1),
        post.step("sample.add", None, 1),
        post.step("sample.sleeps", 0.9, into=()),
        post.step("sample.echo"),
        beside=[beside],
    )
    os.kill(int(start_of(processes, hit).split()[-1]), signal.SIGKILL)
    told = post.wait(hit)
    assert told.short == ("lost", "lost", "WorkerLostError")
    assert told.report["chained"] is True
    assert told.report["claimed_at_ms"]
    assert post.wait(beside["id"]).short == ("lost", "lost", "GivenBack")
    assert never_begun(post, behind)
    assert [post.told(it)[0].output for it in (first, second)] == [1, 2]
    assert [len(post.told(it)) for it in (second, hit)] == [1, 1]


def test_a_limit_of_time_is_one_step_s_own(processes_post: BundledPost) -> None:
    """A soft one is raised in it and in no other; with a hard one its process ends, and nothing behind it runs."""
    post = processes_post
    head, soft, after_soft = send(
        post,
        post.entry("sample.sleeps", 0.1),
        post.step("sample.sleeps", 60, True, into=(), soft_time_limit=0.2),
        post.step("sample.sleeps", 0.3, into=()),
    )
    assert [only(post, it).output for it in (head, soft, after_soft)] == ["slept", "caught", "slept"]
    beside = post.entry("sample.echo", "beside")
    head, hard, behind = send(
        post,
        post.entry("sample.echo", 1),
        post.step("sample.stubborn", 60, into=(), time_limit=0.5),
        post.step("sample.echo"),
        beside=[beside],
    )
    assert only(post, head).output == 1
    assert post.wait(hard).short == ("failed", "timeout", "TimeLimitExceeded")
    assert post.wait(hard).report["chained"] is True
    assert post.wait(beside["id"]).short == ("lost", "lost", "GivenBack")
    assert never_begun(post, behind)


def test_the_lease_of_a_step_is_renewed(bundles: BundledPost, pool: Worker) -> None:
    """By the worker's heartbeat, although no header of a message names it."""
    head, long = send(
        bundles,
        bundles.entry("sample.echo", 1),
        bundles.step("sample.sleeps", 4.0, into=(), lease_ms=3_000),
    )
    start_of(pool, long)

    def lease() -> float:
        return float(bundles.client.zscore(bundles.keys.leases, long) or 0)

    first = lease()
    until(lambda: lease() > first, "its lease is renewed")
    assert bundles.told(long) == [], "it had ended when its lease was looked at"
    assert only(bundles, long).output == "slept"
    assert only(bundles, head).output == 1


def test_a_step_that_is_void_is_stopped(processes_post: BundledPost, processes: Worker) -> None:
    """The scheduler does not want what was begun, and has let go of it: its process is ended within some heartbeats."""
    post = processes_post
    _, void = send(post, post.entry("sample.echo", 1), post.step("sample.sleeps", 60, into=()))
    pid = int(start_of(processes, void).split()[-1])
    post.forget(void)

    def lives() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    until(lambda: not lives(), "its process has ended")
    post.settled()
    assert f"end {void}" not in processes.notes()


def test_a_cold_shutdown_tells_of_the_step_that_runs(store: str, start: Start) -> None:
    """SIGQUIT: it is told at once, with how it was begun, and is no poison."""
    worker = start("chain-cold")
    post = BundledPost(store, "chain-cold")
    head, running = send(post, post.entry("sample.echo", 1), post.step("sample.sleeps", 60, into=()))
    start_of(worker, running)
    worker.signal(signal.SIGQUIT)
    told = post.wait(running, 10)
    assert told.short == ("lost", "lost", "WorkerShutdown")
    assert told.report["chained"] is True
    worker.ended()
    assert [it.short[0] for it in post.told(head)][:1] == ["succeeded"]


@pytest.mark.parametrize("place", [[0], [1], [0, 9], [1, "x", 3], [7, 0], [[1]], [None]])
def test_a_place_that_is_none_harms_nobody(bundles: BundledPost, place: list[Any]) -> None:
    """A hole that leads nowhere: the chain ends, or the step fails; the worker and what came beside it go on."""
    step = bundles.step("sample.add", 1)
    step["holes"] = [[place, []]]
    beside = bundles.entry("sample.echo", "beside")
    head, second = send(bundles, bundles.entry("sample.echo", 5), step, beside=[beside])
    assert only(bundles, head).output == 5
    assert bundles.wait(beside["id"]).output == "beside"
    bundles.settled()
    assert bundles.state(second) is None or bundles.told(second)[0].short[0] in ("failed", "lost")
