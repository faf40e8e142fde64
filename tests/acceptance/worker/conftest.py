"""Workers of the sample app: one with processes, one with threads, for as many tests as can share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.worker.post import BundledPost, Post, Worker

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where these workers keep logs and ledgers."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that nothing else empties, for workers that live as long as the session."""
    with EmbeddedRedis(tmp_path_factory.mktemp("workers-redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def processes(store: str, home: Path) -> Iterator[Worker]:
    """A prefork worker with two processes, acknowledging late."""
    worker = Worker(store, home, "processes")
    yield worker.ready()
    worker.close()


@pytest.fixture(scope="session")
def threads(store: str, home: Path) -> Iterator[Worker]:
    """A worker with four threads, acknowledging late."""
    worker = Worker(store, home, "threads", "-P", "threads", "-c", "4")
    yield worker.ready()
    worker.close()


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    """No test leaves a connection open."""
    yield
    Post.close_all()


@pytest.fixture
def post(store: str, processes: Worker) -> Post:
    """Sends to the prefork worker."""
    return Post(store, processes.queue)


@pytest.fixture
def thread_post(store: str, threads: Worker) -> Post:
    """Sends to the thread worker."""
    return Post(store, threads.queue)


@pytest.fixture(params=["processes", "threads"])
def queue(request: pytest.FixtureRequest) -> str:
    """That of each of the two workers in turn."""
    worker: Worker = request.getfixturevalue(request.param)
    return worker.queue


@pytest.fixture
def alone(store: str, queue: str) -> Post:
    """Sends to each of the two in turn, every attempt in a message of its own."""
    return Post(store, queue)


@pytest.fixture
def bundles(store: str, queue: str) -> BundledPost:
    """Sends to each of the two in turn, several attempts in a message."""
    return BundledPost(store, queue)


@pytest.fixture(params=["processes", "threads", "processes-bundled", "threads-bundled"])
def either(request: pytest.FixtureRequest, store: str) -> Post:
    """Sends to each of the two in turn; then so that every attempt comes in one message with others."""
    pool, _, bundled = request.param.partition("-")
    worker: Worker = request.getfixturevalue(pool)
    return (BundledPost if bundled else Post)(store, worker.queue)


@pytest.fixture
def start(store: str, tmp_path: Path) -> Iterator[Start]:
    """Start workers that a test may kill."""
    started: list[Worker] = []

    def begin(queue: str, *options: str, url: str = store, **env: str) -> Worker:
        worker = Worker(url, tmp_path, queue, *options, **env)
        started.append(worker)
        return worker.ready()

    yield begin
    for worker in started:
        worker.close()
