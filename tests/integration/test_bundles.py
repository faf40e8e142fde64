"""Exported runs are decided again without Redis, to the same decisions; whatever was changed in a file is noticed."""

from __future__ import annotations

import gzip
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scheduler import BundleError, Client
from scheduler.archive.bundle import read_bundle
from scheduler.cli import main
from scheduler.graph import Graph, Retry, Secret, Timing, again, escalate
from tests.integration.archived import at_once_to, everything, removed
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, failure, loss, value
from tests.integration.replayed import decided_again
from tests.integration.stage import Stage, eventually, idle, layers


def rich() -> Graph:
    """Guards, a choice, closed edges, a stop that never is, failures, losses, large outputs, a secret."""
    graph = Graph("rich", retry=Retry(3, base_seconds=0.01, cap_seconds=0.02))
    score = graph.add("echo", key="score", value=0.6, token=Secret("api"))
    route = graph.choice("route", {"good": score.out.value >= 0.8}, otherwise="poor")
    graph.add("echo", key="good", after=route["good"])
    graph.add("echo", key="poor", after=[route["poor"], score.when(score.out.value > 0.5)])
    graph.add("echo", key="never", when=score.out.value > 1)
    graph.add("echo", key="odd", when=score.out.value > "high", after=score)
    flaky = graph.add("echo", key="flaky", after=score)
    broken = graph.add("echo", key="broken", after=score)
    graph.add("echo", key="after broken", after=broken)
    graph.add(
        "echo", key="rescue", error=broken.error, trigger_rule="one_failed", when=broken.error.kind == "permanent"
    )
    big = graph.add("echo", key="big", after=score)
    graph.add("echo", key="asks", after=[flaky, big], when=big.out.size > 1)
    graph.stop_when(score.out.value > 5)
    return graph


def acts(task: Task) -> Ending:
    """Each node in its own way, the same at every retry."""
    if task.node == "flaky":
        return (failure(), loss(), value({"x": 1}))[min(task.attempt - 1, 2)]
    if task.node == "broken":
        return failure("permanent")
    if task.node == "big":
        return Ending(value={"size": 5, "text": "x" * 1000}, kind="blob")
    return echo(task)


def test_a_rich_run_is_decided_the_same_again(stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path) -> None:
    """Failed, then retried with its failures cured; under another scheduler from the middle on."""
    worker.act = acts
    with stage.scheduler(at_once):
        run = stage.submit(rich())
        assert stage.ended(run) == ["failed"]
    before = decided_again(stage, run, tmp_path)
    assert (before.run.run_state, before.run.reason) == ("failed", stage.runs.summary(run).reason)
    worker.act = lambda task: value({"value": 0.9}) if task.node == "broken" else acts(task)
    with stage.scheduler(at_once):
        stage.runs.retry(run, "once more")
        eventually(lambda: max(stage.load(run).epoch) == 2, "the retry")
        assert stage.ended(run) == ["failed"], "the odd one fails again"
    assert decided_again(stage, run, tmp_path).decisions > before.decisions
    idle(stage)


@pytest.mark.parametrize("verb", ["pause", "cancel", "deadline", "takeover"])
def test_what_is_asked_of_a_run_is_decided_the_same_again(
    stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path, verb: str
) -> None:
    """Pause and resume, a cancel with attempts that run, a deadline, and owners that vanish; also while it lives."""
    slow: list[Task] = []

    def act(task: Task) -> Ending | None:
        if task.node == "score":
            return echo(task)
        return None if len(slow) < 2 and not slow.append(task) else acts(task)  # type: ignore[func-returns-value]  # on purpose

    worker.act = act
    with stage.scheduler(at_once):
        run = stage.submit(rich(), **({"deadline_ms": 700} if verb == "deadline" else {}))
        eventually(lambda: len(slow) == 2, "two slow ones")
        if verb == "pause":
            stage.runs.pause(run, "a look: by me", "ann")
            eventually(lambda: stage.runs.summary(run).state == "paused", "the pause")
            decided_again(stage, run, tmp_path)
            stage.runs.resume(run, "", "bob")
        elif verb == "cancel":
            stage.runs.cancel(run, "enough")
            eventually(lambda: stage.runs.summary(run).state == "cancelling", "the cancel")
        elif verb == "takeover":
            stage.owners_vanish()
    with stage.scheduler(at_once):
        if verb != "deadline":
            worker.attempts.report([worker.report(task.id, value({"size": 2}), 1) for task in slow])
        ended = stage.ended(run)
    assert ended == [{"cancel": "cancelled"}.get(verb, "failed")]
    decided_again(stage, run, tmp_path)


