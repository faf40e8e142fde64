"""URLs that name sentinels: read whole, refused with a reason, put into kombu's spelling, shown without passwords."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection

from scheduler import Client
from scheduler.errors import SettingsError
from scheduler.sentinel import SentinelUrl, url_of_broker
from scheduler.service.transport import RedisTransport, open_transport
from scheduler.settings import Settings, redacted
from scheduler.store.connection import connect, connect_async
from scheduler.worker import install
from scheduler.worker.installation import installation_of

URL = "sentinel://me:p%40ss@one:26379;sentinel://two;sentinel://[::1]:7/3?master_name=mymaster&sentinel_password=hush"


def test_what_is_said_once_counts_for_all() -> None:
    """Credentials, database and names may stand anywhere; ports are 26379 unless said."""
    it = SentinelUrl.parse(URL)
    assert it.hosts == (("one", 26379), ("two", 26379), ("::1", 7))
    assert (it.username, it.password, it.db, it.master_name) == ("me", "p@ss", 3, "mymaster")
    assert it.sentinel_credentials == {"password": "hush"}


def test_kombu_gets_its_own_spelling() -> None:
    """Every host with all it needs, for kombu reads one at a time; the names go into the transport options."""
    settings = Settings.load(redis_url=URL)
    assert settings.broker_url == URL
    conf = settings.celery_settings()
    hosts = ("one:26379", "two:26379", "[::1]:7")
    assert conf["broker_url"] == ";".join(f"sentinel://me:p%40ss@{host}/3" for host in hosts)
    options = conf["broker_transport_options"]
    assert options["master_name"] == "mymaster"
    assert options["sentinel_kwargs"]["password"] == "hush"
    assert options["sentinel_kwargs"]["socket_timeout"] == options["socket_timeout"]
    with Connection(conf["broker_url"], transport_options=options) as connection:
        assert (connection.userid, connection.password, connection.virtual_host) == ("me", "p@ss", "3")
    assert "sentinel_kwargs" not in SentinelUrl.parse("sentinel://a/0?master_name=m").transport_options({"x": 1})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://one:26379", "master_name"),
        ("sentinel://:s3cret@one/0?master_name=", "master_name"),
        ("sentinel://:s3cret@one/x?master_name=m", "number of a database"),
        ("sentinel://:s3cret@one/0?master_name=m&master=n", "master is not known"),
        ("sentinel://one;redis://:s3cret@two/0?master_name=m", "write every sentinel as"),
        ("sentinel://:s3cret@", "write every sentinel as"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_reason(url: str, says: str) -> None:
    """At the start, by settings and by a client, and without its password."""
    with pytest.raises(SettingsError, match=says) as refused:
        Settings.load(redis_url=url)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(SettingsError, match=says) as refused:
        Client(url)
    assert "s3cret" not in str(refused.value)


def test_no_password_is_shown() -> None:
    """Not of any host, not of the sentinels, not by settings, clients, or connections."""
    shown = redacted("sentinel://me:s3cret@one:1;sentinel://you:s3cret@two:2/0?master_name=m&sentinel_password=s3cret")
    assert shown == "sentinel://me:***@one:1;sentinel://you:***@two:2/0?master_name=m&sentinel_password=***"
    url = "sentinel://:s3cret@one:1;sentinel://two:2/0?master_name=m&sentinel_password=s3cret"
    settings = Settings.load(redis_url=url)
    for it in (settings, settings.redacted(), Client(url), connect(url), connect_async(url)):
        assert "s3cret" not in repr(it)


def test_a_client_asks_the_sentinels_and_repeats_nothing_by_itself() -> None:
    """Database and credentials are the master's, limits and the absence of retries as for any other Redis."""
    client = connect(URL, timeout_seconds=4)
    kept: dict[str, Any] = client.connection_pool.connection_kwargs
    assert (kept["db"], kept["username"], kept["password"], kept["socket_timeout"]) == (3, "me", "p@ss", 4)
    assert kept["retry"].get_retries() == 0 if hasattr(kept["retry"], "get_retries") else kept["retry"]._retries == 0
    manager: Any = client.connection_pool
    asked = [it.connection_pool.connection_kwargs for it in manager.sentinel_manager.sentinels]
    assert [(it["host"], it["port"], it["password"]) for it in asked] == [
        ("one", 26379, "hush"),
        ("two", 26379, "hush"),
        ("::1", 7, "hush"),
    ]
    assert all(it["socket_timeout"] <= 1 for it in asked)


def test_the_scheduler_pushes_straight_to_the_master() -> None:
    """Sentinels as broker are a Redis: no message goes the long way."""
    settings = Settings.load(redis_url=URL)
    assert isinstance(open_transport(settings, Celery(set_as_current=False)), RedisTransport)


def test_an_app_may_take_the_same_url_as_its_broker() -> None:
    """install(app) puts it into kombu's spelling, whether the app is configured by then or later."""
    early, late = Celery("early", broker=URL, set_as_current=False), Celery("late", broker=URL, set_as_current=False)
    early.conf.broker_transport_options = {"visibility_timeout": 9}
    assert early.conf.broker_url
    for app in (early, late):
        install(app)
        assert app.conf.broker_url == SentinelUrl.parse(URL).broker_url
        assert app.conf.broker_transport_options["master_name"] == "mymaster"
    assert early.conf.broker_transport_options["visibility_timeout"] == 9


def test_the_store_is_found_by_a_broker_in_kombu_s_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app of one's own has in its transport options is all that is needed."""
    monkeypatch.delenv("CELERIAC_REDIS_URL", raising=False)
    own = Celery("own", broker="sentinel://one:1/0", set_as_current=False)
    own.conf.broker_transport_options = {"master_name": "m", "sentinel_kwargs": {"password": "hush"}}
    install(own)
    found = installation_of(own)
    assert found is not None
    assert found.url() == "sentinel://one:1/0?master_name=m&sentinel_password=hush"
    assert url_of_broker(URL, {}) == URL
