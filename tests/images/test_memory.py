"""Resident memory does not grow with the number of images: only their names, labels and digests are held."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_label_rules import picture

FEW, MANY, SIDE = 1000, 6000, 64
ALLOWED = 6000
"""Bytes an image for its name, label and digest, and what an allocator scatters; its pixels are 12,288."""

LOOK = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from vitft.data.find import at
from vitft.images import fingerprints
from vitft.images.batches import Images, eval_batches
from vitft.settings import Preprocess

keep, size = sys.argv[2], (int(sys.argv[3]),) * 2
split, rng = at(Path(sys.argv[1])).open("train"), np.random.default_rng(0)
images = Images(split, Preprocess(size, crop="none", flip=True), torch.device("cpu"), 2, None, keep)
order = rng.permutation(len(split))
parts = [order[a : a + 50] for a in range(0, len(order), 50)]
seen = sum(len(batch) for batch in images.batches(parts, [rng.random((len(p), 24)) for p in parts]))
for indices, batch in eval_batches(split, Preprocess(size), 50):
    seen += len(batch)
assert seen == 2 * len(split) and len(fingerprints.fingerprints(split)) == len(split)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def table(folder: Path, n: int) -> Path:
    images = [{"bytes": picture(i, "PNG", (SIDE, SIDE, 3)), "path": None} for i in range(16)]
    rows = pa.table({"image": [images[i % 16] for i in range(n)], "label": [i % 2 for i in range(n)]})
    folder.mkdir()
    pq.write_table(rows, folder / "train.parquet", row_group_size=500)
    return folder


def files(folder: Path, n: int) -> Path:
    for i in range(n):
        file = folder / "train" / "ab"[i % 2] / f"{i:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i % 16, "PNG", (SIDE, SIDE, 3)))
    return folder


@pytest.mark.parametrize(("lay", "keep"), [(table, "make"), (files, "no")])  # a process takes seconds
def test_six_times_the_images_take_no_more_memory(lay, keep, tmp_path):
    env = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # else each thread that decodes scatters memory of its own

    def peak(n: int) -> int:
        place = lay(tmp_path / str(n), n)
        words = [sys.executable, "-c", LOOK, str(place), keep, str(SIDE)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        return 1024 * int(done.stdout)

    few, many = peak(FEW), peak(MANY)
    assert many - few < ALLOWED * (MANY - FEW), f"{(many - few) / (MANY - FEW):.0f} bytes an image"
