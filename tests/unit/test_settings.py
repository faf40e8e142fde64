from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from scheduler.errors import SettingsError
from scheduler.settings import (
    QueueClass,
    Settings,
    broker_transport_options,
    broker_url_of,
    default_file,
    read_queues,
    redacted,
)
from scheduler.store.connection import connect

ONE_CLASS = """
[classes.standard-low]
latency = "standard"
cost = "low"
queue = "celeriac.standard-low"
pool = "prefork"
concurrency = 2
default = true
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test starts in an empty directory, without a setting in the environment."""
    for name in [n for n in os.environ if n.startswith("CELERIAC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def queues(tmp_path: Path, text: str) -> Path:
    """A queues.toml with that text."""
    path = tmp_path / "queues.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> SettingsError:
    """The error with which that queues file is refused."""
    with pytest.raises(SettingsError) as caught:
        read_queues(path)
    return caught.value


# --- where values come from ---------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold() -> None:
    """A fresh clone needs no configuration; no Redis URL means the embedded one."""
    settings = Settings.load()
    assert (settings.redis_url, settings.broker_url) == (None, None)
    assert (settings.namespace, settings.shards, settings.shard_lease_seconds) == ("cel", 16, 10.0)
    assert settings.data_dir == Path(".celeriac")


def test_arguments_win_over_environment_over_file_over_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each field comes from the first source that has it."""
    (tmp_path / "celeriac.toml").write_text('namespace = "file"\nshards = 2\nlog_level = "debug"\n', encoding="utf-8")
    monkeypatch.setenv("CELERIAC_NAMESPACE", "env")
    monkeypatch.setenv("CELERIAC_SHARDS", "4")
    settings = Settings.load(shards=8)
    assert (settings.shards, settings.namespace, settings.log_level, settings.shard_lease_seconds) == (
        8,
        "env",
        "debug",
        10.0,
    )


def test_none_as_an_argument_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command-line options that were left out override nothing."""
    monkeypatch.setenv("CELERIAC_REDIS_URL", "redis://elsewhere/0")
    assert Settings.load(redis_url=None).redis_url == "redis://elsewhere/0"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass variables on that nobody set."""
    monkeypatch.setenv("CELERIAC_REDIS_URL", "")
    assert Settings.load().redis_url is None


def test_the_file_is_found_by_its_variable_and_its_paths_are_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path in a file means a place beside that file, wherever the process runs."""
    place = tmp_path / "etc"
    place.mkdir()
    (place / "queues.toml").write_text(ONE_CLASS, encoding="utf-8")
    (place / "my.toml").write_text('queues_file = "queues.toml"\ndata_dir = "data"\n', encoding="utf-8")
    monkeypatch.setenv("CELERIAC_CONFIG", str(place / "my.toml"))
    settings = Settings.load()
    assert (settings.queues_file, settings.data_dir) == (place / "queues.toml", place / "data")
    assert list(settings.classes) == ["standard-low"]


def test_a_missing_file_is_told_by_its_path(tmp_path: Path) -> None:
    """A mistyped path is an error, not the defaults."""
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        Settings.load(tmp_path / "absent.toml")


def test_a_file_that_is_not_toml_is_told_with_the_line(tmp_path: Path) -> None:
    """The parser's position reaches the reader."""
    path = tmp_path / "celeriac.toml"
    path.write_text("shards = \n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"is not TOML: .*line 1"):
        Settings.load()


def test_settings_do_not_change() -> None:
    """What a process was started with holds until it ends."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().shards = 3  # type: ignore[misc]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("SHARDS", "many", "should be a valid integer"),
        ("SHARDS", "0", "should be greater than or equal to 1"),
        ("SHARD_LEASE_SECONDS", "-1", "should be greater"),
        ("SHARD_LEASE_SECONDS", "nan", "should be"),
        ("SHARD_LEASE_SECONDS", "1e12", "should be less than or equal to"),
        ("NAMESPACE", "a:b", "should match pattern"),
        ("REDIS_URL", "localhost", "is no Redis URL"),
        ("BROKER_URL", "localhost", "is no URL"),
        ("LOG_LEVEL", "loud", "should be 'debug'"),
        ("APP", "tasks/app.py", "should match pattern"),
        ("FLOWER_PORT", "70000", "should be less"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    """The message names the variable as the operator wrote it, and shows the value."""
    monkeypatch.setenv(f"CELERIAC_{name}", value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert caught.value.where == f"CELERIAC_{name}"
    assert problem in caught.value.problem
    assert repr(value) in str(caught.value)


def test_an_unknown_key_in_the_file_is_told_with_the_closest_known_one(tmp_path: Path) -> None:
    """A typo does nothing silently."""
    (tmp_path / "celeriac.toml").write_text('redis_ulr = "redis://x"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"celeriac\.toml: redis_ulr: unknown key.*Did you mean 'redis_url'"):
        Settings.load()


@pytest.mark.parametrize("field", ["shards", "shard_lease_seconds", "flower_port"])
def test_a_boolean_is_no_number(tmp_path: Path, field: str) -> None:
    """`true` does not pass for 1."""
    (tmp_path / "celeriac.toml").write_text(f"{field} = true\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"{field}: True is a boolean, not a number"):
        Settings.load()


# --- retention ----------------------------------------------------------------------------------------------


def test_ended_runs_of_an_embedded_redis_have_an_archive_beside_it(tmp_path: Path) -> None:
    """Elsewhere nobody knows a good place, so ended runs stay until one is named."""
    assert Settings.load().archive == str(tmp_path / ".celeriac" / "archive")
    assert Settings.load(data_dir=tmp_path / "d").archive == str(tmp_path / "d" / "archive")
    assert Settings.load(redis_url="redis://host/0").archive is None
    assert Settings.load(redis_url="redis://host/0", archive_url="s3://b/p").archive == "s3://b/p"
    assert Settings.load(archive_url="none").archive == "none"


def test_never_is_a_word_where_a_time_or_a_budget_may_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither TOML nor the environment can say None."""
    settings = Settings.load()
    assert (settings.retention_seconds, settings.retention_bytes) == (7 * 86_400, None)
    monkeypatch.setenv("CELERIAC_RETENTION_SECONDS", "never")
    monkeypatch.setenv("CELERIAC_RETENTION_BYTES", "1000000")
    settings = Settings.load()
    assert (settings.retention_seconds, settings.retention_bytes) == (None, 1_000_000)
    monkeypatch.setenv("CELERIAC_RETENTION_SECONDS", "0")
    assert Settings.load().retention_seconds == 0
    for wrong in ("-1", "soon", "inf", "nan"):
        monkeypatch.setenv("CELERIAC_RETENTION_SECONDS", wrong)
        with pytest.raises(SettingsError, match="CELERIAC_RETENTION_SECONDS"):
            Settings.load()


def test_an_archive_in_a_file_is_relative_to_the_file_and_a_url_is_not(tmp_path: Path) -> None:
    """As every path of a file is."""
    path = tmp_path / "etc" / "my.toml"
    path.parent.mkdir()
    for written, found in (("old", str(path.parent / "old")), ("s3://b/p", "s3://b/p"), ("none", "none")):
        path.write_text(f'archive_url = "{written}"\n', encoding="utf-8")
        assert Settings.load(path).archive == found


def test_the_archive_s_url_is_shown_without_its_password() -> None:
    """As the others are."""
    assert "s3cret" not in repr(Settings.load(archive_url="sftp://me:s3cret@host/p"))


# --- passwords ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://me:s3cret@host/1?ssl_cert_reqs=required", "rediss://me:***@host/1?ssl_cert_reqs=required"),
        ("redis://:s3/cr#e?t@x@host/0", "redis://:***@host/0"),
        ("redis://host/0?password=s3cret&db=2", "redis://host/0?password=***&db=2"),
        ("unix://me:s3cret@/run/redis.sock", "unix://me:***@/run/redis.sock"),
        ("sentinel://:s3cret@h1;sentinel://:s3cret@h2", "sentinel://:***@h1;sentinel://:***@h2"),
        ("me:s3cret@host", "***@host"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """Also when the password was not escaped as a URL asks."""
    assert redacted(url) == shown


def test_no_text_of_settings_holds_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """repr, str, the dictionary for doctor, and errors all go to terminals and logs."""
    settings = Settings.load(redis_url="redis://:s3cret@host/0", broker_url="amqp://me:s3cret@host//")
    for text in (repr(settings), str(settings), str(settings.redacted())):
        assert "s3cret" not in text
        assert "redis://:***@host/0" in text
    monkeypatch.setenv("CELERIAC_REDIS_URL", "http://:s3cret@host/0")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- Celery -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redis_url", "broker_url"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("unix:///run/a%20b/redis.sock?db=2", "redis+socket:///run/a%20b/redis.sock?virtual_host=2"),
        ("unix://me:pw@/run/redis.sock", "redis+socket://me:pw@/run/redis.sock"),
    ],
)
def test_the_broker_is_the_same_redis_in_celerys_spelling(redis_url: str, broker_url: str) -> None:
    """One URL is enough for everything."""
    assert broker_url_of(redis_url) == broker_url
    assert Settings.load(redis_url=redis_url).broker_url == broker_url


def test_a_broker_of_its_own_is_kept() -> None:
    """Celery may use RabbitMQ while state stays in Redis."""
    settings = Settings.load(redis_url="redis://host/0", broker_url="amqp://host//")
    assert settings.broker_url == "amqp://host//"
    assert "visibility_timeout" not in settings.celery_settings()["broker_transport_options"]


def test_transport_options_are_for_redis_brokers() -> None:
    """Leases are the failover, so the broker's own redelivery is a last resort; dead connections are noticed."""
    options = broker_transport_options("redis+socket:///run/redis.sock")
    assert options["visibility_timeout"] == 86_400
    assert options["socket_timeout"] == 5.0
    assert broker_transport_options("amqp://host//") == {}


def test_celery_settings_are_those_that_lose_no_attempt() -> None:
    """The ones that research and kill tests stand on."""
    conf = Settings.load(redis_url="redis://host/0").celery_settings()
    assert conf["task_acks_late"] is True
    assert conf["task_reject_on_worker_lost"] is False
    assert conf["worker_cancel_long_running_tasks_on_connection_loss"] is False
    assert conf["broker_connection_max_retries"] is None
    assert conf["accept_content"] == ["json"]
    assert conf["broker_url"] == "redis://host/0"


def test_a_class_adds_its_own_to_the_celery_settings() -> None:
    """Pool, slots, prefetch, queue and shutdown time come from queues.toml."""
    settings = Settings.load()
    conf = settings.celery_settings(settings.classes["batch-high"])
    assert conf["worker_pool"] == "prefork"
    assert conf["worker_concurrency"] == 1
    assert conf["worker_prefetch_multiplier"] == 1
    assert conf["task_default_queue"] == "celeriac.batch-high"
    assert conf["worker_soft_shutdown_timeout"] == 60.0
    assert "broker_url" not in conf


def test_a_celery_setting_outside_its_table_is_refused(tmp_path: Path) -> None:
    """It would be ignored otherwise."""
    path = tmp_path / "celery.toml"
    path.write_text("task_acks_late = false\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"task_acks_late: unknown table.*\[settings\]"):
        Settings.load(celery_file=path).celery_settings()


# --- queue classes ------------------------------------------------------------------------------------------


def test_the_shipped_classes_are_three_with_one_default() -> None:
    """Interactive work waits in threads, ordinary work in processes, costly work alone with a long lease."""
    classes = Settings.load().classes
    assert list(classes) == ["interactive-low", "standard-low", "batch-high"]
    assert Settings.load().default_class.name == "standard-low"
    interactive, standard, batch = classes.values()
    assert (interactive.pool, interactive.concurrency, interactive.target_wait_seconds) == ("threads", 8, 1.0)
    assert (standard.pool, standard.concurrency, standard.prefetch, standard.window) == ("prefork", 2, 8, 500)
    assert (standard.lease_seconds, standard.timeout_seconds, standard.target_wait_seconds) == (20.0, 3600.0, 15.0)
    assert (batch.pool, batch.concurrency, batch.prefetch, batch.window) == ("prefork", 1, 1, 16)
    assert (batch.lease_ms, batch.timeout_ms) == (60_000, 21_600_000)


def test_what_a_class_may_leave_out_has_a_default(tmp_path: Path) -> None:
    """A short file is enough."""
    (one,) = read_queues(queues(tmp_path, ONE_CLASS)).values()
    assert one == QueueClass(
        name="standard-low",
        latency="standard",
        cost="low",
        queue="celeriac.standard-low",
        pool="prefork",
        concurrency=2,
        default=True,
    )
    assert one.store_results is False


@pytest.mark.parametrize(
    ("change", "where", "problem"),
    [
        ("leese_seconds = 20", "leese_seconds", "unknown key"),
        ('lease_seconds = "20"', "lease_seconds", "should be a valid number"),
        ("lease_seconds = true", "lease_seconds", "is a boolean, not a number"),
        ("lease_seconds = -20", "lease_seconds", "should be greater"),
        ("lease_seconds = 0.5", "lease_seconds", "should be greater than or equal to 1"),
        ("timeout_seconds = 0", "timeout_seconds", "should be greater than 0"),
        ("timeout_seconds = inf", "timeout_seconds", "should be"),
        ("timeout_seconds = 1e9", "timeout_seconds", "should be less than or equal to"),
        ("window = 2.5", "window", "should be a valid integer"),
        ("window = 0", "window", "should be greater than or equal to 1"),
        ("prefetch = false", "prefetch", "is a boolean, not a number"),
        ("store_results = 1", "store_results", "should be a valid boolean"),
        ('name = "x"', "name", "unknown key"),
    ],
)
def test_a_wrong_value_in_a_class_is_told_by_its_place(tmp_path: Path, change: str, where: str, problem: str) -> None:
    """File, table, key and value stand in the message."""
    path = queues(tmp_path, ONE_CLASS + change + "\n")
    error = refusal(path)
    assert error.where == f"{path}: [classes.standard-low] {where}"
    assert problem in error.problem


@pytest.mark.parametrize("missing", ["latency", "cost", "queue", "pool", "concurrency"])
def test_what_a_class_must_say_is_missed_by_name(tmp_path: Path, missing: str) -> None:
    """There is no sensible default for these."""
    text = "\n".join(line for line in ONE_CLASS.splitlines() if not line.startswith(missing))
    error = refusal(queues(tmp_path, text))
    assert error.where.endswith(f"[classes.standard-low] {missing}")
    assert error.problem == "is missing"


def test_two_classes_cannot_share_a_queue(tmp_path: Path) -> None:
    """A slow class would stand in a fast one's way."""
    second = ONE_CLASS.replace("classes.standard-low", "classes.other").replace("default = true", "")
    error = refusal(queues(tmp_path, ONE_CLASS + second))
    assert "'celeriac.standard-low' is the queue of standard-low already" in error.problem


def test_there_must_be_a_default_class(tmp_path: Path) -> None:
    """An executor that names no class must go somewhere."""
    error = refusal(queues(tmp_path, ONE_CLASS.replace("default = true", "")))
    assert error.problem == "no class says default = true"


def test_there_cannot_be_two_default_classes(tmp_path: Path) -> None:
    """Which of them would be meant?"""
    second = ONE_CLASS.replace("standard-low", "other")
    error = refusal(queues(tmp_path, ONE_CLASS + second))
    assert error.problem == "standard-low and other say default = true"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "declares no queue class"),
        ("[classes]\n", "declares no queue class"),
        ("classes = 3\n", "is 3, not a table"),
        ("[classes]\nfast = 1\n", "is 1, not a table"),
        ("[class.fast]\n", "unknown table"),
        (ONE_CLASS.replace("classes.standard-low", 'classes."Standard Low"'), "should match pattern"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Nothing is guessed from a file that does not say [classes.NAME]."""
    assert problem in refusal(queues(tmp_path, text)).problem


def test_a_wrong_queues_file_is_told_when_settings_are_loaded(tmp_path: Path) -> None:
    """Not at the first node that needs it."""
    with pytest.raises(SettingsError, match="declares no queue class"):
        Settings.load(queues_file=queues(tmp_path, ""))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, True])
def test_a_class_made_in_code_is_checked_the_same_way(value: float) -> None:
    """Tests and applications that build classes get no weaker rules."""
    shipped = Settings.load().default_class.model_dump()
    with pytest.raises(ValidationError):
        QueueClass(**shipped | {"lease_seconds": value})


def test_an_unknown_default_file_is_told() -> None:
    """A broken installation says so."""
    with pytest.raises(SettingsError, match="neither in the package nor in config/"):
        default_file("absent.toml")


@pytest.mark.parametrize(
    ("broker_url", "everywhere", "own", "kind"),
    [
        ("redis://host", "quorum", "quorum", None),
        ("amqp://host//", "classic", None, None),
        ("amqp://host//", "quorum", None, "quorum"),
        ("amqps://host//", "classic", "quorum", "quorum"),
        ("amqp://host//", "quorum", "classic", None),
    ],
)
def test_only_a_quorum_queue_is_declared_with_arguments(
    broker_url: str, everywhere: str, own: str | None, kind: str | None
) -> None:
    """The class's word wins over the setting; everything else is declared as Celery declares it."""
    settings = Settings.load(broker_url=broker_url, broker_queue_type=everywhere, broker_delivery_limit=7)
    found = settings.queue_arguments(settings.default_class.model_copy(update={"queue_type": own}))
    assert found.get("x-queue-type") == kind
    if kind:
        assert (found["x-delivery-limit"], found["x-dead-letter-routing-key"]) == (7, "celeriac.dead")
    else:
        assert found == {}


def test_a_class_says_which_executors_may_run_in_it(tmp_path: Path) -> None:
    """Patterns of whole names; all may run where nothing is said, and nothing may where the list is empty."""
    (tmp_path / "queues.toml").write_text(ONE_CLASS, encoding="utf-8")
    [free] = read_queues(tmp_path / "queues.toml").values()
    assert free.allows("anything.at.all")
    for said, name, fits in (
        (["web.*", "llm.summarise"], "web.fetch", True),
        (["web.*", "llm.summarise"], "llm.summarise", True),
        (["web.*", "llm.summarise"], "llm.summarise2", False),
        (["web.*"], "website", False),
        (["WEB.*"], "web.fetch", False),
        ([], "web.fetch", False),
    ):
        (tmp_path / "queues.toml").write_text(f"{ONE_CLASS}\nexecutors = {json.dumps(said)}\n", encoding="utf-8")
        [one] = read_queues(tmp_path / "queues.toml").values()
        assert one.allows(name) is fits, (said, name)


@pytest.mark.parametrize("said", ['"web.*"', "[1]", '["a b"]', '["a,b"]', '[""]'])
def test_patterns_that_cannot_be_are_refused(said: str, tmp_path: Path) -> None:
    """A text in place of a list would be taken letter by letter."""
    (tmp_path / "queues.toml").write_text(f"{ONE_CLASS}\nexecutors = {said}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="executors"):
        read_queues(tmp_path / "queues.toml")


def test_every_tls_url_says_how_it_is_checked(tmp_path: Path) -> None:
    """Files of the settings are added where a URL names none; what a URL says itself stays."""
    ca, own = tmp_path / "ca.pem", tmp_path / "own.pem"
    for path in (ca, own):
        path.write_text("x")
    settings = Settings.load(redis_url="rediss://h:1/0", broker_url=f"rediss://h:2?ssl_ca_certs={own}", redis_tls_ca=ca)
    assert settings.redis_url == f"rediss://h:1/0?ssl_cert_reqs=required&ssl_ca_certs={ca}"
    assert settings.broker_url == f"rediss://h:2?ssl_ca_certs={own}&ssl_cert_reqs=required"
    assert Settings.load(redis_url="redis://h:1/0", redis_tls_ca=ca).redis_url == "redis://h:1/0"
    for url in (f"rediss://:s3cret@h?ssl_keyfile={tmp_path / 'absent'}", "rediss://:s3cret@h?ssl_cert_reqs=perhaps"):
        with pytest.raises(SettingsError) as refused:
            Settings.load(redis_url=url)
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://:pa/ss@h:1/0", "redis://h:pa55/0", "unix://:pa@/x?db=pa55"])
def test_no_part_of_a_broken_url_is_told(url: str) -> None:
    """A password that should have been escaped is not quoted by the library's error."""
    with pytest.raises(ValueError, match="%2F") as refused:
        connect(url)
    assert "pa5" not in str(refused.value)
    assert "'pa'" not in str(refused.value)
    assert refused.value.__suppress_context__
