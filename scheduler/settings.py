"""Settings: what an operator may choose, where it comes from, and what is refused.

Sources, first found wins: arguments of `Settings.load`, environment (`CELERIAC_REDIS_URL=...`), a TOML file
(`CELERIAC_CONFIG`, else `celeriac.toml` in the working directory), the defaults below. Relative paths in the
file are relative to the file. Queue classes and Celery's settings have files of their own, shipped with the
package (`default_file`). Every error is a `SettingsError` that names the place; passwords are never shown.
A new setting is one field here; it is then a TOML key and an environment variable too.

Imports pydantic (0.2 s): import this module inside commands, not at the top of a module that `--help` needs.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import SettingsError, did_you_mean, shown
from .sentinel import SentinelUrl, is_sentinel
from .wire import CAPABILITY_NAME, allowed, is_found_later, read_tool, tool_of

PREFIX = "CELERIAC_"
FILE_NAME = "celeriac.toml"
THIRTY_DAYS_SECONDS = 30 * 86_400
MIB = 1_048_576

RABBIT_CONSUMER_TIMEOUT_MS = 7 * 86_400_000
"""Leases tell who has died, so RabbitMQ need not: 3.12 and later read this of a queue, older ones ignore it."""

_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
_PATHS = ("redis_tls_ca", "redis_tls_cert", "redis_tls_key", "secrets_dir")
_file: ContextVar[Path | None] = ContextVar("file of the settings being loaded", default=None)


def _no_boolean(value: object) -> object:
    """`true` is no number, although Python says 1."""
    if isinstance(value, bool):
        raise ValueError("is a boolean, not a number")
    return value


def _never(value: object) -> object:
    """`never`, since neither TOML nor the environment has a word for None."""
    return None if value == "never" else _no_boolean(value)


Age = Annotated[float, Field(ge=0, le=100 * 365 * 86_400, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=100_000)]
Seconds = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, le=THIRTY_DAYS_SECONDS, allow_inf_nan=False)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=128)]


def _patterns(value: object) -> object:
    """A list of TOML as the tuple that a frozen model keeps."""
    return tuple(value) if isinstance(value, list) else value


Pattern = Annotated[str, StringConstraints(pattern=r"^[^,\s]+$", max_length=256)]


class QueueClass(BaseModel):
    """One table of queues.toml: workers alike in latency, cost and limits. config/queues.toml explains each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassName
    latency: Literal["interactive", "standard", "batch"]
    cost: Word
    queue: Word
    pool: Literal["prefork", "threads", "solo", "gevent"]
    concurrency: Count
    prefetch: Count = 1
    lease_seconds: Annotated[Seconds, Field(ge=1)] = 20.0
    timeout_seconds: Seconds = 3600.0
    target_wait_seconds: Seconds = 15.0
    window: Count = 500
    store_results: bool = False
    shutdown_seconds: Seconds = 20.0
    queue_type: Literal["classic", "quorum"] | None = None
    executors: Annotated[tuple[Pattern, ...], BeforeValidator(_patterns)] = ("*",)
    bundle_seconds: Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=10, allow_inf_nan=False)] | None = (
        None
    )
    default: bool = False

    @property
    def bundle_us(self) -> int:
        """Work in one message, microseconds; 0 when attempts of this class do not share messages."""
        seconds = self.bundle_seconds
        if seconds is None:
            seconds = 0.005 if self.latency == "interactive" else 0.05
        return round(seconds * 1e6)

    def allows(self, executor: str) -> bool:
        """Whether an executor of that name may run in this class."""
        return allowed(executor, self.executors)

    @property
    def lease_ms(self) -> int:
        """The lease as scripts want it."""
        return round(self.lease_seconds * 1000)

    @property
    def timeout_ms(self) -> int:
        """The hard time limit as the compiled graph wants it."""
        return round(self.timeout_seconds * 1000)


