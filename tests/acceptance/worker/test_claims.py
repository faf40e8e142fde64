"""Claims and leases: an attempt runs where it was granted, and nowhere when it is no longer wanted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, Worker, until


def started(worker: Worker, id_: str) -> int:
    """Wait until the attempt runs; the pid it runs in."""
    lines = until(lambda: [it for it in worker.notes() if it.startswith(f"start {id_}")], f"start of {id_}")
    return int(lines[0].split()[-1])


def test_an_attempt_that_nobody_wants_does_not_run(either: Post) -> None:
    """A message without an attempt in the store is acknowledged, and nothing is reported."""
    id_ = either.seed()
    either.forget(id_)
    either.send("sample.sleeps", 0, id_=id_)
    either.settled()
    assert either.told(id_) == []


def test_a_second_delivery_does_not_run(either: Post, processes: Worker, threads: Worker) -> None:
    """Of two messages with one id, one runs, and it keeps its lease although Celery forgets it with the other."""
    id_ = either.seed(lease_ms=2000)
    either.send("sample.sleeps", 3.0, id_=id_)
    either.send("sample.sleeps", 3.0, id_=id_)
    until(lambda: (either.state(id_) or "").startswith("c"), "the claim")
    while not either.told(id_):
        assert (either.client.zscore(either.keys.leases, id_) or 0) / 1000 > time.time()
        time.sleep(0.01)  # between two looks
    assert either.wait(id_).output == "slept"
    either.settled()
    assert len(either.told(id_)) == 1
    notes = [*processes.notes(), *threads.notes()]
    assert len([it for it in notes if it.startswith(f"start {id_}")]) == 1


def test_a_heartbeat_keeps_a_long_attempt(either: Post) -> None:
    """Its lease is shorter than the task, and never runs out."""
    id_ = either.seed(lease_ms=2000)
    either.send("sample.sleeps", 3.0, id_=id_)
    until(lambda: (either.state(id_) or "").startswith("c"), "the claim")
    low = float("inf")
    while not either.told(id_):
        lease = either.client.zscore(either.keys.leases, id_)
        assert lease is not None
        low = min(low, lease / 1000 - time.time())
        assert low > 0
        time.sleep(0.01)  # between two looks
    assert low < 2.0
    assert either.wait(id_).output == "slept"


def test_an_attempt_that_waits_in_a_worker_has_a_lease_too(store: str, start: Start) -> None:
    """What a worker took from the broker and has not begun is renewed, so its death is noticed soon."""
    worker = start("hoarder", "-P", "prefork", "-c", "1", "--prefetch-multiplier", "4")
    post = Post(store, "hoarder")
    started(worker, post.send("sample.sleeps", 60))
    waiting = post.seed(lease_ms=1500)
    post.send("sample.add", 1, id_=waiting)

    def lease() -> float:
        found: float = post.client.zscore(post.keys.leases, waiting) / 1000 - time.time()
        return found

    assert lease() > 30
    until(lambda: 0 < lease() < 2, "a lease instead of the dispatch deadline")
    assert (post.state(waiting) or "").startswith("s|")
    worker.close()
    until(lambda: lease() < 0, "the end of the lease")


@pytest.mark.parametrize("task", ["sample.sleeps", "sample.stubborn"])
def test_a_cancelled_attempt_is_stopped_and_not_reported(post: Post, processes: Worker, task: str) -> None:
    """When the store no longer has it, its process is ended, by force if need be; neighbours are left alone."""
    neighbour = post.send("sample.sleeps", 4.0)
    id_ = post.send(task, 60)
    pid = started(processes, id_)
    post.forget(id_)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    assert post.wait(neighbour).output == "slept"
    post.settled()
    assert post.told(id_) == []
    assert len(post.told(neighbour)) == 1


def test_ended_attempts_are_not_taken_for_cancelled_ones(post: Post, processes: Worker) -> None:
    """Attempts that the scheduler ends at once, as it does after each report, kill no process."""
    pids = set()
    for _ in range(20):
        id_ = post.send("sample.sleeps", 0.05)
        pids.add(started(processes, id_))
        post.wait(id_)
        post.forget(id_)
    post.settled()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(pids) <= 2


def test_a_worker_announces_itself(post: Post, processes: Worker, threads: Worker) -> None:
    """Who it is, what it serves and that it lives: in the store and as the time of a file."""
    found = json.loads(post.client.hget("cel:workers", processes.hostname) or b"{}")
    assert found["name"] == processes.hostname
    assert found["queue_class"] == "sample-class"
    assert found["queues"] == [processes.queue]
    assert (found["pool"], found["concurrency"], found["pid"]) == ("prefork", 2, processes.process.pid)
    assert found["started_at_ms"] <= found["seen_at_ms"]
    assert json.loads(post.client.hget("cel:workers", threads.hostname) or b"{}")["pool"] == "threads"
    touched = processes.heartbeat_file.stat().st_mtime_ns
    until(lambda: processes.heartbeat_file.stat().st_mtime_ns > touched, "the next beat")


def test_a_killed_worker_leaves_leases_that_run_out(store: str, start: Start) -> None:
    """Kill -9: nobody reports, and nobody renews."""
    worker = start("victim")
    post = Post(store, "victim")
    id_ = post.seed(lease_ms=1500)
    post.send("sample.sleeps", 60, id_=id_)
    pid = started(worker, id_)
    worker.process.kill()
    worker.ended()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the pool process")
    lease = post.client.zscore(post.keys.leases, id_)
    assert lease is not None
    assert lease / 1000 - time.time() < 1.5
    until(lambda: time.time() * 1000 > lease, "the end of the lease")
    assert post.client.zscore(post.keys.leases, id_) == lease
    assert post.told(id_) == []
