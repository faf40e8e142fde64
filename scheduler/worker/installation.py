"""What install() leaves on a Celery app: where the store is, who we are, and one connection per process."""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ..errors import SettingsError
from ..sentinel import SentinelUrl, is_sentinel, url_of_broker
from ..store.attempts import Attempts
from ..store.connection import connect
from .direct import Direct
from .endings import ErrorTable, Meaning
from .secrets import Source

if TYPE_CHECKING:
    from .attempt_events import AttemptEvents
    from .heartbeat import Heartbeat
    from .progress import Progress
    from .report import Courier

NONCE = "CELERIAC_WORKER_NONCE"
"""Environment variable by which a worker's pool processes learn which start of it they belong to."""
HEARTBEAT = "CELERIAC_HEARTBEAT_SECONDS"
OUTPUT_LIMIT = "CELERIAC_OUTPUT_LIMIT_BYTES"
ATTEMPT_EVENTS = "CELERIAC_ATTEMPT_EVENTS"
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+socket://", "sentinel://")
_YES_OR_NO = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
SILENCE_SECONDS = 5.0
"""How long one command may stay without an answer before the connection is given up and it is sent again."""
_lock = threading.Lock()


@dataclass(eq=False)
class Installation:
    """One Celery app on which install() was called.

    Attributes:
        app: the app.
        redis_url, namespace, queue_class: as given to install(); None means: look in the environment.
        errors: what exceptions mean that are not ours.
        heartbeat_seconds: as given to install(); see interval().
        attempt_events: as given to install(); see sends_events().
        secrets: as given to install(): name of a secret -> its value, or None when it is not there.
        claim_wait_seconds: how long a claim waits for Redis before the message goes back to the broker.
        progress: what the pool's processes are at; made by the worker's main process.
        events: Celery's events of attempts in bundles; made there too, if they are asked for.
        in_pool_process: whether this process is one of them.
    """

    app: Any
    redis_url: str | None = None
    namespace: str | None = None
    queue_class: str | None = None
    errors: dict[type[BaseException] | str, Meaning] = field(default_factory=dict)
    heartbeat_seconds: float | None = None
    attempt_events: bool | None = None
    claim_wait_seconds: float = 10.0
    secrets: Source | None = None
    executor_errors: dict[str, ErrorTable] = field(default_factory=dict)
    courier: Courier | None = None
    heartbeat: Heartbeat | None = None
    progress: Progress | None = None
    events: AttemptEvents | None = None
    in_pool_process: bool = False
    _store: tuple[int, Attempts] | None = None
    _output_limit: int | None = None

    def attempts(self) -> Attempts:
        """The store, over a connection of this process: a fork never shares its parent's socket."""
        store = self._store
        pid = os.getpid()
        if store is None or store[0] != pid:
            direct: Any = Direct(connect(self.url(), timeout_seconds=SILENCE_SECONDS))
            store = self._store = (pid, Attempts(direct, self.namespace_name()))
        return store[1]

    def attempts_of_any_thread(self) -> Attempts:
        """The same for threads that come and go: what they use goes back to the pool after each call."""
        direct = self.attempts().client
        return Attempts(direct.client, self.namespace_name())

    def open(self) -> Attempts:
        """A store with a connection of its own, for threads that must not wait for others."""
        return Attempts(connect(self.url(), timeout_seconds=SILENCE_SECONDS), self.namespace_name())

    def url(self) -> str:
        """Where the scheduler's Redis is.

        Raises:
            SettingsError: nothing says so, and the app's broker is not Redis.
        """
        if self.redis_url is None:
            broker = str(self.app.conf.broker_url or "")
            if is_sentinel(broker):
                broker = url_of_broker(broker, self.app.conf.broker_transport_options or {})
            else:
                broker = broker.split(";")[0]
            url = os.environ.get("CELERIAC_REDIS_URL") or (_like(broker, self.app.conf.broker_use_ssl) or None)
            if url is None:
                raise SettingsError(
                    "scheduler.worker.install(app)",
                    "the app's broker is not Redis and nothing else says where the scheduler's Redis is",
                    "Set CELERIAC_REDIS_URL, or call install(app, redis_url=...).",
                )
            self.redis_url = url
        return self.redis_url

    def namespace_name(self) -> str:
        """The namespace: as given, else CELERIAC_NAMESPACE, else "cel"."""
        return self.namespace or os.environ.get("CELERIAC_NAMESPACE") or "cel"

    def class_name(self) -> str | None:
        """The queue class that this worker serves, if it was told one."""
        return self.queue_class or os.environ.get("CELERIAC_QUEUE_CLASS") or None

    def interval(self) -> float:
        """Seconds between heartbeats: as given, else CELERIAC_HEARTBEAT_SECONDS, else 5.

        Raises:
            SettingsError: the environment says something that is no positive number.
        """
        if self.heartbeat_seconds is not None:
            return self.heartbeat_seconds
        text = os.environ.get(HEARTBEAT) or "5"
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 3600:
            raise SettingsError(HEARTBEAT, f"found {text!r}", "Give seconds, at most a third of the shortest lease.")
        return seconds

    def output_limit(self) -> int:
        """Bytes of the largest output that is kept: CELERIAC_OUTPUT_LIMIT_BYTES, else 64 MiB.

        Raises:
            SettingsError: the environment says something that is no positive number.
        """
        if self._output_limit is None:
            text = os.environ.get(OUTPUT_LIMIT) or str(64 * 1024 * 1024)
            if not text.isdecimal() or not int(text):
                raise SettingsError(OUTPUT_LIMIT, f"found {text!r}", "Give a number of bytes above 0.")
            self._output_limit = int(text)
        return self._output_limit

    def sends_events(self) -> bool:
        """Whether attempts in bundles have Celery's own events: as given, else CELERIAC_ATTEMPT_EVENTS, else no.

        Raises:
            SettingsError: the environment says something that is neither yes nor no.
        """
        if self.attempt_events is not None:
            return self.attempt_events
        text = os.environ.get(ATTEMPT_EVENTS) or "no"
        if text.lower() not in _YES_OR_NO:
            raise SettingsError(ATTEMPT_EVENTS, f"found {text!r}", "Give true or false.")
        return _YES_OR_NO[text.lower()]

    def kinds(self, task_name: str | None) -> list[ErrorTable]:
        """Declared meanings of exceptions, most particular first."""
        own = self.executor_errors.get(task_name or "")
        return [self.errors] if own is None else [own, self.errors]


