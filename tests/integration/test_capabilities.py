"""Capabilities: nodes that ask for what is to be done, bound to an executor when they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Client, Settings
from scheduler.cli import main
from scheduler.client.views import Workers
from scheduler.core.run import Profile
from scheduler.graph import Graph, Retry, again, capability, other
from scheduler.service import learning
from scheduler.service.transport import MemoryTransport
from scheduler.store.capabilities import Capabilities
from scheduler.store.connection import connect
from scheduler.store.runs import Runs
from tests.integration.echo import INTERACTIVE, STANDARD, AtOnce, Echo, EchoWorker, Task, echo, failure, tasks, value
from tests.integration.stage import Stage, eventually, idle

GENERATE = capability("generate")


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings are looked for more often than in production; nothing else is changed."""
    monkeypatch.setattr(learning, "CONTRACTS_SECONDS", 0.02)


@pytest.fixture
def bindings(stage: Stage) -> Capabilities:
    """Bindings of the installation, and two providers that offer `generate`, each in a class of its own."""
    stage.publish("a.llm", capabilities=["generate"])
    stage.publish("b.llm", capabilities=["generate"], queue_class="interactive-low")
    stage.publish("echo")
    return Capabilities(stage.client, stage.namespace)


def by(task: Task) -> Any:
    """Who did it."""
    return value(task.executor)


def sent(stage: Stage, run: Any) -> list[str]:
    """The reasons of a run's dispatch lines."""
    return [move[4] for move in stage.moves(run) if move[1] == "dispatch"]


def test_a_node_that_asks_for_a_capability_goes_to_the_bound_executor(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce
) -> None:
    """In the executor's own class; the log names the rule and the executor."""
    bindings.bind("generate", "b.llm", by="ann", reason="cheaper")
    worker.act = by
    graph = Graph("one")
    graph.returns(graph.add(GENERATE, key="n", prompt="hi"))
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
        assert client.run(run).result() == "b.llm"
        assert client.run(run).nodes()[0].queue_class == "interactive-low"
    [task] = worker.done
    assert (task.executor, task.kwargs) == ("b.llm", {"prompt": "hi"})
    assert sent(stage, run) == ["capability generate: executor b.llm, bound by ann: cheaper"]
    idle(stage)


def test_a_provider_is_replaced_while_runs_are_in_flight(stage: Stage, bindings: Capabilities) -> None:
    """Later nodes go to the new one, without a restart; what has been sent ends where it is."""
    bindings.bind("generate", "a.llm")
    graph = Graph("chain")
    graph.add(GENERATE, key="0")
    for number in range(1, 6):
        graph.add(GENERATE, key=str(number), after=str(number - 1))
    done: list[tuple[str, str]] = []
    go: list[str] = []

    def act(task: Task) -> Any:
        done.append((task.node, task.executor))
        if task.node == "2" and not go:
            bindings.bind("generate", "b.llm", by="ann", reason="a is down")
            eventually(lambda: scheduler._dispatch.admission.routes.bindings["generate"].executor == "b.llm")
            go.append("on")
        return by(task)

    with EchoWorker(stage.url, [STANDARD, INTERACTIVE], act), stage.scheduler() as scheduler:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    assert done == [(str(n), "a.llm" if n < 3 else "b.llm") for n in range(6)]
    assert sent(stage, run)[-1] == "capability generate: executor b.llm, bound by ann: a is down"
    assert [(it.executor, it.by) for it in bindings.history()] == [("b.llm", "ann"), ("a.llm", "")]
    idle(stage)


def test_an_unbound_capability_waits_with_its_cause(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce
) -> None:
    """It is never lost: log, view and doctor say what it waits for, and a binding sends it."""
    worker.act = by
    graph = Graph("waits")
    graph.add(GENERATE, key="n")
    why = "the capability 'generate' is bound to no executor (celeriac capabilities bind)"
    with stage.scheduler(at_once) as scheduler, Client(stage.url) as client:
        run = stage.submit(graph)
        eventually(lambda: scheduler._dispatch.admission.waits() == {why: 1})
        eventually(lambda: any(move[1] == "wait" and move[4] == why for move in stage.moves(run)))
        assert client.run(run).nodes()[0].why == f"waits: {why}"
        told = CliRunner().invoke(main, ["doctor", "--redis", stage.url, "-o", "json"]).output
        assert why in told
        bindings.bind("generate", "a.llm")
        assert stage.ended(run) == ["succeeded"]
    assert [task.executor for task in worker.done] == ["a.llm"]
    idle(stage)


