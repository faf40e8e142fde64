"""Types of the builder: what mypy infers is what these lines say; `make check` runs mypy over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, assert_type

from pydantic import BaseModel

from scheduler.graph import Graph, Node, Path

P = ParamSpec("P")
R = TypeVar("R")


class Page(BaseModel):
    """An output."""

    html: str


class Named(Generic[P, R]):
    """What a decorator such as `@executor` makes: a function with a name that is still called as before."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        """As the worker knows it."""
        return f"web.{self._function.__name__}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""
        return self._function(*args, **kwargs)


@Named
def fetch(url: str) -> Page:
    """A typed executor."""
    return Page(html=url)


@Named
async def summarise(page: Page, words: int = 80) -> str:
    """A typed executor that is a coroutine."""
    return page.html[:words]


class Plain:
    """An executor whose name is an attribute."""

    name = "plain"

    def __call__(self, n: int) -> list[int]:
        """Returns a list."""
        return [n]


def test_handles_know_what_their_executors_return() -> None:
    """Node[T] is inferred from functions, coroutines and callables; names and signatures give Node[Any]."""
    g = Graph("digest")
    page = g.add(fetch, url="https://example.org", key="front")
    assert_type(page, Node[Page])
    assert_type(page.out.html, Path)
    assert_type(page.out.items[0]["name"], Path)
    text = g.add(summarise, page=page, words=120, timeout="20s")
    assert_type(text, Node[str])
    assert_type(g.add(Plain(), n=1), Node[list[int]])
    assert_type(g.add("web.fetch", url="x"), Node[Any])
    assert_type(g.add({"task": "shop.resize", "args": (1,)}), Node[Any])
    assert g.keys == ("front", "web.summarise", "plain", "web.fetch", "shop.resize")


def test_types_travel_on() -> None:
    """A handle of a subclass is a handle of its base: Node is covariant."""
    models: list[Node[BaseModel]] = [Graph("g").add(fetch, url="x")]
    assert models[0].key == "web.fetch"
