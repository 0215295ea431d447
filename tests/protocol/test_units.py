"""Plans without a fit: which splits, which points, which units, and which point is the best."""

import hashlib
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitft.catalog.models import MODELS
from vitft.data.split import Counts
from vitft.errors import DataMissing, RecipeError
from vitft.protocol.advice import advice
from vitft.protocol.begun import pixels
from vitft.protocol.jobs import Runtime, plan, watch_note
from vitft.protocol.stamp import protocol
from vitft.protocol.units import (
    DEV,
    Job,
    Point,
    Scheme,
    Unit,
    alike,
    at_point,
    by_point,
    counts,
    final_units,
    fits,
    model_label,
    points,
    scheme,
    select,
    short_label,
    tune_units,
)
from vitft.recipes import parse
from vitft.results.parts import Seen
from vitft.settings import Settings

VTAB_1K = ("train800", "val200", "train800val200", "test")
BOTH = "train+val"


@pytest.mark.parametrize(
    ("splits", "shots", "val_is_train", "expected"),
    [
        (("train", "test"), "", False, ("train", DEV, "train", "test")),
        (("train", "val"), "", False, ("train", DEV, "train", "val")),
        (("train", "val"), "", True, ("train", DEV, "train", "val")),
        (("train", "val", "test"), "", False, ("train", "val", "train", "test")),
        (("train", "val", "test"), "", True, (BOTH, DEV, BOTH, "test")),
        (("train", "val", "test"), "full", True, ("train", "val", BOTH, "test")),
        (("train", "val", "test"), "full", False, ("train", "val", BOTH, "test")),
        (("train", "test"), "full", False, ("train", DEV, "train", "test")),
        (VTAB_1K, "", False, ("train800", "val200", "train800val200", "test")),
        (VTAB_1K, "full", False, ("train800", "val200", "train800val200", "test")),
        (("train800", "test"), "", False, ("train800", DEV, "train800", "test")),
        (("train800", "val200", "test"), "1000", False, ("train800", "val200", "train800", "test")),
        (("train800val200", "test"), "", False, ("train800val200", "", "train800val200", "test")),
        (("train", "val", *VTAB_1K), "1000", True, ("train800", "val200", "train800val200", "test")),
        (("train", "test", "train800val200"), "1000", False, ("train800val200", "", "train800val200", "test")),
        (("train", "val", *VTAB_1K), "", False, ("train", "val", "train", "test")),
        (("train", "test", "train800val200"), "", False, ("train", DEV, "train", "test")),
        (VTAB_1K, "60", False, ("train800val200[:60]", DEV, "train800val200[:60]", "test")),
    ],
)
def test_splits_of_the_phases(splits: Any, shots: str, val_is_train: bool, expected: tuple[str, ...]) -> None:
    for order in (splits, splits[::-1]):
        assert scheme(order, "t", shots, val_is_train) == Scheme(*expected)


@pytest.mark.parametrize("splits", [(), ("train",), ("test",), ("val", "test"), ("train800",), ("train800val200",)])
def test_data_that_cannot_be_trained_and_evaluated_on(splits: Any) -> None:
    with pytest.raises(DataMissing, match=f"has the splits {', '.join(splits) or 'none'}"):
        scheme(splits, "t")


SCHEME = Scheme("train", "val", BOTH, "test")


def job(**changes: Any) -> Job:
    settings = Settings(steps=100, warmup_steps=10, decay_steps=(50, 80), lr=0.5)
    usual: dict[str, Any] = {"settings": settings, "scheme": SCHEME, "seeds": (4, 7)} | changes
    name, recipe = usual.pop("name", "t"), usual.pop("recipe", "r")
    return Job("/d/t", name, "m", "", recipe, "d", **usual)


def grid(*values: dict[str, Any]) -> tuple[Point, ...]:
    return tuple(Point(value, Settings(**value)) for value in values)


