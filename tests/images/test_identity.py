"""What may be taken from a cache, a warm network or an old folder: each field that changes a number changes the key.

The cases come from the fields themselves. A new field is tried with another value, or the test asks for a decision.
"""

import copy
import itertools
import typing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import reference
from tests.evaluation.test_evaluation import _split
from vitft import recipes
from vitft.data import portions
from vitft.data.split import Split
from vitft.evaluation import features
from vitft.evaluation.network import open_network
from vitft.evaluation.request import SETTABLE
from vitft.images import cache
from vitft.images.preprocess import deterministic
from vitft.protocol import jobs
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.run import run_unit
from vitft.protocol.units import Job, Point, Scheme, Unit, final_units
from vitft.protocol.warm import Warm
from vitft.results.parts import Seen
from vitft.settings import Preprocess, Settings

CPU = Runtime(device="cpu")
BASE: dict[str, Any] = {
    "steps": 2,
    "batch_size": 4,
    "lr": 0.05,
    "resolution": 32,
    "schedule": "staircase",
    "decay_steps": [0],
}
OTHER: dict[str, Any] = {
    "resolution": 24, "schedule": "cosine", "decay_steps": [], "crop_from": 40, "lora_targets": ["q", "v"],
    "num_heads": 4, "norm_eps": 0.01, "activation": "relu", "pool": "avg", "grid": [1, 9],
}  # fmt: skip


def another(name: str, now: Any) -> Any:
    """Return another legal value of a setting."""
    if name in OTHER:
        return OTHER[name]
    kind = Settings.model_fields[name].annotation
    if kind is bool:
        return not now
    tried: list[Any] = []
    if typing.get_origin(kind) is typing.Literal:
        tried = list(typing.get_args(kind))
    elif kind in (int, float):
        tried = [now + 1] if kind is int else [0.5, 0.25, now + 1]
    for value in tried:
        try:
            if value != now and Settings(**{**BASE, "decay_steps": (0,), name: value}):
                return value
        except ValueError:
            continue
    pytest.fail(f"Settings.{name} is new to the tests: give another legal value of it in test_identity.OTHER")


def varied(name: str) -> dict[str, Any]:
    """Return the base settings with another value of one."""
    now = getattr(Settings(**{**BASE, "decay_steps": (0,)}), name)
    return {**BASE, name: [1] if name == "decay_steps" else another(name, now)}


def made(place: Path, keys: dict[str, Any], **rest: Any) -> Job:
    job, _ = make(
        str(place / "data"), model=str(place / "model"), recipe=recipes.parse(keys, "r"), overrides={}, **rest
    )
    return job


# --- pixels ----------------------------------------------------------------------------------------------------------

AFTER_THE_CACHE = {"mean", "std", "flip"}  # applied to the stored pixels, anew each time
PIXELS: dict[str, tuple[Any, ...]] = {
    "size": ((21, 21), (24, 24)),  # 21 is cut from 24
    "resize": ("squash", "resize-small", "squash-crop", "checkpoint"),
    "interpolation": ("bilinear", "bicubic", "area"),
    "antialias": (True, False),
    "crop_pct": (1.0, 0.875),
    "crop_mode": ("center", "squash", "none"),
    "before": (None, (30, 28)),
    "crop": ("none", "random", "pad"),  # the inception crop stores nothing
    "crop_from": (0, 28),
}


