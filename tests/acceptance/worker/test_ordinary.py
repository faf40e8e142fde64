"""Tasks that are not ours: sent with delay(), they behave as without celeriac."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from celery.exceptions import NotRegistered

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, broker_url, until

# Celery 5.6 with a newer redis-py; its matter, and only in this test's own client
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture(scope="module", params=["prefork", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    """Both kinds of pool."""
    name: str = request.param
    return name


@pytest.fixture
def client(store: str, start: Start, pool: str) -> Iterator[Celery]:
    """A user's own client of a worker with a result backend."""
    backend = broker_url(store).replace("redis+socket", "redis+socket")
    worker = start(f"ordinary-{pool}", "-P", pool, "-c", "2", SAMPLE_BACKEND=backend)
    app = Celery("client", broker=broker_url(store), backend=backend, set_as_current=False)
    app.conf.task_default_queue = worker.queue
    yield app
    app.backend.client.close()
    app.pool.force_close_all()
    app.close()


def test_ordinary_traffic_is_untouched(store: str, client: Celery) -> None:
    """Results, failures, retries, chains, groups and chords work; the scheduler hears of the rejected message alone."""
    post = Post(store, "none")
    before = post.client.xlen(post.keys.inbox)
    dead_before = len(post.dead())

    def call(name: str, *args: object) -> object:
        return client.send_task(name, args).get(timeout=20)

    assert call("sample.add", 1, 2) == 3
    assert call("sample.outside") is None
    assert call("sample.plain", 4) == 5
    assert call("sample.replaces") == 23
    with pytest.raises(ValueError, match="broken"):
        call("sample.fails")
    with pytest.raises(NotRegistered):
        call("sample.nowhere")
    with pytest.raises(TypeError):
        call("sample.add", 1, 2, 3)
    add = client.signature("sample.add")
    assert (add.clone((1, 1)) | add.clone((5,))).apply_async().get(timeout=20) == 7
    from celery import chord, group

    pair = group(add.clone((1, 1)), add.clone((2, 2)), app=client)
    assert pair.apply_async().get(timeout=20) == [2, 4]
    total = chord([add.clone((1, 1)), add.clone((2, 2))], client.signature("sample.echo"), app=client)
    assert total.apply_async().get(timeout=20) == [2, 4]
    retried = client.send_task("sample.retries", ("countdown",))
    with pytest.raises(ValueError, match="not yet"):
        retried.get(timeout=30)
    until(lambda: len(post.dead()) == dead_before + 1, "the message of an unknown task")
    assert post.dead()[-1]["task"] == "sample.nowhere"
    assert post.client.xlen(post.keys.inbox) == before + 1


def test_attempts_with_results_fill_both(store: str, client: Celery) -> None:
    """An attempt that stores results too has its value in Celery's backend before the scheduler hears of it."""
    post = Post(store, str(client.conf.task_default_queue))
    id_ = post.send("sample.add", 2, 3, ignore_result=False)
    assert post.wait(id_).output == 5
    assert client.AsyncResult(id_).get(timeout=5) == 5
