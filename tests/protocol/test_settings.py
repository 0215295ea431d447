"""Each key of a recipe: its default, its range to the edge, what it is turned into, what it does not go with."""

from typing import Any

import pytest
from pydantic import ValidationError

from vitft.errors import RecipeError, UsageError
from vitft.settings import CHECKPOINT_KEYS, Preprocess, Settings, checked, contradictions, legal

DEFAULTS: dict[str, Any] = {
    "method": "full", "steps": 500, "batch_size": 512, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9,
    "weight_decay": 0.0, "schedule": "cosine", "warmup_steps": 0, "decay_steps": (), "clip_norm": 1.0,
    "layer_decay": 1.0, "lora_rank": 8, "lora_alpha": 8.0, "lora_targets": ("qkv", "proj"), "lora_init": "uniform",
    "mixup": 0.0, "label_smoothing": 0.0, "drop_path": 0.0, "ema": 0.0, "resolution": 384, "resize": "squash",
    "crop": "none", "crop_from": 0, "flip": True, "interpolation": "bilinear", "antialias": True,
    "normalise": "checkpoint", "posembed_resize": "bilinear", "gelu": "exact", "select_on": "val",
    "dev_fraction": 0.1, "train_fraction": 1.0, "num_heads": 0, "norm_eps": 0.0, "activation": "checkpoint",
    "pool": "checkpoint", "grid": "checkpoint",
}  # fmt: skip
FROM_0, FROM_1, SHARE = ([0], [-1e-9]), ([1], [0, -1]), ([0, 0.999], [1, 1.5, -1e-9])
EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    "steps": FROM_1, "batch_size": FROM_1, "lora_rank": FROM_1,
    "lr": FROM_0, "weight_decay": FROM_0, "clip_norm": FROM_0, "mixup": FROM_0, "norm_eps": FROM_0,
    "warmup_steps": ([0], [-1]), "crop_from": ([0], [-1]), "num_heads": ([0], [-1]),
    "momentum": SHARE, "label_smoothing": SHARE, "drop_path": SHARE, "ema": SHARE,
    "layer_decay": ([1e-9, 1], [0, 1.001]), "train_fraction": ([1e-9, 1.0], [0.0, 1.001]),
    "dev_fraction": ([1e-9, 0.999], [0.0, 1.0]), "lora_alpha": ([1e-9, 99], [0]),
    "resolution": ([1, 4096, "native", "higher", [1, 4096]],
                   [0, 4097, True, 1.5, "big", [], [1], [1, 2, 3], [0, 5], [5, 4097], None]),
    "grid": ([[1, 1], [14, 7], "checkpoint"], [[0, 1], [1, 0], [1], [1, 2, 3], 3, "square", [True, 1], [1.0, 2]]),
    "lora_targets": (["q, v", ["qkv", "fc1", "fc2"], ["q", "k", "v"], ["proj"], "qkv"],
                     [[], ["q", "q"], ["qkv", "q"], ["v", "qkv"], ["qkv", "proj", "k"], "head", 3]),
    "decay_steps": ([[], [1, 2]], [[1.5], 3, ["1"]]),
}  # fmt: skip