class Settings(BaseSettings):
    """All settings of one process. Make it with `Settings.load()`; it does not change afterwards.

    Attributes:
        redis_tls_ca, redis_tls_cert, redis_tls_key: PEM files for rediss:// URLs that name none: whom to trust,
            and what we show. A server's certificate is always checked, unless the URL says ssl_cert_reqs=none.
        redis_url: where all state lives, perhaps by its sentinels (sentinel.py has their spelling); None means the
            embedded Redis in `data_dir`.
        broker_url: Celery's broker; when not given, the same Redis in Celery's spelling, so None if that is embedded.
            Sentinels are spelled as in redis_url; `celery_settings` gives it as kombu wants it.
        broker_queue_type: of queues on RabbitMQ, where a class does not say its own; other brokers have no types.
        broker_delivery_limit: how often a quorum queue delivers one message before it lays it aside.
        broker_dead_letter_queue: where quorum queues lay such messages, and those that a worker rejects.
        namespace: first part of every Redis key.
        shards: how many; counts only when a store is first used, later it must be the same.
        shard_lease_seconds: how long a scheduler may be silent before others take its shards.
        data_dir: home of the embedded Redis.
        secrets_dir: files with the values of `Secret` inputs, one each; read by workers.
        queues_file, celery_file, capabilities_file: None means the package's own queues.toml and so on.
        app: import path of the Celery app that `celeriac worker` and `celeriac flower` load.
        heartbeat_file: touched by scheduler and worker while they are well; None means none.
        flower_address, flower_port: read by config/flower.py too.
        memory_guard: share of Redis's maxmemory above which submits are refused; 0 means none.
        strict: a scheduler refuses a Redis that may lose what it acknowledged; otherwise it warns.
        output_limit_bytes: a larger output fails its node. Outputs are kept in Redis.
        attempt_events: workers send Celery's events for each attempt of a bundle, while theirs are on.
        log_level: for the commands.
        retention_seconds: how long an ended run stays in Redis before it is archived and removed. 0: not at all;
            "never" (None): time removes nothing. Without an archive nothing is removed, however old.
        retention_bytes: what all ended runs together may take in Redis; beyond it the oldest go before their time.
        archive_url: where ended runs go: a folder, or a URL for fsspec such as s3://bucket/prefix. "none" says that
            they may be thrown away. When not given: `archive` in data_dir if the Redis is the embedded one, else
            nowhere, and ended runs stay in Redis. Read `archive`, which has it worked out.
        key_retention_seconds: how long the idempotency key of a removed run is remembered. 0: as long as the run.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True, validate_default=False
    )

    redis_tls_ca: Path | None = None
    redis_tls_cert: Path | None = None
    redis_tls_key: Path | None = None
    redis_url: str | None = None
    broker_url: str | None = Field(default_factory=lambda given: _same_redis(given.get("redis_url")))
    broker_queue_type: Literal["classic", "quorum"] = "classic"
    broker_delivery_limit: Count = 20
    broker_dead_letter_queue: Word = "celeriac.dead"
    namespace: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = "cel"
    shards: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=1024)] = 16
    shard_lease_seconds: Annotated[Seconds, Field(ge=1, le=600)] = 10.0
    data_dir: Path = Path(".celeriac")
    secrets_dir: Path | None = None
    queues_file: Path | None = None
    celery_file: Path | None = None
    capabilities_file: Path | None = None
    app: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$")] = "tasks.app:app"
    heartbeat_file: Path | None = None
    flower_address: str = "127.0.0.1"
    flower_port: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=65_535)] = 5555
    memory_guard: Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1, allow_inf_nan=False)] = 0.85
    strict: bool = False
    output_limit_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=512 * MIB)] = 64 * MIB
    attempt_events: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    retention_seconds: Annotated[Age | None, BeforeValidator(_never)] = 7 * 86_400.0
    retention_bytes: Annotated[int | None, BeforeValidator(_never), Field(ge=0)] = None
    archive_url: Annotated[str, StringConstraints(min_length=1)] | None = None
    key_retention_seconds: Annotated[Age, BeforeValidator(_no_boolean)] = 30 * 86_400.0

    @classmethod
    def load(cls, config: Path | None = None, **overrides: Any) -> Self:
        """Reads every source once, the queue classes included.

        Args:
            config: a TOML file; None means `CELERIAC_CONFIG`, else ./celeriac.toml if there is one.
            overrides: fields that win over every source; None counts as not given.

        Raises:
            SettingsError: a file is missing or unreadable, a key is unknown, a value is not allowed.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        path = _config_path(config)
        token = _file.set(path)
        try:
            settings = cls(**given)
        except ValidationError as refused:
            raise _refused_setting(refused, given, path) from None
        finally:
            _file.reset(token)
        settings.classes, settings.capabilities  # noqa: B018  read now, so that a wrong file is told at the start
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic-settings hands it over, we want none
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the file that `load` chose."""
        path = _file.get()
        from_file = {} if path is None else _absolute(_read_toml(path), path.parent)
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=from_file)

    @field_validator("redis_url")
    @classmethod
    def _a_redis(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in _REDIS_SCHEMES:
            raise ValueError(
                "is no Redis URL; write redis://host:6379/0, rediss://..., unix:///path/redis.sock or "
                "sentinel://host:26379;sentinel://.../0?master_name=..."
            )
        return _checked_sentinels(url)

    @field_validator("broker_url")
    @classmethod
    def _a_url(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            raise ValueError("is no URL; write it as Celery does, such as redis://host:6379/0 or amqp://host//")
        return _checked_sentinels(url)

    @property
    def archive(self) -> str | None:
        """Where ended runs go: the setting, else a folder beside the embedded Redis; None keeps them in Redis."""
        if self.archive_url is None and self.redis_url is None:
            return str(self.data_dir.absolute() / "archive")
        return self.archive_url

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _checked_tls(cls, url: str | None, info: ValidationInfo) -> str | None:
        files = (info.data.get(f"redis_tls_{name}") for name in ("ca", "cert", "key"))
        return None if url is None else with_tls(url, *files)

    @cached_property
    def classes(self) -> dict[str, QueueClass]:
        """Queue classes by name, in the order of the file."""
        return read_queues(self.queues_file or default_file("queues.toml"))

    @cached_property
    def capabilities(self) -> dict[str, str]:
        """Capability, or tool as documents write it -> who does it, unless an operator has bound another."""
        return read_capabilities(self.capabilities_file or default_file("capabilities.toml"))

    @property
    def default_class(self) -> QueueClass:
        """The class of an executor that names none."""
        return next(c for c in self.classes.values() if c.default)

    def celery_settings(self, queue_class: QueueClass | None = None) -> dict[str, Any]:
        """What to hand to `app.conf.update`: celery.toml, the broker, and what the class says, if one is given.

        Raises:
            SettingsError: celery.toml is missing, unreadable, or has a table it should not have.
        """
        path = self.celery_file or default_file("celery.toml")
        document = _read_toml(path)
        unknown = sorted(set(document) - {"settings", "broker_transport_options"})
        if unknown:
            raise SettingsError(
                f"{path}: {unknown[0]}", "unknown table", "Celery's settings stand under [settings], by Celery's names"
            )
        conf: dict[str, Any] = dict(_table(document, "settings", path))
        for name in ("accept_content", "result_accept_content"):
            if list(conf.get(name, ["json"])) not in (["json"], ["application/json"]):
                raise SettingsError(
                    f"{path}: [settings] {name}",
                    f"{shown(conf[name])} is more than json",
                    'Leave it at ["json"]: what else is decoded may run code of whoever can write to the broker',
                )
        conf["broker_connection_max_retries"] = None
        if self.broker_url is not None:
            conf["broker_url"] = self.broker_url
            conf["broker_transport_options"] = broker_transport_options(self.broker_url, path)
            if is_sentinel(self.broker_url):
                conf["broker_url"] = SentinelUrl.parse(self.broker_url).broker_url
        if queue_class is not None:
            conf["worker_pool"] = queue_class.pool
            conf["worker_concurrency"] = queue_class.concurrency
            conf["worker_prefetch_multiplier"] = queue_class.prefetch
            conf["worker_soft_shutdown_timeout"] = queue_class.shutdown_seconds
            conf["task_default_queue"] = queue_class.queue
        return conf

    def queue_arguments(self, queue_class: QueueClass) -> dict[str, str | int]:
        """With what a class's queue is declared on the broker, by scheduler and worker alike.

        Empty for everything but a quorum queue of RabbitMQ: then the declaration is Celery's own, and a queue that is
        there already fits.
        """
        kind = queue_class.queue_type or self.broker_queue_type
        if kind == "classic" or not is_rabbit(self.broker_url or ""):
            return {}
        return {
            "x-queue-type": kind,
            "x-delivery-limit": self.broker_delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.broker_dead_letter_queue,
            "x-consumer-timeout": RABBIT_CONSUMER_TIMEOUT_MS,
        }

    def redacted(self) -> dict[str, Any]:
        """Every setting as JSON values with passwords hidden, for `doctor` and logs."""
        shown_values = self.model_dump(mode="json")
        for field in ("redis_url", "broker_url", "archive_url"):
            if shown_values[field] is not None:
                shown_values[field] = redacted(shown_values[field])
        return shown_values

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return list(self.redacted().items())


def default_file(name: str) -> Path:
    """A file of config/: inside the installed package, or in the repository this module was loaded from.

    >>> default_file("queues.toml").name
    'queues.toml'
    """
    package = Path(__file__).resolve().parent
    for path in (package / "defaults" / name, package.parent / "config" / name):
        if path.is_file():
            return path
    raise SettingsError(
        f"default file {name}",
        "is neither in the package nor in config/",
        "Install celeriac again; its wheel is not whole",
    )


def with_tls(url: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> str:
    """A rediss:// URL that says how the server is checked: kombu would not check it at all where the URL is silent.

    >>> with_tls("rediss://h:6380/0")
    'rediss://h:6380/0?ssl_cert_reqs=required'
    """
    if not url.startswith("rediss://"):
        return url
    said = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    asked = said.get("ssl_cert_reqs", "required")
    if asked.lower().removeprefix("cert_") not in ("required", "optional", "none"):
        raise ValueError("has an ssl_cert_reqs that is none of required, optional, none")
    wanted = {"ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
    given = {name: str(path.absolute()) for name, path in wanted.items() if path is not None and name not in said}
    for path in ((said | given).get(name) for name in wanted):
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"needs the file {path}, which cannot be read")
    more = ({} if "ssl_cert_reqs" in said else {"ssl_cert_reqs": "required"}) | given
    if not more:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(more, safe='/')}"


def redacted(url: str) -> str:
    """A URL without its password, also when the password holds characters that it should have escaped.

    >>> redacted("redis://:s3cret@host:6379/0")
    'redis://:***@host:6379/0'
    >>> redacted("sentinel://a:x@h1:26379;sentinel://a:y@h2:26379")
    'sentinel://a:***@h1:26379;sentinel://a:***@h2:26379'
    """
    parts = re.split(r";(?=[a-z+]+://)", url)
    return ";".join(_redacted_one(part) for part in parts)


def _redacted_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if "@" not in url else "***@" + url.rpartition("@")[2]
    credentials, at, place = rest.rpartition("@")  # the last one: an unescaped @ or / belongs to the password
    if at:
        user, colon, _ = credentials.partition(":")
        rest = f"{user}{':***' if colon else ''}@{place}"
    return f"{scheme}://" + re.sub(r"(?i)([?&](?:[a-z_]*(?:password|passwd|secret|token))=)[^&]*", r"\1***", rest)


def broker_url_of(redis_url: str) -> str:
    """The same Redis as Celery spells it; only unix sockets differ here, and sentinels in `celery_settings`.

    >>> broker_url_of("unix:///run/redis.sock?db=2")
    'redis+socket:///run/redis.sock?virtual_host=2'
    """
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    query = dict(parse_qsl(parts.query))
    if "db" in query:
        query["virtual_host"] = query.pop("db")
    credentials = parts.netloc.rpartition("@")[0]
    address = f"{credentials}@" if credentials else ""
    tail = f"?{urlencode(query)}" if query else ""
    return f"redis+socket://{address}{quote(unquote(parts.path))}{tail}"


def _checked_sentinels(url: str | None) -> str | None:
    """A sentinel URL says all it has to."""
    if url is not None and is_sentinel(url):
        SentinelUrl.parse(url)
    return url


def _same_redis(redis_url: str | None) -> str | None:
    return None if redis_url is None else broker_url_of(redis_url)


def is_rabbit(broker_url: str) -> bool:
    """Whether a broker speaks AMQP.

    >>> is_rabbit("amqp://guest@host//"), is_rabbit("redis://host")
    (True, False)
    """
    return broker_url.partition("://")[0] in ("amqp", "amqps", "pyamqp")


def broker_transport_options(broker_url: str, celery_file: Path | None = None) -> dict[str, Any]:
    """Options for kombu's Redis transport, from celery.toml; empty for any other broker, which would not know them."""
    if urlsplit(broker_url).scheme not in ("redis", "rediss", "redis+socket", "sentinel"):
        return {}
    path = celery_file or default_file("celery.toml")
    options = dict(_table(_read_toml(path), "broker_transport_options", path))
    return SentinelUrl.parse(broker_url).transport_options(options) if is_sentinel(broker_url) else options


