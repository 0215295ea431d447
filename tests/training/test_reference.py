"""vitft's own runs against the plain loop of `reference.py`: the same weights, the same answers, whatever is set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests import reference
from tests.images.test_identity import another
from vitft import recipes
from vitft.engines.inline import run_job
from vitft.evaluation import predictions
from vitft.protocol.jobs import Runtime, make
from vitft.settings import Settings

SEED = 3

# What is drawn. Warmup, staircase and crop_from follow from `steps` and `resolution`.
GRID: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from(["full", "full", "full", "linear", "bias", "lora"]),
    "batch_size": st.sampled_from([4, 7]),
    "optimizer": st.sampled_from(["sgd", "adamw"]),
    "momentum": st.sampled_from([0.9, 0.8, 0.0]),
    "weight_decay": st.sampled_from([0.0, 0.3]),
    "schedule": st.sampled_from(["cosine", "staircase", "linear", "constant"]),
    "warmup_steps": st.sampled_from([0, 2]),
    "clip_norm": st.sampled_from([1.0, 0.05, 0.0]),
    "layer_decay": st.sampled_from([1.0, 0.5]),
    "lora_rank": st.sampled_from([2, 3]),
    "lora_alpha": st.sampled_from([8.0, 1.0]),
    "lora_targets": st.sampled_from([("qkv", "proj"), ("q", "v"), ("k", "proj", "fc1"), ("fc2",)]),
    "lora_init": st.sampled_from(["uniform", "normal"]),
    "mixup": st.sampled_from([0.0, 0.4]),
    "label_smoothing": st.sampled_from([0.0, 0.2]),
    "ema": st.sampled_from([0.0, 0.6]),
    "resolution": st.sampled_from([24, 16, (16, 32)]),
    "resize": st.sampled_from(["squash", "resize-small", "squash-crop", "checkpoint"]),
    "crop": st.sampled_from(["none", "random", "inception", "pad"]),
    "crop_from": st.sampled_from([0, 40]),
    "flip": st.booleans(),
    "interpolation": st.sampled_from(["bilinear", "bicubic", "area"]),
    "antialias": st.booleans(),
    "normalise": st.sampled_from(["checkpoint", "imagenet", "half", "none"]),
    "posembed_resize": st.sampled_from(["bilinear", "bicubic"]),
    "gelu": st.sampled_from(["exact", "tanh"]),
}
# Not drawn: fixed by the test, or proved elsewhere.
FIXED = {
    "steps": "four updates",
    "lr": "by the optimiser",
    "decay_steps": "by the schedule",
    "drop_path": "what the network itself draws: test_training holds that it is repeatable",
    **dict.fromkeys(("num_heads", "norm_eps", "activation", "pool", "grid"), "what a file does not say: its own tests"),
    "select_on": "tuning alone: test_protocol",
    "dev_fraction": "tuning alone: test_protocol",
    "train_fraction": "which images, not what is done with them: test_identity",
}


@pytest.fixture(autouse=True)
def _one_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the cache between all runs: what one has stored must not be taken by another."""
    monkeypatch.setenv("VITFT_CACHE", str(place / "cache"))


def chosen(keys: dict[str, Any]) -> dict[str, Any]:
    """Complete drawn keys to settings that vitft takes; AdamW divides by tiny gradients, rounding and all."""
    keys = {"steps": 4, "lr": 0.05 if keys.get("optimizer", "sgd") == "sgd" else 0.0002, **keys}
    if keys.get("schedule") == "staircase":
        keys.setdefault("decay_steps", [1, 2])
    return keys


def ours(
    place: Path, keys: dict[str, Any], folder: Path, micro_batch: int = 0
) -> tuple[reference.State, predictions.Saved]:
    recipe = recipes.parse({"resolution": 24, **{key: _plain(value) for key, value in keys.items()}}, "drawn")
    job, source = make(str(place / "data"), model=str(place / "model"), recipe=recipe, overrides={}, seeds=(SEED,))
    run_job(job, source, folder, Runtime(device="cpu", micro_batch=micro_batch))
    return load_file(folder / "weights.safetensors"), predictions.load(folder / "predictions.parquet")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def compare(place: Path, keys: dict[str, Any], folder: Path, micro_batch: int = 0) -> float:
    """Return the largest difference of a weight; the answers are asserted."""
    keys = chosen(keys)
    weights, answers = ours(place, keys, folder, micro_batch)
    state = load_file(place / "model" / "model.safetensors")
    expected, chances = reference.run(Settings(**{"resolution": 24, **keys}), state, place / "data", SEED)
    assert set(weights) == set(expected)
    np.testing.assert_allclose(answers.probabilities, -np.sort(-chances, axis=1)[:, :5], atol=1e-5)
    assert (answers.top5[:, 0] == chances.argmax(1)).all()
    return max(float((weights[name] - expected[name]).abs().max()) for name in expected)


