"""Row 30: pickle, unknown names, wrong passwords, users without rights: refused, and no secret in any log."""

from __future__ import annotations

import pickle
import secrets
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from scheduler import CeleriacError, Client, Graph

from .harm import HARM
from .hostile import GOOD_BODY, PICKLE_TYPE, Bomb, envelope, headers_of, inbox_of
from .looking import QUEUES, queued, taken, unharmed
from .rig import ROOT, Rig, eventually
from .rows import RigFactory, Verdict, row

APP = "tests.acceptance.faults.app_hostile:app"


@row(30, "pickles and unknown names in queues and inboxes")
def pickles(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody unpickles, nobody runs what is not registered, and the runs do not notice."""
    with rigs(app=APP) as rig:
        rig.start_all()
        rig.worker("h1", "heavy")
        rig.await_workers(len(rig.workers) + 1)
        bomb = rig.directory / "unpickled"
        loads = rig.submit_base(runs=2)
        eventually(lambda: len(rig.ledger()) > rig.nodes // 4, "work is on its way")
        armed, look = pickle.dumps(Bomb(bomb)), _any(rig.look())
        for queue in QUEUES:
            for n in range(20):
                id_ = f"0.{'0' * 24}{n:02d}.0.1.1"
                task = rig.random.choice((HARM, "os.system", "builtins.eval", "celery.backend_cleanup", "../x", "💥"))
                kind = rig.random.choice((PICKLE_TYPE, "application/data", "application/json"))
                body: Any = armed if kind != "application/json" else [["touch"], *GOOD_BODY[1:]]
                look.lpush(queue, envelope(queue, (body, headers_of(id_, task), kind)))
        for shard in range(16):
            for name in ("report", "submit", "cancel", "retry", "output", "signal"):
                look.execute_command("XADD", inbox_of(f"{shard}."), "*", name, armed)
        taken(rig)
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0)
        eventually(lambda: not queued(rig), "the queues are empty", 30)
        verdict.must(not bomb.exists(), "somebody unpickled")
        return unharmed(rig, verdict)


@row(30, "wrong passwords, and a user without rights")
def passwords(rigs: RigFactory, seed: int) -> Verdict:
    """Everybody is refused with a reason, and no password appears in an error, a log or a printed line."""
    right, wrong, weak = (f"pw{secrets.token_hex(12)}" for _ in range(3))
    verdict = Verdict()
    with rigs() as rig:
        rig.start_redis()
        look = _any(rig.look())
        look.execute_command("ACL", "SETUSER", "nobody", "on", f">{weak}", "resetkeys", "~nothing", "-@all", "+ping")
        look.execute_command("ACL", "SETUSER", "boss", "on", f">{right}", "~*", "&*", "+@all")
        look.execute_command("ACL", "SETUSER", "default", "resetpass", f">{right}")
        urls = {
            "no password": f"redis://127.0.0.1:{rig.redis.port}/0",
            "wrong password": f"redis://:{wrong}@127.0.0.1:{rig.redis.port}/0",
            "wrong user": f"redis://stranger:{wrong}@127.0.0.1:{rig.redis.port}/0",
            "no rights": f"redis://nobody:{weak}@127.0.0.1:{rig.redis.port}/0",
        }
        said: list[str] = []
        for n, (name, url) in enumerate(urls.items()):
            verdict.violations += _client_refused(name, url, said)
            for kind, command in {"scheduler": ("scheduler",), "worker": ("worker", "work")}.items():
                env = {"CELERIAC_REDIS_URL": url, "CELERIAC_BROKER_URL": url}
                rig.start(f"{kind}-{n}", *command, env=env)
            said.append(_printed(rig, url))
            verdict.must(_complains(said[-1]), f"{name}: the command line says {said[-1][-300:]}")
        for n, name in enumerate(urls):
            for kind in ("scheduler", "worker"):
                log = f"{kind}-{n}"
                eventually(partial(_tells, rig, log), f"{log} says that {name} is refused", 60)
        for secret in (right, wrong, weak):
            for name in rig.processes:
                verdict.must(secret not in rig.says(name), f"a password stands in the log of {name}")
            for text in said:
                verdict.must(secret not in text, f"a password was printed: {text[-200:].replace(secret, '***')}")
        stored = list(_admin(rig, right).scan_iter("*cel*"))
        verdict.must(not stored, f"somebody who was refused stored {stored[:3]}")
        verdict.facts |= {"refused": 4 * len(urls), "texts searched": len(said) + len(rig.processes)}
    return verdict


def _client_refused(name: str, url: str, said: list[str]) -> Iterator[str]:
    graph = Graph("x")
    graph.add("faults.step", key="a")
    with Client(url) as client:
        said.append(repr(client))
        try:
            client.submit(graph, check=False)
        except CeleriacError as refused:
            said.append(f"{refused} {refused!r} {refused.__cause__!r} {refused.__dict__!r}")
        except Exception as other:  # noqa: BLE001  exactly that is looked for
            said.append(repr(other))
            yield f"{name}: {type(other).__name__} instead of a CeleriacError"
        else:
            yield f"{name}: a submit was taken"


def _printed(rig: Rig, url: str) -> str:
    """What the command line prints when it is given such a URL."""
    texts = []
    for words in (["doctor"], ["runs", "ls"]):
        done = subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *words],
            env=rig.env() | {"CELERIAC_REDIS_URL": url, "CELERIAC_BROKER_URL": url},
            cwd=rig.directory, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        texts.append(f"{done.returncode} {done.stdout} {done.stderr}")
    return " ".join(texts)


def _tells(rig: Rig, name: str) -> bool:
    return _complains(rig.says(name))


def _complains(text: str) -> bool:
    """Whether a text says that somebody may not, and not only that something is wrong."""
    words = ("authentication", "noauth", "wrongpass", "invalid username-password", "noperm", "permission")
    return any(word in text.lower() for word in words)


def _admin(rig: Rig, password: str) -> Redis:
    return Redis(host="127.0.0.1", port=rig.redis.port, username="boss", password=password)


def _any(it: Any) -> Any:
    return it


# --- the shipped users ------------------------------------------------------------------------------------------

USERS = ROOT / "config" / "users.acl"
FORBIDDEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "worker": (("HGETALL", "{cel:0}:run:x"), ("XRANGE", "{cel:0}:run:x:log", "-", "+"), ("FLUSHALL",), ("KEYS", "*")),
    "client": (("HGETALL", "{cel:0}:attempts"), ("LPUSH", "celeriac.work", "x"), ("CONFIG", "GET", "*"), ("FLUSHALL",)),
    "scheduler": (("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"), ("KEYS", "*")),
}
"""What a user must not be able to do, whoever has got hold of its password."""


@row(30, "each process as its user of config/users.acl")
def shipped_users(rigs: RigFactory, seed: int) -> Verdict:
    """The base load runs with the rights that are shipped and no more; what is not granted is refused."""
    if not USERS.is_file():
        return Verdict(facts={"not run": "this version ships no config/users.acl"})
    with rigs(settings={"CELERIAC_QUEUES_FILE": "queues.toml"}) as rig:
        queues = (Path(__file__).parent / "queues.toml").read_text(encoding="utf-8")
        (rig.directory / "queues.toml").write_text(queues.replace('"faults.', '"celeriac.'), encoding="utf-8")
        rig.start_redis()
        passwords = _grant(rig)
        for kind, names in (("scheduler", rig.schedulers), ("worker", rig.workers)):
            url = _url(rig, kind, passwords[kind])
            for name in names:
                words = ("scheduler",) if kind == "scheduler" else ("worker", "work", "-n", f"{name}@%h")
                rig.start(name, *words, env={"CELERIAC_REDIS_URL": url, "CELERIAC_BROKER_URL": url})
        rig.await_workers(len(rig.workers))
        with Client(_url(rig, "client", passwords["client"])) as client:
            loads = rig.submit_base(client=client)
            rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0)
        for kind, commands in FORBIDDEN.items():
            for command in commands:
                verdict.must(_refuses(rig, kind, passwords[kind], command), f"the user {kind} may {' '.join(command)}")
        for name in rig.processes:
            verdict.must("NOPERM" not in rig.says(name), f"{name} lacks a right that it needs, see its log")
            verdict.must(not any(it in rig.says(name) for it in passwords.values()), f"a password in the log of {name}")
        return unharmed(rig, verdict)


def _grant(rig: Rig) -> dict[str, str]:
    """Make the shipped users, each with a password; the default user stays, for the test itself."""
    passwords: dict[str, str] = {}
    for line in USERS.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["user"] and words[1] != "default":
            passwords[words[1]] = f"pw{secrets.token_hex(12)}"
            _any(rig.look()).execute_command("ACL", "SETUSER", *words[1:], "on", f">{passwords[words[1]]}")
    return passwords


def _url(rig: Rig, user: str, password: str) -> str:
    return f"redis://{user}:{password}@127.0.0.1:{rig.redis.port}/0"


def _refuses(rig: Rig, user: str, password: str, command: tuple[str, ...]) -> bool:
    with Redis(host="127.0.0.1", port=rig.redis.port, username=user, password=password) as it:
        try:
            it.execute_command(*command)
        except NoPermissionError:
            return True
    return False