def test_equal_keys_of_the_pixel_cache_mean_equal_pixels():
    declared = {*PIXELS, *AFTER_THE_CACHE}
    new = sorted({field.name for field in fields(Preprocess)} ^ declared)
    assert not new, f"Preprocess.{new}: does it change what the cache stores? Say so in test_identity.PIXELS"
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((30, 40, 3), (40, 30, 3))]
    seen: dict[str, tuple[Preprocess, list[bytes]]] = {}
    found: dict[tuple[Any, ...], list[bytes]] = {}
    for values in itertools.product(*PIXELS.values()):
        pp = Preprocess(**dict(zip(PIXELS, values, strict=True)))
        if pp.stored_size is not None:
            found[values] = [deterministic(image, pp).tobytes() for image in images]
            other, theirs = seen.setdefault(cache._digest(_split(), pp, None), (pp, found[values]))
            assert found[values] == theirs, f"one key, two pictures: {pp} and {other}"
    differ = {
        name: any(found.get((*v[:at], of[1], *v[at + 1 :]), pixels) != pixels for v, pixels in found.items())
        for at, (name, of) in enumerate(PIXELS.items())
    }
    assert all(differ.values()), f"these change no pixel and prove nothing: {differ}"


def test_what_is_applied_later_does_not_make_another_key():
    key = cache._digest(_split(), Preprocess((24, 24)), None)
    for change in ({"mean": (0.1, 0.2, 0.3)}, {"std": (0.1, 0.2, 0.3)}, {"flip": True}):
        assert cache._digest(_split(), Preprocess((24, 24), **change), None) == key
    # squashed to 32 pixels, for evaluation or to be cropped to 24
    larger, cropped = Preprocess((32, 32)), Preprocess((24, 24), crop="random", crop_from=32)
    assert cache._digest(_split(), larger, None) == cache._digest(_split(), cropped, None) != key


# Which fields of a split change its pixels, and which what is learnt from its features.
SPLIT = {
    "read": ("pixels", lambda i: bytes([1, i])),
    "exif": ("pixels", True),
    "keys": ("examples", [f"other{i}" for i in range(6)]),
    "labels": ("examples", np.array([1, 1, 2, 0, 1, 2])),
    "task": ("names", "other"),
    "name": ("names", "other"),
    "class_names": ("names", ("x", "y", "z")),
    "provenance": ("names", replace(_split().provenance, source="other")),
}


def test_a_split_is_told_by_its_images_and_its_features_by_its_examples_too():
    new = sorted({field.name for field in fields(Split)} ^ {*SPLIT})
    assert not new, f"Split.{new}: does it change a pixel? Say so in test_identity.SPLIT"
    plain, pp = _split(), Preprocess((24, 24))

    def keys(split: Split) -> tuple[str, str]:
        return cache._digest(split, pp, None), features.identity("c", {}, pp, split, "float32").digest

    for name, (what, value) in SPLIT.items():
        stored, computed = keys(replace(plain, **{name: value}))
        assert (stored != keys(plain)[0]) == (what == "pixels"), name
        assert (computed != keys(plain)[1]) == (what != "names"), name
    backwards = plain.select([5, 4, 3, 2, 1, 0])
    assert all(a != b for a, b in zip(keys(backwards), keys(plain), strict=True))
    turned = replace(plain, exif=True)
    assert turned.select([1, 2]).exif and portions.join([turned.select([1]), turned.select([2])], "both").exif
    # Bytes that are cut elsewhere are other images, though all of them together are the same.
    cut = [replace(plain.select([0, 1]), read=pair.__getitem__) for pair in ([b"ab", b"c"], [b"a", b"bc"])]
    assert keys(cut[0]) != keys(cut[1])


# --- features --------------------------------------------------------------------------------------------------------