PLAIN: dict[str, Any] = {
    "method": "full", "batch_size": 7, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "warmup_steps": 0,
    "schedule": "constant", "clip_norm": 0.0, "layer_decay": 1.0, "mixup": 0.0, "label_smoothing": 0.0, "ema": 0.0,
    "resolution": 24, "resize": "squash", "crop": "none", "flip": False, "normalise": "half",
}  # fmt: skip
# Whatever is drawn, each of these is seen: together they use every rule of the reference.
ROWS: tuple[dict[str, Any], ...] = (
    {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.3, "momentum": 0.8, "layer_decay": 0.5, "flip": True},
    {"optimizer": "adamw", "schedule": "linear", "momentum": 0.8, "weight_decay": 0.3, "layer_decay": 0.5, "ema": 0.6},
    {"schedule": "staircase", "label_smoothing": 0.2, "crop": "pad", "resolution": 21, "flip": True, "clip_norm": 0.05},
    {"mixup": 0.4, "crop": "random", "crop_from": 40, "normalise": "imagenet", "resolution": (16, 32), "flip": True},
    {"crop": "inception", "flip": True, "interpolation": "bicubic", "antialias": False, "normalise": "checkpoint"},
    {"resize": "checkpoint", "interpolation": "bicubic", "resolution": 21, "gelu": "tanh", "ema": 0.6},
    {"resize": "resize-small", "crop": "random", "antialias": False, "normalise": "none", "resolution": 16},
    {"resize": "checkpoint", "antialias": False, "posembed_resize": "bicubic", "resolution": 32, "clip_norm": 1.0},
    {"method": "lora", "lora_rank": 3, "lora_alpha": 1.0, "layer_decay": 0.5, "weight_decay": 0.3, "mixup": 0.4},
    {"method": "lora", "lora_targets": ("q", "v", "fc1"), "lora_init": "normal", "clip_norm": 1.0, "flip": True},
    {"interpolation": "area", "resize": "squash-crop", "crop": "inception"},
    {"interpolation": "area", "resize": "checkpoint", "crop": "pad"},
    {"method": "linear", "flip": True, "weight_decay": 0.3, "optimizer": "adamw", "label_smoothing": 0.2},
    {"method": "bias", "optimizer": "adamw", "layer_decay": 0.5, "clip_norm": 0.05, "schedule": "cosine"},
)


@pytest.mark.parametrize("keys", ROWS, ids=lambda keys: "-".join(str(value) for value in keys.values()))
def test_each_rule_is_that_of_the_plain_loop(place, tmp_path, keys):
    assert compare(place, {**PLAIN, **keys}, tmp_path, micro_batch=3) < 1e-6


@given(keys=st.fixed_dictionaries(GRID), micro_batch=st.sampled_from([0, 3]))
@hypothesis_settings(
    max_examples=18,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_a_run_ends_at_the_weights_and_answers_of_the_plain_loop(place, tmp_path_factory, keys, micro_batch):
    folder = tmp_path_factory.mktemp("run")
    worst = compare(place, keys, folder, micro_batch)
    assert worst < 1e-6


# --- settings that nobody has declared -------------------------------------------------------------------------------


def changes(place: Path, folder: Path, name: str) -> bool:
    """Tell whether another value of a setting changes weights or answers in one of a few small runs."""
    bases: tuple[dict[str, Any], ...]
    bases = ({"crop": "random", "flip": True}, {"method": "lora", "mixup": 0.4}, {"method": "linear"})
    for n, base in enumerate(bases):
        keys = chosen({**PLAIN, **base, "resolution": 32})
        value = another(name, keys.get(name, Settings.model_fields[name].default))
        runs = [ours(place, values, folder / f"{name}{n}{i}") for i, values in enumerate((keys, {**keys, name: value}))]
        (weights, answers), (others, their_answers) = runs
        if weights.keys() != others.keys() or any(not weights[key].equal(others[key]) for key in weights):
            return True
        if not np.array_equal(answers.probabilities, their_answers.probabilities):
            return True
    return False


def test_a_new_setting_that_changes_a_run_is_added_to_the_grid(place, tmp_path):
    assert not {*GRID} & {*FIXED} and {*GRID, *FIXED} <= {*Settings.model_fields}
    assert changes(place, tmp_path, "gelu") and not changes(place, tmp_path, "dev_fraction")
    for name in sorted({*Settings.model_fields} - {*GRID} - {*FIXED}):
        assert not changes(place, tmp_path, name), (
            f"Settings.{name} changes what a run ends at: give reference.py its rule and GRID its values, "
            "or say in FIXED where else it is held against something."
        )
