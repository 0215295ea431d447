"""Which pixels a unit leaves on the disk, and which it streams."""

from dataclasses import replace

import pytest

from tests.cli.test_cli import images
from vitft import recipes
from vitft.engines.inline import run_job
from vitft.images import room
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.keep import evaluated_keep, trained_keep
from vitft.protocol.units import Unit, final_units, tune_units
from vitft.settings import Preprocess

TINY = {"steps": 10, "batch_size": 10, "resolution": 32}
LARGE = Preprocess((32, 32))
MANY = (1 << 30) // (3 * 32 * 32) + 1
"""As many images of 32 px as are more than a gibibyte."""


def unit(folder, seeds=(0,), phase="final", **keys) -> Unit:
    recipe = recipes.parse({**TINY, **keys}, "r")
    job, _ = make(
        str(folder if folder.exists() else images(folder)),
        model="timm:test_vit",
        recipe=recipe,
        overrides={},
        from_scratch=True,
        seeds=seeds,
    )
    return (tune_units(job) if phase == "tune" else final_units(replace(job, sweep={}), []))[0]


def test_training_images_are_kept_where_each_is_looked_at_twice_or_all_are_little(tmp_path):
    def keep(examples: int = MANY, times: float = 1.0, **of) -> str:
        return trained_keep(
            unit(tmp_path / "d", steps=int(times * examples / 100), batch_size=100, **of), LARGE, examples
        )

    assert keep(times=2.01) == "make" and keep(times=1.9) == "no" and keep(MANY - 1, times=0.1) == "make"
    assert keep(times=1.1, seeds=(0, 1)) == "make"
    swept = {"sweep": {"lr": [0.1, 0.2, 0.3]}, "select_on": "dev"}
    assert keep(times=0.7, phase="tune", **swept) == "make" and keep(times=0.7, **swept) == "no"
    # A frozen network sees each image once, and its mirror image.
    frozen = {"default_method": "linear", "times": 9.0}
    assert keep(flip=False, **frozen) == "no" and keep(flip=True, **frozen) == "make"
    assert keep(flip=False, crop="random", **frozen) == keep(flip=False, mixup=0.1, **frozen) == "make"
    assert keep(crop="none", times=1.9) == keep(crop="none", times=1.9, mixup=0.1) == "no"
    # 16 x 64 pixels are as many as 32 x 32; images that keep their own shape are never stored.
    once, few = unit(tmp_path / "d", steps=1, batch_size=1), MANY - 1
    kept = [trained_keep(once, Preprocess((16, 64)), n) for n in (few, few + 1)]
    assert kept == ["make", "no"] and trained_keep(once, Preprocess((32, 32), crop="inception"), 10 * MANY) == "make"


def test_test_images_are_kept_for_other_seeds_points_and_models_alone(tmp_path):
    cpu = Runtime(device="cpu")
    assert evaluated_keep(unit(tmp_path / "d"), cpu) == "no"
    assert evaluated_keep(unit(tmp_path / "d", seeds=(0, 1)), cpu) == "room"
    assert evaluated_keep(unit(tmp_path / "d"), replace(cpu, models=2)) == "room"
    swept = {"sweep": {"lr": [0.1, 0.2]}, "select_on": "dev"}
    assert evaluated_keep(unit(tmp_path / "d", phase="tune", **swept), cpu) == "room"
    assert evaluated_keep(unit(tmp_path / "d", **swept), cpu) == "no"


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_run_leaves_the_pixels_of_test_only_where_another_seed_reads_them(tmp_path, seeds):
    recipe = recipes.parse({**TINY, "steps": 1, "batch_size": 2}, "r")
    data = str(images(tmp_path / "d"))
    job, source = make(data, model="timm:test_vit", recipe=recipe, overrides={}, from_scratch=True, seeds=seeds)
    n = {name: len(source.open(name)) for name in ("train", "test")}
    run_job(job, source, tmp_path / "run", Runtime(device="cpu"))
    sizes = sorted(entry.size - 128 for entry in room.entries() if entry.path.suffix == ".npy")
    pixels = 3 * 32 * 32
    assert sizes == sorted(pixels * n[name] for name in ("train", "test")[: len(seeds)])
