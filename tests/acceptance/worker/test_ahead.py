"""Steps of a chain whose executors are pure: they begin ahead of the record of the step before, and nobody can tell."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.acceptance.worker.post import BundledPost, Worker, until
from tests.acceptance.worker.test_chains import (  # noqa: F401  fixtures
    never_begun,
    only,
    pool,
    processes_post,
    send,
    start_of,
)

LENGTH = 40


def pures(post: BundledPost, count: int, **kwargs: Any) -> list[dict[str, Any]]:
    """Steps that each take the output of the one before."""
    return [post.step("sample.pure", into=((1, "value"),), kwargs={"value": None, **kwargs}) for _ in range(count)]


def test_what_is_kept_is_what_lone_steps_would_leave(bundles: BundledPost) -> None:
    """Each is told once, in the order of the chain, goes on to the next, and is claimed with the report before it."""
    ids = send(bundles, bundles.entry("sample.pure", 0), *pures(bundles, LENGTH))
    told = [bundles.wait(it) for it in ids]
    bundles.settled()
    assert [it.output for it in told] == list(range(1, LENGTH + 2))
    assert [len(bundles.told(it)) for it in ids] == [1] * (LENGTH + 1)
    assert [it.report.get("goes_on") for it in told] == [*ids[1:], None]
    assert [it.report.get("chained", False) for it in told] == [False] + [True] * LENGTH
    claims = [it.report["claimed_at_ms"] for it in told]
    assert claims == sorted(claims)
    assert all((bundles.state(it) or "").split("|")[6].startswith("x") for it in ids[:-1])
    assert (bundles.state(ids[-1]) or "").split("|")[6].endswith("n")


def test_a_step_that_fails_ends_the_chain_behind_what_was_before_it(bundles: BundledPost) -> None:
    """All before it are told, then it, and nothing behind it was begun."""
    before, bad, behind = pures(bundles, 5), pures(bundles, 1, wrong=True), pures(bundles, 3)
    ids = send(bundles, bundles.entry("sample.pure", 0), *before, *bad, *behind)
    told = [bundles.wait(it) for it in ids[:7]]
    assert [it.output for it in told[:6]] == [1, 2, 3, 4, 5, 6]
    assert told[6].short == ("failed", "transient", "ValueError")
    assert told[6].report["chained"] is True
    assert never_begun(bundles, *ids[7:])
    assert [len(bundles.told(it)) for it in ids[:7]] == [1] * 7


def test_what_is_not_wanted_is_forgotten(bundles: BundledPost, pool: Worker) -> None:  # noqa: F811  a fixture
    """The scheduler has ended the head meanwhile: its end is told, and of what began behind it nothing."""
    head, *steps = send(bundles, bundles.entry("sample.sleeps", 0.5), *pures(bundles, 3))
    first, behind = steps[0], steps[1:]
    start_of(pool, head)
    bundles.forget(head)
    assert "goes_on" not in only(bundles, head).report
    assert never_begun(bundles, first, *behind)
    head, first, second, third = send(
        bundles, bundles.entry("sample.sleeps", 0.5), bundles.step("sample.pure", 7, into=()), *pures(bundles, 2)
    )
    start_of(pool, head)
    bundles.client.hset(bundles.keys.attempts, second, "s|some|20000|60000")
    assert only(bundles, head).report["goes_on"] == first
    assert only(bundles, first).output == 8
    assert "goes_on" not in only(bundles, first).report
    assert bundles.state(second) == "s|some|20000|60000"
    assert bundles.told(second) == []
    assert never_begun(bundles, third)


def test_one_that_takes_long_is_claimed_while_it_runs(bundles: BundledPost, pool: Worker) -> None:  # noqa: F811
    """It began ahead, and is the store's within moments: whoever looks sees what runs."""
    head, quick, long = send(
        bundles, bundles.entry("sample.pure", 0), *pures(bundles, 1), *pures(bundles, 1, seconds=1)
    )
    start_of(pool, long)
    state = until(lambda: bundles.state(long), "it is claimed").split("|")
    assert state[0] == "c"
    assert only(bundles, head).report["goes_on"] == quick
    assert only(bundles, quick).report["goes_on"] == long
    assert only(bundles, long).output == 3


def test_a_killed_process_takes_one_step_with_it(
    processes_post: BundledPost,  # noqa: F811  a fixture
    processes: Worker,
) -> None:
    """SIGKILL during the third: two have succeeded, it is lost, the fourth was never begun; others go back."""
    post = processes_post
    beside = post.entry("sample.echo", "beside")
    slow, last = pures(post, 1, seconds=0.9), pures(post, 1)
    first, second, hit, behind = send(
        post, post.entry("sample.pure", 0), *pures(post, 1), *slow, *last, beside=[beside]
    )
    pid = int(start_of(processes, hit).split()[-1])
    until(lambda: post.state(hit), "it is claimed")
    os.kill(pid, signal.SIGKILL)
    told = post.wait(hit)
    assert told.short == ("lost", "lost", "WorkerLostError")
    assert told.report["chained"] is True
    assert post.wait(beside["id"]).short == ("lost", "lost", "GivenBack")
    assert never_begun(post, behind)
    assert [post.told(it)[0].output for it in (first, second)] == [1, 2]
    assert [len(post.told(it)) for it in (second, hit)] == [1, 1]


def test_a_step_that_is_not_pure_waits_for_the_record(bundles: BundledPost, pool: Worker) -> None:  # noqa: F811
    """When it starts, all before it is kept, whatever began ahead."""
    ids = send(
        bundles,
        bundles.entry("sample.pure", 0),
        *pures(bundles, 3),
        bundles.step("sample.sleeps", 0.3, into=()),
        bundles.step("sample.pure", 5, into=()),
    )
    start_of(pool, ids[4])
    assert (bundles.state(ids[4]) or "").split("|")[0] == "c"
    assert [only(bundles, it).report["goes_on"] for it in ids[:4]] == ids[1:5]
    assert only(bundles, ids[5]).output == 6
