"""Plain Celery tasks of somebody's shop; one line makes them executors.

Each run of a task leaves a line in a ledger outside the system, so that tests can count executions.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery

from scheduler.worker import attempt, install

app = Celery("shop", broker=os.environ["CELERIAC_BROKER_URL"])
install(app)


def note(what: str, **facts: Any) -> None:
    """A line in the ledger, whole even when many processes write."""
    with Path(os.environ["SHOP_LEDGER"]).open("a") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        now = attempt()
        ledger.write(json.dumps({"what": what, "id": now.id if now else None, "at": time.time(), **facts}) + "\n")


@app.task(name="shop.step")
def step(name: str, seconds: float = 0.0, after: Any = None) -> str:
    """Work for a while."""
    note("begin", name=name)
    time.sleep(seconds)  # the work itself
    note("end", name=name)
    return name


@app.task(name="shop.next", purity="pure")
def following(value: int, seconds: float) -> int:
    """One more, after a while."""
    time.sleep(seconds)  # the work itself
    return value + 1


@app.task(name="shop.add", capabilities=["sum"])
def add(x: float, y: float) -> float:
    """Add."""
    return x + y


@app.task(name="shop.total")
def total(parts: list[float]) -> float:
    """Add them all."""
    return sum(parts)


@app.task(name="shop.fail")
def fail(text: str) -> None:
    """Fail."""
    raise ValueError(text)


@app.task(name="shop.fragile")
def fragile(name: str, needs: str) -> str:
    """Work only where a file is."""
    note("begin", name=name)
    if not Path(needs).exists():
        raise FileNotFoundError(needs)
    note("end", name=name)
    return name


@app.task(name="shop.pulse")
def pulse(name: str, seconds: float, every: float = 0.0) -> str:
    """Work for a while, and say so every few moments; or work and say nothing."""
    note("begin", name=name)
    now, until = attempt(), time.monotonic() + seconds
    while time.monotonic() < until:
        if every and now is not None and not now.heartbeat():
            note("unwanted", name=name)
            return name
        time.sleep(every or seconds)  # the work itself
    note("end", name=name)
    return name


@app.task(name="shop.seal")
def seal(sealed: str) -> str:
    """Open what was sealed by the client, work on it, seal it again: a Caesar cipher stands for a real one."""
    plain = "".join(chr(ord(it) - 3) for it in sealed)
    return "".join(chr(ord(it) + 3) for it in plain.upper())


@app.task(name="shop.late", acks_late=True)
def late(name: str, seconds: float = 0.0, after: Any = None) -> str:
    """Work for a while; the broker keeps the message until it is done."""
    note("begin", name=name)
    time.sleep(seconds)  # the work itself
    note("end", name=name)
    return name


@app.task(name="shop.fatal", acks_late=True)
def fatal(name: str) -> None:
    """End the process that runs it, as a segmentation fault does."""
    note("begin", name=name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.poison")
def poison(how: str, antidote: str) -> str:
    """Do to this process what no worker likes, as long as there is no antidote."""
    note("poison", how=how)
    if Path(antidote).exists():
        return how
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise MemoryError(how)


if os.environ.get("SHOP_LATER"):

    @app.task(name="shop.later")
    def later(name: str) -> None:
        """A task that an older worker does not have."""
        note("later", name=name)
