"""Secrets and passwords in a whole run: what tasks get, and that the words stand nowhere else."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from celery import Celery
from kombu import pools

from scheduler import Client, Graph, NodeFailed, Secret
from scheduler.embedded import find_binary
from scheduler.settings import Settings
from scheduler.store.connection import connect

from .servers import Server
from .stack import ROOT, Stack, eventually

PASSWORD = "pa55word-of-redis"
TOKEN = "t0ken 'of' the/api & more"
IN_FILE = "w0rd-in-a-file"
IN_ERROR = "w0rd-of-a-database"
WORDS = ("pa55word", "t0ken", "w0rd-in-a", "w0rd-of-a")


class Vault(Stack):
    """An installation behind a password, with workers that have secrets."""

    def __init__(self, directory: Path, server: Server) -> None:
        super().__init__(directory)
        files = directory / "secrets"
        files.mkdir()
        (files / "in.file").write_text(f"{IN_FILE}\n")
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        self.env = {
            **kept,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'acceptance'}",
            "CELERIAC_REDIS_URL": self.url,
            "CELERIAC_BROKER_URL": self.url,
            "CELERIAC_SECRETS_DIR": str(files),
            "CELERIAC_SECRET_API_TOKEN": TOKEN,
            "VAULT_WORD": IN_ERROR,
            "CELERIAC_LOG_LEVEL": "debug",
        }

    def __enter__(self) -> Self:
        self.scheduler()
        self.start("worker", "worker", "standard-low", "--app", "app.vault:app")
        self.start("threads", "worker", "interactive-low", "--app", "app.vault:app")
        return self


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """One for the file."""
    directory = tmp_path_factory.mktemp("vault")
    options = ("--requirepass", PASSWORD)
    with Server(directory, find_binary()[0], *options) as server, Vault(directory, server) as it:
        yield it


def careless(token: Secret, queue_class: str) -> Graph:
    """A node for every way to be careless."""
    g = Graph("careless", retry=1, queue_class=queue_class)
    up = g.add("vault.measure", token=token, other={"$secret": "api-token"}, key="measure")
    g.add("vault.checked", token=token, after=up, key="checked")
    g.add("vault.measure", args=[Secret("in.file")], key="file")
    g.add("vault.measure", args=[Secret("vault.key")], key="source")
    for how in ("plain", "cause", "decode", "url"):
        g.add("vault.fail", how=how, auth={"user": "u", "token": [token]}, key=how)
    g.add("vault.again", token=token, key="again", retry=2)
    g.add("vault.measure", token=Secret("no-such"), key="missing", retry=3)
    return g


class Ears:
    """Hears every event of Celery as it comes over the wire."""

    def __init__(self, url: str) -> None:
        self.app = Celery("ears", broker=url, set_as_current=False)
        self.heard: list[str] = []
        self._wire = connect(url).pubsub(ignore_subscribe_messages=True)
        self._wire.psubscribe("/0.celeryev/*")

    def __enter__(self) -> Self:
        eventually(lambda: len(self.app.control.enable_events(reply=True, timeout=1) or ()) == 2, "both workers")
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()
        self.app.pool.force_close_all()
        self.app.close()
        pools.reset()

    def listen(self) -> None:
        """Take what has come, and decode it."""
        while message := self._wire.get_message(timeout=0.1):
            self.heard.append(base64.b64decode(json.loads(message["data"])["body"]).decode())

    def failures(self) -> int:
        """How many failed tasks were heard of."""
        self.listen()
        return "".join(self.heard).count('"task-failed"')


@pytest.mark.parametrize("queue_class", ["standard-low", "interactive-low"])
def test_the_words_stand_nowhere(vault: Vault, queue_class: str) -> None:
    """Logs, events, keys of Redis, commands, reprs and errors of a run whose tasks fail with them in the text."""
    seen: dict[str, str] = {}
    with Ears(vault.url) as ears, Client(vault.url) as client:
        eventually(lambda: len(client._access.runs.workers()) == 2, "both workers")
        run = client.submit(careless(Secret("api-token"), queue_class), check=False)
        assert run.wait(timeout=60).value == "failed"
        assert run.get("measure") == run.get("checked") == len(TOKEN)
        assert (run.get("file"), run.get("source")) == (len(IN_FILE), len(IN_ERROR))
        for key in ("plain", "cause", "decode", "url", "again"):
            with pytest.raises(NodeFailed) as failed:
                run.get(key)
            seen[f"error {key}"] = f"{failed.value} {failed.value.error}"
            assert "***" in failed.value.remote_message
        with pytest.raises(NodeFailed) as missing:
            run.get("missing")
        assert (missing.value.kind, missing.value.type, missing.value.attempt) == ("permanent", "SecretMissing", 1)
        for word in ("'no-such'", "CELERIAC_SECRET_NO_SUCH", "CELERIAC_SECRETS_DIR"):
            assert word in missing.value.remote_message
        seen["reprs"] = repr((client, run, Settings.load(redis_url=vault.url), run.nodes(), list(run.events())))
        eventually(lambda: ears.failures() >= 5, "events of the failures", 20)
    seen["events"] = "\n".join(ears.heard)
    with connect(vault.url) as store:
        for key in store.scan_iter():
            seen[f"key {key!r}"] = repr((key, store.dump(key)))
            seen[f"text of {key!r}"] = _text(store, key)
        assert any("$secret" in text for text in seen.values())  # the reference is what is stored
    for words in (("runs", "show", run.id), ("runs", "show", run.id, "-o", "json"), ("runs", "ls", "-o", "json")):
        seen[" ".join(words)] = vault.celeriac(*words)
    seen["doctor"] = vault.celeriac("doctor", "-o", "json")
    for log in vault.directory.glob("*.log"):
        seen[log.name] = log.read_text(errors="replace")
    assert seen["worker.log" if queue_class == "standard-low" else "threads.log"].count("careless: ***") >= 2
    found = {(place, word) for place, text in seen.items() for word in WORDS if word in text}
    assert found == set()


def _text(store: Any, key: bytes) -> str:
    """What a key holds, compressed pages opened."""
    kind = store.type(key)
    if kind == b"hash":
        values = store.hgetall(key).values()
    elif kind == b"stream":
        values = [repr(it).encode() for it in store.execute_command("XRANGE", key, "-", "+")]
    elif kind == b"list":
        values = store.lrange(key, 0, -1)
    else:
        values = []
    texts = []
    for value in values:
        try:
            texts.append(zlib.decompress(value).decode())
        except zlib.error:
            texts.append(value.decode(errors="replace"))
    return "\n".join(texts)
