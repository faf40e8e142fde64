"""README.md: its example of tests runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_the_example_of_the_readme_runs() -> None:
    """One block, executed whole: each assert in it holds, and no branch is named that it does not have."""
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    section = text.partition("## Tests without workers")[2].partition("\n## ")[0]
    [example] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), scope)
    assert len(scope["coverage"].branches) == 6
