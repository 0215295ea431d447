"""The JSON Schema that `vitft runs schema` prints holds for what runs write, and refuses what they do not.

It is held against the files by the few keywords of JSON Schema that it uses, written here again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import typed
from tests.cli.test_cli import TINY, images, vitft
from vitft.results.reading import parse
from vitft.results.schema import RunResult, to_json

KINDS: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
SAID = {"title", "description", "default", "$defs", "$schema"}
KNOWN = {
    "$ref", "allOf", "anyOf", "type", "const", "enum", "properties", "required", "additionalProperties", "items",
    "prefixItems", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip


def faults(value: Any, schema: Any, root: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield where a JSON value is not what a schema says."""
    if isinstance(schema, bool):
        if not schema:
            yield f"{at}: not allowed"
        return
    assert schema.keys() <= SAID | KNOWN, f"not known to this test: {schema.keys() - SAID - KNOWN}"
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    for one in schema.get("allOf", ()):
        yield from faults(value, one, root, at)
    if "anyOf" in schema and all(any(faults(value, one, root, at)) for one in schema["anyOf"]):
        yield f"{at}: none of {len(schema['anyOf'])}"
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{at}: {value!r} is no {kind}"
        return
    if value not in schema.get("enum", [schema.get("const", value)]):
        yield f"{at}: {value!r}"
    yield from faults_inside(value, schema, root, at)


def faults_inside(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    """Yield the faults of a value's parts, and of its size."""
    kind = schema.get("type")
    if isinstance(value, dict):
        own = schema.get("properties", {})
        yield from (f"{at}.{name}: absent" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            yield from faults(inner, own.get(name, schema.get("additionalProperties", True)), root, f"{at}.{name}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} items"
        first = schema.get("prefixItems", [])
        for i, inner in enumerate(value):
            yield from faults(inner, first[i] if i < len(first) else schema.get("items", True), root, f"{at}[{i}]")
    elif kind in ("integer", "number"):
        low, high = schema.get("exclusiveMinimum", value - 1), schema.get("exclusiveMaximum", value + 1)
        if not (schema.get("minimum", value) <= value <= schema.get("maximum", value) and low < value < high):
            yield f"{at}: {value}"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    printed = vitft("runs", "schema")
    assert printed.exit_code == 0 and printed.stderr == ""
    return json.loads(printed.stdout)


def test_what_verbs_write_is_what_the_schema_says(tmp_path, schema):
    data = images(tmp_path / "d")
    tuned = ("--seeds", "0,1", "-o", tmp_path / "run")
    assert vitft("finetune", data, *TINY, *tuned).exit_code == 0
    assert vitft("eval", tmp_path / "run", data, "-o", tmp_path / "eval", "--device", "cpu").exit_code == 0
    few = vitft("fewshot", data, "-m", "vit-mini", "--per-class", "1", "-o", tmp_path / "few", "--device", "cpu")
    assert few.exit_code == 0, few.stderr
    unit = next((tmp_path / "run").glob("units/*/*/result.json"))
    for file, kind in (
        (unit, "UnitResult"),
        (tmp_path / "run" / "result.json", "RunResult"),
        (tmp_path / "eval" / "result.json", "EvalResult"),
        (tmp_path / "few" / "result.json", "FewshotResult"),
    ):
        value = json.loads(Path(file).read_text())
        assert not list(faults(value, {"$ref": f"#/$defs/{kind}"}, schema)), kind
        assert not list(faults(value, schema, schema)), kind
        for name, wrong in (("metrics", {"top1": 1.5}), ("rows", [{"n": "9"}]), ("schema_version", 1), ("new", 1)):
            if name in value or name == "new":
                assert list(faults({**value, name: wrong}, schema, schema)), (kind, name)
        for name in ("task", "provenance", "checkpoint"):
            assert list(faults({k: v for k, v in value.items() if k != name}, schema, schema)), (kind, name)


def test_a_network_without_positions_is_read_back():
    """Of a ResNet or a network with rotary positions: what is absent is no damage."""
    fields = {
        "task": "x", "model": "m", "recipe": "quick", "method": "full", "phase": "final", "seed": 0,
        "metrics": {"top1": 0.5, "n": 2, "ci95": [0, 1]}, "protocol": {"id": "a", "resolution": "224"},
        "provenance": {"source": "s", "split_digest": "d"}, "checkpoint": {"grid": None},
    }  # fmt: skip
    written = to_json(typed.result(fields))
    assert parse(written, RunResult, "x").checkpoint.grid is None
