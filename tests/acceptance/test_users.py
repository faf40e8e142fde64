"""config/users.acl, as each of its users: a whole run by processes logged in apart, and what each one may not do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from scheduler import Client, Graph
from scheduler.policy import policy_of
from scheduler.store import policies
from scheduler.store.attempts import Attempts
from scheduler.store.commits import Commit, send_commits
from scheduler.store.connection import connect
from scheduler.store.keys import Keys
from scheduler.store.owners import Owners
from scheduler.store.runs import connect_runs
from scheduler.wire import Report, new_run_id

from .servers import ADMIN, Server, users_file
from .stack import ROOT, Stack, eventually

PEOPLE = ("scheduler", "worker", "client", "operator", "flower")
PASSWORDS = {user: f"{user}-pass-{len(user)}" for user in (*PEOPLE, ADMIN)}
KEYS = Keys("cel")
RUN = new_run_id(1)
ATTEMPT = f"3.{RUN}.0.1.1"


class Guarded(Stack):
    """An installation whose every process logs in as its own user."""

    def __init__(self, directory: Path, server: Server) -> None:
        super().__init__(directory)
        self.server = server

    def url(self, user: str) -> str:
        """The store, as this user."""
        return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{self.server.port}/0"

    def __enter__(self) -> Self:
        self.env = {"SHOP_LEDGER": str(self.ledger_path)}
        return self

    def start_as(self, user: str, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start `celeriac ...` with the URLs of a user."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'acceptance'}"
        urls = {"CELERIAC_REDIS_URL": self.url(user), "CELERIAC_BROKER_URL": self.url(user)}
        self.env = {**kept, "PYTHONPATH": path, "SHOP_LEDGER": str(self.ledger_path), **urls}
        return self.start(name, *command)

    def as_(self, user: str) -> Any:
        """A connection of this user."""
        return connect(self.url(user))


@pytest.fixture(scope="module", params=["newest", "oldest"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Scheduler, worker and their Redis, on the first server found and on 6.2."""
    from tests.conftest import SERVERS

    binaries = list(SERVERS.values())
    if request.param == "oldest" and len(binaries) == 1:
        pytest.skip("only one Redis server is installed here")
    directory = tmp_path_factory.mktemp("users")
    acl = users_file(directory / "users.acl", PASSWORDS)
    binary = binaries[0 if request.param == "newest" else -1]
    with Server(directory, binary, "--aclfile", str(acl)) as server, Guarded(directory, server) as it:
        it.start_as("scheduler", "scheduler", "scheduler")
        it.start_as("worker", "standard-low", "worker", "standard-low", "--app", "app.shop:app")
        yield it


def diamond(name: str) -> Graph:
    """Four nodes, one output too large for a report, which travels as a blob."""
    g = Graph(name)
    left, right = g.add("shop.add", x=1, y=2, key="left"), g.add("shop.add", x=3, y=4, key="right")
    big = g.add("shop.step", name="b" * 300_000, after=[left, right], key="big")
    g.returns(g.add("shop.total", parts=[left, right], after=big, key="total"))
    g.add("shop.step", name=big, key="copy")
    return g


def test_a_whole_run_by_processes_logged_in_apart(stack: Guarded) -> None:
    """Submit, run with a large output, wait, read, cancel, list: nobody asked for anything that was refused."""
    with Client(stack.url("client")) as client:
        run = client.submit(diamond("apart"), check=False)
        assert run.result(timeout=30) == 10
        assert run.get("copy", timeout=30) == "b" * 300_000
        assert {it.state.word for it in run.nodes()} == {"succeeded"}
        stuck = Graph("stuck")
        stuck.add("shop.nobody", key="s")
        other = client.submit(stuck, check=False)
        other.cancel("enough")
        assert other.wait(timeout=30).value == "cancelled"
        assert {it.id for it in client.runs()} == {run.id, other.id}
    asked = [
        (it["username"], it["reason"], it["object"])
        for it in stack.as_(ADMIN).acl_log()
        if it["object"] not in ("client|setinfo", "client")  # redis-py introduces itself, and takes a no
        and not it["object"].endswith(":attempts")  # the client looks who runs what, and takes a no
    ]
    assert asked == []


def test_an_application_signals_sees_what_is_asked_and_answers(stack: Guarded) -> None:
    """The user of applications needs nobody else's rights for what comes from outside."""
    g = Graph("asking")
    paid = g.signal("paid")
    g.approval("review", "Ship it?", who=["ann"], after=paid)
    with Client(stack.url("client")) as client:
        run = client.submit(g, check=False)
        run.signal("paid", {"sum": 7})
        asked = eventually(lambda: [it for it in client.approvals() if it.run == run.id], "the question")
        assert (asked[0].node, asked[0].question) == ("review", "Ship it?")
        run.answer("review", "approve", by="ann")
        assert run.wait(timeout=30).value == "succeeded"


