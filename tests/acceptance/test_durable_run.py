"""A durable run, end to end: real processes, started by the commands that people use, killed with kill -9."""

from __future__ import annotations

import json
import signal
import urllib.request
from ast import literal_eval
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from scheduler import Graph, Node, RunState, Timing

from .stack import Stack, eventually


def ladder(rungs: int, seconds: float, timing: Timing | None = None) -> Graph:
    """Two strands of steps that join at the end."""
    g = Graph("ladder")
    left: list[Node[Any]] = []
    right: list[Node[Any]] = []
    for rung in range(rungs):
        for name, strand in (("left", left), ("right", right)):
            key = f"{name} {rung}"
            strand[:] = [g.add("shop.step", name=key, seconds=seconds, after=list(strand), key=key, timing=timing)]
    g.add("shop.step", name="end", after=[*left, *right], key="end", timing=timing)
    return g


def test_everything_can_be_killed_and_started_again(tmp_path: Path) -> None:
    """Kill scheduler, worker and Redis with -9 in the middle: Redis alone tells where each node is, and after a new
    start the run completes without a new submit, and no node that had finished ran twice.
    """
    with Stack(tmp_path, CELERIAC_SHARD_LEASE_SECONDS="2") as stack:
        stack.scheduler()
        stack.worker()
        client = stack.client()
        run = client.submit(ladder(10, 0.1), check=False)
        eventually(lambda: len(stack.ledger()) >= 6, "six steps have ended")
        stack.kill("scheduler")
        stack.kill("standard-low")
        pid = stack.redis.pid
        assert pid is not None
        stack.redis.stop()
        stack.redis.start()

        shown = json.loads(stack.celeriac("runs", "show", run.id, "--nodes", "-o", "json"))
        states = Counter(node["state"] for node in shown["nodes"])
        assert states["succeeded"] >= 4
        assert states["succeeded"] < 21
        assert sum(states.values()) == 21
        finished = {node["key"] for node in shown["nodes"] if node["state"] == "succeeded"}
        ends = {node["key"]: sorted(node["upstream"]) for node in shown["nodes"]}["end"]
        assert ends == ["left 9", "right 9"]

        stack.scheduler()
        stack.worker()
        assert run.wait(120) is RunState.SUCCEEDED
        times = Counter(line["name"] for line in stack.ledger())
        assert set(times) == {node["key"] for node in shown["nodes"]}
        assert {name: times[name] for name in finished} == dict.fromkeys(finished, 1)
        client.close()


def test_a_killed_scheduler_is_replaced_within_its_lease(tmp_path: Path) -> None:
    """Of two schedulers one is killed with -9: the other takes its shards and every run completes, each step once."""
    with Stack(tmp_path, CELERIAC_SHARD_LEASE_SECONDS="3") as stack:
        stack.scheduler("first")
        stack.scheduler("second")
        stack.worker()
        with stack.client() as client:
            runs = [client.submit(ladder(5, 0.05), check=False) for _ in range(8)]
            eventually(lambda: len(stack.ledger()) >= 10, "ten steps have ended")
            stack.kill("first")
            assert [run.wait(120) for run in runs] == [RunState.SUCCEEDED] * 8
        assert Counter(Counter(line["id"] for line in stack.ledger()).values()) == {1: 88}


def test_a_killed_worker_costs_its_attempts_a_lease(tmp_path: Path) -> None:
    """Kill a worker with -9 in the middle of its work: another one runs it again, and the repetition is counted."""
    queues = tmp_path / "queues.toml"
    queues.write_text(
        '[classes.standard-low]\nlatency = "standard"\ncost = "low"\nqueue = "shop"\npool = "prefork"\n'
        "concurrency = 2\nlease_seconds = 3\ndefault = true\n"
    )
    with Stack(tmp_path, CELERIAC_QUEUES_FILE=str(queues)) as stack:
        stack.scheduler()
        stack.worker("standard-low", "doomed")
        g = Graph("slow")
        for number in range(2):
            g.add("shop.step", name=f"slow {number}", seconds=1.0 + number, key=f"slow {number}")
        with stack.client() as client:
            run = client.submit(g, check=False)
            eventually(lambda: len(stack.ledger("begin")) >= 2, "both steps have begun")
            stack.kill("doomed")
            stack.worker("standard-low", "heir")
            assert run.wait(120) is RunState.SUCCEEDED
            losses = [event for event in run.events(follow=False) if event.move == "lose"]
        assert {event.why.partition(":")[0] for event in losses} == {"lost"}
        begun = len(stack.ledger("begin"))
        assert begun == 2 + len(losses)


