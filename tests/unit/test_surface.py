"""The public names, and what `import scheduler` costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import scheduler
from scheduler import errors

SOURCE = Path(scheduler.__file__).read_text("utf-8")


HEAVY = ("redis", "celery", "kombu", "pydantic", "pydantic_settings", "yaml", "rich", "click", "asyncio")


def loaded_by(code: str, *names: str) -> list[str]:
    """Which of these modules a fresh interpreter has loaded after `code`."""
    script = f"import sys; {code}; print(*[name for name in {names} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return said.stdout.split()


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import scheduler` stays cheap: no Redis, no Celery, no pydantic, no YAML."""
    assert loaded_by("import scheduler", *HEAVY) == []


def test_the_builder_needs_no_redis_and_no_celery() -> None:
    """Writing a graph imports neither; only the client and the processes do."""
    assert loaded_by("import scheduler; scheduler.Graph('g').add('x')", *HEAVY[:4]) == []


def test_the_client_needs_no_celery_and_no_pydantic() -> None:
    """A program that only submits and waits pays for neither."""
    assert loaded_by("import scheduler; scheduler.Client('redis://localhost')", "celery", "kombu", "pydantic") == []


@pytest.mark.parametrize("name", scheduler.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What `__all__` promises can be imported, and has a docstring when it is a class."""
    found = getattr(scheduler, name)
    assert found is not None
    if inspect.isclass(found):
        assert found.__doc__


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers are `__all__`, each from the module where the lazy import finds it."""
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        seen.update({alias.name: statement.module for alias in statement.names})
    assert sorted([*seen, "__version__"]) == sorted(scheduler.__all__)
    for name, module in seen.items():
        assert getattr(importlib.import_module(f"scheduler.{module}"), name) is getattr(scheduler, name)


def test_every_error_is_public() -> None:
    """Whatever celeriac raises on purpose can be caught by a name of the package."""
    kinds = {
        name
        for name, it in vars(errors).items()
        if inspect.isclass(it) and issubclass(it, errors.CeleriacError) and it.__module__ == errors.__name__
    }
    assert kinds <= set(scheduler.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="Grahp"):
        _ = scheduler.Grahp  # type: ignore[attr-defined]  # that is the point


def test_the_version_is_the_distribution_s() -> None:
    """`scheduler.__version__` is what pyproject.toml says."""
    project = (Path(scheduler.__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert f'version = "{scheduler.__version__}"' in project
