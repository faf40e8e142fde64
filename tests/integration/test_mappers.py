"""Mapped inputs in a run: what goes out, what does not, and what a large output costs. A real Redis, a real loop.

What they mean stands in a policy, which each run takes up when it begins.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler import Client
from scheduler.cli import main
from scheduler.errors import InvalidValue, UnknownMapper
from scheduler.graph import Graph, Retry, changed
from scheduler.policy import policy_of
from scheduler.service.aside import MOST_MAPPED_BYTES
from scheduler.store import policies
from scheduler.store.runs import Runs
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo, Ending, echo, value
from tests.integration.scripted import Scripted
from tests.integration.stage import Stage, eventually, idle

MAPPERS = {
    "order_to_invoice@1": {"lines": "it.items", "total": "it.net * 1.2"},
    "sku@1": "it.sku",
    "count@1": {"n": "size(it.items)"},
}
ORDER = {"items": [{"sku": "é"}, {"sku": "b"}], "net": 10}


@pytest.fixture(autouse=True)
def deployed(stage: Stage) -> None:
    """A policy that says what the mappers are is in force."""
    policies.deploy(stage.runs, policy_of({"version": "1", "mappers": MAPPERS}))


def shop(mapper: str = "order_to_invoice@1", **options: Any) -> Graph:
    """An order and what is made of it."""
    g = Graph("shop")
    order = g.add("echo", key="order")
    g.add(
        "echo",
        key="invoice",
        made=order.via(mapper),
        first=order.out.items[0].via("sku@1"),
        net=order.out.net,
        **options,
    )
    return g


def gives(worker: Echo, ending: Ending) -> None:
    """The node `order` ends so; every other one gives back its inputs."""
    worker.act = lambda task: ending if task.node == "order" else echo(task)


def error_of(stage: Stage, run: RunId, node: int = 1) -> dict[str, Any]:
    """The error record of a node."""
    found: dict[str, Any] = json.loads(stage.runs.values(run, [node])[node])
    return found


def test_a_worker_gets_what_the_mapper_made(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """It sees no mapper and needs to know of none; plain references beside it stay as they were."""
    gives(worker, value(ORDER))
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(shop())) == ["succeeded"]
    made = {"lines": ORDER["items"], "total": 12.0}
    assert worker.done[-1].kwargs == {"made": made, "first": "é", "net": 10}
    assert worker.done[-1].headers["celeriac"]["deferred"] == []
    idle(stage)


def test_a_value_that_does_not_fit_fails_the_node_and_nothing_goes_out(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """As a broken contract, without a retry, with node, mapper, field and value; the loop goes on with other runs."""
    gives(worker, value({"items": [{"sku": 1}], "net": "ten"}))
    with stage.scheduler(at_once):
        run = stage.submit(shop())
        assert stage.ended(run) == ["failed"]
        gives(worker, value(ORDER))
        assert stage.ended(stage.submit(shop())) == ["succeeded"]
    assert worker.nodes() == ["order", "order", "invoice"]
    error = error_of(stage, run)
    assert (error["kind"], error["phase"], error["origin"], error["type"]) == (
        "contract",
        "dispatch",
        "contract",
        "MappingError",
    )
    for said in ("order.output by mapper order_to_invoice@1", "field total: it.net * 1.2", 'it.net = "ten"'):
        assert said in error["message"]
    assert stage.words(run, 1) == ["ready", "dispatch", "fail"]
    idle(stage)


def test_a_run_without_the_mapper_fails_the_node(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """It never gets the value as it stands."""
    gives(worker, value(ORDER))
    with stage.scheduler(at_once):
        run = stage.submit(shop("order_to_invoice@2"))
        assert stage.ended(run) == ["failed"]
    assert worker.nodes() == ["order"]
    error = error_of(stage, run)
    assert (error["kind"], error["phase"]) == ("contract", "dispatch")
    assert "order.output by mapper order_to_invoice@2: the run has no such mapper, only" in error["message"]
    idle(stage)


def test_a_ladder_may_answer_a_mapping_that_fails(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A step for broken contracts gets other inputs, which may be mapped too."""
    gives(worker, value({"items": [{"sku": "a"}], "net": "ten"}))
    g = Graph("ladder")
    order = g.add("echo", key="order")
    retry = Retry(steps=[changed({"made": order.via("count@1")}, on=["contract"])])
    g.add("echo", key="invoice", made=order.via("order_to_invoice@1"), retry=retry)
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(g)) == ["succeeded"]
    assert worker.done[-1].kwargs == {"made": {"n": 1}}
    idle(stage)


