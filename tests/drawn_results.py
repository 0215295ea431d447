"""Drawn results on disk, as runs leave them: result files and the predictions beside them, without a fit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from tests.typed import CHECKPOINT, PROTOCOL, REST


def flags(rng: np.random.Generator, n: int, accuracy: float) -> np.ndarray:
    """Draw which of n images were answered rightly; exactly round(n * accuracy) are."""
    right = np.zeros(n, dtype=bool)
    right[rng.permutation(n)[: round(n * accuracy)]] = True
    return right


def unit(
    run: Path,
    task: str,
    right: ArrayLike,
    *,
    model: str = "vit-a",
    seed: int = 0,
    predictions: bool = True,
    place: str = "",
    **changes: Any,
) -> dict[str, Any]:
    """Write a final unit of a run folder and return its result; `changes` are merged into it, key by key."""
    correct = np.asarray(right, dtype=bool)
    n, hits = len(correct), int(correct.sum())
    result: dict[str, Any] = {
        **REST, "schema_version": 2, "phase": "final", "task": task, "model": model, "recipe": "quick",
        "method": "full", "seed": seed,
        "metrics": {"top1": hits / n, "correct": hits, "n": n, "ci95": [0, 1]},
        "protocol": {**PROTOCOL, "id": "p", "recipe": "quick", "recipe_digest": "r", "resolution": [32, 32]},
        "provenance": {"source": "drawn", "reference": True, "completeness": "full", "split_digest": f"{task}-{n}"},
        "checkpoint": {**CHECKPOINT, "sha256": model},
    }  # fmt: skip
    result = _merged(result, changes)
    kind = result["phase"]
    name = place or f"{kind}-{result['protocol']['id']}-{result['recipe']}"
    folder = run / "units" / task / f"{name}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({"schema_version": 2, "kind": "finetune", "name": task, "model": model}))
    (folder / "result.json").write_text(json.dumps(result))
    if predictions:
        answers(folder / "predictions.parquet", correct)
    return result


def answers(path: Path, right: ArrayLike) -> None:
    """Write predictions of a task with two classes, label 0 throughout."""
    correct = np.asarray(right, dtype=bool)
    top = pa.array([[0, 1] if hit else [1, 0] for hit in correct], pa.list_(pa.int32()))
    columns = {"key": [str(i) for i in range(len(correct))], "label": pa.array([0] * len(correct), pa.int64())}
    chances = pa.array([[0.75, 0.25]] * len(correct), pa.list_(pa.float32()))
    pq.write_table(pa.table({**columns, "top5": top, "probabilities": chances}), path)


def _merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(value)
    for key, new in changes.items():
        old = out.get(key)
        out[key] = _merged(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new
    return out
