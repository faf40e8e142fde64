"""A Redis that answers and does not let the scheduler work: a wrong password, missing rights. Said, and waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.embedded import EmbeddedRedis
from scheduler.service.loop import Scheduler
from scheduler.settings import Settings
from tests.integration.echo import AtOnce, Echo
from tests.integration.stage import Stage, diamond, eventually


@pytest.fixture
def stage(tmp_path: Path, redis_binary: Path, soon: None) -> Iterator[Stage]:
    """An installation on a server of each version, whose users a test may change."""
    with EmbeddedRedis(tmp_path, binary=redis_binary) as server:
        yield Stage(server.url)


def user(stage: Stage, *rules: str) -> None:
    """What the user `s` may do from now on, on new connections and on old ones."""
    stage.client.execute_command("ACL", "SETUSER", "s", "reset", "on", ">right", "~*", "&*", "+@all", *rules)


def as_user(stage: Stage, password: str = "right") -> Stage:
    """The same installation, with the user in its URL; schedulers of it log in as that user."""
    url = stage.url.replace("unix://", f"unix://s:{password}@")
    it = Stage(stage.url, stage.namespace, stage.shards)
    it.url = url
    return it


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("resetpass", ">other"), "refuses the login; correct user and password"),
        (("off",), "refuses the login; correct user and password"),
        (("-time",), "the rights of the user `scheduler` in config/users.acl"),
        (("-hset",), "the rights of the user `scheduler` in config/users.acl"),  # met inside a script only
        (("-eval", "-evalsha"), "the rights of the user `scheduler` in config/users.acl"),
        (("resetkeys", "~other:*"), "the rights of the user `scheduler` in config/users.acl"),
    ],
    ids=["wrong password", "switched off", "no TIME", "no HSET", "no scripts", "no keys"],
)
def test_what_redis_does_not_allow_is_said_once_and_waited_for(
    stage: Stage, caplog: pytest.LogCaptureFixture, rules: tuple[str, ...], said: str
) -> None:
    """What is wrong and what to do, without a traceback and without the password; when it is put right, all goes on."""
    stage.publish("echo")
    run = stage.submit(diamond())
    user(stage, *rules)
    with as_user(stage).scheduler(AtOnce(Echo(stage.attempts))) as scheduler:
        eventually(lambda: scheduler.counts["waits"] >= 4)
        assert stage.states(run)["a"] == "pending"
        user(stage)
        assert stage.ended(run) == ["succeeded"]
        eventually(lambda: "works again" in caplog.text)
    assert caplog.text.count(said) == 1
    assert "Traceback" not in caplog.text
    assert "right@" not in caplog.text


def test_a_scheduler_that_is_denied_everything_leaves_quietly(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot give its shards back; that is said, and is no crash."""
    user(stage)
    scheduler = Scheduler(Settings.load(redis_url=as_user(stage).url, shards=stage.shards, shard_lease_seconds=1.0))
    thread = threading.Thread(target=scheduler.run, daemon=True)
    thread.start()
    eventually(lambda: scheduler._owned.shards.owned)
    user(stage, "-eval", "-evalsha")
    stage.end(scheduler, thread)
    eventually(lambda: "become free when their lease ends" in caplog.text)
    assert "Traceback" not in caplog.text