def test_features_are_kept_under_all_that_they_are_made_of(place):
    split = _split()

    def key(precision: str = "float32", model: str = "model", **fixed: Any) -> str:
        net = open_network(str(place / model), fixed, device="cpu", precision=precision)
        return features.identity(net.info.sha256, net.made_of, net.preprocess, split, net.precision).digest

    base = key()
    values = {"resolution": 32, "resize": "squash", "interpolation": "bilinear"}
    for name in SETTABLE:
        changed = values.get(name, another(name, Settings.model_fields[name].default))
        assert key(**{name: changed}) != base, f"the features' identity leaves out {name}"
    assert key(precision="bf16") != base and key() == base
    who = features.identity("c", {"gelu": "exact"}, Preprocess((24, 24)), split, "float32")
    for field in fields(features.Identity):
        changed = {"x": 1} if isinstance(getattr(who, field.name), dict) else "other"
        assert replace(who, **{field.name: changed}).digest != who.digest, field.name
    for name, values_of in PIXELS.items():
        pp = replace(Preprocess((24, 24)), **{name: values_of[1] if name != "size" else (25, 25)})
        assert features.identity("c", {"gelu": "exact"}, pp, split, "float32").digest != who.digest, name
    for name in ("mean", "std"):
        pp = replace(Preprocess((24, 24)), **{name: (0.1, 0.2, 0.3)})
        assert features.identity("c", {"gelu": "exact"}, pp, split, "float32").digest != who.digest, name


# --- warm workers ----------------------------------------------------------------------------------------------------


