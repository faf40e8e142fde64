"""Several attempts in one message: claimed together, each on its own in all that may happen to it.

That each is as if it had come alone is shown by the tests of this folder that take `either`; here is what happens
between neighbours.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import BundledPost, Worker, columns, until

ALL_AT_ONCE_SECONDS = 4.0
"""Far less than what a report would wait for that waited for its neighbour's end, here of a minute."""


@pytest.fixture
def processes_post(store: str, processes: Worker) -> BundledPost:
    """Bundles for the prefork worker."""
    return BundledPost(store, processes.queue)


def send(post: BundledPost, *calls: tuple[Any, ...], **options: Any) -> list[str]:
    """Send calls (task, args…) in one message; the ids of their attempts."""
    entries = [post.entry(task, *args, **options) for task, *args in calls]
    post.send_bundle(entries)
    return [it["id"] for it in entries]


def refused(post: BundledPost, worker: str) -> dict[str, int]:
    """Claims refused so far, as the worker announces them."""
    return dict(json.loads(post.client.hget("cel:workers", f"{worker}@here"))["refused"])


def test_each_has_its_own_end(bundles: BundledPost) -> None:
    """One that fails, one that is called wrongly, one that nobody knows: those beside them succeed, in their order."""
    ids = send(
        bundles,
        ("sample.echo", "first"),
        ("sample.fails", "ZeroDivisionError"),
        ("sample.add",),
        ("sample.nowhere",),
        ("sample.echo", "last"),
    )
    ends = [bundles.wait(it).short for it in ids]
    assert ends == [
        ("succeeded", None, None),
        ("failed", "permanent", "ZeroDivisionError"),
        ("failed", "invalid_input", "TypeError"),
        ("failed", "permanent", "NotRegistered"),
        ("succeeded", None, None),
    ]
    assert [bundles.wait(it).output for it in (ids[0], ids[-1])] == ["first", "last"]
    assert all(len(bundles.told(it)) == 1 for it in ids)


def test_a_hundred_reports_leave_in_few_entries(bundles: BundledPost) -> None:
    """Reports of short attempts travel together, each once, with the instant of its claim."""
    before = bundles.client.xlen(bundles.keys.inbox)
    ids = send(bundles, *[("sample.echo", n) for n in range(100)])
    assert [bundles.wait(it).output for it in ids] == list(range(100))
    entries = bundles.client.xlen(bundles.keys.inbox) - before
    assert entries < 50, "reports were sent one by one"
    assert all(bundles.told(it)[0].report["claimed_at_ms"] for it in ids)


def test_no_result_waits_for_its_neighbour(bundles: BundledPost) -> None:
    """What has ended is reported while the next one runs; what is behind a long one goes back, and costs nothing."""
    quick, slow, behind = send(bundles, ("sample.echo", 1), ("sample.sleeps", 4.0), ("sample.sleeps", 0.0))
    assert bundles.wait(quick).output == 1
    assert bundles.told(slow) == [], "the quick one's report has waited for the slow one"
    assert bundles.wait(behind).short == ("lost", "lost", "GivenBack")
    assert bundles.told(slow) == []
    assert bundles.wait(slow).output == "slept"
    bundles.settled()
    assert len(bundles.told(behind)) == 1
    assert not [it for it in worker_notes(bundles) if behind in it], "what was given back has run here"


def worker_notes(post: BundledPost) -> list[str]:
    """The ledger of the worker that a post sends to."""
    return _workers[post.queue].notes()


_workers: dict[str, Worker] = {}


@pytest.fixture(autouse=True)
def _known(processes: Worker, threads: Worker) -> None:
    _workers.update({processes.queue: processes, threads.queue: threads})


def test_a_killed_process_takes_one_attempt_with_it(processes_post: BundledPost, processes: Worker) -> None:
    """SIGKILL: what was reported stands, the one that ran is lost, those behind it go back without a loss."""
    post = processes_post
    before, hit, behind = send(post, ("sample.echo", 1), ("sample.sleeps", 60), ("sample.echo", 2))
    started = until(lambda: [it for it in processes.notes() if it.startswith(f"start {hit}")], "the long one runs")
    assert post.wait(before).output == 1
    os.kill(int(started[0].split()[-1]), signal.SIGKILL)
    assert post.wait(hit).short == ("lost", "lost", "WorkerLostError")
    assert post.wait(behind).short == ("lost", "lost", "GivenBack")
    post.settled()
    assert post.told(before)[0].short[0] == "succeeded"


