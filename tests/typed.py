"""Results as types, from the few fields that a test is about: the rest stands here."""

from collections.abc import Mapping
from typing import Any

from vitft.results.reading import parse
from vitft.results.schema import RunResult, SuiteResult

PROTOCOL = {
    "resize": "squash", "interpolation": "bilinear", "antialias": True, "normalise": "checkpoint", "recipe": "vtab-vit",
}  # fmt: skip
CHECKPOINT = {
    "name": "x", "kind": "npz", "path": "x.npz", "sha256": "s", "timm_name": "vit_tiny_patch16_224",
    "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic", "native": [224, 224],
    "num_classes": 10, "patch": [16, 16], "grid": [14, 14], "resolution": [224, 224], "used": [224, 224],
    "architecture": {"name": "vit_tiny_patch16_224", "kwargs": {}, "pre_logits": 0, "gelu": "exact"},
}  # fmt: skip
REST = {
    "schema_version": 1, "status": "finished", "kind": "finetune", "num_classes": 10, "point": {},
    "settings": {"device_kind": "cpu", "precision": "float32", "micro_batch": 8, "threads": 1},
    "recipe_settings": {"lr": 0.01, "steps": 5},
    "loss": {"first": 2.3, "last": 1.0},
    "preprocess": {"size": [224, 224]},
    "cost": {"macs_per_image": 1.0, "train_images": 1, "train_flops": 6.0},
    "timing": {"evaluate_s": 1.0},
    "env": {"vitft": "0.1.0"},
}  # fmt: skip


def result(fields: Mapping[str, Any]) -> RunResult:
    """Return a result as version 1 wrote it, with what `fields` leave out; a whole key that they lack stays absent."""
    fields = dict(fields)
    where = f"'{fields.pop('folder', 'result.json')}'"
    for key, rest in (("protocol", PROTOCOL), ("checkpoint", CHECKPOINT)):
        if key in fields:
            fields[key] = {**rest, **fields[key]}
    return parse({**REST, **fields}, RunResult, where)


def suite(data: Mapping[str, Any]) -> SuiteResult:
    """Return what suite.json holds as its type."""
    return parse(data, SuiteResult, "'suite.json'")