def outcome(unit: Unit, folder: Path, warm: Warm | None) -> dict[str, torch.Tensor]:
    run_unit(unit, folder, CPU, warm=warm)
    return load_file(folder / "units" / unit.id / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def after_the_base(place: Path) -> tuple[Unit, dict[str, torch.Tensor], Warm]:
    """Return the base unit, its weights, and the worker that has just run it."""
    job = made(place, BASE)
    unit, warm = final_units(job, [])[0], Warm()
    return unit, outcome(unit, place / "base", warm), warm


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_unit_after_another_one_ends_as_it_does_alone(place, tmp_path, after_the_base, name):
    base, expected, worker = after_the_base
    job = made(place, varied(name))
    unit, warm = final_units(job, [])[0], copy.deepcopy(worker)
    assert same(outcome(unit, tmp_path / "warm", warm), outcome(unit, tmp_path / "alone", None))
    assert same(outcome(base, tmp_path / "back", warm), expected)


@pytest.mark.parametrize(
    ("keys", "rest"),
    [({}, {}), ({}, {"from_scratch": True}), ({"method": "lora"}, {}), ({"method": "linear"}, {}), ({"ema": 0.5}, {})],
)
def test_a_seed_after_another_one_ends_as_it_does_alone(place, tmp_path, after_the_base, keys, rest):
    job = made(place, {**BASE, **keys}, seeds=(0, 1), **rest)
    warm = copy.deepcopy(after_the_base[2])
    both = [outcome(unit, tmp_path / "warm", warm) for unit in final_units(job, [])]
    alone = [outcome(unit, tmp_path / f"{unit.seed}", None) for unit in final_units(job, [])]
    assert all(same(a, b) for a, b in zip(both, alone, strict=True))
    assert not same(*alone)


def test_drawn_weights_are_those_of_their_seed_and_a_checkpoint_is_the_same_for_all(place, tmp_path):
    for rest, alike in (({"from_scratch": True}, False), ({}, True)):
        job = made(place, {**BASE, "lr": 0.0}, seeds=(0, 1), **rest)
        one, two = (outcome(unit, tmp_path / str(alike), None) for unit in final_units(job, []))
        assert same(one, two) == alike
        torch.manual_seed(1)
        drawn = reference.VisionTransformer(**reference.SHAPE, img_size=(32, 32), num_classes=3)
        assert torch.equal(drawn.blocks[1].mlp.fc1.weight, two["blocks.1.mlp.fc1.weight"]) != alike
        assert not one["head.weight"].any()


def test_another_checkpoint_and_another_task_are_not_the_warm_one(place, tmp_path, after_the_base):
    _, expected, worker = after_the_base
    other = tmp_path / "model"
    other.mkdir()
    state = load_file(place / "model" / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, other / "model.safetensors")
    (other / "config.json").write_text((place / "model" / "config.json").read_text())
    job = made(place, BASE)
    unit = final_units(replace(job, model=str(other), model_sha256=jobs.model_sha256(str(other))), [])[0]
    found = outcome(unit, tmp_path / "warm", copy.deepcopy(worker))
    assert same(found, outcome(unit, tmp_path / "alone", None)) and not same(found, expected)
    two = tmp_path / "two"
    for path in (place / "data").glob("*/[ab]/*"):  # two classes instead of three: another head
        (two / path.relative_to(place / "data")).parent.mkdir(parents=True, exist_ok=True)
        (two / path.relative_to(place / "data")).write_bytes(path.read_bytes())
    j, _ = make(str(two), model=str(place / "model"), recipe=recipes.parse(BASE, "r"), overrides={})
    unit = final_units(j, [])[0]
    found = outcome(unit, tmp_path / "two-warm", copy.deepcopy(worker))
    assert same(found, outcome(unit, tmp_path / "two-alone", None)) and found["head.weight"].shape[0] == 2


# --- units and folders -----------------------------------------------------------------------------------------------


def test_each_setting_makes_another_unit_another_folder_and_another_digest(place):
    job = made(place, BASE)
    unit = final_units(job, [])[0]
    for name in Settings.model_fields:
        keys = varied(name)
        other = made(place, keys)
        assert final_units(other, [])[0].id != unit.id, name
        assert other.identity() != job.identity() and other.recipe_digest != job.recipe_digest, name
        assert jobs.run_folder(other) != jobs.run_folder(job), name
        # The same by the user's hand.
        recipe = recipes.parse(BASE, "r")
        given = recipe.resolve("data", {name: keys[name]}, 0)
        assert given != recipe.resolve("data", {}, 0) and recipe.digest({name: keys[name]}) != recipe.digest({}), name


JOB: dict[str, Any] = {
    "task": "/other", "name": "other", "model": "other", "model_sha256": "f" * 64, "recipe": "other",
    "recipe_digest": "other", "settings": Settings(lr=1.0),
    "sweep": {"lr": [1, 2]}, "seeds": (4,), "data_dir": "/other",
    "shots": "full", "from_scratch": True, "limit": 3, "per_class": 1, "given": ("lr",), "seen": Seen(pixels=1, of=1),
    "scheme": Scheme("a", "b", "c", "d"), "grid": (Point({"lr": 1.0}, Settings(lr=1.0)),), "on": "test",
}  # fmt: skip
# Of these a unit's own settings stand in its id, or the folder is refused before a unit is looked at.
FOLDER_ALONE = {
    "task", "model", "recipe_digest", "settings", "sweep", "seeds", "data_dir", "given", "seen", "grid", "on",
}  # fmt: skip


def test_each_field_of_a_job_and_a_unit_is_told_by_folder_or_id(place):
    new = sorted({field.name for field in fields(Job)} ^ {*JOB})
    assert not new, f"Job.{new}: does it change a number? Give another value of it in test_identity.JOB"
    job = made(place, BASE)
    unit = final_units(job, [])[0]
    for name, value in JOB.items():
        # What a grid is chosen on means nothing without one.
        job = replace(job, grid=JOB["grid"]) if name == "on" else job
        other = replace(job, **{name: value})
        known = name == "model" and bool(job.model_sha256)  # a file is told by its digest, not by the way to it
        known = known or name == "scheme"  # follows from the data, whose listing the run keeps
        assert known or other.identity() != job.identity(), name
        assert known or jobs.run_folder(other) != jobs.run_folder(job), name
        assert (replace(unit, job=other).id != unit.id) == (name not in FOLDER_ALONE), name
    units = {"phase": "tune", "seed": 9, "settings": Settings(lr=1.0)}
    assert {field.name for field in fields(Unit)} == {*units, "job", "point"}, "a new field of Unit: is it in its id?"
    for name, value in units.items():
        assert replace(unit, **{name: value}).id != unit.id, name
    assert replace(unit, point={"lr": 1}).id == unit.id  # its settings say so already
    for field in fields(Scheme):
        assert replace(unit, job=replace(job, scheme=replace(job.scheme, **{field.name: "other"}))).id != unit.id