def test_wide_and_archived_runs_too(
    stage: Stage, worker: Echo, at_once: AtOnce, quick: None, folder: Path, tmp_path: Path
) -> None:
    """Thousands of nodes, opened part by part; and one that is read from the archive, by the command."""
    worker.act = lambda task: failure("permanent") if task.node == "broken" else echo(task)
    with stage.scheduler(at_once):
        wide, run = stage.submit(layers(6000)), stage.submit(everything())
        assert stage.ended(wide, run, seconds=60) == ["succeeded", "failed"]
    assert decided_again(stage, wide, tmp_path).run.n == 6000
    decided_again(stage, run, tmp_path / "live")
    with stage.scheduler(at_once, retention=at_once_to(folder)):
        removed(stage, wide, run)
    path = tmp_path / "archived.jsonl.gz"
    said = celeriac(stage, "runs", "export", run, "-o", str(path), CELERIAC_ARCHIVE_URL=str(folder))
    assert said.exit_code == 0, said.output
    assert celeriac(None, "runs", "replay", str(path)).exit_code == 0


def celeriac(stage: Stage | None, *words: str, **env: str) -> Result:
    """Run a command, on this installation or on none."""
    place = {"CELERIAC_REDIS_URL": "redis://127.0.0.1:1/0", "CELERIAC_LOG_LEVEL": "error"}
    if stage is not None:
        place |= {"CELERIAC_REDIS_URL": stage.url, "CELERIAC_NAMESPACE": stage.namespace}
    return CliRunner().invoke(main, words, env={**place, **env})


@pytest.fixture
def bundle(stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path) -> Path:
    """A failed run, exported by the command."""
    worker.act = acts
    with stage.scheduler(at_once):
        run = stage.submit(rich())
        assert stage.ended(run) == ["failed"]
    path = tmp_path / "run.jsonl.gz"
    said = celeriac(stage, "runs", "export", run, "-o", str(path))
    assert (said.exit_code, said.stdout) == (0, f"{path}\n"), said.output
    return path


def changed(path: Path, change: Callable[[bytes], bytes], *, honest: bool) -> None:
    """Change a bundle's lines; `honest` gives it a digest that fits."""
    *lines, _ = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    last = json.loads(_)
    whole = b"".join(lines)
    other = change(whole)
    assert other != whole
    if honest:
        last["sha256"] = hashlib.sha256(other).hexdigest()
    path.write_bytes(gzip.compress(other + json.dumps(last).encode() + b"\n"))


def test_a_bundle_says_what_it_is_and_holds_no_secret(bundle: Path) -> None:
    """Versions, executors, and the failing decision; for its owner alone. Secrets are names."""
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    found = read_bundle(bundle)
    assert {"celeriac", "celery", "python", "wire", "graph_format"} <= found.facts["versions"].keys()
    assert found.facts["executors"].keys() == {"echo"}
    assert b'$secret\\":\\"api' in gzip.decompress(bundle.read_bytes()).replace(b": ", b":").replace(b"\\\\", b"\\")
    said = celeriac(None, "runs", "replay", str(bundle), "--json")
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert (told["state"], told["difference"]) == ("failed", None)
    assert told["decisions"] >= 15


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b"permanent: attempt failed 1 of", b"permanent: attempt failed 2 of", "permanent: attempt failed 1 of"),
        (b'"decide",0', b'"ready",1', "decide"),
        (b"branch poor, as no other", b"branch good, as no other", "branch poor"),
        (b'"value":0.6', b'"value":0.9', "branch"),
    ],
)
def test_a_tampered_bundle_is_noticed(bundle: Path, before: bytes, after: bytes, told: str) -> None:
    """By its digest; and if that was made to fit, by the first decision that does not follow, with both sides."""
    whole = bundle.read_bytes()

    def change(lines: bytes) -> bytes:
        other = lines.replace(before, after)
        return other.replace(b"0.6]", b"0.9]") if before.startswith(b'"value') else other  # the told fact too

    changed(bundle, change, honest=False)
    with pytest.raises(BundleError, match="digest"):
        read_bundle(bundle)
    bundle.write_bytes(whole)
    changed(bundle, change, honest=True)
    said = celeriac(None, "runs", "replay", str(bundle))
    assert said.exit_code == 1, said.output
    assert "differs at " in said.stdout
    assert "recorded: " in said.stdout
    assert told in said.stdout.partition("replayed: ")[2]


def test_what_is_no_bundle_is_said(tmp_path: Path, bundle: Path) -> None:
    """Cut, of another format, or something else; with exit status 1, and nothing is written over by accident."""
    whole = bundle.read_bytes()
    for content in (b"", b"hello", whole[:-20], gzip.compress(b'{"celeriac_bundle":9}\n{}\n')):
        bundle.write_bytes(content)
        said = celeriac(None, "runs", "replay", str(bundle))
        assert said.exit_code == 1
        assert "Export the run again" in said.stderr
    assert celeriac(None, "runs", "replay", str(tmp_path / "nothing")).exit_code == 2
    assert celeriac(None, "runs", "export", "0" * 26, "-o", str(bundle)).exit_code == 2


