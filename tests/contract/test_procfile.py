"""The Procfile starts what compose starts, by commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from scheduler.settings import read_queues
from tests.contract.commands import resolve

ROOT = Path(__file__).parents[2]


def processes() -> dict[str, str]:
    """Name -> command line."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"([A-Za-z0-9_-]+):\s*(.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def celeriac_words(command: str) -> list[str]:
    """`A=b exec celeriac worker x` -> ["worker", "x"]."""
    words = [w for w in shlex.split(command) if not re.match(r"[A-Z_]+=", w) and w != "exec"]
    assert words[0] == "celeriac", command
    return words[1:]


def test_honcho_reads_it() -> None:
    """The tool that runs it accepts it."""
    subprocess.run([sys.executable, "-m", "honcho", "check"], cwd=ROOT, check=True, capture_output=True)


def test_there_is_redis_a_scheduler_flower_and_a_worker_per_class() -> None:
    """A class added to queues.toml gets its process here too."""
    workers = {f"worker_{name.replace('-', '_')}" for name in read_queues(ROOT / "config" / "queues.toml")}
    assert set(processes()) == {"redis", "scheduler", "flower"} | workers


def test_every_command_is_one_of_the_command_line() -> None:
    """Each process but Redis runs `celeriac`, with arguments that it accepts, and takes its place with exec."""
    for name, command in processes().items():
        if name != "redis":
            assert " exec celeriac " in command
            assert resolve(celeriac_words(command)), name


def test_each_worker_serves_the_class_it_is_named_for() -> None:
    """worker_batch_high runs `celeriac worker batch-high`."""
    for name, command in processes().items():
        if name.startswith("worker_"):
            assert celeriac_words(command) == ["worker", name.removeprefix("worker_").replace("_", "-")]


def test_redis_keeps_its_data_and_listens_on_loopback() -> None:
    """The shipped configuration, a directory that git ignores, no other address."""
    command = processes()["redis"]
    assert "config/redis.conf" in command
    assert "--dir .celeriac/" in command
    assert "--bind 127.0.0.1" in command
