"""URLs of a Redis that Sentinel watches: sentinel://[user:password@]h1:26379;sentinel://h2:26379/0?master_name=mymaster.

The spelling is Celery's, with the master's name in the query, where Celery wants it in its transport options.
User and password are the master's, as in Celery; the sentinels' own stand in the query (sentinel_password,
sentinel_username). Standard library and errors only: every process that takes a URL asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SCHEME = "sentinel"
PORT = 26379
_KNOWN = ("master_name", "sentinel_password", "sentinel_username")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A Redis by the sentinels that know where its master is.

    Attributes:
        hosts: (name, port) of the sentinels, in the order in which they are asked.
        master_name: which of their masters.
        username, password: the master's.  sentinel_username, sentinel_password: the sentinels'.
        db: number of the database.
    """

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    db: int = 0

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Read a URL; what is said once counts for all hosts.

        Raises:
            ValueError: no host, no master_name, or something that is not understood. Holds no password.

        >>> SentinelUrl.parse("sentinel://:pw@a;sentinel://b:5/2?master_name=m").hosts
        (('a', 26379), ('b', 5))
        """
        hosts: list[tuple[str, int]] = []
        found: dict[str, str] = {}
        query: dict[str, str] = {}
        for one in filter(None, url.split(";")):
            parts = urlsplit(one if "://" in one else f"{SCHEME}://{one}")
            if parts.scheme != SCHEME or not parts.hostname:
                raise ValueError("write every sentinel as sentinel://host:26379, with a ; between them")
            hosts.append((parts.hostname, parts.port or PORT))
            for name, value in (("username", parts.username), ("password", parts.password)):
                if value:
                    found[name] = unquote(value)
            if parts.path.strip("/"):
                found["db"] = parts.path.strip("/")
            query |= dict(parse_qsl(parts.query))
        unknown = sorted(set(query) - set(_KNOWN))
        if unknown:
            raise ValueError(f"{unknown[0]} is not known in a sentinel URL; known are {', '.join(_KNOWN)}")
        if not query.get("master_name"):
            raise ValueError("says no ?master_name=..., the name under which the sentinels know the master")
        if not found.get("db", "0").isdecimal():
            raise ValueError("has a path that is not the number of a database")
        return cls(
            tuple(hosts),
            query["master_name"],
            found.get("username"),
            found.get("password"),
            query.get("sentinel_username"),
            query.get("sentinel_password"),
            int(found.get("db", "0")),
        )

    @property
    def broker_url(self) -> str:
        """As kombu wants it: every host with all it needs to know, and nothing in the query."""
        credentials = ""
        if self.username or self.password:
            credentials = f"{quote(self.username or '', '')}:{quote(self.password or '', '')}@"
        return ";".join(f"{SCHEME}://{credentials}{_bracketed(host)}:{port}/{self.db}" for host, port in self.hosts)

    @property
    def sentinel_credentials(self) -> dict[str, str]:
        """Of the sentinels themselves, by redis-py's names."""
        given = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in given.items() if value}

    def transport_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Kombu's transport options: those given, and what it wants to know of the sentinels."""
        mine: dict[str, Any] = {**options, "master_name": self.master_name}
        if self.sentinel_credentials:  # kombu then hands over nothing else, the time limits included
            limits = {name: value for name, value in options.items() if name.startswith("socket_")}
            mine["sentinel_kwargs"] = {**limits, **self.sentinel_credentials}
        return mine


def is_sentinel(url: str) -> bool:
    """Whether a URL names sentinels."""
    return url.startswith(f"{SCHEME}://")


def url_of_broker(broker_url: str, options: Mapping[str, Any]) -> str:
    """The URL of a broker that is spelled as kombu does, its master's name in the transport options.

    >>> url_of_broker("sentinel://a:1/0;sentinel://b:2/0", {"master_name": "m"})
    'sentinel://a:1/0;sentinel://b:2/0?master_name=m'
    """
    if "master_name=" in broker_url:
        return broker_url
    sentinels = options.get("sentinel_kwargs") or {}
    query = {"master_name": options.get("master_name")} | {
        f"sentinel_{name}": sentinels.get(name) for name in ("username", "password")
    }
    return f"{broker_url.rstrip(';')}?{urlencode({name: value for name, value in query.items() if value})}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