def test_an_operator_sees_claims_and_retries(stack: Guarded) -> None:
    """The user of people: reads what the client's may not, and asks for a failed run to be tried again."""
    g = Graph("fragile")
    needs = stack.directory / "needed"
    needs.unlink(missing_ok=True)
    g.add("shop.fragile", name="f", needs=str(needs), key="f", retry=1)
    with Client(stack.url("operator")) as operator:
        run = operator.submit(g, check=False)
        assert run.wait(timeout=30).value == "failed"
        needs.touch()
        run.retry()
        assert run.get("f", timeout=30) == "f"
        assert operator._access.runs.client.hgetall(KEYS.owners)


def test_an_operator_deploys_a_policy_and_applications_go_by_it(stack: Guarded) -> None:
    """They may neither read nor change it, so names of mappers are found out when the run needs them."""
    runs = connect_runs(stack.as_("operator"), "cel", 16)
    policies.deploy(runs, policy_of({"version": "users", "mappers": {"double@1": "it * 2.0"}}))
    g = Graph("mapped")
    total = g.add("shop.add", x=1, y=2, key="sum")
    g.returns(g.add("shop.add", x=total.via("double@1"), y=1, key="more"))
    with Client(stack.url("client")) as client:
        assert client.submit(g).result(timeout=60) == 7.0


def test_flower_hears_of_attempts_and_reads_no_key_of_ours(stack: Guarded) -> None:
    """Events and queues only."""
    with stack.as_("flower") as flower, flower.pubsub() as events:
        events.psubscribe("/0.celeryev/*")
        assert eventually(lambda: events.get_message(timeout=1), "the subscription")
        assert flower.llen("celeriac.standard-low") >= 0
        for key in (KEYS.workers, KEYS.shard(0).run(RUN), KEYS.shard(0).attempts):
            with pytest.raises(redis.exceptions.NoPermissionError):
                flower.hgetall(key)


def commit(client: redis.Redis) -> object:
    """What only a scheduler may do."""
    it = Commit(KEYS.shard(3), 1)
    it.records(RUN, {0: "s|1|1|0|0|0;|n"})
    return send_commits(client, [it])


