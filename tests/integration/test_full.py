"""A Redis that is nearly full, full, or without a disk: what is told, what waits, what goes on; nothing is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import pytest

from scheduler.client import Client
from scheduler.errors import StoreError, StoreFull, StoreRefused
from scheduler.service.loop import Scheduler
from scheduler.service.transport import Outgoing
from scheduler.settings import Settings
from scheduler.store.attempts import Attempts
from scheduler.store.connection import connect, refusal
from scheduler.store.submission import MEMORY_GUARD
from scheduler.wire import Report, RunId
from tests.hurt import Hurt
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, dump, eventually, layers

MB = 1024 * 1024


@pytest.fixture
def hurt(tmp_path: Path, redis_binary: Path, soon: None) -> Iterator[Hurt]:
    """A server of each version, which a test may fill and whose disk it may break."""
    with Hurt(tmp_path, redis_binary) as server:
        yield server


def used(hurt: Hurt) -> int:
    """Bytes that the server says it uses."""
    return int(hurt.client.info("memory")["used_memory"])


def test_a_submit_is_refused_before_redis_is_full(hurt: Hurt) -> None:
    """Over the guard: StoreFull with its figures, nothing staged, the run under way ends; with room it is taken."""
    stage = Stage(hurt.url)
    stage.publish("echo")
    half, go = threading.Event(), threading.Event()

    def act(task: Task) -> Ending | None:
        if task.node == "b":
            half.set()
            assert go.wait(20)
        return echo(task)

    with stage.scheduler(AtOnce(Echo(stage.attempts, act))), Client(hurt.url) as client:
        run = stage.submit(diamond())
        assert half.wait(20)
        hurt.client.setrange("somebody's", 4 * MB, "x")
        most = int(used(hurt) / 0.9)
        hurt.client.config_set("maxmemory", most)
        before = set(hurt.client.scan_iter(count=1000))
        with pytest.raises(StoreFull) as refused:
            client.submit(diamond("refused"), key="k")
        assert refused.value.max_bytes == most
        assert refused.value.limit_bytes == int(0.85 * most)
        assert refused.value.used_bytes is not None
        assert refused.value.used_bytes > refused.value.limit_bytes
        for word in ("memory_guard", "nothing was stored", "raise maxmemory"):
            assert word in str(refused.value)
        assert set(hurt.client.scan_iter(count=1000)) == before
        go.set()
        assert stage.ended(run) == ["succeeded"]
        hurt.client.delete("somebody's")
        hurt.client.config_set("maxmemory", 64 * MB)
        assert client.submit(diamond("taken"), key="k").wait(20) == "succeeded"
    check(stage.client, idle=True)


def test_a_burst_of_submits_is_refused_before_what_it_brings_fills_redis(hurt: Hurt) -> None:
    """A graph takes little room until it runs: what live runs may come to take counts, so all that were taken end."""
    stage = Stage(hurt.url)
    stage.publish("echo")
    compiled = layers(100, 4).compile()
    hurt.client.config_set("maxmemory", used(hurt) + 6 * MB)
    taken: list[RunId] = []

    def burst() -> None:
        while len(taken) < 500:
            run = stage.new_id()
            stage.runs.submit(run, compiled, {})
            taken.append(run)

    with pytest.raises(StoreFull) as refused:
        burst()
    assert refused.value.expected_bytes >= len(taken) * 400 * 500
    assert "may come to take" in str(refused.value)
    assert len(taken) >= 5
    with stage.scheduler(AtOnce(Echo(stage.attempts))) as scheduler:
        assert set(stage.ended(*taken, seconds=120)) == {"succeeded"}
        assert not scheduler.counts["waits"], "Redis was full"
        stage.runs.submit(stage.new_id(), diamond().compile(), {})
        eventually(stage.quiet)
    assert all(stage.client.hget(stage.keys.shard(it).expected, "all") in (None, b"0") for it in range(stage.shards))
    check(stage.client)


def test_the_guard_costs_no_round_trip_and_can_be_off(hurt: Hurt) -> None:
    """A small submit is two scripts, as without a guard; 0 leaves all of maxmemory to be filled."""
    hurt.client.setrange("somebody's", 4 * MB, "x")
    hurt.client.config_set("maxmemory", int(used(hurt) / 0.9))
    runs = Stage(hurt.url).runs
    runs.submit.memory_guard = 0
    graph = diamond().compile()
    before = hurt.client.info("commandstats")
    run = Stage(hurt.url).new_id()
    assert runs.submit(run, graph, {})[0]
    after = hurt.client.info("commandstats")
    assert calls(after, "evalsha") + calls(after, "eval") - calls(before, "evalsha") - calls(before, "eval") <= 4
    runs.submit.memory_guard = MEMORY_GUARD
    with pytest.raises(StoreFull):
        runs.submit(Stage(hurt.url).new_id(), graph, {})
    assert not runs.submit(run, graph, {"key": "repeated"})[0], "a run that is there is found, however full it is"


def test_a_limit_that_comes_later_is_noticed(hurt: Hurt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one a graph of one page is a single script; whether there is one by now is asked in it, now and then."""
    stage = Stage(hurt.url)
    graph, submit = diamond().compile(), stage.runs.submit
    assert submit(stage.new_id(), graph, {})[0]
    before = hurt.client.info("commandstats")
    assert submit(stage.new_id(), graph, {})[0]
    after = hurt.client.info("commandstats")
    assert calls(after, "evalsha") - calls(before, "evalsha") == 1
    hurt.client.setrange("somebody's", 4 * MB, "x")
    hurt.client.config_set("maxmemory", int(used(hurt) / 0.9))
    monkeypatch.setattr(submit, "_known_until", 0.0)  # as if the time had passed
    refused = stage.new_id()
    with pytest.raises(StoreFull):
        submit(refused, graph, {})
    assert not list(hurt.client.scan_iter(f"*{refused}*")), "something of it was stored"


