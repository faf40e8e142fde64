"""Executors and classes: who waits and why, and how much of a class is on its way at one time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport, Outgoing
from tests.integration.echo import INTERACTIVE, STANDARD, AtOnce, Echo, EchoWorker, Ending
from tests.integration.stage import Stage, diamond, eventually, idle, layers, owned


def test_an_unknown_executor_waits_with_its_reason_until_a_worker_publishes_it(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """Its branch waits, others go on; the log says what is missing; no restart is needed."""
    graph = Graph("unknown")
    graph.add("echo", key="known")
    graph.add("later", key="unknown")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["known"] == "succeeded")
        [why] = [why for node, word, _, _, why in stage.moves(run) if word == "wait"]
        assert why == "no worker has published the executor 'later'"
        assert worker.nodes() == ["known"]
        stage.publish("later")
        assert stage.ended(run) == ["succeeded"]
    assert worker.nodes() == ["known", "unknown"]
    idle(stage)


def test_what_is_known_is_not_said_to_wait(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A scheduler that starts reads the contracts before it opens runs."""
    run = stage.submit(diamond())
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    assert "wait" not in {move[1] for move in stage.moves(run)}


def test_a_worker_that_comes_a_moment_before_its_first_run_is_seen(stage: Stage, at_once: AtOnce) -> None:
    """Contracts are looked for when they are missed, not at the next round."""
    with stage.scheduler(at_once, shard_lease_seconds=60.0) as scheduler:
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        stage.publish("fresh")
        graph = Graph("fresh")
        graph.add("fresh", key="a")
        run = stage.submit(graph)
        assert stage.ended(run, seconds=5) == ["succeeded"]
        assert not scheduler.counts["crashes"]
    idle(stage)


def test_a_node_s_class_overrides_its_executor_s(stage: Stage) -> None:
    """Node, else contract, else default decide the queue; a class that nobody declared waits with that reason."""
    stage.publish("echo", queue_class="interactive-low")
    stage.publish("plain")
    memory = MemoryTransport()
    graph = Graph("classes")
    graph.add("echo", key="contract")
    graph.add("echo", key="node", queue_class="batch-high")
    graph.add("plain", key="default")
    graph.add("plain", key="nowhere", queue_class="no-such")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 3)
        queues = {headers["celeriac"]["node"]: queue for queue, _, headers in memory.sent}
        assert queues == {"contract": INTERACTIVE, "node": "celeriac.batch-high", "default": STANDARD}
        eventually(lambda: [why for _, word, _, _, why in stage.moves(run) if word == "wait"])
        assert [move[4] for move in stage.moves(run) if move[1] == "wait"] == [
            "no queue class 'no-such' is declared here"
        ]
        stage.runs.cancel(run, "over")
        assert stage.ended(run) == ["cancelled"]
    idle(stage)


def watched(stage: Stage, windows: dict[str, int]) -> Callable[[], None]:
    """Looks at the attempts in flight again and again; the answer ends that and fails if a window was exceeded."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def watch() -> None:
        mine = Stage(stage.url, stage.namespace, stage.shards)
        while not stop.is_set():
            for name, count in mine.flying_by_class().items():
                seen[name] = max(seen[name], count)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(10)
        assert all(0 < seen[name] <= window for name, window in windows.items()), seen

    return end


def test_no_more_than_its_window_of_a_class_is_in_flight(stage: Stage) -> None:
    """By the table of attempts in flight, at any instant, while workers work; and in the broker's queue."""
    stage.publish("echo")
    end = watched(stage, {"standard-low": 7})
    with EchoWorker(stage.url, [STANDARD]) as worker, stage.scheduler(standard_low={"window": 7}):
        runs = [stage.submit(layers(40), shard=1) for _ in range(4)]
        assert stage.ended(*runs) == ["succeeded"] * 4
    end()
    assert len(worker.done) == 160
    idle(stage)


def test_two_schedulers_share_a_window(stage: Stage) -> None:
    """Together they keep to it: each has the part that goes with its shards."""
    stage.publish("echo")
    narrow = {"window": 8}
    with stage.scheduler(standard_low=narrow), stage.scheduler(standard_low=narrow):
        eventually(lambda: sorted(Counter(owned(stage.client).values()).values()) == [2, 2], "two shards each")
        end = watched(stage, {"standard-low": 8})
        with EchoWorker(stage.url, [STANDARD]):
            by_owner = {owner: shard for shard, owner in owned(stage.client).items()}
            runs = [stage.submit(layers(30), shard=shard) for shard in by_owner.values()]
            assert stage.ended(*runs) == ["succeeded"] * 2
        end()
    idle(stage)


def test_a_saturated_class_leaves_the_other_s_waits_unchanged(stage: Stage) -> None:
    """With one class full of work that nobody does, nodes of another go out as if it were empty."""
    stage.publish("slow", queue_class="batch-high")
    stage.publish("quick", queue_class="interactive-low")
    worker = Echo(stage.attempts)

    class Half(AtOnce):
        """Nobody works for the slow class."""

        def send(self, outgoing: Outgoing) -> None:
            super().send([it for it in outgoing if it[0].queue == INTERACTIVE])

    def waits() -> list[int]:
        """How long each node of a quick run stood ready, ms."""
        run = stage.submit(layers(10, 3, "quick"))
        eventually(lambda: stage.runs.summary(run).state == "succeeded")
        tries = [next(stage.load(run).tries(node)) for node in range(30)]
        return [it.dispatched_at_ms - it.ready_at_ms for it in tries]

    with stage.scheduler(Half(worker)):
        alone = waits()
        full = stage.submit(layers(3_000, 1, "slow"))
        eventually(lambda: stage.flying_by_class()["batch-high"] == 16)
        beside = waits()
        assert stage.flying_by_class() == {"batch-high": 16}
        stage.runs.cancel(full, "over")
        assert stage.ended(full) == ["cancelled"]
    assert sorted(beside)[15] <= sorted(alone)[15] + 20
    idle(stage)


def test_runs_take_turns_in_a_full_class(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A narrow run submitted after a wide one does not wait for all of it."""
    worker.act = lambda task: Ending(kind="none")
    gate = threading.Event()

    class Gated(AtOnce):
        def send(self, outgoing: Outgoing) -> None:
            gate.wait(20)
            super().send(outgoing)

    with stage.scheduler(Gated(worker), standard_low={"window": 20}):
        wide = stage.submit(layers(500), shard=0)
        narrow = stage.submit(layers(1), shard=0)
        gate.set()
        assert stage.ended(wide, narrow) == ["succeeded"] * 2
    place = [task.id.split(".")[1] for task in worker.done].index(narrow)
    assert place < 100
    idle(stage)
