"""Flower and its login: on loopback none is needed, beyond it there is no Flower without one."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from scheduler.settings import default_file

from .ports import free_port
from .stack import ROOT, eventually

COMMAND = [sys.executable, "-m", "scheduler.cli", "flower", "--app", "tasks.app:app"]


def environment(url: str, **more: str) -> dict[str, str]:
    """Ours without what a shell may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERIAC_", "FLOWER_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "CELERIAC_REDIS_URL": url, **more}


def ask(url: str, login: str = "") -> int:
    """The status of one request."""
    request = urllib.request.Request(url)
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


@pytest.mark.parametrize("address", ["", "0.0.0.0", "::", "192.0.2.7", "example.org", "127.0.0.1.example.org"])
def test_any_other_address_needs_one(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names too, for nobody knows what they will mean."""
    monkeypatch.setenv("CELERIAC_FLOWER_ADDRESS", address)
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    text = default_file("flower.py").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="without a login"):
        exec(text, {})
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "me:right")
    exec(text, {})


def test_no_flower_beyond_loopback_without_a_login(redis_url: str, tmp_path: Path) -> None:
    """It ends at once and says what to set; an empty login is none."""
    started = subprocess.run(
        [*COMMAND, "--address", "0.0.0.0", "--port", str(free_port())],
        env=environment(redis_url, FLOWER_BASIC_AUTH=""),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    assert "FLOWER_BASIC_AUTH" in started.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_login(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called."""
    monkeypatch.setenv("CELERIAC_FLOWER_ADDRESS", address)
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    written: dict[str, object] = {}
    exec(default_file("flower.py").read_text(encoding="utf-8"), written)
    assert written["address"] == address


def test_with_a_login_pages_and_api_ask_for_it_and_metrics_do_not(redis_url: str, tmp_path: Path) -> None:
    """As SECURITY.md says. It listens on all addresses here, and is asked on loopback."""
    port = free_port()
    login = environment(redis_url, FLOWER_BASIC_AUTH="me:right")
    with (tmp_path / "flower.log").open("wb") as log:
        flower = subprocess.Popen(
            [*COMMAND, "--address", "0.0.0.0", "--port", str(port)], env=login, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        eventually(
            lambda: [it for it in psutil.Process(flower.pid).net_connections() if it.status == "LISTEN"],
            "Flower listens",
        )
        at = f"http://127.0.0.1:{port}"
        for page in ("/tasks", "/workers", "/api/workers"):
            assert [ask(at + page), ask(at + page, "me:wrong"), ask(at + page, "me:right")] == [401, 401, 200], page
        assert [ask(f"{at}/metrics"), ask(f"{at}/healthcheck")] == [200, 200]
        assert "right" not in (tmp_path / "flower.log").read_text()
    finally:
        flower.terminate()
        flower.wait(30)
