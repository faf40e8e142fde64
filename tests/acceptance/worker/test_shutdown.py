"""How a worker leaves: what it finishes is reported, what it abandons is reported at once, and it says goodbye."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post
from tests.acceptance.worker.test_claims import started
from tests.waiting import eventually


def test_warm_shutdown_finishes_and_says_goodbye(store: str, start: Start) -> None:
    """SIGTERM: the running attempt ends as if nothing had happened, then the worker is off the list."""
    worker = start("warm")
    post = Post(store, "warm")
    id_ = post.send("sample.sleeps", 1.0)
    started(worker, id_)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert post.wait(id_).output == "slept"
    assert not post.client.hexists("cel:workers", worker.hostname)


@pytest.mark.parametrize("acks_late", ["1", "0"])
def test_cold_shutdown_reports_what_it_abandons(store: str, start: Start, acks_late: str) -> None:
    """SIGQUIT: the attempt is lost, the scheduler knows before any lease runs out, and hears it once."""
    worker = start("cold", SAMPLE_ACKS_LATE=acks_late)
    post = Post(store, "cold")
    id_ = post.send("sample.sleeps", 60)
    started(worker, id_)
    worker.signal(signal.SIGQUIT)
    assert post.wait(id_, 5).short == ("lost", "lost", "WorkerShutdown")
    worker.ended()
    assert len(post.told(id_)) == 1
    assert not post.client.hexists("cel:workers", worker.hostname)


def test_soft_shutdown_waits_then_reports(store: str, start: Start) -> None:
    """SIGTERM remapped: what ends in time is finished, the rest is reported as lost."""
    worker = start("soft", SAMPLE_SOFT_SHUTDOWN="2", REMAP_SIGTERM="SIGQUIT")
    post = Post(store, "soft")
    short, long = post.send("sample.sleeps", 1.0), post.send("sample.sleeps", 60)
    started(worker, short)
    started(worker, long)
    worker.signal(signal.SIGTERM)
    assert post.wait(short).output == "slept"
    assert post.wait(long).short == ("lost", "lost", "WorkerShutdown")
    worker.ended()
    assert len(post.told(long)) == 1


def test_threads_finish_even_in_a_cold_shutdown(store: str, start: Start) -> None:
    """A thread cannot be stopped, so its attempt is not called lost while it still runs."""
    worker = start("cold-threads", "-P", "threads", "-c", "2")
    post = Post(store, "cold-threads")
    id_ = post.send("sample.sleeps", 1.5)
    started(worker, id_)
    worker.signal(signal.SIGQUIT)
    told = post.wait(id_)
    worker.ended()
    assert told.output == "slept"
    assert len(post.told(id_)) == 1
    assert "Unrecoverable error" not in worker.text(), "it left by an error and not by the way of leaving"
    assert not post.unacknowledged(id_), "the thread's end was not acknowledged"


def test_a_worker_told_to_stop_while_it_hands_work_to_a_thread_stops(store: str, start: Start) -> None:
    """Celery stops the pool in its signal handler: never may that wait for a lock that the interrupted code holds."""
    worker = start("handing", "-P", "threads", "-c", "2", SAMPLE_HANDOVER_SECONDS="3")
    post = Post(store, "handing")
    id_ = post.send("sample.sleeps", 0.1)
    eventually(lambda: "handing over" in worker.notes(), "the main thread is in the middle of handing over")
    worker.signal(signal.SIGQUIT)
    worker.ended()
    if not post.told(id_):
        start("handing-again", "-P", "threads", "-c", "2", "-Q", "handing")
    assert post.wait(id_).output == "slept"
    assert len(post.told(id_)) == 1


@pytest.mark.parametrize("acks_late", ["1", "0"])
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGTERM])
def test_what_has_begun_unheard_is_ended_too(store: str, start: Start, acks_late: str, how: int) -> None:
    """The signal comes when a process has begun an attempt and the main thread does not know that yet: in a cold
    shutdown the attempt is ended and told as lost, in a warm one it ends well, and the worker does not wait for more.
    """
    worker = start("unheard", SAMPLE_ACKS_LATE=acks_late, SAMPLE_WRITTEN_SECONDS="1")
    post = Post(store, "unheard")
    id_ = post.send("sample.sleeps", 60 if how == signal.SIGQUIT else 2)
    started(worker, id_)
    worker.signal(how)
    told = post.wait(id_, 15)
    assert told.short == (("lost", "lost", "WorkerShutdown") if how == signal.SIGQUIT else ("succeeded", None, None))
    worker.ended()
    assert len(post.told(id_)) == 1
    assert not post.unacknowledged(id_)


def test_a_worker_told_to_stop_while_it_reads_from_a_process_stops(store: str, start: Start) -> None:
    """Celery's signal handler would wait there for the very result that the interrupted code has in its hands."""
    worker = start("reading", SAMPLE_READING_SECONDS="3")
    post = Post(store, "reading")
    id_ = post.send("sample.echo", 1)
    assert post.wait(id_).output == 1
    post.send("sample.echo", 1, id_=id_)  # it is refused, which its process tells by an exception
    eventually(lambda: "reading" in worker.notes(), "the main thread is in the middle of reading")
    worker.signal(signal.SIGQUIT)
    worker.ended()
    assert post.told(id_)[0].output == 1
    assert "Unrecoverable error" not in worker.text(), "it left by an error and not by the way of leaving"