def _like(broker: str, tls: Any) -> str:
    """The app's broker as our store, with the same files for TLS; "" when it is no Redis."""
    if not broker.startswith(REDIS_SCHEMES):
        return ""
    files = {name: str(tls[name]) for name in TLS_FILES if tls.get(name)} if isinstance(tls, dict) else {}
    if not broker.startswith("rediss://") or not files:
        return broker
    return f"{broker}{'&' if '?' in broker else '?'}{urlencode(files, safe='/')}"


def claimant(hostname: str) -> str:
    """The name under which claims are made: two starts of a worker with one name are not the same holder."""
    return f"{hostname}/{os.environ.get(NONCE, '0')}"


def new_start() -> None:
    """A worker starts: draw the nonce that its pool processes will inherit."""
    os.environ[NONCE] = secrets.token_hex(3)


def spell_broker(app: Any) -> None:
    """A broker that is spelled with its master's name, as CELERIAC_REDIS_URL is, in kombu's spelling."""
    url = str(app.conf.broker_url or "")
    if is_sentinel(url) and "master_name=" in url:
        it = SentinelUrl.parse(url)
        options = it.transport_options(app.conf.broker_transport_options or {})
        app.conf.update(broker_url=it.broker_url, broker_transport_options=options)


def installation_of(app: Any) -> Installation | None:
    """What install() left on this app, or None."""
    found: Installation | None = getattr(app, "_celeriac", None)
    return found


def installed_on(app: Any) -> Installation:
    """What install() left on this app, made if it is the first call. Works through Celery's proxies."""
    real = app._get_current_object() if hasattr(app, "_get_current_object") else app
    with _lock:
        found = installation_of(real)
        if found is None:
            found = real._celeriac = Installation(real)
        return found