def test_a_task_that_ends_its_process_is_the_one_to_blame(processes_post: BundledPost) -> None:
    """SystemExit in a pool process: the attempt that raised it is lost, its neighbours are not."""
    before, guilty, behind = send(
        processes_post, ("sample.echo", 1), ("sample.fails", "SystemExit"), ("sample.echo", 2)
    )
    assert processes_post.wait(before).output == 1
    assert processes_post.wait(guilty).short[0] == "lost"
    assert processes_post.wait(guilty).short[2] != "GivenBack"
    assert processes_post.wait(behind).short == ("lost", "lost", "GivenBack")


def test_a_soft_limit_is_one_attempt_s_own(processes_post: BundledPost) -> None:
    """SoftTimeLimitExceeded is raised in the attempt whose limit has passed, and in no other."""
    post = processes_post
    entries = [
        post.entry("sample.echo", 1, soft_time_limit=0.3),
        post.entry("sample.sleeps", 60, soft_time_limit=0.3),
        post.entry("sample.sleeps", 60, True, soft_time_limit=0.3),
        post.entry("sample.sleeps", 0.5),
    ]
    post.send_bundle(entries)
    first, second, third, last = (post.wait(it["id"]) for it in entries)
    assert first.output == 1
    assert second.short == ("failed", "timeout", "SoftTimeLimitExceeded")
    assert third.output == "caught"
    assert last.output == "slept"


def test_a_limit_of_the_whole_pool_holds_too(store: str, start: Start) -> None:
    """`celery worker --soft-time-limit` counts for the message; what runs when it passes is told."""
    start("bundle-pool", "-P", "prefork", "-c", "1", "--soft-time-limit", "1")
    post = BundledPost(store, "bundle-pool")
    first, second, last = send(post, ("sample.echo", 1), ("sample.sleeps", 60), ("sample.echo", 2))
    assert post.wait(first).output == 1
    assert post.wait(second).short == ("failed", "timeout", "SoftTimeLimitExceeded")
    assert post.wait(last).short[0] in ("succeeded", "lost")


def test_a_hard_limit_is_one_attempt_s_own(processes_post: BundledPost, processes: Worker) -> None:
    """The process ends, as for a lone attempt; whose limit has passed has timed out, those behind it go back."""
    post = processes_post
    entries = [
        post.entry("sample.echo", 1),
        post.entry("sample.stubborn", 60, time_limit=0.5),
        post.entry("sample.echo", 2),
    ]
    post.send_bundle(entries)
    first, second, third = (post.wait(it["id"]) for it in entries)
    assert first.output == 1
    assert second.short == ("failed", "timeout", "TimeLimitExceeded")
    assert third.short == ("lost", "lost", "GivenBack")
    post.settled()
    assert processes.alive()
    assert all(it.short[0] != "lost" for it in post.told(entries[1]["id"])[:1])


def test_what_is_not_ours_is_left_out_and_counted(bundles: BundledPost) -> None:
    """Another's claim, and an attempt that is over: neither runs, the others do, and the worker announces both."""
    counted = refused(bundles, bundles.queue)
    held, gone, mine = (bundles.entry("sample.echo", n) for n in range(3))
    bundles.client.hset(bundles.keys.attempts, held["id"], "c|some|20000|60000|1|9999999999999|other|somebody")
    bundles.forget(gone["id"])
    bundles.send_bundle([held, gone, mine])
    assert bundles.wait(mine["id"]).output == 2
    bundles.settled()
    assert bundles.told(held["id"]) == bundles.told(gone["id"]) == []

    def announced() -> bool:
        now = refused(bundles, bundles.queue)
        return all(now.get(it, 0) == counted.get(it, 0) + 1 for it in ("held", "stale"))

    until(announced, "both refusals are announced")