def test_points_are_every_combination_in_the_order_of_their_lists() -> None:
    swept = job(sweep={"lr": [0.1, 0.2], "steps": [100, 50]})
    assert [p.values for p in points(swept)] == [
        {"lr": a, "steps": b} for a, b in itertools.product([0.1, 0.2], [100, 50])
    ]
    settings = points(swept)[3].settings
    assert (settings.lr, settings.steps, settings.warmup_steps, settings.decay_steps) == (0.2, 50, 5, (25, 40))
    assert [(p.values, p.settings) for p in points(job())] == [({}, job().settings)]
    own = grid({"lr": 0.3})
    assert points(job(grid=own, sweep={"lr": [1.0, 2.0]})) == list(own)
    # what the user has given stays as it is
    given = at_point(job(given=("warmup_steps",)), {"steps": 50})
    assert (given.warmup_steps, given.decay_steps, given.steps) == (10, (25, 40), 50)
    assert at_point(job(), {"steps": 50, "warmup_steps": 3}).warmup_steps == 3
    with pytest.raises(RecipeError, match="Recipe 'r': warmup_steps 10 is not below steps 10"):
        at_point(job(given=("warmup_steps",)), {"steps": 10})


def test_units_of_a_recipes_sweep_are_tuned_with_one_seed_and_a_grids_with_all() -> None:
    swept = job(sweep={"lr": [0.1, 0.2]})
    assert [(u.phase, u.seed, u.point) for u in tune_units(swept)] == [("tune", 0, {"lr": lr}) for lr in (0.1, 0.2)]
    assert [u.settings.lr for u in tune_units(swept)] == [0.1, 0.2]
    assert tune_units(job()) == [] == tune_units(job(sweep={"lr": [0.1]}))
    two = job(grid=grid({"lr": 0.3}, {"lr": 0.4}))
    assert [(u.seed, u.point["lr"]) for u in tune_units(two)] == [(4, 0.3), (7, 0.3), (4, 0.4), (7, 0.4)]
    assert tune_units(job(grid=grid({"lr": 0.3}))) == []
    on_test = job(grid=grid({"lr": 0.3}, {"lr": 0.4}), on="test")
    assert tune_units(on_test) == []
    assert [(u.phase, u.seed, u.point["lr"]) for u in final_units(on_test, [])] == [
        ("final", s, lr) for lr in (0.3, 0.4) for s in (4, 7)
    ]
    assert [counts(j) for j in (job(), swept, two, on_test)] == [(0, 2), (2, 2), (4, 2), (0, 4)]
    tune, final = tune_units(swept)[0], final_units(swept, [])[0]
    assert (tune.held_out, final.held_out, tune.scheme) == ("val", "test", SCHEME)
    assert Unit.from_json(tune.to_json()) == tune and tune.id != final.id


def result(top1: float, lr: float = 0.1, n: int = 10, **point: Any) -> Any:
    return SimpleNamespace(
        point=point or {"lr": lr}, recipe_settings=Settings(lr=lr, steps=n), metrics=SimpleNamespace(top1=top1)
    )


def test_the_best_is_the_highest_mean_and_of_equals_the_smaller_rate_then_fewer_steps_then_the_earlier() -> None:
    assert select([result(0.5, 0.1), result(0.6, 0.2)]).point == {"lr": 0.2}
    assert select([result(0.6, 0.2), result(0.6, 0.1)]).point == {"lr": 0.1}
    same = [result(0.6, 0.2, 20, steps=20), result(0.6, 0.2, 10, steps=10)]
    assert select(same).point == {"steps": 10}
    assert select([result(0.6, drop_path=0.2), result(0.6, drop_path=0.1)]).point == {"drop_path": 0.2}
    # the mean over seeds, not the best of them, nor their sum
    seeds = [result(0.9, 0.1), result(0.6, 0.2), result(0.1, 0.1), result(0.6, 0.2), result(0.55, 0.3)]
    assert select(seeds).point == {"lr": 0.2} and select(seeds) is seeds[1]
    assert [len(of) for of in by_point(seeds)] == [2, 2, 1]
    # one value of unlike settings is two points
    assert [len(of) for of in by_point([result(0.1, n=1, a=1), result(0.2, n=2, a=1)])] == [1, 1]
    chosen = final_units(job(sweep={"lr": [0.1, 0.2]}), [result(0.5, 0.1), result(0.6, 0.2)])
    assert [(u.seed, u.point, u.settings.lr) for u in chosen] == [(4, {"lr": 0.2}, 0.2), (7, {"lr": 0.2}, 0.2)]


