"""Messages that nobody of ours has sent: bodies that would run code when decoded, and tasks of another class."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.worker.conftest import Start
from tests.acceptance.worker.post import Post, Worker, until


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def hostile(path: Path) -> dict[str, tuple[str, str, bytes]]:
    """Content type, encoding and body of each; all would make the file."""
    body = [[], {}, {"callbacks": None}]
    pickled = pickle.dumps([[Canary(path)], {}, body[2]])
    apply = "!!python/object/apply:pathlib.Path"
    as_yaml = f"[[{apply}.touch [{apply} ['{path}']]], {{}}, {{}}]"
    return {
        "pickle": ("application/x-python-serialize", "binary", pickled),
        "pickle said to be json": ("application/json", "utf-8", pickled),
        "yaml": ("application/x-yaml", "utf-8", as_yaml.encode()),
        "yaml said to be json": ("application/json", "utf-8", as_yaml.encode()),
        "unknown": ("application/x-unheard-of", "binary", pickled),
    }


def lay(post: Post, id_: str, content_type: str, encoding: str, body: bytes, task: str = "sample.add") -> None:
    """Into the queue as anybody could who may write there."""
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": content_type,
        "content-encoding": encoding,
        "headers": {"lang": "py", "task": task, "id": id_, "root_id": id_, "ignore_result": True},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": id_,
            "correlation_id": id_,
            "delivery_mode": 2,
            "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": post.queue},
        },
    }
    post.client.lpush(post.queue, json.dumps(message))


def test_the_canary_sings_where_it_is_unpickled(tmp_path: Path) -> None:
    """The test of the test: decoding the body would leave the file."""
    with pytest.raises(TypeError):
        raise TypeError(pickle.loads(hostile(tmp_path / "canary")["pickle"][2]))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("shape", hostile(Path("x")))
def test_no_body_is_ever_unpickled(either: Post, shape: str, tmp_path: Path) -> None:
    """Refused without being decoded; the attempt is told lost where Celery says whose it was; the queue moves on."""
    canary = tmp_path / "canary"
    id_ = either.seed()
    lay(either, id_, *hostile(canary)[shape])
    either.settled()
    assert not canary.exists()
    assert [it.short[0] for it in either.told(id_)] in (["lost"], ["failed"], [])


def test_a_worker_refuses_tasks_that_its_class_does_not_take(store: str, start: Start) -> None:
    """Attempts end permanently and are counted; an ordinary message in the class's queue is rejected too."""
    worker = start("narrow", CELERIAC_EXECUTORS="sample.e*,other.*")
    post = Post(store, "narrow")
    assert post.wait(post.send("sample.add", 1, 2)).short == ("failed", "permanent", "ExecutorNotAllowed")
    post.send("sample.dies", "nothing", id_="ordinary-1")
    post.settled()  # sample.echo is allowed
    assert worker.notes() == []
    counted = until(lambda: _refused(post, worker).get("not allowed"), "the count", 30)
    assert counted == 2
    assert worker.alive()


def test_a_queue_of_the_app_s_own_is_not_touched(store: str, start: Start) -> None:
    """A worker that serves a second queue takes ordinary messages of any task, and attempts as its class allows."""
    worker = start("wide", "-P", "threads", "-c", "2", "-Q", "wide,mine", CELERIAC_EXECUTORS="sample.e*")
    mine = Post(store, "mine")
    mine.send("sample.dies", "nothing", id_="ordinary-2")
    until(lambda: "dies nothing" in worker.notes(), "the ordinary task")
    assert mine.wait(mine.send("sample.dies", "nothing")).short == ("failed", "permanent", "ExecutorNotAllowed")
    assert worker.notes().count("dies nothing") == 1


def _refused(post: Post, worker: Worker) -> dict[str, int]:
    found = json.loads(post.client.hget("cel:workers", worker.hostname) or b"{}")
    refused: dict[str, int] = found.get("refused", {})
    return refused
