"""A rolling deploy: two neighbouring versions of schedulers and workers on one Redis, in the middle of runs.

The neighbour is this version with every record that it writes changed as a later version may change it: a higher
version number and fields that nobody knows. It runs as processes of its own, from a copy.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from scheduler import RunState
from scheduler.store.connection import connect

from .stack import ROOT, Stack, eventually
from .test_durable_run import ladder

LATER = {
    "wire.py": [
        ("\nVERSION = 1\n", "\nVERSION = 2\n"),
        ('{{"v":{VERSION},"id":', '{{"v":{VERSION},"novel":{{"x":[1]}},"min_reader":1,"id":'),
    ],
    "service/publisher.py": [('{{"v":{VERSION},"run"', '{{"v":{VERSION},"novel":[1],"min_reader":1,"run"')],
    "service/batch.py": [('= {"progress": _json', '= {"novel": "a fact of the run", "progress": _json')],
    "store/commits.py": [('"*", "moves", entry', '"*", "novel", "of the log", "moves", entry')],
    "store/submission.py": [
        ('"state": RunState.RUNNING.value,\n', '"state": RunState.RUNNING.value,\n            "novel": 1,\n'),
    ],
    "store/runs.py": [('{"run": run, "reason": reason, **', '{"run": run, "reason": reason, "novel": 1, **')],
    "worker/contracts.py": [('"v": VERSION,\n', '"v": VERSION,\n        "novel": 1,\n')],
    "worker/heartbeat.py": [
        ('"host": socket.gethostname(),\n', '"host": socket.gethostname(),\n            "novel": 1,\n')
    ],
    "graph/compile.py": [('"nodes": len(specs),\n', '"nodes": len(specs),\n        "novel": 1,\n')],
}
"""File -> what a later version might write there instead."""


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process of the later version."""
    home = tmp_path_factory.mktemp("later")
    shutil.copytree(ROOT / "scheduler", home / "scheduler", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "config", home / "config")
    for name, changes in LATER.items():
        path = home / "scheduler" / name
        text = path.read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{name}: {before!r} is there {text.count(before)} times"
            text = text.replace(before, after)
        path.write_text(text)
    return {"PYTHONPATH": f"{home}{os.pathsep}{ROOT / 'tests' / 'acceptance'}"}


def test_neighbouring_versions_finish_each_other_s_runs(tmp_path: Path, later: dict[str, str]) -> None:
    """New schedulers with old workers, old schedulers with new workers, and all of them side by side, changed in the
    middle of a run each: every step runs once and nothing is refused.
    """
    with Stack(tmp_path, CELERIAC_SHARD_LEASE_SECONDS="2") as stack:

        def change(leave: list[str], **come: dict[str, str] | None) -> None:
            """The new processes first, then SIGTERM for the others: as an orchestrator deploys."""
            for name, env in come.items():
                if name.startswith("s"):
                    stack.scheduler(name, env)
                else:
                    stack.worker("standard-low", name, env)
            with connect(stack.redis.url) as look:
                workers = {f"{name}@" for name in come if name.startswith("w")}
                eventually(
                    lambda: workers <= {it.decode().partition("@")[0] + "@" for it in look.hkeys("cel:workers")},
                    "workers",
                )
            for name in leave:
                assert stack.kill(name, signal.SIGTERM) == 0

        change([], s_old=None, w_old=None)
        with stack.client() as client:
            runs = [client.submit(ladder(8, 0.04), check=False) for _ in range(2)]
            eventually(lambda: len(stack.ledger()) >= 8, "a quarter of the work is done")
            change(["s_old"], s_new=later)  # new scheduler, old worker
            seen = len(stack.ledger())
            runs.append(client.submit(ladder(8, 0.04), check=False))
            eventually(lambda: len(stack.ledger()) >= seen + 10, "old workers work for the new scheduler")
            change(["w_old", "s_new"], s_old=None, w_new=later)  # old scheduler, new worker
            seen = len(stack.ledger())
            runs.append(client.submit(ladder(8, 0.04), check=False))
            eventually(lambda: len(stack.ledger()) >= seen + 10, "new workers work for the old scheduler")
            change([], s_new=later, w_old=None)  # everything side by side
            runs += [client.submit(ladder(8, 0.04), check=False) for _ in range(3)]
            assert [run.wait(120) for run in runs] == [RunState.SUCCEEDED] * 7
            with connect(stack.redis.url) as look:  # the copy was at work, and not what is installed here
                assert any(b'"novel"' in it for it in look.hvals("cel:workers"))
                assert any(look.hexists(key, "novel") for key in look.scan_iter("*:run:*", _type="HASH"))
            lost = sum(event.move == "lose" for run in runs for event in run.events(follow=False))
        for name in ("s_old", "s_new", "w_old", "w_new"):
            stack.kill(name, signal.SIGTERM)
        logs = "".join(path.read_text() for path in tmp_path.glob("s_*.log"))
        assert "It was set aside" not in logs
        assert "stumbled" not in logs
        begun = Counter(line["id"] for line in stack.ledger("begin"))
        assert len(begun) == 7 * 17 + lost
        assert set(begun.values()) == {1}