def test_what_will_be_trained_takes_a_choice_at_its_largest() -> None:
    def of(made: Job) -> list[tuple[float, int, str]]:
        return [(settings.lr, settings.steps, split) for settings, split in fits(made)]

    assert of(job()) == [(0.5, 100, "test")] * 2
    assert of(job(sweep={"lr": [0.1, 0.2]})) == [(0.1, 100, "val"), (0.2, 100, "val")] + [(0.5, 100, "test")] * 2
    sizes = grid({"lr": 0.1, "steps": 5, "batch_size": 20}, {"lr": 0.2, "steps": 8, "batch_size": 10})
    tuning = [(lr, steps, "val") for lr, steps in ((0.1, 5), (0.2, 8)) for _ in range(2)]
    assert of(job(grid=sizes)) == tuning + [(0.1, 5, "test")] * 2  # 100 images, not 80
    tested = [(lr, steps, "test") for lr, steps in ((0.1, 5), (0.2, 8)) for _ in range(2)]
    assert of(job(grid=sizes, on="test")) == tested


def test_pixels_are_those_of_every_update_of_every_fit() -> None:
    def of(**keys: Any) -> int:
        return pixels(
            job(settings=job().settings.model_copy(update={"steps": 3, "warmup_steps": 0, "batch_size": 5, **keys}))
        )

    assert of(resolution=(8, 16)) == 2 * 3 * 5 * 8 * 16  # two seeds
    assert of(resolution=8) == 2 * 3 * 5 * 8 * 8
    assert of(resolution="native") == of(resolution="higher") == 2 * 3 * 5 * 224 * 224
    assert of(resolution=8, method="linear") == 0 != of(resolution=8, method="linear", crop="random")
    small = {"batch_size": 5, "resolution": 8, "warmup_steps": 0}
    swept = job(grid=grid({"lr": 0.1, "steps": 7, **small}, {"lr": 0.2, "steps": 2, **small}), on="test")
    assert pixels(swept) == 2 * (7 + 2) * 5 * 8 * 8


def test_a_result_says_what_its_settings_were_chosen_on() -> None:
    from vitft.protocol.stamp import _selection

    def of(**changes: Any) -> str:
        return _selection(Unit(job(**changes), "final", 4, Settings(), {}))

    two = grid({"lr": 0.3}, {"lr": 0.4})
    ties = "ties to the smaller lr"
    assert of() == "none"
    assert of(sweep={"lr": [0.1, 0.2]}) == f"val, best top1, {ties}"
    assert of(sweep={"lr": [0.1, 0.2]}, per_class=5) == f"val, best top1, {ties}, labels beyond --per-class"
    assert of(sweep={"lr": [0.3, 0.4]}, grid=two) == f"val, best top1 over seeds 4, 7, {ties}"
    assert of(sweep={"lr": [0.3, 0.4]}, grid=two, seeds=(4,)) == f"val, best top1, {ties}"
    on_test = of(sweep={"lr": [0.3, 0.4]}, grid=two, on="test")
    assert on_test == "test, best of 2 settings by top1 on the test split itself"