def calls(stats: Any, command: str) -> int:
    """How often a command was called."""
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def test_a_user_who_may_not_ask_is_not_guarded(hurt: Hurt) -> None:
    """Hosted servers forbid INFO; then Redis's own limit is the only one."""
    hurt.client.setrange("somebody's", 4 * MB, "x")
    hurt.client.config_set("maxmemory", int(used(hurt) / 0.9))
    hurt.client.execute_command("ACL", "SETUSER", "plain", "on", ">p", "~*", "&*", "+@all", "-info")
    stage = Stage(hurt.url)
    stage.client.execute_command("AUTH", "plain", "p")
    stage.runs.client.execute_command("AUTH", "plain", "p")
    assert stage.runs.submit(stage.new_id(), diamond().compile(), {})[0]


@pytest.mark.parametrize("how", ["full", "disk"])
def test_a_redis_that_takes_no_writes_is_waited_for(hurt: Hurt, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Scheduler and worker wait, tell of it once and go on; a client is told at once; nothing is lost or done twice."""
    stage = Stage(hurt.url)
    stage.publish("echo")
    reached = threading.Event()

    def act(task: Task) -> Ending | None:
        if task.node == "echo-9":
            reached.set()
        return echo(task)

    caplog.set_level(logging.WARNING, logger="celeriac.scheduler")
    with Aside(Patient(stage, act)) as aside, stage.scheduler(aside) as scheduler, Client(hurt.url) as client:
        run = stage.submit(layers(2, 12))
        assert reached.wait(20)
        hurt.begin(how)
        eventually(lambda: scheduler.counts["waits"] >= 3)
        with pytest.raises(StoreFull if how == "full" else StoreError) as refused:
            client.submit(diamond())
        assert ("maxmemory" if how == "full" else "cannot write to its disk") in str(refused.value)
        with pytest.raises(StoreError):
            client.run(run).cancel()
        with Client(hurt.url) as another:  # reading needs no room, also for one that connects only now
            assert another.run(run).summary().state == "running"
        before = dump(stage.client)
        waits = scheduler.counts["waits"]
        eventually(lambda: scheduler.counts["waits"] > waits)
        assert dump(stage.client) == before
        hurt.mend()
        assert stage.ended(run) == ["succeeded"]
        assert not scheduler.counts["crashes"]
        eventually(lambda: "works again" in caplog.text)
    told = [it for it in caplog.messages if "nothing is lost" in it]
    assert len(told) <= 2, told
    ends = [move[0] for move in stage.moves(run) if move[1] == "succeed"]
    assert sorted(ends) == list(range(24))
    assert max(stage.load(run).attempt) == 1, "no attempt was lost for want of room"
    assert list(stage.client.scan_iter("*:spec:*")) == [], "nothing staged stays behind"
    check(stage.client, idle=True)


class Aside(AtOnce):
    """The same worker in a thread of its own, so that its waiting keeps nobody else."""

    def __init__(self, echo: Echo) -> None:
        super().__init__(echo)
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._tasks.put(None)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def send(self, outgoing: Outgoing) -> None:
        """Hand it over."""
        for template, letter in outgoing:
            self._tasks.put(Task.from_parts(*template.for_kombu(letter)[:2]))

    def waiting(self, queue: str) -> frozenset[str] | None:
        """That is not told."""
        return None

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self.echo.take([task])


class Patient(Echo):
    """A worker as patient as the real one: a claim or report that is refused is made again."""

    def __init__(self, stage: Stage, act: Any) -> None:
        super().__init__(PatientAttempts(connect(stage.url), stage.namespace), act)


class PatientAttempts(Attempts):
    """Repeats what Redis refuses."""

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        """As the product's."""
        return patiently(lambda: super(PatientAttempts, self).claim(*args, **kwargs))

    def report(self, *args: Any, **kwargs: Any) -> None:
        """As the product's."""
        patiently(lambda: super(PatientAttempts, self).report(*args, **kwargs))


def patiently(call: Any) -> Any:
    """Until it is taken."""
    found: list[Any] = []

    def tried() -> bool:
        try:
            found.append(call())
        except Exception as refused:
            if not refusal(refused):
                raise
            return False
        return True

    eventually(tried)
    return found[0]


def test_leases_are_renewed_on_a_full_redis(hurt: Hurt) -> None:
    """Claimed ones and waiting ones; a claim and a report are refused, and change nothing."""
    stage = Stage(hurt.url)
    stage.client.hset(stage.keys.shard(0).attempts, mapping={"0." + "0" * 26 + ".0.1.1": "s|c|60000|90000"})
    ids = [f"0.{'0' * 26}.{node}.1.1" for node in range(3)]
    keys = stage.keys.shard(0)
    for id_ in ids:
        stage.client.hset(keys.attempts, id_, "s|c|60000|90000")
        stage.client.zadd(keys.leases, {id_: 1})
    stage.attempts.claim(ids[:1], "w", "t")
    stage.client.zadd(keys.leases, {ids[0]: 1})
    hurt.begin("full")
    assert stage.attempts.renew(ids[:2], "w") == dict.fromkeys(ids[:2], True)
    assert all(stage.client.zscore(keys.leases, id_) > 1 for id_ in ids[:2])
    before = dump(stage.client)
    for refused in (
        lambda: stage.attempts.claim(ids[2:], "w", "t"),
        lambda: stage.attempts.report([(Report(ids[0], "succeeded", "w"), None)]),
    ):
        with pytest.raises(Exception, match="maxmemory"):
            refused()
    assert dump(stage.client) == before
    hurt.mend()
    stage.client.flushall()


# -- at the start -------------------------------------------------------------------------------------


def make_unsafe(hurt: Hurt) -> None:
    """As somebody's Redis that was made to be a cache."""
    hurt.client.config_set("appendonly", "no")
    hurt.client.config_set("maxmemory-policy", "allkeys-lru")


def test_a_strict_scheduler_refuses_an_unsafe_redis(hurt: Hurt) -> None:
    """It owns nothing and says everything that is wrong; on a safe one it works."""
    make_unsafe(hurt)
    hurt.client.config_set("appendfsync", "no")
    settings = Settings.load(redis_url=hurt.url, strict=True)
    with pytest.raises(StoreRefused) as refused:
        Scheduler(settings).run()
    for word in ("appendonly is off", "appendfsync", "allkeys-lru", "strict"):
        assert word in str(refused.value)
    assert len(refused.value.problems) == 3
    assert list(hurt.client.scan_iter()) == []


def test_one_that_is_not_strict_warns_once_and_works(hurt: Hurt, caplog: pytest.LogCaptureFixture) -> None:
    """Loudly, each problem with its remedy."""
    make_unsafe(hurt)
    stage = Stage(hurt.url)
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts))):
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
    assert caplog.text.count("UNSAFE STORE") == 2
    assert "Set `appendonly yes`" in caplog.text


