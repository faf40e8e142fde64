"""What the kernel knows of a process from outside: the time it computed, and its connections to a port."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import psutil


def computed_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    user, system, *_ = psutil.Process(pid).cpu_times()
    return float(user + system)


def connections(pid: int, port: int) -> set[int]:
    """Our end's ports of the connections that a process has to a port."""
    try:
        found = psutil.Process(pid).net_connections("tcp4")
    except psutil.NoSuchProcess:
        return set()
    return {it.laddr.port for it in found if it.raddr and it.raddr.port == port}


Links = Mapping[str, tuple[int, int]]
"""A name -> (pid, port that it is connected to)."""


def given_up(links: Links, act: Callable[[], object], seconds: float) -> dict[str, float]:
    """Do something to the network, and watch for at most so long who gives a connection up that it had.

    Returns:
        Name -> seconds until then; nothing for those that kept all.
    """
    return _watched(links, act, seconds, lambda before, now: bool(before - now))


def reconnected(links: Links, act: Callable[[], object], seconds: float) -> dict[str, float]:
    """The same for those who connect anew."""
    return _watched(links, act, seconds, lambda before, now: bool(now - before))


def _watched(
    links: Links, act: Callable[[], object], seconds: float, seen: Callable[[set[int], set[int]], bool]
) -> dict[str, float]:
    before = {name: connections(*link) for name, link in links.items()}
    act()
    began = time.monotonic()
    found: dict[str, float] = {}
    while time.monotonic() < began + seconds and len(found) < len(links):
        for name in links.keys() - found.keys():
            if seen(before[name], connections(*links[name])):
                found[name] = round(time.monotonic() - began, 1)
        time.sleep(0.1)  # between two looks
    return found


def slowest(found: Mapping[str, float], expected: Iterable[str]) -> str:
    """For people: who took longest, and who never came."""
    missing = sorted(set(expected) - found.keys())
    text = ", ".join(f"{name} {took}" for name, took in sorted(found.items(), key=lambda it: -it[1])[:3])
    return f"{text}; never: {', '.join(missing)}" if missing else text