def test_a_protocol_is_told_by_its_words_and_the_images_size() -> None:
    made = job(seeds=(4,), per_class=5, limit=9, from_scratch=True, seen=Seen(pixels=70, of=3), shots="60")
    settings = Settings(
        resolution=(32, 48), normalise="half", resize="squash-crop", interpolation="bicubic", antialias=False
    )
    found = protocol(Unit(made, "final", 4, settings, {}), settings, "tanh")
    words: dict[str, object] = {
        "recipe": "r", "recipe_digest": "d", "resize": "squash-crop", "interpolation": "bicubic", "antialias": False,
        "normalise": "half", "gelu": "tanh", "selection": "none", "from_scratch": True,
        "train": {"per_class": 5, "limit": 9, "first": 60}, "chosen_by_pixels": {"pixels": 70, "of": 3},
    }  # fmt: skip

    def digest(words: dict[str, object], side: str) -> str:
        return hashlib.sha256(json.dumps({**words, "resolution": side}, sort_keys=True).encode()).hexdigest()[:8]

    assert found.model_dump(mode="json") == {**words, "id": digest(words, "32x48"), "resolution": [32, 48]}
    plain = protocol(Unit(job(), "final", 4, settings, {}), settings, "tanh").model_dump(mode="json")
    del words["chosen_by_pixels"]
    words |= {"from_scratch": False, "train": {"per_class": None, "limit": None}}
    assert plain["id"] == digest(words, "32x48") and plain["chosen_by_pixels"] is plain["train"]["first"] is None


def test_which_splits_a_plan_opens_and_what_names_its_folder() -> None:
    assert job().splits() == ["train", "val", "test"]
    assert job(scheme=Scheme("train", DEV, "train", "test")).splits() == ["train", "test"]
    swept = job(scheme=Scheme("train800", "val200", "train800val200", "test"), sweep={"lr": [0.1, 0.2]})
    assert swept.splits() == ["train800", "val200", "train800val200", "test"]
    assert job(scheme=swept.scheme).splits() == ["train800val200", "test"]
    assert model_label("/a/b.npz::ema", "ab") == "b.npz::ema" and model_label("/a/b::base=/c/d", "ab") == "b"
    named = {("timm:a/b.c", ""): "timm:a/b.c", ("/a/b.c.npz::ema", "ab"): "b.c", ("vit-mini", "ab"): "vit-mini"}
    assert {given: short_label(*given) for given in named} == named
    assert not any("." in alias or "/" in alias for alias in MODELS), "an alias would lose its end"
    assert model_label("/a/b.npz", "") == "/a/b.npz" and model_label("timm:x::y", "") == "timm:x::y"
    identity = job().identity()
    assert identity["kind"] == "finetune" and not {"scheme", "grid", "on"} & identity.keys()
    of_grid = job(grid=grid({"lr": 0.1}), on="test").identity()
    assert (of_grid["kind"], of_grid["on"], of_grid["model"]) == ("sweep", "test", "m") and "grid" not in of_grid
    assert {key: identity[key] for key in ("task", "name", "recipe", "recipe_digest", "seeds", "shots", "limit")} == {
        "task": "/d/t", "name": "t", "recipe": "r", "recipe_digest": "d", "seeds": (4, 7), "shots": "", "limit": None,
    }  # fmt: skip


