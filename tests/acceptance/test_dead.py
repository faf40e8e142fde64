"""Poison, garbage and strictness as people meet them: real schedulers and workers, and the commands beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kombu.connection import Connection

from scheduler.cli import main
from scheduler.errors import StoreFull
from scheduler.graph import Graph
from scheduler.graph.policy import Retry

from .stack import Stack, eventually

QUEUES = """
[classes.work]
latency = "standard"
cost = "low"
queue = "dead.work"
pool = "prefork"
concurrency = 2
lease_seconds = 5
target_wait_seconds = 2
shutdown_seconds = 2
default = true
"""


def invoked(stack: Stack, *words: str, expect: int = 0) -> Result:
    """Run a command in this process, as its own would."""
    done = CliRunner().invoke(main, words, env={**stack.env, "CELERIAC_LOG_LEVEL": "error"})
    assert done.exit_code == expect, f"{words}: {done.exit_code}\n{done.output}\n{done.exception!r}"
    return done


def celeriac(stack: Stack, *words: str, expect: int = 0) -> str:
    """What a command prints, notes included."""
    return invoked(stack, *words, expect=expect).output


def listed(stack: Stack) -> list[dict[str, Any]]:
    """The letters there are."""
    found: list[dict[str, Any]] = json.loads(invoked(stack, "dead", "ls", "-o", "json").stdout)
    return found


@pytest.fixture
def queues(tmp_path: Path) -> str:
    """One class of processes, so that a task may kill its own."""
    path = tmp_path / "queues.toml"
    path.write_text(QUEUES)
    return str(path)


def test_poison_ends_and_can_be_redriven(tmp_path: Path, queues: str) -> None:
    """A task that kills its process, one that runs out of memory and one that segfaults end failed after their cap and
    are letters; the worker lives; garbage on its queue is a letter too; all of it can be shown, put back and dropped.
    """
    with Stack(tmp_path, CELERIAC_QUEUES_FILE=queues) as stack:
        stack.scheduler()
        stack.worker("work")
        graph = Graph("poisons", retry=Retry(max_losses=1))
        for how in ("kill", "memory", "segfault"):
            graph.add("shop.poison", key=how, how=how, antidote=str(tmp_path / "antidote"))
        graph.add("shop.add", key="healthy", x=1.0, y=2.0)
        with stack.client() as client:
            eventually(lambda: "shop.poison" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(graph)
            assert run.wait(60) == "failed"
            assert run.get("healthy") == 3.0
            for how in ("kill", "memory", "segfault"):
                with pytest.raises(Exception, match=r"2 attempts lost to infrastructure, at most 1 allowed: \w+ x2"):
                    run.get(how)
            assert len([it for it in stack.ledger("poison") if it["how"] == "kill"]) == 2
            with Connection(stack.redis.broker_url) as connection:
                connection.Producer().publish({"not": "a task"}, routing_key="dead.work", headers={"a": 1})
            connection.release()
            eventually(lambda: len(listed(stack)) == 4, "four letters")
            letters = listed(stack)
            assert sorted(it["kind"] for it in letters) == ["message", "node", "node", "node"]
            assert stack.processes["work"].poll() is None, "the worker lives"
            assert "4 here" in celeriac(stack, "doctor")

            [garbage] = [it for it in letters if it["kind"] == "message"]
            shown = celeriac(stack, "dead", "show", garbage["id"])
            assert "no task name" in shown
            assert "dead.work" in shown
            celeriac(stack, "dead", "drop", garbage["id"])
            celeriac(stack, "dead", "show", garbage["id"], expect=5)
            assert celeriac(stack, "dead", "ls", "--kind", "message").count("\n") == 1  # the heading

            (tmp_path / "antidote").touch()
            said = celeriac(stack, "dead", "redrive", "--all", "--kind", "node", "--yes")
            assert said.count(f"run {run.id}") == 3
            assert eventually(lambda: run.summary().state == "succeeded", "the run, put right")
            assert listed(stack) == []
            assert len([it for it in stack.ledger("poison") if it["how"] == "kill"]) == 3
        celeriac(stack, "dead", "redrive", "0-1-1", expect=5)
        celeriac(stack, "dead", "drop", expect=2)
        celeriac(stack, "dead", "drop", "--all", expect=2)


def test_a_message_of_an_unknown_task_waits_for_a_worker_that_has_it(tmp_path: Path, queues: str) -> None:
    """Put back, it is run, with its arguments, by a worker that knows the task by now."""
    with Stack(tmp_path, CELERIAC_QUEUES_FILE=queues) as stack:
        stack.scheduler()
        stack.worker("work")
        from celery import Celery

        with Celery("somebody", broker=stack.redis.broker_url, set_as_current=False) as app:
            app.send_task("shop.later", ("x",), queue="dead.work")
            app.pool.force_close_all()
        eventually(lambda: "shop.later" in celeriac(stack, "dead", "ls"), "the letter")
        stack.kill("work")
        stack.env["SHOP_LATER"] = "1"
        stack.worker("work")
        celeriac(stack, "dead", "redrive", "--all", "--yes")
        assert [it["name"] for it in eventually(lambda: stack.ledger("later"), "its run")] == ["x"]


def test_a_strict_scheduler_ends_with_a_message_and_a_status(tmp_path: Path) -> None:
    """On a Redis that may lose what it acknowledged; without --strict it warns and works."""
    with Stack(tmp_path) as stack:
        with stack.client() as client:
            client._access.runs.client.config_set("appendonly", "no")
        process = stack.start("strict", "scheduler", "--strict")
        assert process.wait(60) == 1
        said = (tmp_path / "strict.log").read_text()
        assert "appendonly is off" in said
        assert "Set `appendonly yes`" in said
        assert "Traceback" not in said
        refused = celeriac(stack, "up", "--strict", "--app", "tests.acceptance.app.shop:app", expect=1)
        assert "appendonly is off" in refused
        stack.scheduler()
        eventually(lambda: "UNSAFE STORE" in (tmp_path / "scheduler.log").read_text(), "the warning")
        eventually(lambda: "own 16 of 16 shards" in (tmp_path / "scheduler.log").read_text(), "its work")


def test_a_submit_to_a_nearly_full_redis_says_so(tmp_path: Path) -> None:
    """The command's exit status is 1 and its words name both figures."""
    with Stack(tmp_path) as stack:
        with stack.client() as client:
            redis = client._access.runs.client
            redis.setrange("somebody's", 5_000_000, "x")
            redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / 0.9))
            graph = Graph("small")
            graph.add("shop.add", x=1.0, y=2.0)
            with pytest.raises(StoreFull):
                client.submit(graph, check=False)
        (tmp_path / "g.json").write_text(graph.to_json())
        celeriac(stack, "submit", str(tmp_path / "g.json"), "--no-check", expect=1)