def test_each_key_has_its_default_and_the_words_of_none_is_another():
    assert dict(Settings()) == DEFAULTS and {k: type(v) for k, v in Settings()} == {
        k: type(v) for k, v in DEFAULTS.items()
    }
    words = {"method", "optimizer", "schedule", "lora_init", "resize", "crop", "interpolation", "normalise",
             "posembed_resize", "gelu", "select_on", "pool"}  # fmt: skip
    assert {"flip", "antialias", "activation"} | words | EDGES.keys() == DEFAULTS.keys()
    for key in words:
        with pytest.raises(ValidationError):
            Settings(**{key: "nonsense"})
    for key in ("flip", "antialias"):
        assert Settings(**{key: False}) != Settings(**{key: True})
        with pytest.raises(ValidationError):
            Settings(**{key: 1})
    with pytest.raises(ValidationError):
        Settings(stepz=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("key", EDGES)
def test_ranges_hold_to_the_edge(key: str):
    good, bad = EDGES[key]
    for value in good:
        found = getattr(Settings(**{key: value}), key)
        told = [word.strip() for word in value.split(",")] if key == "lora_targets" and type(value) is str else value
        assert found == (tuple(told) if isinstance(told, list) else told)
        if isinstance(DEFAULTS[key], float):
            assert type(found) is float
    if isinstance(DEFAULTS[key], float):
        bad = [*bad, True, "1", float("inf"), float("nan")]
    elif isinstance(DEFAULTS[key], int):
        bad = [*bad, True, 1.0, "1"]
    for value in bad:
        with pytest.raises(ValidationError):
            Settings(**{key: value})


def test_what_does_not_go_together_is_named_by_its_keys():
    def of(**changes: Any) -> list[tuple[str, ...]]:
        return [keys for keys, _ in contradictions(DEFAULTS | changes)]

    assert of() == [] == of(warmup_steps=499) == of(schedule="staircase", decay_steps=(3,))
    assert of(schedule="staircase") == [("schedule", "decay_steps")]
    assert of(warmup_steps=500) == of(warmup_steps=501) == of(steps=1, warmup_steps=1) == [("warmup_steps", "steps")]
    crop = ("crop", "resolution", "crop_from")
    assert (
        of(crop_from=10) == of(crop="pad", crop_from=10) == of(crop="random") == of(crop="random", crop_from=384) == []
    )
    assert of(crop="random", crop_from=383) == of(crop="random", crop_from=63, resolution=(32, 64)) == [crop]
    assert of(crop="random", crop_from=64, resolution=(32, 64)) == of(crop="random", crop_from=1, resolution="native")
    assert of(crop="random", crop_from=1, schedule="staircase", warmup_steps=500) == [
        ("schedule", "decay_steps"), crop, ("warmup_steps", "steps"),
    ]  # fmt: skip
    for changes in ({"schedule": "staircase"}, {"crop": "random", "crop_from": 3}):
        with pytest.raises(ValidationError):
            Settings(**changes)
    assert Settings(warmup_steps=500).warmup_steps == 500  # a result stored with one stays readable


@pytest.mark.parametrize(
    ("resolution", "native", "patch", "expected"),
    [
        ("native", (224, 224), (16, 16), 224),
        ("native", (32, 64), (16, 16), (32, 64)),
        ("higher", (224, 112), (16, 14), (384, 196)),  # 112 * 12 / 7 = 192 is 13.7 patches of 14
        ("higher", (4, 8), (16, 16), 16),  # never less than a patch
        (96, (224, 224), (16, 16), 96),
        ((96, 48), (224, 224), (16, 16), (96, 48)),
    ],
)
def test_words_for_a_resolution_become_pixels(resolution, native, patch, expected):
    at = Settings(resolution=resolution, lr=0.5).at(native, patch)
    assert (at.resolution, at.lr) == (expected, 0.5)
    assert at.size == (expected if isinstance(expected, tuple) else (expected, expected))


def test_a_random_crop_is_cut_from_what_is_large_enough():
    for crop_from, size, fits in ((0, 64, True), (64, 64, True), (63, 64, False)):
        s = Settings(crop="random", crop_from=crop_from, resolution="native")
        if fits:
            assert s.at((32, size), (8, 8)).size == (32, size)
        else:
            with pytest.raises(RecipeError, match=r"crop_from 63 is smaller .*64"):
                s.at((32, size), (8, 8))
    assert Settings(crop="pad", crop_from=3, resolution="native").at((32, 32), (8, 8)).resolution == 32


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("steps", "a whole number, from 1"),
        ("lr", "a number, from 0"),
        ("momentum", "a number, from 0, below 1"),
        ("layer_decay", "a number, above 0, up to 1"),
        ("flip", "true, false"),
        ("activation", "a word"),
        ("optimizer", "sgd, adamw"),
        ("decay_steps", "a list of: a whole number"),
        ("lora_targets", "a list of: qkv, q, k, v, proj, fc1, fc2"),
        ("resolution", "a whole number, [a whole number, a whole number], native, higher"),
        ("grid", "[a whole number, a whole number], checkpoint"),
    ],
)
def test_what_is_legal_in_words(key, words):
    assert legal(Settings.model_fields[key]) == words


def test_a_value_that_no_recipe_describes_is_told():
    assert checked({"lr": 1}) == Settings(lr=1.0)
    with pytest.raises(UsageError, match=r"^lr '-1.0' is not possible\.\nLegal: .*greater than or equal to 0"):
        checked({"lr": -1})
    with pytest.raises(UsageError, match=r"^setting '.*is not possible"):
        checked({"schedule": "staircase"})
    assert CHECKPOINT_KEYS == ("num_heads", "norm_eps", "activation", "pool", "grid")


def test_preprocessing_by_default_and_the_shape_before_a_crop():
    pp = Preprocess((32, 64))
    assert (pp.resize, pp.interpolation, pp.antialias, pp.mean, pp.std) == (
        "squash",
        "bilinear",
        True,
        (0.5,) * 3,
        (0.5,) * 3,
    )
    assert (pp.crop_pct, pp.crop_mode, pp.before, pp.crop, pp.crop_from, pp.flip) == (
        1.0,
        "center",
        None,
        "none",
        0,
        False,
    )
    for resize, mode, keeps in (
        ("squash", "center", False), ("squash-crop", "none", False), ("resize-small", "squash", True),
        ("checkpoint", "center", True), ("checkpoint", "none", True), ("checkpoint", "squash", False),
    ):  # fmt: skip
        for crop, stored in (
            ("none", (32, 64)), ("pad", (32, 64)), ("inception", None), ("random", None if keeps else (37, 73)),
        ):  # fmt: skip
            pp = Preprocess((32, 64), resize, crop_mode=mode, crop=crop)  # type: ignore[arg-type]
            assert (pp.keeps_shape, pp.stored_size) == (keeps, stored)
    assert Preprocess((32, 64), crop_from=96).enlarged == (48, 96)
    assert Preprocess((32, 64), crop_from=64).enlarged == (32, 64) == Preprocess((32, 64), crop_from=1).enlarged
    assert Preprocess((64, 32), crop_from=96).enlarged == (96, 48)
    assert [Preprocess(size, crop_from=61).enlarged for size in ((26, 40), (40, 26))] == [(40, 61), (61, 40)]
    drawn = Settings(resolution=64, crop="random", crop_from=96, flip=True)
    assert Preprocess((32, 64), "checkpoint").augmented(drawn) == Preprocess(
        (32, 64), "checkpoint", crop="random", crop_from=96, flip=True
    )


@pytest.mark.parametrize(
    ("keys", "views"),
    [
        ({"method": "linear", "flip": False}, 1), ({"method": "linear", "flip": True}, 2), ({"method": "full"}, 0),
        ({"method": "linear", "crop": "random"}, 0), ({"method": "linear", "mixup": 0.1}, 0),
    ],
)  # fmt: skip
def test_a_frozen_network_sees_one_view_of_an_image_or_two(keys: Any, views: int):
    assert Settings(**keys).fixed_views == views