def test_ready_nodes_are_placed_anew_when_their_capability_is_bound_to_another(
    stage: Stage, bindings: Capabilities, memory: MemoryTransport
) -> None:
    """What waits for room in the class of the old executor does not stay there."""
    bindings.bind("generate", "a.llm")
    graph = Graph("wide")
    for number in range(6):
        graph.add(GENERATE, key=str(number))
        graph.add("echo", key=f"e{number}")
    worker = Echo(stage.attempts, by)
    with stage.scheduler(memory, standard_low={"window": 2}) as scheduler:
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        bindings.bind("generate", "b.llm")
        eventually(lambda: sum(it.executor == "b.llm" for it in tasks(memory)) >= 4)
        taken = 0

        def over() -> bool:
            nonlocal taken
            found = tasks(memory)[taken:]
            taken += len(found)
            worker.take(found)
            return stage.runs.summary(run).state.value == "succeeded"

        eventually(over)
        assert not scheduler.counts["leases ended"]
    assert stage.ended(run) == ["succeeded"]
    assert len(worker.done) == 12
    assert {queue for queue, _, headers in memory.sent if headers["task"] == "b.llm"} == {INTERACTIVE}
    idle(stage)


def test_the_same_attempt_is_sent_to_the_same_executor(stage: Stage, bindings: Capabilities) -> None:
    """A new owner publishes what was committed as it was decided; the next attempt is bound anew."""
    bindings.bind("generate", "a.llm")

    class Deaf(MemoryTransport):
        """Takes nothing."""

        def send(self, outgoing: Any) -> None:
            raise ConnectionError("no broker")

    graph = Graph("again")
    graph.add(GENERATE, key="n", retry=Retry(2, "0s..0s"))
    with stage.scheduler(Deaf()):
        run = stage.submit(graph)
        eventually(lambda: stage.attempt(run) in stage.in_flight())
    assert stage.in_flight()[stage.attempt(run)].startswith("s|standard-low=a.llm|")
    bindings.bind("generate", "b.llm")
    stage.owners_vanish()
    memory, worker = MemoryTransport(), Echo(stage.attempts)
    with stage.scheduler(memory):
        eventually(lambda: len(memory.sent) == 1)
        worker.act = lambda _: failure()
        worker.take(tasks(memory))
        eventually(lambda: len(memory.sent) == 2)
        worker.act = by
        worker.take(tasks(memory)[1:])
        assert stage.ended(run) == ["succeeded"]
    assert [(task.executor, task.attempt) for task in worker.done] == [("a.llm", 1), ("b.llm", 2)]
    idle(stage)


def test_a_lost_attempt_of_a_capability_is_looked_for_in_its_own_queue(
    stage: Stage, bindings: Capabilities, memory: MemoryTransport
) -> None:
    """Its class is read from the attempt's state, with the executor beside it."""
    bindings.bind("generate", "b.llm")
    graph = Graph("slow")
    graph.add(GENERATE, key="n")
    worker = Echo(stage.attempts)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 1)
        stage.lease_ends(stage.attempt(run))
        eventually(lambda: scheduler._dispatch.admission.flying["interactive-low"] == 1)
        worker.take(tasks(memory))
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["leases ended"] == 0
    idle(stage)


def test_a_ladder_may_fall_back_on_a_capability(
    stage: Stage, bindings: Capabilities, worker: Echo, at_once: AtOnce
) -> None:
    """Wherever an executor's name stands a capability may."""
    bindings.bind("generate", "a.llm")
    worker.act = lambda task: by(task) if task.executor == "a.llm" else failure("permanent")
    graph = Graph("ladder")
    graph.add("echo", key="n", retry=Retry(steps=[again(1), other(GENERATE)]))
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    rung = "rung 2 of 2, executor capability:generate, fallback_from echo"
    assert sent(stage, run)[1] == f"{rung}; capability generate: executor a.llm, bound"
    idle(stage)