SHARD = KEYS.shard(3)
FORBIDDEN: dict[str, tuple[str, Callable[[Any], object]]] = {
    "worker reads a graph": ("worker", lambda it: it.hgetall(SHARD.spec(RUN))),
    "worker reads a run": ("worker", lambda it: it.hgetall(SHARD.run(RUN))),
    "worker reads node records": ("worker", lambda it: it.hget(SHARD.nodes(RUN, 0), "0")),
    "worker reads values": ("worker", lambda it: it.hget(SHARD.values(RUN, 0), "0")),
    "worker reads a log": ("worker", lambda it: it.xrange(SHARD.log(RUN))),
    "worker reads an inbox": ("worker", lambda it: it.xrange(SHARD.inbox)),
    "worker blocks on an inbox": ("worker", lambda it: it.xread({SHARD.inbox: "0"})),
    "worker dumps an inbox": ("worker", lambda it: it.dump(SHARD.inbox)),
    "worker reads the meta hash": ("worker", lambda it: it.hgetall(KEYS.meta)),
    "worker reads the owners": ("worker", lambda it: it.hgetall(KEYS.owners)),
    "worker commits": ("worker", commit),
    "worker commits from a script": (
        "worker",
        lambda it: it.eval("return redis.call('HSET', KEYS[1], '0', 'x')", 1, SHARD.nodes(RUN, 0)),
    ),
    "worker reads a key that its script does not declare": (
        "worker",
        lambda it: it.eval(f"return redis.call('HGETALL', '{SHARD.values(RUN, 0)}')", 0),
    ),
    "worker takes a shard": ("worker", lambda it: Owners(it, "cel", "w", 1000).take([3])),
    "worker listens to another channel": ("worker", lambda it: it.execute_command("SUBSCRIBE", "secrets")),
    "client reads a policy": ("client", lambda it: it.hgetall(KEYS.policies)),
    "client deploys a policy": ("client", lambda it: it.hset(KEYS.policies, "current", "1")),
    "worker reads a policy": ("worker", lambda it: it.hgetall(KEYS.policies)),
    "client commits": ("client", commit),
    "client claims": ("client", lambda it: Attempts(it).claim([ATTEMPT], "c", "t")),
    "client writes an attempt": ("client", lambda it: it.hset(SHARD.attempts, ATTEMPT, "s|a|1|1")),
    "client ends an attempt": ("client", lambda it: it.hdel(SHARD.attempts, ATTEMPT)),
    "client renews": ("client", lambda it: Attempts(it).renew([ATTEMPT], "c")),
    "client takes a shard": ("client", lambda it: Owners(it, "cel", "c", 1000).take([3])),
    "client sets a timer": ("client", lambda it: it.zadd(SHARD.timers, {"x": 1})),
    "client deletes inbox entries": ("client", lambda it: it.xdel(SHARD.inbox, "1-1")),
    "client publishes a contract by pushing": ("client", lambda it: it.lpush("celeriac.standard-low", "x")),
    "client speaks to workers": ("client", lambda it: it.publish("/0.celery.pidbox", "x")),
    "flower pushes work for us": ("flower", lambda it: it.xadd(SHARD.inbox, {"report": "x"})),
    "scheduler reads another namespace": ("scheduler", lambda it: it.hgetall("{cel2:3}:run:x")),
    "scheduler commands workers": ("scheduler", lambda it: it.publish("/0.celery.pidbox", "x")),
    **{
        f"{user} runs {words}": (user, lambda it, words=words: it.execute_command(*words.split()))  # type: ignore[misc]
        for user in PEOPLE
        for words in (
            "KEYS *",
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET requirepass",
            "CONFIG SET dir /tmp",
            "DEBUG SLEEP 0",
            "SCRIPT FLUSH",
            "SHUTDOWN NOSAVE",
            "ACL LIST",
            "CLIENT LIST",
            "CLIENT KILL ID 1",
            "MONITOR",
            "SLAVEOF NO ONE",
            "SAVE",
            "SWAPDB 0 1",
            "RANDOMKEY",
        )
    },
    "flower reads the server's facts": ("flower", lambda it: it.info()),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_a_user_may_not_do_is_refused(stack: Guarded, what: str) -> None:
    """By Redis itself, whatever the program that holds the password does."""
    user, tries = FORBIDDEN[what]
    with stack.as_(user) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.ResponseError) as refused:
            tries(client)
    told = str(refused.value).lower()
    assert "permission" in told or "can't access" in told or "not allowed" in told, told  # DEBUG is off besides


def test_the_same_is_allowed_to_those_whose_work_it_is(stack: Guarded) -> None:
    """The test of the test: what is refused above succeeds for the right user, so it is the rules that refuse."""
    with stack.as_("scheduler") as scheduler:
        scheduler.set(SHARD.epoch, 1)
        assert commit(scheduler) == []
        assert connect_runs(scheduler, "cel", 16).values(RUN, [0]) == {}
        scheduler.delete(SHARD.epoch, SHARD.nodes(RUN, 0))
    with stack.as_("worker") as worker:
        attempts = Attempts(worker)
        assert attempts.claim([ATTEMPT], "w", "t")[0].verdict == "stale"
        assert attempts.renew([ATTEMPT], "w") == {ATTEMPT: False}
        attempts.report([(Report(ATTEMPT, "failed", "w"), None)])
        attempts.publish_contracts({"users.test": {"v": 1}})
        key = attempts.put_blob(ATTEMPT, b"x")
        assert attempts.get_blob(key) == b"x"
        worker.delete(key)
        worker.hdel(KEYS.executors, "users.test")


def test_the_file_as_shipped_lets_nobody_in(tmp_path: Path, redis_binary: Path) -> None:
    """Every user is off and has no password: forgetting to set one locks out and never opens."""
    acl = users_file(tmp_path / "users.acl", {})
    with Server(tmp_path, redis_binary, "--aclfile", str(acl)) as server:
        for user in ("default", ADMIN, *PEOPLE):
            for password in ("", "off", "password"):
                with pytest.raises(redis.exceptions.RedisError):
                    connect(f"redis://{user}:{password}@127.0.0.1:{server.port}").ping()


def test_the_users_fit_the_shipped_namespace_and_queues() -> None:
    """Names in the file are those of the defaults: every class's queue and every key of every shard is somebody's."""
    text = (ROOT / "config" / "users.acl").read_text(encoding="utf-8")
    from scheduler.settings import Settings

    settings = Settings.load(redis_url="redis://localhost")
    assert settings.namespace == "cel"
    assert all(it.queue.startswith("celeriac.") for it in settings.classes.values())
    assert {line.split()[1] for line in text.splitlines()} == {"default", ADMIN, *PEOPLE}
    assert all(line.split()[2] == "off" for line in text.splitlines())