def read_queues(path: Path) -> dict[str, QueueClass]:
    """Queue classes of a TOML file, in its order.

    Raises:
        SettingsError: unreadable, unknown keys, values not allowed, one queue for two classes, no or two defaults.
    """
    document = _read_toml(path)
    unknown = sorted(set(document) - {"classes"})
    if unknown:
        raise SettingsError(f"{path}: {unknown[0]}", "unknown table", "Write [classes.NAME] for every queue class")
    tables = _table(document, "classes", path)
    if not tables:
        raise SettingsError(f"{path}: [classes]", "declares no queue class", "Add at least one [classes.NAME]")
    classes: dict[str, QueueClass] = {}
    queues: dict[str, str] = {}
    for name, table in tables.items():
        where = f"{path}: [classes.{name}]"
        if not isinstance(table, dict):
            raise SettingsError(where, f"is {shown(table)}, not a table", "Write [classes.NAME] and its keys below it")
        if "name" in table:
            raise SettingsError(f"{where} name", "unknown key", "The name stands in the table's heading")
        try:
            one = QueueClass.model_validate({"name": name, **table})
        except ValidationError as refused:
            raise _refusal(refused, partial("{} {}".format, where), QueueClass) from None
        if one.queue in queues:
            raise SettingsError(
                f"{where} queue",
                f"{shown(one.queue)} is the queue of {queues[one.queue]} already",
                "Give each class a queue of its own, since a worker serves one class",
            )
        queues[one.queue] = name
        classes[name] = one
    _one_default(classes, path)
    return classes