def test_events_are_told_as_lines(stage: Stage, bundle: Path) -> None:
    """With ids to go on behind; of one node; as JSON; an unknown node or id is said."""
    run = read_bundle(bundle).run
    said = celeriac(stage, "runs", "events", run)
    assert said.exit_code == 0, said.output
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    with Client(stage.url, namespace=stage.namespace) as client:
        events = list(client.run(run).events(follow=False))
    assert [line[0] for line in lines] == [it.id for it in events]
    of_flaky = [
        json.loads(it) for it in celeriac(stage, "runs", "events", run, "--node", "flaky", "--json").stdout.splitlines()
    ]
    assert [it["move"] for it in of_flaky][:4] == ["ready", "dispatch", "retry", "wake"]
    rest: list[Any] = celeriac(stage, "runs", "events", run, "--after", events[-2].id, "--follow").stdout.splitlines()
    assert len(rest) == 1
    assert celeriac(stage, "runs", "events", run, "--node", "nobody").exit_code == 5
    assert celeriac(stage, "runs", "events", run, "--after", "soon").exit_code == 6


def test_a_run_is_drawn_with_its_states(stage: Stage, bundle: Path) -> None:
    """Decisions look different from work, closed edges from open ones; as text, Mermaid, Graphviz and JSON."""
    run = read_bundle(bundle).run
    drawn = celeriac(stage, "graph", "draw", "--run", run)
    assert drawn.exit_code == 0, drawn.output
    lines = {line.split()[1].removeprefix("?") or line.split()[2]: line for line in drawn.stdout.splitlines()[:-1]}
    assert "? route" in drawn.stdout
    assert "succeeded" in lines["score"]
    assert "skipped" in lines["good"]
    assert "(good; closed)" in lines["good"]
    assert "failed" in lines["broken"]
    mermaid = celeriac(stage, "graph", "draw", "--run", run, "--format", "mermaid").stdout
    assert ":::upstream_failed" in mermaid
    assert "-.->|good|" in mermaid
    assert "classDef failed" in mermaid
    dot = celeriac(stage, "graph", "draw", "--run", run, "--format", "dot").stdout
    assert "shape=diamond, style=filled" in dot
    assert 'label="good", style=dashed' in dot
    found = json.loads(celeriac(stage, "graph", "draw", "--run", run, "-o", "json").stdout)
    assert [it["key"] for it in found["nodes"] if it["decision"]] == ["route"]
    assert celeriac(stage, "graph", "draw", "--run", run, "--format", "yaml").exit_code == 2
    assert celeriac(stage, "graph", "draw").exit_code == 2


def test_runs_that_waited_for_the_world_too(stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path) -> None:
    """Signals kept and taken, answers, a job outside, a race, a person at the end of a ladder, a node skipped."""
    broken = {"asked"}
    worker.act = lambda task: failure() if task.node in broken else echo(task)
    graph = Graph("world", retry=Retry(2, base_seconds=0.001))
    nap = graph.timer("nap", "1ms")
    paid = graph.signal("paid", after=nap)
    graph.signal("again", name="paid", after=paid)
    review = graph.approval("review", "?", within="1h")
    job = graph.add("echo", key="job", timing=Timing(outside="1h", delay="1ms"))
    graph.race("race", [graph.signal("never"), job])
    graph.add("echo", key="asked", retry=Retry(steps=[again(1), escalate("Go on?")]))
    graph.add("echo", key="skipped", after=review)
    graph.add("echo", key="last", paid=paid, choice=review.out.choice, job=job.out.page)
    with stage.scheduler(at_once), Client(stage.url, namespace=stage.namespace) as client:
        run = client.run(stage.submit(graph))
        for sum_ in (1, 2):
            run.signal("paid", {"sum": sum_}, key=str(sum_))
        eventually(
            lambda: {stage.states(run.id)[it] for it in ("job", "asked", "review")} == {"waiting"}, "all to wait"
        )
        broken.clear()
        run.skip("skipped", "not needed", "ann")
        run.answer("asked", "retry", by="ann")
        client.complete(stage.attempt(run.id, stage.load(run.id).keys.index("job")), {"page": 3})
        run.answer("review", "approve", by="ann")
        assert stage.ended(run.id) == ["succeeded"]
        for key in stage.load(run.id).keys:
            assert run.explain(key, check=True).differs == [], key
    assert decided_again(stage, run.id, tmp_path).run.n == stage.load(run.id).n