def test_a_redis_that_is_short_of_room_is_no_reason_to_refuse(hurt: Hurt) -> None:
    """A strict scheduler must start on a nearly full Redis: who else should drain it?"""
    stage = Stage(hurt.url)
    stage.publish("echo")
    run = stage.submit(diamond())
    hurt.client.setrange("somebody's", 8 * MB, "x")
    hurt.client.config_set("maxmemory", int(used(hurt) / 0.93))
    scheduler = Scheduler(Settings.load(redis_url=hurt.url, shards=4, strict=True), AtOnce(Echo(stage.attempts)))
    thread = threading.Thread(target=scheduler.run, daemon=True)
    thread.start()
    try:
        assert stage.ended(run) == ["succeeded"]
    finally:
        stage.end(scheduler, thread)


def test_a_redis_that_comes_back_unsafe_is_noticed(hurt: Hurt, caplog: pytest.LogCaptureFixture) -> None:
    """After a lost connection the question is asked again: warned of, and refused by one that is strict."""
    hurt.server.stop()
    hurt.server.start()
    stage = Stage(hurt.url)
    stage.publish("echo")
    strict = Scheduler(Settings.load(redis_url=hurt.url, shards=4, strict=True, shard_lease_seconds=1.0))
    raised: list[BaseException] = []

    def work() -> None:
        try:
            strict.run()
        except BaseException as error:  # noqa: BLE001  handed over to the test
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with stage.scheduler(AtOnce(Echo(stage.attempts))):
        eventually(lambda: hurt.client.zcard(stage.keys.schedulers) == 2)
        make_unsafe(hurt)
        eventually(lambda: cut(hurt) or not thread.is_alive(), "the end of the strict one")
        assert isinstance(raised[0], StoreRefused)
        eventually(lambda: cut(hurt) or caplog.text.count("UNSAFE STORE") >= 2)
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]


def cut(hurt: Hurt) -> bool:
    """Every connection but our own is lost; never what one waits for."""
    for it in hurt.client.client_list():
        if int(it["id"]) != hurt.client.client_id():
            hurt.client.client_kill_filter(_id=it["id"])
    return False
