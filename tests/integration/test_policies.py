"""Policies: rules above graphs, taken up by runs, kept with them, and asked before a node is sent and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Client
from scheduler.cli import main
from scheduler.core.states import NodeState
from scheduler.errors import InvalidValue, PolicyNotFound
from scheduler.graph import Graph, Retry, Timing, again, other
from scheduler.policy import policy_of
from scheduler.service.transport import MemoryTransport
from scheduler.store import policies
from scheduler.store.inboxes import Inboxes, Shard
from scheduler.store.keys import ShardKeys
from scheduler.store.scopes import wake
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, failure, tasks, value
from tests.integration.replayed import decided_again
from tests.integration.stage import Stage, eventually, idle

SOON = {"base_seconds": 0.01, "cap_seconds": 0.02}


def policy(version: str = "1", **document: Any) -> dict[str, Any]:
    """A policy's record."""
    return policy_of({"version": version, **document})


def deployed(stage: Stage, version: str = "1", **document: Any) -> None:
    """A policy in force."""
    assert policies.deploy(stage.runs, policy(version, **document), "ann", "a test")


def one() -> Graph:
    """A graph of one node."""
    graph = Graph("one")
    graph.add("echo", key="n")
    return graph


def fails(times: int) -> Any:
    """Fails so often, then succeeds."""

    def act(task: Task) -> Ending:
        return failure() if task.attempt <= times else echo(task)

    return act


def explained(stage: Stage, run: RunId) -> None:
    """The core decides the same of what explanations cite, node by node."""
    with Client(stage.url) as client:
        for key in stage.load(run).keys:
            for step in client.run(run).explain(key, check=True).steps:
                assert not step.checked, step


def error_of(stage: Stage, run: RunId, key: str) -> dict[str, Any]:
    """The error record of a node that has failed."""
    node = stage.load(run).keys.index(key)
    found: dict[str, Any] = json.loads(stage.runs.values(run, [node])[node])
    return found


def words(stage: Stage, run: RunId, word: str) -> list[str]:
    """The reasons of a run's lines of one kind."""
    return [move[4] for move in stage.moves(run) if move[1] == word]


# --- which runs take it up --------------------------------------------------------------------------------------


