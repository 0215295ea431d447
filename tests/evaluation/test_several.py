"""Several models on the same images: what each is opened with, what it says, and what it leaves."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitft.data.labels import absent_note
from vitft.evaluation import seeds, several
from vitft.models.build import build
from vitft.progress import Hooks
from vitft.results.parts import Metrics
from vitft.results.schema import EvalResult
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
    of["other"] = ({None: "q"}, "")
    seen["load"].clear()
    assert len(list(several.evaluate_all(["one", "other"], subject, how, Hooks()))) == 2
    assert [path for path, _ in seen["load"]] == ["p", "q"]
    assert [way["keep"] for *_, way in seen["evaluate"][-2:]] == ["room"] * 2  # two read the same images
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


def test_a_run_has_a_network_for_each_seed_whose_weights_are_all_kept(tmp_path):
    units = [tmp_path / "units" / "dtd" / name for name in "ab"]
    for unit in units:
        unit.mkdir(parents=True)
        (unit / "weights.safetensors").touch()
    run = {"kind": "finetune", "seeds": {"4": {}, "7": {}}, "units": ["dtd/a", "dtd/b"]}
    (tmp_path / "weights.safetensors").touch()
    alone = {None: str(tmp_path)}

    def found(model: object = tmp_path, **changes: Any) -> Any:
        (tmp_path / "result.json").write_text(json.dumps(run | changes))
        return seeds.members(str(model))

    assert found() == ({4: str(units[0]), 7: str(units[1])}, "all 2 seeds of the run")
    assert found(kind="eval") == found(seeds=None) == found(units=None) == (alone, "")
    named = tmp_path / "weights.safetensors"
    assert found(named) == ({None: str(named)}, "seed 4 alone of the run's seeds 4, 7: the file that was named")
    (units[1] / "weights.safetensors").unlink()
    why = "seed 4 alone of the run's seeds 4, 7: the weights of the others are not all here"
    assert found() == (alone, why)
    (tmp_path / "result.json").unlink()
    assert seeds.members(str(tmp_path)) == (alone, "") and seeds.members("timm:x") == ({None: "timm:x"}, "")


def test_models_are_compared_seed_by_seed_or_with_each_seed():
    right: Any = {key: SimpleNamespace(correct=np.arange(9) < key) for key in range(2, 8)}
    done = [("a", {None: right[2]}), ("b", {3: right[3], 4: right[4]}), ("c", {4: right[5], 5: right[6]}),
            ("d", {9: right[7]})]  # fmt: skip
    found = [(one.a, one.b, one.seed, one.a_only, one.b_only) for one in seeds.comparisons(done)]
    assert found == [
        ("a", "b", 3, 0, 1), ("a", "b", 4, 0, 2), ("a", "c", 4, 0, 3), ("a", "c", 5, 0, 4), ("a", "d", 9, 0, 5),
        ("b", "c", 4, 0, 1),
    ]  # fmt: skip


def test_what_one_seed_lacks_has_no_mean():
    whole = Metrics(top1=0.5, n=9, ci95=(0, 1), top5=0.9, real_top1=0.6, real_n=8)
    less = Metrics(top1=0.7, n=9, ci95=(0, 1))
    mean = seeds.over_seeds([whole, less])
    assert (mean.top5, mean.real_top1, mean.real_ci95, mean.real_n) == (None, None, None, None)
    assert seeds.over_seeds([whole, whole]).real_n == 8
    results = [
        EvalResult.model_construct(metrics=whole, among_present=one, per_class=None, confusion=None)  # type: ignore[call-arg]
        for one in (whole, None)
    ]
    assert seeds.combined(dict(enumerate(results))).among_present is None
