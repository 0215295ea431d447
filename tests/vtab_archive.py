"""A drawn archive of all 19 VTAB tasks in the community's layout, and a tiny checkpoint: what suite tests run on."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from vitft import recipes
from vitft.catalog.tasks import VTAB
from vitft.recipes import Recipe

COUNTS = {"train800": 8, "val200": 4, "test": 5}


def draw(folder: Path, counts: dict[str, int] = COUNTS) -> Path:
    """Write the archive: for each task its lists, tiny JPEG images, and a manifest that declares the counts."""
    rng = np.random.default_rng(0)
    for task in VTAB:
        root = folder / task.name
        for split, n in counts.items():
            (root / "images" / split).mkdir(parents=True)
            lines = []
            for i in range(n):
                pixels = rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)
                out = io.BytesIO()
                Image.fromarray(pixels).save(out, "JPEG")
                name = f"images/{split}/{i:06d}.jpg"
                (root / name).write_bytes(out.getvalue())
                lines.append(f"{name} {i % task.num_classes}")
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
        (root / "manifest.json").write_text(json.dumps({"counts": counts, "completeness": "declared"}))
    return folder


def place(root: Path) -> Path:
    """Write the archive and a checkpoint into a folder, for a process that computes on one thread."""
    import torch

    torch.set_num_threads(1)
    draw(root / "data")
    checkpoint(root / "tiny.safetensors")
    return root


def checkpoint(path: Path, seed: int = 0, classes: int = 0) -> Path:
    """Write a tiny ViT with drawn weights, with timm's names."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    net = timm.create_model("test_vit", img_size=32, num_classes=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), str(path), metadata={"architecture": "test_vit"})
    return path


SWEPT = ("dtd", "kitti_distance")


def tiny(**keys: object) -> Recipe:
    """Return a recipe of two steps that tunes two learning rates on two of the tasks."""
    sweeps = {task: {"sweep": {"lr": [0.1, 0.01]}} for task in SWEPT}
    data = {"steps": 2, "batch_size": 4, "lr": 0.01, "resolution": 32, "for": sweeps, **keys}
    return recipes.parse(data, "tiny")
