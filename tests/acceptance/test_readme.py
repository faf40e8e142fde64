"""README.md: its example runs as it stands, on real workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .stack import ROOT, Stack, eventually


def test_the_twenty_lines_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first Python block, with nothing changed but where Redis is, prints every node's end and the result."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    example = found[1]
    assert len(example.strip().splitlines()) <= 20
    with Stack(tmp_path) as stack:
        stack.scheduler()
        for queue_class in ("standard-low", "batch-high"):
            stack.start(queue_class, "worker", queue_class, "--app", "app.readme:app")
        with stack.client() as client:
            eventually(lambda: len(client._access.runs.workers()) == 2, "both workers have announced themselves")
        exec(example.replace("redis://localhost:6379/0", stack.redis.url), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "nine words"
    assert "text.count succeeded 9" in "\n".join(printed)
    assert "ops.alert skipped" in "\n".join(printed)