def test_a_second_delivery_runs_nothing_twice(bundles: BundledPost) -> None:
    """The same message again: every claim is refused."""
    entries = [bundles.entry("sample.sleeps", 0.0) for _ in range(3)]
    bundles.send_bundle(entries)
    bundles.send_bundle(entries)
    assert [bundles.wait(it["id"]).output for it in entries] == ["slept"] * 3
    bundles.settled()
    notes = worker_notes(bundles)
    assert [sum(f"start {it['id']} " in line for line in notes) for it in entries] == [1, 1, 1]


def test_a_task_that_wants_another_delivery_gets_another_attempt(bundles: BundledPost) -> None:
    """Reject(requeue=True) beside others: the attempt goes back by itself, for their message stays where it is."""
    first, again, last = send(bundles, ("sample.echo", 1), ("sample.requeues",), ("sample.echo", 2))
    assert bundles.wait(again).short == ("lost", "lost", "GivenBack")
    assert [bundles.wait(it).output for it in (first, last)] == [1, 2]


Spoil = Callable[[dict[str, Any]], Any]


def kind(**changes: Any) -> Spoil:
    """The second attempt's kind says something else; None for nothing."""

    def spoil(told: dict[str, Any]) -> None:
        told["kinds"][1] = {name: it for name, it in (told["kinds"][1] | changes).items() if it is not None}

    return spoil


def more(number: str, what: Any) -> Spoil:
    """What stands beside an attempt's kind is something else."""
    return lambda told: told["more"].update({number: what})


def instead(name: str, at: int, *what: Any) -> Spoil:
    """One of a column is something else, or several."""

    def spoil(told: dict[str, Any]) -> None:
        told[name][at : at + 1] = what

    return spoil


