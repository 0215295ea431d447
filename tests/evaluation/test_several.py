"""Several models on the same images: what each is opened with, what it says, and what it leaves."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from vitft.data.labels import absent_note
from vitft.evaluation import seeds, several
from vitft.models.build import build
from vitft.progress import Hooks
from vitft.settings import Settings


@dataclass
class Opened:
    """What stands for a network that was opened: its info, and what moves."""

    info: Any
    net: Any


@pytest.mark.parametrize("alone", [True, False])
def test_models_are_evaluated_one_after_the_other_and_say_what_they_are(alone, monkeypatch, tmp_path):
    of = {"run": ({3: "p3", 4: "p4"}, "all 2 seeds of the run"), "one": ({None: "p"}, "")}
    models = ["one"] if alone else ["run", "one"]
    info = replace(build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info, name="own", notes=("n",))
    seen: dict[str, list[Any]] = {key: [] for key in ("load", "fit", "open", "moved", "evaluate", "result", "told")}
    subject: Any = SimpleNamespace(split="split", classes_without_test=("c",))

    def opening(checkpoint: Any, fixed: Any, **how: Any) -> Opened:
        seen["open"].append((checkpoint, fixed, how))
        return Opened(info, SimpleNamespace(to=seen["moved"].append))

    def loading(path: str, declared: Any) -> str:
        seen["load"].append((path, declared))
        return f"opened {path}"

    def counting(found: Any, **how: Any) -> str:
        seen["result"].append(how)
        name: str = found.network.info.name
        return name

    def evaluating(network: Any, what: Any, *, hooks: Hooks, **how: Any) -> Any:
        seen["evaluate"].append((network.info.name, network.info.notes, how))
        return SimpleNamespace(subject=what, network=network)

    monkeypatch.setattr(seeds, "members", of.__getitem__)
    monkeypatch.setattr(several.loading, "load", loading)
    monkeypatch.setattr(several, "head_fits", lambda *of: seen["fit"].append(of))
    monkeypatch.setattr(several, "open_network", opening)
    monkeypatch.setattr(several.ev, "evaluate", evaluating)
    monkeypatch.setattr(several.ev, "result", counting)
    monkeypatch.setattr(seeds, "combined", dict)
    how = several.How({"num_heads": 2}, 0.5, "cpu", "bf16", 6, 7, True, False, "make")
    told = seen["told"]
    found = list(several.evaluate_all(models, subject, how, Hooks(note=told.append)))
    paths = ["p"] if alone else ["p3", "p4", "p"]
    said = several.Declared.within({"num_heads": 2})
    assert seen["load"] == ([] if alone else [(path, said) for path in paths])
    assert seen["fit"] == ([] if alone else [(f"opened {path}", "split") for path in paths])
    way = {"crop_pct": 0.5, "device": "cpu", "precision": "bf16"}
    assert seen["open"] == [(path if alone else f"opened {path}", {"num_heads": 2}, way) for path in paths]
    rest = {"batch_size": 6, "workers": 7, "keep": "make" if alone else "room"}
    run = [("run", ("n", "all 2 seeds of the run"), rest)] * 2
    assert seen["evaluate"] == [*run[: 0 if alone else 2], ("own", ("n",), rest)]
    assert seen["result"] == [{"per_class": True, "with_confusion": False}] * len(paths)
    assert seen["moved"] == ["cpu"] * len(paths)
    absent = absent_note(("c",))
    of_run = ["run: all 2 seeds of the run.", "run: n", f"run: {absent}"]
    assert told == [*of_run[: 0 if alone else 3], "one: n", f"one: {absent}"]
    assert [one.result for one in found] == [{3: "run", 4: "run"}, {None: "own"}][-len(models) :]
    assert found[0].subject is subject
    saved: list[Any] = []
    split = SimpleNamespace(keys=["k"], labels=[1], class_names=("a",))
    answered: Any = SimpleNamespace(subject=SimpleNamespace(split=split), predictions=SimpleNamespace(logits="l"))
    monkeypatch.setattr(several.predictions, "save", lambda *given: saved.append(given))
    monkeypatch.setattr(several, "write_json", lambda *given: saved.append(given))
    monkeypatch.setattr(several, "to_json", lambda result: f"json of {result}")
    several.Evaluated("r", {None: answered, 5: answered}).save(tmp_path)
    rest_of = (["k"], [1], "l", ("a",))
    files = (tmp_path / "predictions.parquet", tmp_path / "seed-5" / "predictions.parquet")
    assert saved == [*((file, *rest_of) for file in files),
                     (tmp_path / "result.json", "json of r")]  # fmt: skip
    assert several.How() == several.How({}, None, "auto", "auto", 0, 2, False, False, "no")