def test_a_failed_run_is_retried_from_where_it_failed(tmp_path: Path) -> None:
    """With the cause mended, a retry runs the failed node and what follows; what had succeeded runs no second time."""
    needed = tmp_path / "disk"
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        g = Graph("fragile")
        first = g.add("shop.step", name="first", key="first")
        broken = g.add("shop.fragile", name="fragile", needs=str(needed), after=[first], retry=1, key="fragile")
        g.returns(g.add("shop.step", name="last", after=[broken], key="last"))
        with stack.client() as client:
            run = client.submit(g, check=False)
            assert run.wait(60) is RunState.FAILED
            needed.touch()
            stack.celeriac("runs", "retry", run.id, "--reason", "the disk is back", "--by", "ann")
            assert run.wait(60) is RunState.SUCCEEDED
            assert run.result(60) == "last"
            assert [event.why for event in run.events(follow=False) if event.move == "running"] == [
                "retry by ann: the disk is back"
            ]
        assert Counter(line["name"] for line in stack.ledger("begin")) == {"first": 1, "fragile": 2, "last": 1}


def test_classes_have_queues_and_workers_of_their_own(tmp_path: Path) -> None:
    """A worker of one class never gets work of another, and a class without a worker does not hold up the rest."""
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker("interactive-low")
        g = Graph("split")
        quick = [
            g.add("shop.step", name=f"quick {n}", queue_class="interactive-low", key=f"quick {n}") for n in range(5)
        ]
        g.add("shop.step", name="dear", queue_class="batch-high", key="dear")
        with stack.client() as client:
            run = client.submit(g, check=False)
            assert [run.get(node, 60) for node in quick] == [f"quick {n}" for n in range(5)]
            assert {line["name"] for line in stack.ledger()} == {f"quick {n}" for n in range(5)}
            stack.worker("batch-high")
            assert run.wait(120) is RunState.SUCCEEDED
            workers = {node.key: node.tries[-1].worker for node in run.nodes()}
        assert "batch-high" in workers["dear"]
        assert all("interactive-low" in workers[f"quick {n}"] for n in range(5))


def test_plain_tasks_run_as_nodes_beside_ordinary_traffic(tmp_path: Path) -> None:
    """One line makes an app's tasks executors; its own .delay() goes on through the same broker and worker."""
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        ordinary = Celery("caller", broker=stack.redis.broker_url)
        g = Graph("sums")
        first = g.add("shop.add", x=1, y=2)
        second = g.add("shop.add", x=first, y=10)
        g.returns(g.add("shop.total", parts=[first, second, 0.5]))
        with stack.client() as client:
            ordinary.send_task(
                "shop.step", kwargs={"name": "ordinary"}, queue="celeriac.standard-low", ignore_result=True
            )
            assert client.submit(g, check=False).result(60) == 16.5
        eventually(lambda: [it for it in stack.ledger() if it["name"] == "ordinary"], "the ordinary task has run")
        assert [it["id"] for it in stack.ledger()] == [None]