def test_a_run_takes_up_the_policy_in_force_and_is_decided_by_it(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """A node that says nothing of retries gets the policy's; the run keeps the policy, and its log says so."""
    stage.publish("echo")
    deployed(stage, "7", system={"retry": {"max_attempts": 6, **SOON}})
    worker.act = fails(5)
    with stage.scheduler(at_once):
        run = stage.submit(one())
        assert stage.ended(run) == ["succeeded"]
    assert len(worker.done) == 6
    kept = stage.load(run).policy
    assert kept is not None
    assert kept.version == "7"
    assert words(stage, run, "policy") == ["version 7"]
    decided_again(stage, run, tmp_path)
    explained(stage, run)
    idle(stage)


def test_the_innermost_layer_counts_unless_an_outer_one_has_locked_the_value(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """Executor beats class beats system; the node beats them all, but for what is locked."""
    stage.publish("echo", "other")
    deployed(
        stage,
        system={"retry": {"max_attempts": 2, **SOON}},
        executors={"ech*": {"retry": {"max_attempts": 4}}},
        workflows={"locked": {"retry": {"max_attempts": 1}, "locked": ["retry.max_attempts"]}},
    )
    worker.act = fails(100)
    with stage.scheduler(at_once):
        found = {}
        for name, executor, retry in (
            ("plain", "other", None),
            ("plain", "echo", None),
            ("plain", "echo", Retry(5, base_seconds=0.01)),
            ("locked", "echo", Retry(5, base_seconds=0.01)),
        ):
            graph = Graph(name)
            graph.add(executor, key="n", retry=retry)
            run = stage.submit(graph)
            assert stage.ended(run) == ["failed"]
            found[name, executor, retry is None] = stage.load(run).failures[0]
    assert list(found.values()) == [2, 4, 5, 1]


@pytest.mark.parametrize("adopt", ["new", "running"])
def test_runs_under_way_keep_their_policy_or_take_the_new_one_up(
    stage: Stage, memory: MemoryTransport, worker: Echo, adopt: str, tmp_path: Path
) -> None:
    """As the new policy says; workers are not touched, and what has been decided stays as it was."""
    stage.publish("echo")
    deployed(stage, "1", system={"retry": {"max_attempts": 2, **SOON}})
    worker.act = fails(100)
    with stage.scheduler(memory):
        run = stage.submit(one())
        eventually(lambda: len(tasks(memory)) == 1, "the first attempt is sent")
        deployed(stage, "2", adopt=adopt, system={"retry": {"max_attempts": 4, **SOON}})
        other_run = stage.submit(one())
        eventually(lambda: len(tasks(memory)) == 2, "another run's attempt is sent")
        if adopt == "running":
            eventually(
                lambda: words(stage, run, "policy")[-1:] == ["version 2, instead of version 1"], "it is taken up"
            )
        while not stage.quiet():
            worker.take(tasks(memory)[len(worker.done) :])
        assert stage.ended(run, other_run) == ["failed", "failed"]
    assert stage.load(run).failures[0] == (2 if adopt == "new" else 4)
    assert stage.load(other_run).failures[0] == 4
    for it in (run, other_run):
        decided_again(stage, it, tmp_path)
        explained(stage, it)
    with Client(stage.url) as client:
        facts = client.run(run).explain("n").steps[-1].facts
    cited = [it.value["version"] for it in facts if it.what == "policy"]
    assert cited == (["1"] if adopt == "new" else ["2"])
    idle(stage)


def test_another_owner_goes_on_with_the_policy_that_a_run_has(
    stage: Stage, memory: MemoryTransport, worker: Echo
) -> None:
    """What is deployed while nobody owns the run is for others."""
    stage.publish("echo")
    deployed(stage, "1", system={"retry": {"max_attempts": 2, **SOON}})
    with stage.scheduler(memory):
        run = stage.submit(one())
        eventually(lambda: len(tasks(memory)) == 1, "the first attempt is sent")
    deployed(stage, "2", system={"retry": {"max_attempts": 9}})
    worker.act = fails(100)
    with stage.scheduler(AtOnce(worker)):
        worker.take(tasks(memory))
        assert stage.ended(run) == ["failed"]
    assert stage.load(run).failures[0] == 2
    assert words(stage, run, "policy") == ["version 1"]


def test_runs_that_began_without_a_policy_keep_none(stage: Stage, memory: MemoryTransport, worker: Echo) -> None:
    """A policy for new runs changes nothing for one that has begun."""
    stage.publish("echo")
    with stage.scheduler(memory):
        run = stage.submit(one())
        eventually(lambda: len(tasks(memory)) == 1, "the first attempt is sent")
        deployed(stage, system={"retry": {"max_attempts": 1}})
        second = stage.submit(one())
        eventually(lambda: len(tasks(memory)) == 2, "the second run's attempt is sent")
        worker.take(tasks(memory))
        assert stage.ended(run, second) == ["succeeded", "succeeded"]
    assert stage.load(run).policy is None
    assert stage.load(second).policy is not None


def test_a_run_of_a_shard_that_is_taken_just_now_has_the_policy_that_was_deployed_before_it(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that has read one shard, and reads the next only after a policy came, begins no run without it."""
    stage.publish("echo")
    stage.submit(one(), shard=0)
    late: list[RunId] = []
    adopt = Inboxes.adopt

    def then_deployed(self: Inboxes, keys: ShardKeys) -> Shard:
        if keys.shard == stage.shards - 1 and not late:
            deployed(stage, "3")
            late.append(stage.submit(one(), shard=keys.shard))
        return adopt(self, keys)

    monkeypatch.setattr(Inboxes, "adopt", then_deployed)
    with stage.scheduler(at_once):
        eventually(lambda: bool(late), "the last shard is taken")
        assert stage.ended(*late) == ["succeeded"]
    kept = stage.load(late[0]).policy
    assert kept is not None
    assert kept.version == "3"


# --- safety checks ----------------------------------------------------------------------------------------------

SHORT = {"short": {"before": "size(input.prompt) <= 3", "message": "prompts are short"}}


def test_what_a_check_denies_is_never_sent_and_goes_the_named_way(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """It fails as `safety`, without an attempt going out; the ladder's step for that has its turn, with inputs of
    another kind of executor. The executors know nothing of it.
    """
    stage.publish("llm.ask", "refuse")
    deployed(stage, executors={"llm.*": {"checks": ["short"]}}, checks=SHORT)
    graph = Graph("guarded")
    graph.add("llm.ask", key="ok", prompt="hi")
    graph.add("llm.ask", key="bad", prompt="much too long")
    graph.add(
        "llm.ask", key="saved", prompt="much too long", retry=Retry(steps=[again(1), other("refuse", on=["safety"])])
    )
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"ok": "succeeded", "bad": "failed", "saved": "succeeded"}
    assert sorted((task.node, task.executor) for task in worker.done) == [("ok", "llm.ask"), ("saved", "refuse")]
    error = error_of(stage, run, "bad")
    assert (error["kind"], error["type"], error["origin"], error["phase"]) == ("safety", "Blocked", "policy", "admit")
    assert (
        "policy 1: the check 'short' denies it: prompts are short: size(input.prompt) <= 3 is false" in error["message"]
    )
    decided_again(stage, run, tmp_path)
    explained(stage, run)
    idle(stage)


def test_a_check_sees_what_upstream_nodes_gave(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Inputs are read as they would be sent, whether they stand in the message or lie aside."""
    stage.publish("make", "llm.ask")
    deployed(stage, executors={"llm.*": {"checks": ["short"]}}, checks=SHORT)

    def act(task: Task) -> Ending:
        return (
            Ending(value={"text": task.kwargs["text"]}, kind=task.kwargs["kind"])
            if task.executor == "make"
            else echo(task)
        )

    worker.act = act
    graph = Graph("guarded")
    for kind in ("inline", "blob"):
        for text in ("hi", "much too long"):
            made = graph.add("make", key=f"{kind} {text}", text=text, kind=kind)
            graph.add("llm.ask", key=f"ask {kind} {text}", prompt=made.out.text)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    asked = {key: state for key, state in stage.states(run).items() if key.startswith("ask")}
    assert asked == {
        "ask inline hi": "succeeded",
        "ask inline much too long": "failed",
        "ask blob hi": "succeeded",
        "ask blob much too long": "failed",
    }


def test_an_output_that_a_check_denies_is_not_passed_on(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """The attempt counts as failed, its output is not stored, and nobody downstream gets it."""
    stage.publish("llm.ask", "echo")
    deployed(stage, checks={"clean": {"after": "!output.flagged"}}, classes={"standard-*": {"checks": ["clean"]}})
    worker.act = lambda task: value({"flagged": task.node == "bad", "text": "secret words"})
    graph = Graph("guarded")
    for key in ("ok", "bad"):
        graph.add("echo", key=f"after {key}", got=graph.add("llm.ask", key=key).out.text)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {
        "ok": "succeeded",
        "after ok": "succeeded",
        "bad": "failed",
        "after bad": "upstream_failed",
    }
    error = error_of(stage, run, "bad")
    assert (error["kind"], error["phase"]) == ("safety", "collect")
    bad = stage.load(run).keys.index("bad")
    assert b"secret words" not in stage.runs.values(run, [bad])[bad]
    decided_again(stage, run, tmp_path)
    idle(stage)


def test_the_end_of_a_job_outside_is_checked_too(stage: Stage, memory: MemoryTransport, worker: Echo) -> None:
    """Whoever ends it: what a check denies fails the node."""
    stage.publish("farm")
    deployed(stage, checks={"clean": {"after": "!has(output.flagged)"}}, system={"checks": ["clean"]})
    graph = Graph("outside")
    graph.add("farm", key="n", timing=Timing(outside=True))
    with stage.scheduler(memory), Client(stage.url) as client:
        run = stage.submit(graph)
        eventually(lambda: len(tasks(memory)) == 1, "the job is sent")
        worker.take(tasks(memory))
        eventually(lambda: stage.states(run)["n"] == "waiting", "the job is begun")
        client.complete(tasks(memory)[0].id, {"flagged": True})
        assert stage.ended(run) == ["failed"]
    assert error_of(stage, run, "n")["kind"] == "safety"


def test_what_is_held_waits_for_another_policy_and_nobody_else_does(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """A check that says hold leaves the node ready and says why; another policy lets it go."""
    stage.publish("llm.ask", "echo")
    check = {**SHORT["short"], "deny": "hold"}
    deployed(stage, "1", executors={"llm.*": {"checks": ["short"]}}, checks={"short": check})
    graph = Graph("guarded")
    graph.add("llm.ask", key="held", prompt="much too long")
    graph.add("echo", key="free")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["free"] == "succeeded", "the other node is done")
        [why] = words(stage, run, "wait")
        assert why.startswith("blocked by policy 1: the check 'short' denies it: prompts are short")
        assert NodeState(stage.load(run).state[0]) in (NodeState.PENDING, NodeState.READY)
        with Client(stage.url) as client:
            told = client.run(run).explain("held")
            assert [it.why for it in told.waits] == [why]
            [shown] = [it.why for it in client.run(run).nodes() if it.key == "held"]
            assert shown.startswith("blocked by policy 1: the check 'short' denies it")
        looser = {"short": {**check, "before": "size(input.prompt) <= 30"}}
        deployed(stage, "2", adopt="running", executors={"llm.*": {"checks": ["short"]}}, checks=looser)
        assert stage.ended(run) == ["succeeded"]
    decided_again(stage, run, tmp_path)
    idle(stage)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_check_that_cannot_be_made_parks_its_node_and_nobody_else(
    stage: Stage, worker: Echo, at_once: AtOnce, when: str, tmp_path: Path
) -> None:
    """A fault of the policy is told as one; the node goes on when that is mended, and has lost nothing by it."""
    stage.publish("llm.ask", "echo")
    read = "input" if when == "before" else "output"
    layer: dict[str, Any] = {"llm.*": {"checks": ["typo"]}}
    deployed(stage, "1", executors=layer, checks={"typo": {when: f"size({read}.promt) <= 30"}})
    graph = Graph("guarded")
    held = graph.add("llm.ask", key="held", prompt="hi")
    graph.add("echo", key="next", got=held)
    before = graph.add("echo", key="free")
    graph.add("echo", key="after", got=before)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.states(run)["after"] == "succeeded", "the others go on")
        eventually(lambda: words(stage, run, "wait"), "why it waits is told")
        [why] = words(stage, run, "wait")
        assert "the check 'typo' cannot be made" in why
        assert "promt" in why
        sent = [task.node for task in worker.done].count("held")
        assert sent == (0 if when == "before" else 1)
        deployed(stage, "2", adopt="running", executors=layer, checks={"typo": {when: f"size({read}.prompt) <= 30"}})
        assert stage.ended(run) == ["succeeded"]
    assert stage.load(run).losses[0] == 0
    assert [task.node for task in worker.done].count("held") == sent + 1
    decided_again(stage, run, tmp_path)
    idle(stage)


# --- what is deployed -------------------------------------------------------------------------------------------


def test_a_version_never_changes(stage: Stage) -> None:
    """Another content under the same version is refused and changes nothing; the same content is in force already."""
    deployed(stage, "1", system={"retry": {"max_attempts": 2}})
    with pytest.raises(InvalidValue, match="was deployed with another content"):
        policies.deploy(stage.runs, policy("1", system={"retry": {"max_attempts": 3}}))
    assert not policies.deploy(stage.runs, policy("1", system={"retry": {"max_attempts": 2}}))
    with pytest.raises(PolicyNotFound, match="no policy of version '2'"):
        policies.use(stage.runs, "2")
    assert policies.current(stage.runs) == policy("1", system={"retry": {"max_attempts": 2}})


def test_an_older_version_can_be_put_in_force_again(stage: Stage) -> None:
    """Who did what and why is kept, the newest first; withdrawn means that there is none."""
    deployed(stage, "1")
    deployed(stage, "2")
    assert policies.use(stage.runs, "1", "bob", "2 was wrong")
    assert policies.withdraw(stage.runs, "bob")
    assert policies.current(stage.runs) is None
    assert [(it.version, it.by) for it in policies.history(stage.runs)] == [
        ("", "bob"),
        ("1", "bob"),
        ("2", "ann"),
        ("1", "ann"),
    ]
    assert policies.versions(stage.runs) == ["1", "2"]


@pytest.mark.parametrize("record", ["", "[]", '{"version": "2", "adopt": "new"}', '{"layers": 3, "checks": {}}', "{"])
def test_a_policy_that_cannot_be_read_stops_nobody(
    stage: Stage, worker: Echo, at_once: AtOnce, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has written it: it is told, and the one before goes on counting."""
    stage.publish("echo")
    deployed(stage, "1", system={"retry": {"max_attempts": 2, **SOON}})
    worker.act = fails(100)
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(one())) == ["failed"]
        if record:
            stage.client.hset(stage.keys.policies, "version:2", record)
        stage.client.hset(stage.keys.policies, "current", "2")
        stage.client.hincrby(stage.keys.policies, "changes", 1)
        wake(stage.runs)
        eventually(lambda: "the policy in force cannot be read" in caplog.text, "it is told")
        run = stage.submit(one())
        assert stage.ended(run) == ["failed"]
    assert words(stage, run, "policy") == ["version 1"]
    assert stage.load(run).failures[0] == 2


# --- the command line -------------------------------------------------------------------------------------------

FILE = """
version = "7"
adopt = "running"
[system]
retry = { max_attempts = 4 }
[classes.standard-low]
timeout_seconds = 60
locked = true
[executors.echo]
checks = ["short"]
[checks.short]
before = "!has(input.prompt) || size(input.prompt) <= 3"
[mappers]
"a@1" = "it.x"
"b@1" = "it['x']"
"""


def cli(stage: Stage, *words: str) -> tuple[int, str]:
    """A command for this installation; its exit status and all that it said."""
    found = CliRunner().invoke(main, ["policy", *words, "--redis", stage.url])
    return found.exit_code, found.output


def rows(said: str) -> list[list[str]]:
    """The rows of a table, without its heading."""
    return [line.split("\t") for line in said.splitlines()][1:]


def test_an_operator_checks_deploys_and_goes_back(stage: Stage, tmp_path: Path) -> None:
    """Each change is told and kept; what is likely not meant is told when a file is read."""
    file = tmp_path / "policy.toml"
    file.write_text(FILE)
    said = CliRunner().invoke(main, ["policy", "check", str(file)]).output
    assert "policy.toml: the mappers a@1 and b@1 say the same: keep one" in said
    status, said = cli(stage, "apply", str(file), "--by", "ann", "--reason", "first")
    assert (status, "Policy 7 is in force from now on; runs under way take it up too." in said) == (0, True)
    assert "was in force already" in cli(stage, "apply", str(file))[1]
    file.write_text(FILE.replace("= 4", "= 5"))
    status, said = cli(stage, "apply", str(file))
    assert (status, "version: '7' was deployed with another content" in said) == (6, True)
    file.write_text(FILE.replace('version = "7"', 'version = "8"'))
    assert cli(stage, "apply", str(file), "--by", "ann")[0] == 0
    assert rows(cli(stage, "ls")[1]) == [["7", "", "running", "3"], ["8", "yes", "running", "3"]]
    assert cli(stage, "use", "7", "--by", "bob")[0] == 0
    assert cli(stage, "use", "9")[0] == 5
    assert cli(stage, "withdraw", "--by", "bob")[0] == 0
    changes = json.loads(cli(stage, "ls", "--history", "-o", "json")[1])
    assert [(it["version"], it["by"]) for it in changes] == [("", "bob"), ("7", "bob"), ("8", "ann"), ("7", "ann")]
    assert "short" in cli(stage, "show", "8")[1]
    assert "No policy is in force" in cli(stage, "show")[1]
    assert cli(stage, "apply", str(tmp_path / "nothing"))[0] == 2


def test_what_counts_for_a_node_is_told_with_whose_word_it_is(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path
) -> None:
    """Value by value, from default to node, with what was overruled; and what Celery was told and nobody heeds."""
    stage.publish("echo", timeout_seconds=9, celery_retries=["max_retries=10"])
    file = tmp_path / "policy.toml"
    file.write_text(FILE)
    assert cli(stage, "apply", str(file))[0] == 0
    graph = Graph("one")
    graph.add("echo", key="n", timeout=30, retry=Retry(backoff="2s..9s"))
    with stage.scheduler(at_once):
        run = stage.submit(graph, priority=3)
        assert stage.ended(run) == ["succeeded"]
    status, said = cli(stage, "of", run, "n", "-o", "json")
    assert status == 0, said
    found = json.loads(said)
    assert (found["policy"], found["checks"], found["ignored"]) == ("7", ["short"], ["max_retries=10"])
    settings = {it["name"]: it for it in found["settings"]}
    assert {name: (it["value"], it["layer"]) for name, it in settings.items()} == {
        "retry.max_attempts": (4, "system"),
        "retry.base_seconds": (2.0, "node"),
        "retry.factor": (2.0, "default"),
        "retry.cap_seconds": (9.0, "node"),
        "retry.max_losses": (5, "default"),
        "retry.never": ([], "default"),
        "timeout_seconds": (60.0, "class"),
        "soft_timeout_seconds": (None, "default"),
        "silence_seconds": (None, "default"),
        "deadline": (None, "default"),
        "priority": (3, "run"),
    }
    assert settings["timeout_seconds"]["locked"]
    assert settings["timeout_seconds"]["overruled"] == [
        "class standard-low (queues.toml): 3600.0",
        "executor echo (its declaration): 9.0",
        "node: 30.0",
    ]
    loaded = stage.load(run)
    assert (loaded.way(0).timeout_ms, loaded.way(0).max_attempts, loaded.way(0).base_ms) == (60_000, 4, 2_000)
    text = cli(stage, "of", run, "n")[1]
    assert "ignored: the executor declares max_retries=10 to Celery; retries are the scheduler's" in text
    assert cli(stage, "of", run, "m")[0] == 5
    shown = CliRunner().invoke(main, ["runs", "show", run, "--redis", stage.url]).output
    assert "policy\t7" in shown