def _one_default(classes: Mapping[str, QueueClass], path: Path) -> None:
    defaults = [c.name for c in classes.values() if c.default]
    if len(defaults) != 1:
        found = f"{' and '.join(defaults)} say" if defaults else "no class says"
        raise SettingsError(f"{path}: [classes]", f"{found} default = true", "Say it in exactly one class")


def _config_path(config: Path | None) -> Path | None:
    if config is not None:
        return config
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        return Path(named)
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def read_capabilities(path: Path) -> dict[str, str]:
    """Bindings of a TOML file: capability = "executor", or "tool:search@2" = "executor".

    Raises:
        SettingsError: unreadable, no name of a capability or tool, or no name of an executor.
    """
    found = _read_toml(path)
    for name, executor in found.items():
        if not re.fullmatch(CAPABILITY_NAME, name) and read_tool(tool_of(name)) is None:
            raise SettingsError(f"{path}: {shown(name)}", "names no capability", "Use letters, digits and _ . -")
        if not isinstance(executor, str) or not executor or is_found_later(executor):
            raise SettingsError(f"{path}: {name}", f"{shown(executor)} is no executor", "Write its name as text")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as missing:
        raise SettingsError(
            str(path), f"cannot be read: {missing.strerror}", "Correct the path or its permissions"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise SettingsError(str(path), f"is not TOML: {broken}", "Correct that line") from None


def _table(document: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise SettingsError(
            f"{path}: {name}", f"is {shown(table)}, not a table", f"Write [{name}] and its keys below it"
        )
    return table


def _absolute(document: dict[str, Any], base: Path) -> dict[str, Any]:
    """Paths in a file are relative to that file."""
    for field in (*_PATHS, "data_dir", "queues_file", "celery_file", "capabilities_file", "heartbeat_file"):
        if isinstance(document.get(field), str):
            document[field] = base / Path(document[field]).expanduser()
    archive = document.get("archive_url")
    if isinstance(archive, str) and archive != "none" and "://" not in archive:
        document["archive_url"] = str(base / Path(archive).expanduser())
    return document


def _refused_setting(refused: ValidationError, given: Mapping[str, Any], path: Path | None) -> SettingsError:
    """The first problem of refused settings, by the name under which its value came in."""

    def where(field: str) -> str:
        variable = PREFIX + field.upper()
        if field in given:
            return field
        return variable if os.environ.get(variable) else f"{path}: {field}"

    return _refusal(refused, where, Settings)


def _refusal(refused: ValidationError, where: Callable[[str], str], model: type[BaseModel]) -> SettingsError:
    """One of pydantic's errors as ours: place, value (of a URL without its password), remedy."""
    error = refused.errors(include_url=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = sorted(set(model.model_fields) - {"name"})
        return SettingsError(where(field), "unknown key", f"Known are {', '.join(known)}.{did_you_mean(field, known)}")
    if error["type"] == "missing":
        return SettingsError(where(field), "is missing", "Every class says it; the shipped queues.toml shows how")
    found = redacted(str(error["input"])) if field.endswith("_url") else error["input"]
    problem = (
        error["msg"].removeprefix("Value error, ").replace("Input should", "should").replace("String should", "should")
    )
    return SettingsError(where(field), f"{shown(found)} {problem}", "Correct the value")