def test_units_are_alike_that_train_on_the_same_images_and_differ_in_lr_and_weight_decay_alone() -> None:
    varied = grid({"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.2, "weight_decay": 0.3}, {"lr": 0.1, "steps": 5})

    def of(unit: Unit) -> list[tuple[float, float, int, int]]:
        return [(u.settings.lr, u.settings.weight_decay, u.settings.steps, u.seed) for u in alike(unit)]

    one, other, _ = (point.settings for point in varied)
    on_test = [(s.lr, s.weight_decay, s.steps, seed) for s in (one, other) for seed in (4, 7)]
    assert of(final_units(job(grid=varied, on="test"), [])[0]) == on_test
    assert of(tune_units(job(grid=varied))[0]) == on_test
    for own in ({"from_scratch": True}, {"per_class": 3}):  # the seed draws the network, or the images
        assert of(tune_units(job(grid=varied, **own))[1]) == on_test[1::2]
    swept = tune_units(job(sweep={"lr": [0.1, 0.2], "weight_decay": [0.0, 0.3], "momentum": [0.5, 0.6]}))
    assert of(swept[0]) == [(lr, decay, 100, 0) for lr in (0.1, 0.2) for decay in (0.0, 0.3)]
    assert of(Unit(job(), "final", 7, Settings(lr=0.3), {})) == [(0.3, 0.0, 500, 4), (0.3, 0.0, 500, 7)]
    assert scheme(("train", "val", "test"), "t") == Scheme("train", "val", "train", "test")


def test_what_val_every_cannot_look_at_is_said_before() -> None:
    line = (
        "--val-every: 't' has no val that the final run does not train on, and test is not looked at before the end: "
        "no val accuracy is written"
    )
    asked = Runtime(val_every=2)
    assert watch_note(job(), asked) == f"{line}." and watch_note(job(), Runtime()) == ""
    assert watch_note(job(sweep={"lr": [0.1, 0.2]}), asked) == f"{line}; the runs that are compared have it."
    assert watch_note(job(scheme=Scheme("train", "val", "train", "test")), asked) == ""


FEW = Scheme("train800", "val200", "train800val200", "test")


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        (["paper"], {"name": "cifar10", "recipe": "quick"}),
        ([], {"name": "cifar10", "recipe": "quick", "limit": 0}),
        ([], {"name": "cifar10", "recipe": "vit-paper"}),
        ([], {"name": "svhn", "recipe": "quick"}),
        (["few"], {"name": "svhn", "recipe": "quick", "scheme": FEW}),
        (["few"], {"name": "cifar100", "recipe": "vit-paper", "scheme": FEW}),
        (["few", "paper"], {"name": "cifar100", "recipe": "quick", "scheme": FEW}),
        ([], {"name": "cifar100", "recipe": "vtab-vit", "scheme": FEW}),
        ([], {"name": "photos", "recipe": "quick", "scheme": FEW}),
    ],
)
def test_what_a_number_will_not_be_is_said_before(told: list[str], changes: dict[str, Any]) -> None:
    planned = job(**{"settings": Settings(steps=100, batch_size=80), **changes})
    name, recipe = planned.name, planned.recipe
    lines = {
        "few": f"only VTAB-1k's training images of {name} are here, and {recipe} is no VTAB protocol: no published "
        f"number stands beside this. For all of them: vitft data prepare {name} --shots full",
        "paper": f"'quick' is a small protocol. The paper's for {name} is --recipe vit-paper: 10,000 steps of 512 at "
        "384 px (5.1 M images a run, after tuning lr on a dev split), 640 times as many images as this.",
    }
    assert advice(planned) == [lines[kind] for kind in told]


COUNTS = Counts("t", {"train": 70, "val": 12, "test": 30}, 7)
OWN = {"lr": 0.01, "steps": 100, "warmup_steps": 10, "sweep": {"lr": [0.1, 0.2], "drop_path": [0.5]}}


def planned(model: str = "timm:x", document: dict[str, Any] = OWN, **asked: Any) -> Job:
    data = asked.pop("data", COUNTS)
    return plan("t", data, model=model, recipe=parse(document, "mine"), **{"overrides": {}, **asked})


def test_a_job_holds_all_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "m.npz"
    file.write_bytes(b"weights")
    rest: dict[str, Any] = {"seeds": (3, 1), "limit": 40, "per_class": 4}
    made = planned(
        str(file), overrides={"weight_decay": 0.25, "batch_size": 16}, shots="full", data_dir=tmp_path, **rest
    )
    settings = parse(OWN, "mine").resolve("t", {"weight_decay": 0.25, "batch_size": 16, "drop_path": 0.5})
    assert (settings.lr, settings.warmup_steps, settings.drop_path) == (0.01, 10, 0.5)
    assert made == Job(
        "t", "t", str(file), hashlib.sha256(b"weights").hexdigest(), "mine",
        parse(OWN, "mine").digest({"weight_decay": 0.25, "batch_size": 16}), settings,
        Scheme("train", "val", BOTH, "test"), {"lr": [0.1, 0.2]}, data_dir=str(tmp_path), shots="full",
        given=("batch_size", "weight_decay"), **rest,
    )  # fmt: skip
    plain = planned()
    assert (plain.data_dir, plain.shots, plain.given, plain.seeds, plain.grid) == ("", "", (), (0,), ())
    assert (plain.scheme, plain.from_scratch, plain.model_sha256) == (
        Scheme("train", "val", "train", "test"),
        False,
        "",
    )
    assert planned(str(file), from_scratch=True).model_sha256 == ""
    mini = MODELS["vit-mini"].file
    assert mini is not None and planned("vit-mini").model_sha256 == hashlib.sha256(mini.read_bytes()).hexdigest()
    assert planned("vit-b16").model_sha256 == "" and MODELS["vit-b16"].file is None
    assert planned(overrides={"lr": 0.3}).sweep == {}, "what the user has set is not swept"
    folder = tmp_path / "t"
    folder.mkdir()
    assert planned(data_dir=tmp_path).task == str(folder.resolve())
    held = planned(document={**OWN, "select_on": "dev"}).scheme
    assert held == Scheme("train", DEV, "train", "test")
    with pytest.raises(DataMissing, match=r"Data set 't' has the splits test\."):
        planned(data=Counts("t", {"test": 3}, 2))
    with pytest.raises(DataMissing, match=f"Data set '{folder}' has the splits test"):
        planned(data=Counts("t", {"test": 3}, 2), data_dir=tmp_path)