def test_configuration_binds_what_no_operator_has_bound(stage: Stage, tmp_path: Path) -> None:
    """config/capabilities.toml is the default; an operator's word counts before it, until it is taken back."""
    file = tmp_path / "capabilities.toml"
    file.write_text('generate = "a.llm"\n')
    settings = Settings.load(redis_url=stage.url, capabilities_file=file)
    store = Capabilities(stage.client, stage.namespace, settings.capabilities)
    found = store.bindings()["generate"]
    assert (found.executor, found.words) == ("a.llm", "by configuration")
    store.bind("generate", "b.llm", "ann")
    assert store.bindings()["generate"].words == "bound by ann"
    assert store.unbind("generate", "bob", "done")
    assert not store.unbind("generate")
    assert store.bindings()["generate"].executor == "a.llm"
    assert [(it.executor, it.by) for it in store.history()] == [("", ""), ("", "bob"), ("b.llm", "ann")]


def cli(stage: Stage, *words: str) -> tuple[int, str]:
    """Exit status and all output of a command."""
    found = CliRunner().invoke(main, [*words, "--redis", stage.url])
    return found.exit_code, found.output


def test_an_operator_lists_binds_and_unbinds(stage: Stage, bindings: Capabilities) -> None:
    """With who and why; the history tells every change."""
    assert cli(stage, "capabilities", "ls")[1].splitlines()[-1].split("\t")[:2] == ["generate", "(unbound)"]
    words = ("--by", "ann", "--reason", "cheaper")
    assert cli(stage, "capabilities", "bind", "generate", "b.llm", *words)[0] == 0
    [found] = json.loads(cli(stage, "capabilities", "ls", "-o", "json")[1])
    assert (found["executor"], found["rule"], found["offered_by"]) == (
        "b.llm",
        "bound by ann: cheaper",
        ["a.llm", "b.llm"],
    )
    assert cli(stage, "capabilities", "unbind", "generate", "--by", "bob")[0] == 0
    changes = json.loads(cli(stage, "capabilities", "ls", "--history", "-o", "json")[1])
    assert [(it["executor"], it["by"], it["reason"]) for it in changes] == [
        ("", "bob", ""),
        ("b.llm", "ann", "cheaper"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bind", "generate", "nobody"), "nobody"),
        (("bind", "generate", "echo"), "does not say that it can generate. Known for it: a.llm, b.llm"),
        (("bind", "no name", "echo"), "names no capability"),
        (("unbind", ""), "names no capability"),
    ],
)
def test_a_binding_that_makes_no_sense_is_refused(
    stage: Stage, bindings: Capabilities, words: tuple[str, ...], said: str
) -> None:
    """And nothing is stored."""
    status, output = cli(stage, "capabilities", *words)
    assert status != 0
    assert said in output
    assert (bindings.bindings(), bindings.history()) == ({}, [])
    if words[2:] == ("echo",) and words[1] == "generate":
        assert cli(stage, "capabilities", *words, "--force")[0] == 0
        assert bindings.bindings()["generate"].executor == "echo"


def test_a_run_in_which_an_attempt_runs_is_taken_over(stage: Stage, bindings: Capabilities) -> None:
    """A new owner knows the class of what runs, and its end is the end of the node."""
    bindings.bind("generate", "b.llm")
    graph = Graph("over")
    graph.add(GENERATE, key="n")
    worker = Echo(stage.attempts, lambda _: None)
    memory = MemoryTransport()
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 1)
        worker.take(tasks(memory))
    stage.owners_vanish()
    with stage.scheduler(MemoryTransport()) as scheduler:
        eventually(lambda: scheduler._dispatch.admission.flying["interactive-low"] == 1)
        stage.attempts.report([worker.report(stage.attempt(run), echo(worker.done[0]))])
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


def test_a_client_that_may_not_read_bindings_is_told_no_wrong_cause(stage: Stage, bindings: Capabilities) -> None:
    """By its rights it sees neither what is bound nor that nothing is; it is told what it may know."""
    stage.client.execute_command("ACL", "SETUSER", "c", "reset", "on", ">c", "~cel:executors*", "~cel:workers", "+@all")
    graph = Graph("asks")
    graph.add(GENERATE, key="n")
    stage.submit(graph)
    try:
        with connect(stage.url.replace("unix://", "unix://c:c@")) as client:
            workers = Workers.read(Runs(client, stage.namespace, stage.shards), None)
            profile = Profile.from_record({"executor": GENERATE.name, "queue_class": None})
            assert workers.why_not_sent(profile) == "waits for the scheduler"
            assert workers.queue_class(profile) is None
    finally:
        stage.client.execute_command("ACL", "DELUSER", "c")
