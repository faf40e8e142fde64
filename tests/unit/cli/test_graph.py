"""`celeriac graph`: check, draw, schema; and what a GRAPH argument may be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from scheduler.cli import main
from scheduler.cli.sources import graph_of, inputs_of

DIAMOND = {
    "celeriac": 1,
    "name": "diamond",
    "nodes": [
        {"key": "top", "executor": "a"},
        {"key": "left", "executor": "b", "inputs": {"x": {"$ref": "top"}}},
        {"key": "right", "executor": "b", "after": ["top"]},
        {"key": "end", "executor": "c", "after": ["left", "right"], "trigger_rule": "one_success"},
    ],
    "returns": "end",
}


@pytest.fixture
def diamond(tmp_path: Path) -> str:
    """A graph in a file."""
    path = tmp_path / "diamond.json"
    path.write_text(json.dumps(DIAMOND))
    return str(path)


def run(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    said = CliRunner().invoke(main, ["graph", *words], input=stdin)
    return said.exit_code, said.stdout, said.stderr


def test_check_tells_what_a_graph_holds(diamond: str) -> None:
    """As text and as one document; from a file and from standard input."""
    status, out, _ = run("check", diamond, "-o", "json")
    found = json.loads(out)
    assert status == 0
    assert (found["nodes"], found["edges"], found["levels"], found["returns"]) == (4, 4, 3, "end")
    assert found["executors"] == ["a", "b", "c"]
    assert "nodes\t4" in run("check", diamond)[1]
    assert json.loads(run("check", "-", "-o", "json", stdin=json.dumps(DIAMOND))[1])["hash"] == found["hash"]


def test_check_names_the_mappers_that_a_graph_uses(tmp_path: Path, diamond: str) -> None:
    """They must be deployed where it runs; of a graph without any nothing is said."""
    nodes = [
        {"key": "a", "executor": "e"},
        {
            "key": "b",
            "executor": "e",
            "inputs": {"x": {"$ref": "a", "via": "to_b@2"}, "y": {"$ref": "a", "via": "n@1"}},
        },
    ]
    path = tmp_path / "mapped.json"
    path.write_text(json.dumps({"celeriac": 1, "name": "mapped", "nodes": nodes}))
    assert json.loads(run("check", str(path), "-o", "json")[1])["mappers"] == ["n@1", "to_b@2"]
    assert "mappers\tn@1, to_b@2" in run("check", str(path))[1]
    assert json.loads(run("check", diamond, "-o", "json")[1])["mappers"] == []
    assert "mappers" not in run("check", diamond)[1]


def test_check_names_the_nodes_of_which_nothing_is_said_for_failure(tmp_path: Path, diamond: str) -> None:
    """A ladder, a fallback, a rule downstream and a condition on a state say something; a retry alone does not."""
    found = json.loads(run("check", diamond, "-o", "json")[1])["failure_paths"]
    assert found["without"] == ["top", "end"]  # left and right have one_success after them
    assert "upstream_failed" in found["default"]
    assert "no failure path\t2 of 4 nodes, " in run("check", diamond)[1]
    nodes = [
        {"key": "plain", "executor": "e", "retry": {"max_attempts": 9}},
        {
            "key": "laddered",
            "executor": "e",
            "retry": {"steps": [{"step": "again"}, {"step": "other", "executor": "f"}]},
        },
        {
            "key": "asked",
            "executor": "e",
            "retry": {"steps": [{"step": "again"}, {"step": "escalate", "question": "?"}]},
        },
        {"key": "cleaned", "executor": "e"},
        {"key": "clean", "executor": "e", "after": ["cleaned"], "trigger_rule": "all_done"},
        {"key": "watched", "executor": "e"},
        {"key": "nap", "wait": {"kind": "timer", "seconds": 5}},
        {"key": "late", "wait": {"kind": "signal", "name": "s", "within_seconds": 5}},
        {"key": "kept", "wait": {"kind": "signal", "name": "t", "within_seconds": 5, "default": 1}},
        {"key": "tell", "executor": "e", "trigger_rule": "always", "when": "watched.state == 'failed'"},
    ]
    path = tmp_path / "paths.json"
    path.write_text(json.dumps({"celeriac": 1, "name": "paths", "nodes": nodes}))
    status, out, err = run("check", str(path), "-o", "json")
    assert status == 0, err
    found = json.loads(out)
    assert found["executors"] == ["e"]
    assert found["failure_paths"]["without"] == ["plain", "clean", "late", "tell"]
    nodes = nodes[1:2]
    path.write_text(json.dumps({"celeriac": 1, "name": "paths", "nodes": nodes}))
    assert json.loads(run("check", str(path), "-o", "json")[1])["failure_paths"] == {"without": [], "default": None}
    assert "no failure path" not in run("check", str(path))[1]


def test_check_refuses_a_broken_graph_with_6(tmp_path: Path) -> None:
    """The cycle is shown, on standard error; nothing is on standard output."""
    path = tmp_path / "cycle.json"
    nodes = [{"key": "a", "executor": "e", "after": ["b"]}, {"key": "b", "executor": "e", "after": ["a"]}]
    path.write_text(json.dumps({"celeriac": 1, "name": "x", "nodes": nodes}))
    status, out, err = run("check", str(path))
    assert (status, out) == (6, "")
    assert "b -> a -> b" in err


def test_check_refuses_an_undeclared_class(tmp_path: Path) -> None:
    """Against the queue classes of the settings."""
    path = tmp_path / "class.json"
    node = {"key": "a", "executor": "e", "queue_class": "standart-low"}
    path.write_text(json.dumps({"celeriac": 1, "name": "x", "nodes": [node]}))
    status, _, err = run("check", str(path))
    assert status == 6
    assert "standart-low" in err


def test_a_graph_is_drawn_as_text(diamond: str) -> None:
    """One line a node, by level, with what it waits for and its rule."""
    lines = run("draw", diamond)[1].splitlines()
    assert lines[0].split() == ["1", "top", "a"]
    assert lines[-1].split() == ["3", "end", "c", "<-", "left,", "right", "[one_success]"]


def test_a_graph_is_drawn_for_mermaid_and_graphviz(diamond: str) -> None:
    """Every edge once, the unusual rule on its edges."""
    drawn = run("draw", diamond, "--format", "mermaid")[1]
    assert drawn.startswith("flowchart TD\n")
    assert drawn.count("-->") == 4
    assert drawn.count("|one_success|") == 2
    drawn = run("draw", diamond, "--format", "dot")[1]
    assert drawn.count("->") == 4
    assert drawn.strip().endswith("}")


@pytest.mark.parametrize("form", ["txt", "mermaid", "dot"])
def test_names_cannot_break_out_of_a_drawing(form: str, tmp_path: Path) -> None:
    """Quotes, brackets, line ends' look-alikes and bidirectional marks of a user are shown, not obeyed."""
    key = 'a"]; x --> y; ["\u202e<script>\u2028 |{}'
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"celeriac": 1, "name": "x", "nodes": [{"key": key, "executor": "e"}]}))
    status, drawn, _ = run("draw", str(path), "--format", form)
    assert status == 0
    assert "\u202e" not in drawn
    assert "\u2028" not in drawn
    if form == "mermaid":
        assert "<script>" not in drawn
        assert drawn.count('"') == 2
    if form == "dot":
        assert drawn.replace('\\"', "").count('"') == 2


