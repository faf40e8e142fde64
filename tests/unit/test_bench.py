"""The figures of the benchmarks: medians, ratios, tables, and which room a sample belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tests.bench import shapes
from tests.bench.figures import Spread, ratio, shown, table
from tests.bench.sampler import room_of, rooms


def test_a_spread_is_the_median_with_least_and_greatest() -> None:
    """One slow repeat moves the greatest value, never the middle."""
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert str(Spread.of([5.0, 1.0, 2.0])) == "2 (1-5)"


def test_a_single_measurement_says_that_it_is_one() -> None:
    """A figure without repeats can't be taken for one with them."""
    assert str(Spread.of([1234.5])) == "1,234, 1 run"


def test_no_measurement_is_no_figure() -> None:
    """An empty row is an error, not a zero."""
    with pytest.raises(ValueError, match="no measurement"):
        Spread.of([])


def test_a_ratio_compares_within_a_turn() -> None:
    """A machine that is twice as slow in one turn changes no ratio."""
    assert ratio([1.0, 2.0], [2.0, 4.0]) == Spread(0.5, 0.5, 0.5, 2)


def test_a_turn_that_the_reference_did_not_finish_is_left_out() -> None:
    """Its zero or missing entry divides nothing."""
    assert ratio([1.0, 2.0, 3.0], [2.0, 0.0]).count == 1


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.012345, "0.0123"), (99.96, "100"), (23456.7, "23,457")])
def test_numbers_are_shown_to_three_digits(value: float, text: str) -> None:
    """More digits would promise a precision that no measurement here has."""
    assert shown(value) == text


def test_a_table_lines_up_under_its_widest_cells() -> None:
    """Every line is as wide as the ruler, but for blanks at its end."""
    lines = table(["what", "n"], [["a longer name", "1"], ["b", "1,000"]]).splitlines()
    assert lines == ["what               n", "-------------  -----", "a longer name      1", "b              1,000"]


def test_a_sample_belongs_to_the_innermost_room() -> None:
    """What a library does is laid to the function that asked for it, not to the loop around."""
    stack = [
        "~redis/connection.py:pack",
        "store/commits.py:send_commits",
        "service/owned.py:commit",
        "service/loop.py:run",
    ]
    assert room_of(stack) == ("commit", "store/commits.py:send_commits")


def test_a_function_may_work_for_another_room_than_its_file() -> None:
    """core/ decides, but a run's record is made for the commit."""
    assert room_of(["core/run.py:record", "service/batch.py:commit"])[0] == "commit"
    assert room_of(["core/run.py:spread", "core/decide.py:evolve"])[0] == "decide"


def test_every_sample_is_counted_once() -> None:
    """The rooms' counts add up to the samples, those without a room among them."""
    stacks = Counter(
        {("core/decide.py:decide",): 3, ("~json/decoder.py:decode", "wire.py:from_json"): 2, ("x.py:y",): 1}
    )
    found = rooms(stacks)
    assert sum(sum(counts.values()) for counts in found.values()) == 6
    assert found["read"] == Counter({"wire.py:from_json > json/decoder.py:decode": 2})


@pytest.mark.parametrize(
    ("shaped", "nodes", "edges"),
    [
        (partial(shapes.chain, 500), 500, 499),
        (partial(shapes.fan, 5000), 5002, 10_000),
        (partial(shapes.stencil, 50, 50), 2500, 49 * 50 * 3),
        (shapes.diamond, 4, 4),
        (partial(shapes.layers, 100, 1000), 100_000, 99 * 1000 * 2),
    ],
    ids=["chain", "fan", "stencil", "diamond", "layers"],
)
def test_the_measured_graphs_are_those_they_are_called(
    shaped: Callable[[], shapes.Shape], nodes: int, edges: int
) -> None:
    """Nodes and edges as the names say, and every edge from a smaller number to a greater one."""
    shape = shaped()
    assert len(shape) == nodes
    assert sum(map(len, shape.up)) == edges
    assert all(parent < node for node, parents in enumerate(shape.up) for parent in parents)
