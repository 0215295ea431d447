"""Each encoded image is read once for its digest, however many splits of however many units it stands in."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import images
from vitft import recipes
from vitft.data import labels, portions
from vitft.data.find import find
from vitft.data.split import Provenance, Split
from vitft.engines.inline import run_job
from vitft.images import fingerprints
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units
from vitft.protocol.warm import Warm

SWEEP = {"lr": [0.1, 0.01, 0.001]}
TINY = {"steps": 1, "batch_size": 4, "resolution": 32}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Count what is read for a digest, by its bytes."""
    counted: Counter[bytes] = Counter()
    digest = fingerprints.fingerprint

    def spy(encoded: bytes) -> bytes:
        counted[encoded] += 1
        return digest(encoded)

    monkeypatch.setattr(fingerprints, "fingerprint", spy)
    return counted


def vtab(folder: Path) -> Path:
    """Lay the pictures of an image folder out as VTAB-1k does: train800 and val200 are parts of train800val200."""
    files = sorted(images(folder).glob("*/*/*.png"))
    lines = {split: [p for p in files if p.parts[-3] == split] for split in ("train", "test")}
    lists = {"train800": lines["train"][::2], "val200": lines["train"][1::2], "train800val200": lines["train"]}
    for name, some in {**lists, "test": lines["test"]}.items():
        rows = [f"{p.relative_to(folder)} {'abc'.index(p.parent.name)}\n" for p in some]
        (folder / f"{name}.txt").write_text("".join(rows))
    return folder


@pytest.mark.parametrize("lay", [images, vtab])
def test_a_sweep_and_its_final_runs_read_each_image_once(tmp_path, read, lay):
    data = lay(tmp_path / "d")
    recipe = recipes.parse({**TINY, "sweep": SWEEP} | ({} if lay is vtab else {"select_on": "dev"}), "r")
    job, source = make(str(data), model="timm:test_vit", recipe=recipe, overrides={}, from_scratch=True, seeds=(0, 1))
    result = run_job(job, source, tmp_path / "run", Runtime(device="cpu"))
    assert len(result.tuned) == 3 and len(result.units or ()) == 2
    files = {path.read_bytes() for path in data.rglob("*.png")}
    assert read.keys() == files and set(read.values()) == {1}


def test_a_second_unit_of_a_warm_process_reads_none(tmp_path, read):
    data, warm = images(tmp_path / "d"), Warm()
    recipe = recipes.parse(TINY, "r")
    job, _ = make(str(data), model="timm:test_vit", recipe=recipe, overrides={}, from_scratch=True, seeds=(0, 1))
    first, second = final_units(job, [])
    run_unit(first, tmp_path / "run", Runtime(device="cpu"), warm=warm)
    seen = read.copy()
    run_unit(second, tmp_path / "run", Runtime(device="cpu"), warm=warm)
    assert seen and read == seen


def test_parts_know_which_images_they_are(read):
    """Digests of parts, of parts of parts and of joined parts are those of the bytes that the part itself reads."""
    rng = np.random.default_rng(0)

    def opened(n: int, name: str) -> Split:
        data = [rng.bytes(8) for _ in range(n)]
        return Split(name, name, ("a", "b"), [*map(str, range(n))], np.arange(n) % 2, data.__getitem__, Provenance("x"))

    a, b = opened(7, "a"), opened(5, "b")
    both = portions.join([a, b], "a+b")
    turned = labels.by_name(both, ("b", "a"), "'x'")
    parts = [both.select([11, 3, 7]), turned.select([6, 7, 8]).select([2, 0]), portions.join([b.select([4]), a], "c")]
    for part in (both, turned, *parts):
        alone = Split("t", "n", part.class_names, part.keys, part.labels, lambda i, p=part: p.read(i), part.provenance)
        assert np.array_equal(fingerprints.fingerprints(part), fingerprints.fingerprints(alone))
    read.clear()
    for split in (a, b, both, turned, *parts):
        fingerprints.fingerprints(split)
    assert not read


def test_the_overlapping_splits_of_a_drawn_task_are_drawn_once(read):
    source = find("mini-count")
    for name in ("train800", "val200", "train800val200"):
        fingerprints.fingerprints(source.open(name))
    assert sum(read.values()) == 1000