def test_a_node_that_did_not_succeed_gives_null_unmapped(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """As without a mapper; who runs after failures need not guard its mappers against it."""
    worker.act = lambda task: (
        Ending("failed", kind="none", error={"kind": "permanent", "type": "X", "message": "m"})
        if (task.node == "order")
        else echo(task)
    )
    with stage.scheduler(at_once):
        run = stage.submit(shop(trigger_rule="all_done"))
        assert stage.ended(run) == ["succeeded"]
    assert worker.done[-1].kwargs == {"made": None, "first": None, "net": None}
    idle(stage)


def test_an_output_put_aside_is_fetched_for_its_mapper_only(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for a whole fan-out; a plain reference beside it still travels as a key that the worker fetches."""
    fetched: list[str] = []
    blob = Runs.blob

    def counted(runs: Runs, key: str) -> bytes | None:
        fetched.append(key)
        return blob(runs, key)

    monkeypatch.setattr(Runs, "blob", counted)
    large = {**ORDER, "padding": "x" * 400_000}
    gives(worker, Ending(value=large, kind="blob"))
    g = Graph("aside")
    order = g.add("echo", key="order")
    for i in range(50):
        g.add("echo", key=f"n{i}", sku=order.out.items[i % 2].via("sku@1"), plain=order.out.net)
    with stage.scheduler(at_once):
        run = stage.submit(g)
        assert stage.ended(run) == ["succeeded"]
    for task in worker.done[1:]:
        assert task.kwargs["sku"] in ("é", "b")
        assert task.kwargs["plain"] == {
            "blob": stage.keys.shard(stage.runs.shard(run)).blob(stage.attempt(run)),
            "path": ["net"],
        }
        assert task.headers["celeriac"]["deferred"] == [[1, "plain"]]
    assert len(worker.done) == 51
    assert len(fetched) <= 10, "a turn's messages share it"
    idle(stage)


@pytest.mark.parametrize("gone", [False, True])
def test_an_output_put_aside_that_cannot_be_mapped_fails_the_node(
    stage: Stage, worker: Echo, at_once: AtOnce, gone: bool
) -> None:
    """Too large for the scheduler it breaks a contract; gone it is nobody's fault, as a worker would say of it."""
    g = Graph("aside")
    order = g.add("echo", key="order")
    g.add("echo", key="after", after=order, wait=order.out.net)
    g.add("echo", key="invoice", after="after", made=order.via("order_to_invoice@1"))

    def act(task: Any) -> Ending:
        if task.node == "order":
            padding = "x" * (1 if gone else MOST_MAPPED_BYTES)
            return Ending(value={**ORDER, "padding": padding}, kind="blob")
        if gone:
            stage.client.delete(stage.keys.shard(stage.runs.shard(run)).blob(stage.attempt(run)))
        return value(1)

    worker.act = act
    run = stage.new_id()
    with stage.scheduler(at_once):
        assert stage.runs.submit(run, g.compile(), {})[0]
        assert stage.ended(run) == ["failed"]
    assert worker.nodes() == ["order", "after"]
    error = error_of(stage, run, 2)
    assert error["phase"] == "dispatch"
    assert "order.output by mapper order_to_invoice@1: the output" in error["message"]
    if gone:
        assert (error["kind"], error["origin"]) == ("permanent", "infrastructure")
        assert "is gone from Redis" in error["message"]
        stage.client.set(stage.keys.shard(stage.runs.shard(run)).blob(stage.attempt(run)), b"1")  # as Redis must be
    else:
        assert (error["kind"], error["origin"]) == ("contract", "contract")
        assert "at most 1,048,576 are fetched for a mapper" in error["message"]
    idle(stage)


def test_another_scheduler_maps_the_same(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """An attempt that its scheduler could not send goes out by the next one, mapped once more."""
    gives(worker, value(ORDER))
    held = AtOnce(Echo(stage.attempts, lambda task: value(ORDER) if task.node == "order" else None))
    with stage.scheduler(held):
        run = stage.submit(shop())
        eventually(lambda: held.echo.nodes() == ["order", "invoice"], "both sent")
    first = held.echo.done[-1]
    stage.lease_ends(first.id)
    with stage.scheduler(at_once):
        assert stage.ended(run) == ["succeeded"]
    assert (
        worker.done[-1].kwargs
        == first.kwargs
        == {"made": {"lines": ORDER["items"], "total": 12.0}, "first": "é", "net": 10}
    )
    idle(stage)


def test_who_answers_sees_what_mappers_made_and_their_names(redis_url: str, stage: Stage) -> None:
    """`approvals show` names the mapper; where one makes nothing the error stands in its place."""
    g = Graph("ask")
    order = g.add("echo", key="order")
    g.approval("review", "Send it?", shown={"invoice": order.via("order_to_invoice@1"), "net": order.out.net})
    run = stage.submit(g)
    play = Scripted(redis_url, run)
    play.open()
    play.send("order")
    play.succeed("order", ORDER)
    play.close()
    said = CliRunner().invoke(main, ["approvals", "show", run, "review", "--redis", redis_url, "-o", "json"])
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["mappers"] == {"invoice": ["order_to_invoice@1"]}
    assert found["shown"]["net"] == 10
    assert found["shown"]["invoice"].startswith("order.output by mapper order_to_invoice@1: the run has no mapper")
    said = CliRunner().invoke(main, ["approvals", "show", run, "review", "--redis", redis_url])
    assert "shown: invoice by order_to_invoice@1\t" in said.stdout


def test_what_a_mapper_means_is_kept_with_the_run(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Only what the graph uses; another policy changes nothing for a run that has begun with this one."""
    gives(worker, value(ORDER))
    with stage.scheduler(at_once):
        run = stage.submit(shop())
        assert stage.ended(run) == ["succeeded"]
    kept = stage.load(run)
    assert kept.policy is not None
    assert kept.policy.record["mappers"].keys() == {"order_to_invoice@1", "sku@1"}
    assert kept.mappers.keys() == {"order_to_invoice@1", "sku@1"}


def test_a_version_of_a_mapper_never_changes(stage: Stage) -> None:
    """No policy may give a name and version another meaning; both may have the same."""
    policies.deploy(stage.runs, policy_of({"version": "2", "mappers": {"sku@1": "it.sku", "sku@2": "it.sku.id"}}))
    with pytest.raises(InvalidValue, match=r'mappers\["sku@1"\].*stands with another definition in the policy'):
        policies.deploy(stage.runs, policy_of({"version": "3", "mappers": {"sku@1": "it.id"}}))
    assert (policies.current(stage.runs) or {})["version"] == "2"


def test_a_client_refuses_mappers_that_nobody_has_deployed(stage: Stage) -> None:
    """Before anything is stored, with the nearest name."""
    stage.publish("echo")
    with Client(stage.url) as client, pytest.raises(UnknownMapper, match="order_to_invoice@1"):
        client.submit(shop("order_to_invoice@2"))