def test_a_drawing_can_be_read_back(diamond: str, tmp_path: Path) -> None:
    """JSON and YAML are the document again: the same hash."""
    for form in ("json", "yaml"):
        path = tmp_path / f"again.{form}"
        path.write_text(run("draw", diamond, "--format", form)[1])
        assert graph_of(str(path)).hash == graph_of(diamond).hash


def test_the_schema_is_one_and_takes_a_graph() -> None:
    """Draft 2020-12, as published."""
    schema = json.loads(run("schema")[1])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(DIAMOND, schema)
    assert json.loads(run("schema", "-o", "json")[1]) == schema


def test_a_graph_is_found_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Graph, or a function that returns one and takes inputs; in the working directory too."""
    (tmp_path / "shop_graphs_for_test.py").write_text(
        "from scheduler import Graph\n"
        "def order(n, who='x'):\n"
        "    g = Graph(who)\n"
        "    for i in range(n): g.add('e', key=str(i))\n"
        "    return g\n"
        "ready = order(2)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "shop_graphs_for_test"
    assert len(graph_of(f"{name}:ready")) == 2
    made = graph_of(f"{name}:order", inputs_of(["n=3", "who=Ann"]))
    assert (len(made), made.name) == (3, "Ann")
    for words, status, told in (
        (["check", f"{name}:order"], 2, "missing a required argument: 'n'"),
        (["check", f"{name}:order", "--input", "m=1"], 2, "does not take these inputs"),
        (["check", f"{name}:ready", "--input", "n=1"], 2, "is a graph already"),
        (["check", f"{name}:absent"], 2, "has no 'absent'"),
        (["check", f"{name}:number"], 6, "is neither a Graph nor a function"),
        (["check", "no_such_module_here:x"], 2, "there is no module"),
    ):
        found, _, err = run(*words)
        assert found == status, err
        assert told in " ".join(err.split())


def test_inputs_are_json_where_they_can_be(tmp_path: Path) -> None:
    """Text otherwise; a file gives several."""
    path = tmp_path / "in.json"
    path.write_text('{"a": [1, 2]}')
    assert inputs_of([f"@{path}", "b=true", "c=yes", 'd="1"', "e=1=2"]) == {
        "a": [1, 2],
        "b": True,
        "c": "yes",
        "d": "1",
        "e": "1=2",
    }