def test_a_scheduler_needs_to_read_no_payload(tmp_path: Path) -> None:
    """Inputs and outputs that the client and the executors seal pass through unread: no plain text is in Redis."""
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        g = Graph("sealed")
        secret = "the fox is in the barn"
        first = g.add("shop.seal", sealed="".join(chr(ord(it) + 3) for it in secret))
        g.returns(g.add("shop.seal", sealed=first))
        with stack.client() as client:
            result = client.submit(g, check=False).result(60)
        assert "".join(chr(ord(it) - 3) for it in result) == secret.upper()
        stack.redis.stop()
        kept = b"".join(it.read_bytes() for it in tmp_path.rglob("*.aof*"))
        assert b"sealed" in kept
        assert secret.encode() not in kept
        assert secret.upper().encode() not in kept


def test_a_scheduler_process_loads_no_task(tmp_path: Path) -> None:
    """While nodes of the shop run, the scheduler has neither the shop nor the reference tasks in memory."""
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            g = Graph("one")
            g.returns(g.add("shop.add", x=1, y=1))
            assert client.submit(g, check=False).result(60) == 2
        mapped = Path(f"/proc/{stack.processes['scheduler'].pid}/maps").read_text()
        assert "libpython" in mapped or "python" in mapped
        opened = stack.celeriac("doctor", "-o", "json")
        assert json.loads(opened)
        assert stack.kill("scheduler", signal.SIGTERM) == 0


@pytest.mark.slow
def test_flower_shows_attempts_by_run_and_node(tmp_path: Path) -> None:
    """Flower lists every message as a readable Celery task, finds a run by its id, and counts as the scheduler does:
    attempts that travel alone by their nodes, bundles by how many and whose they are.
    """
    port = "5599"
    with Stack(tmp_path, CELERIAC_FLOWER_PORT=port, FLOWER_UNAUTHENTICATED_API="true") as stack:
        stack.start("flower", "flower")
        stack.scheduler()
        stack.worker()
        base = f"http://127.0.0.1:{port}"

        def tasks(search: str = "") -> dict[str, dict[str, str]]:
            with urllib.request.urlopen(f"{base}/api/tasks?limit=100&search={search}", timeout=10) as answer:
                found: dict[str, dict[str, str]] = json.load(answer)
                return found

        def listening() -> bool:
            try:
                with urllib.request.urlopen(f"{base}/api/workers?refresh=true", timeout=30) as answer:
                    return bool(json.load(answer))
            except OSError:
                return False

        eventually(listening, "Flower knows the worker")
        with stack.client() as client:

            def heard() -> bool:
                client.submit(ladder(1, 0.0), check=False).wait(60)
                return any(it["state"] == "SUCCESS" for it in tasks().values())

            eventually(heard, "Flower has switched on the worker's events")
            run = client.submit(ladder(3, 0.0, Timing(alone=True)), check=False)
            short = Graph("short")
            for n in range(60):
                short.add("shop.step", name=f"short {n}", seconds=0.0)
            together = client.submit(short, check=False)
            assert together.wait(60) is RunState.SUCCEEDED
            other = client.submit(ladder(1, 0.0), check=False)
            assert run.wait(60) is RunState.SUCCEEDED
            assert other.wait(60) is RunState.SUCCEEDED

        def ended() -> dict[str, dict[str, str]]:
            return {id_: it for id_, it in tasks(f"kwargs:run={run.id}").items() if it["state"] == "SUCCESS"}

        eventually(lambda: len(ended()) == 7, "Flower has all seven attempts")
        found = ended()
        assert {it["name"] for it in found.values()} == {"shop.step"}
        assert any(it["args"] == f"run={run.id} node=end attempt=1" for it in found.values())
        assert {it["routing_key"] for it in found.values()} == {"celeriac.standard-low"}

        def carried() -> int:
            """Attempts of the other run, in messages of their own and in bundles."""
            its = [it for it in tasks(f"kwargs:run={together.id}").values() if it["state"] == "SUCCESS"]
            bundles = [literal_eval(it["kwargs"]) for it in its if it["name"] == "celeriac.bundle"]
            assert all(it["executors"] == f"shop.step x{it['attempts']}" for it in bundles)
            return len(its) - len(bundles) + sum(int(it["attempts"]) for it in bundles)

        eventually(lambda: carried() == 60, "Flower has all sixty attempts")