def test_a_grid_is_every_combination_with_what_the_recipe_sweeps_there() -> None:
    made = planned(axes={"steps": [50, 200], "weight_decay": [0.5]}, overrides={"batch_size": 16})
    shown = [
        (point.values, point.settings.steps, point.settings.warmup_steps, point.settings.lr) for point in made.grid
    ]
    assert shown == [
        ({"steps": steps, "weight_decay": 0.5, "lr": lr}, steps, steps // 10, lr)
        for steps in (50, 200) for lr in (0.1, 0.2)
    ]  # fmt: skip
    assert {(s.settings.drop_path, s.settings.batch_size, s.settings.weight_decay) for s in made.grid} == {
        (0.5, 16, 0.5)
    }
    assert made.sweep == {"steps": [50, 200], "weight_decay": [0.5], "lr": [0.1, 0.2]}
    assert made.given == ("batch_size", "steps", "weight_decay") and made.settings.steps == 50
    digest = parse(OWN, "mine").digest({"batch_size": 16, "steps": [50, 200], "weight_decay": [0.5]})
    assert made.recipe_digest == digest
    assert [point.values for point in planned(axes={}).grid] == [{"lr": 0.1}, {"lr": 0.2}]
    fixed = planned(axes={"lr": [0.3, 0.4]})  # what is varied is not swept, too
    assert [point.values for point in fixed.grid] == [{"lr": 0.3}, {"lr": 0.4}]
    with pytest.raises(RecipeError, match="warmup_steps 10 is not below steps 8"):
        planned(document={**OWN, "sweep": {"steps": [100, 8]}}, overrides={"warmup_steps": 10})


@pytest.mark.parametrize(
    ("asked", "n"),
    [
        ({}, 70), ({"shots": "full"}, 82), ({"limit": 69}, 69), ({"limit": 71}, 70), ({"per_class": 9}, 63),
        ({"per_class": 11}, 70), ({"per_class": 9, "limit": 62}, 62), ({"per_class": 9, "limit": 64}, 63),
    ],
)  # fmt: skip
def test_a_rule_by_size_counts_what_the_final_run_trains_on(asked: dict[str, Any], n: int) -> None:
    for limit, lr in ((n, 0.7), (n + 1, 0.9)):  # the table of the smallest size above the examples
        document = {"lr": 0.01, "steps": 9, "size": {str(limit): {"lr": 0.9}, "500": {"lr": 0.7}}}
        assert planned(document=document, **asked).settings.lr == lr


def test_how_units_run_unless_somebody_says() -> None:
    assert asdict(Runtime()) == {
        "device": "auto", "precision": "auto", "micro_batch": 0, "workers": 0, "deterministic": False,
        "save_weights": True, "state_seconds": 60.0, "parallel": "auto", "val_every": 0, "models": 1,
        "compile": "auto", "checkpoint_activations": "auto",
    }  # fmt: skip