SPOILT: dict[str, Spoil] = {
    "no kinds": lambda told: told.pop("kinds"),
    "no attempts": lambda told: told.update(of=[], places=[], nodes=[], inputs=[]),
    "a kind that is none": instead("kinds", 1, 7),
    "no run": kind(run=None),
    "a run of something else": kind(run="8b0b3a4e"),
    "no task": kind(task=None),
    "a task that is a list": kind(task=["sample.echo"]),
    "no header": kind(celeriac=None),
    "a header that is a number": kind(celeriac=5),
    "a header for newer workers": kind(celeriac={"min_reader": 99}),
    "an odd limit": kind(timelimit="soon"),
    "a claim without times": kind(claim="some"),
    "a claim of more parts": kind(claim="some|1|2|3"),
    "a claim that is a list": kind(claim=["some|1|2"]),
    "no claim": kind(claim=None),
    "a kind that is not there": instead("of", 1, 9),
    "a kind before the first": instead("of", 1, -1),
    "a kind by name": instead("of", 1, "1"),
    "a kind that is true": instead("of", 1, True),
    "a step before all others": instead("of", 0, 1),
    "one more": instead("of", 3, 2, 3),
    "no places": lambda told: told.pop("places"),
    "a place too few": instead("places", 3),
    "half a place": instead("places", 1, "1.1"),
    "two places in one": instead("places", 1, "1.1.1 2.1.1"),
    "a place that is a number": instead("places", 1, 1.1),
    "another place": instead("places", 0, "77.1.1"),
    "a node too few": instead("nodes", 3),
    "a node that is null": instead("nodes", 1, None),
    "inputs that are null": lambda told: told.update(inputs=None),
    "inputs too few": instead("inputs", 3),
    "args that are a mapping": instead("inputs", 2, {}),
    "kwargs that are a list": instead("inputs", 3, []),
    "more that is a list": lambda told: told.update(more=[]),
    "more of nobody": more("4", {"holes": []}),
    "more of what is no number": more("-1", {"holes": []}),
    "more that is a number": more("1", 7),
    "holes that are null": more("1", {"holes": None}),
    "holes that are a text": more("1", {"holes": "all"}),
    "a hole without a path": more("1", {"holes": [[[0, 0]]]}),
    "a hole without a place": more("1", {"holes": [[[], []]]}),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_malformed_bundle_is_a_loss_of_all(bundles: BundledPost, spoil: str) -> None:
    """A message that cannot be read as a whole runs nothing, and all that it is for is lost at once."""
    heads = [{**bundles.entry("sample.echo", n), "then": [bundles.step("sample.echo")]} for n in range(2)]
    told = columns(heads)
    SPOILT[spoil](told)
    malformed(bundles, [it["id"] for it in heads], json.dumps(told))


@pytest.mark.parametrize(
    "told", ["", "[", "7", "null", "[]", "[" * 5_000, '[{"__type__": "datetime", "__value__": 5}]', None, {}, []]
)
def test_a_bundle_whose_attempts_are_no_json_is_a_loss_of_all(bundles: BundledPost, told: Any) -> None:
    """Whatever stands in place of them, the worker lives on."""
    malformed(bundles, [bundles.seed(), bundles.seed()], told)


def test_a_malformed_bundle_is_kept(bundles: BundledPost) -> None:
    """It is a dead letter, which somebody can look at. (Of a flood only some are: DEAD_A_SECOND.)"""
    sent: set[str] = set()

    def kept() -> bool:
        sent.add(malformed(bundles, [bundles.seed(), bundles.seed()], "nonsense"))
        return any(it["id"] in sent for it in bundles.dead())

    until(kept, "a letter, now that those before are a second ago")


def malformed(bundles: BundledPost, ids: list[str], told: Any) -> str:
    """Send a bundle that cannot be read: all its attempts are lost, and its worker lives; returns its name."""
    name = bundles.send_columns(ids, told)
    assert [bundles.wait(it).short for it in ids] == [("lost", "lost", "MessageRejected")] * 2
    assert _workers[bundles.queue].alive()
    return name


def test_a_cold_shutdown_costs_no_attempt_a_loss(store: str, start: Start) -> None:
    """SIGQUIT: all that the process had is told at once, and none of it counts as poison."""
    worker = start("bundle-cold")
    post = BundledPost(store, "bundle-cold")
    running, behind = send(post, ("sample.sleeps", 60), ("sample.echo", 1))
    until(lambda: [it for it in worker.notes() if it.startswith(f"start {running}")], "it runs")
    worker.signal(signal.SIGQUIT)
    assert post.wait(running, 10).short == ("lost", "lost", "WorkerShutdown")
    assert post.wait(behind, 10).short == ("lost", "lost", "GivenBack")
    worker.ended()


def test_a_cancelled_attempt_is_stopped(processes_post: BundledPost, processes: Worker) -> None:
    """The scheduler has let go of the attempt that runs: its process is ended within some heartbeats."""
    post = processes_post
    [cancelled, _] = send(post, ("sample.sleeps", 60), ("sample.echo", 1))
    line = until(lambda: [it for it in processes.notes() if it.startswith(f"start {cancelled}")], "it runs")[0]
    post.forget(cancelled)
    pid = int(line.split()[-1])
    until(lambda: not _lives(pid), "its process has ended")
    post.settled()
    assert f"end {cancelled}" not in processes.notes()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_leases_of_all_are_renewed(store: str, start: Start) -> None:
    """What runs, and what waits in the worker's memory, keeps its lease."""
    worker = start("bundle-waits", "-P", "prefork", "-c", "1", "--prefetch-multiplier", "4")
    post = BundledPost(store, "bundle-waits")

    def lease(id_: str) -> float:
        return float(post.client.zscore(post.keys.leases, id_) or 0)

    running = post.seed(lease_ms=3_000)
    post.send_bundle([post.entry("sample.sleeps", 5.0, id_=running)])
    until(lambda: [it for it in worker.notes() if it.startswith(f"start {running} ")], "it runs")
    waiting = [post.seed(lease_ms=3_000) for _ in range(2)]
    first = {it: lease(it) for it in (running, *waiting)}
    post.send_bundle([post.entry("sample.echo", 7, id_=it) for it in waiting])
    until(lambda: all(lease(it) not in (0, first[it]) for it in first), "all leases are renewed")
    assert post.told(running) == [], "it had ended when the leases were looked at"
    assert post.wait(running).output == "slept"
    assert [post.wait(it).output for it in waiting] == [7, 7]
