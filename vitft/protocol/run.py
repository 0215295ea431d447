"""Run one unit: data through the guard, a network, a fit, one exact evaluation, one result file."""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vitft import __version__, machine, results
from vitft import device as devices
from vitft.data import subsets
from vitft.data.split import Split
from vitft.errors import DataError, UsageError
from vitft.evaluation import predictions
from vitft.evaluation.intervals import wilson
from vitft.evaluation.network import preprocess
from vitft.evaluation.predict import Predictions, predict
from vitft.images.batches import Images, eval_batches
from vitft.images.preprocess import Preprocess
from vitft.models import build as models
from vitft.models.checkpoint import assumptions, side
from vitft.models.flops import macs
from vitft.models.loading import save_weights
from vitft.models.methods import apply, parameter_groups
from vitft.progress import Hooks
from vitft.protocol import diverged
from vitft.protocol import stamp as stamping
from vitft.protocol.guard import Guard
from vitft.protocol.jobs import Runtime, source_of
from vitft.protocol.stamp import DataStamp
from vitft.protocol.units import DEV, Unit
from vitft.recipes import digest
from vitft.settings import CHECKPOINT_KEYS, Settings
from vitft.training.fit import Compute, Fitted, fit

_BEGUN: dict[str, tuple[str, ...]] = dict.fromkeys(("device_kind", "precision", "micro_batch", "threads"), ())


@dataclass
class Warm:
    """What a worker keeps between units: the network of the last one, to be reset in place."""

    key: tuple[Any, ...] = ()
    built: models.Built | None = None
    initial: dict[str, torch.Tensor] = field(default_factory=dict)


def run_unit(
    unit: Unit, folder: Path, runtime: Runtime, hooks: Hooks | None = None, warm: Warm | None = None
) -> dict[str, Any]:
    """Bring one unit to its result file and return the result; a finished unit answers at once.

    Args:
        folder: the run folder; the unit's own is below it.
        warm: shared between the units of one process.

    Raises:
        Any VitftError; what was saved before stays, and the same call goes on from there.
    """
    done = results.finished_unit(folder, unit.id)
    if done is not None:
        return done
    hooks = hooks or Hooks()
    own = results.unit_folder(folder, unit.id)
    device, fixed = _fix(own, runtime)
    if runtime.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, chosen before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(runtime.deterministic)
    job = unit.job
    guard = Guard(source_of(job), unit)

    began = time.monotonic()
    train, dev = _training_split(unit, guard)
    if train.num_classes < 2:
        raise DataError(
            f"'{job.name}' has one class, '{train.class_names[0]}': every answer would be right.",
            "Legal: two classes or more.",
            "Look at its folders: train/<class>/*, test/<class>/*.",
        )
    built, settings = _network(unit, train.num_classes, device, warm)
    for note in filter(None, [*built.info.notes, assumptions(built.info.to_dict())]):
        hooks.note(note)
    pp = preprocess(settings, built.info, {})
    workers = runtime.workers or machine.cores()
    fitted = fit(
        built.net,
        Images(train, _augmented(pp, settings), device, workers, hooks),
        parameter_groups(built.net, settings),
        settings,
        seed=unit.seed,
        folder=own,
        compute=Compute(fixed["precision"], fixed["micro_batch"], runtime.state_seconds),
        hooks=hooks,
    )
    fixed["micro_batch"] = fitted.micro_batch

    guard.trained()
    held_out, lacking = stamping.classes(train, dev if dev is not None else guard.open(_held_out(unit)))
    held_out = _limited(held_out, unit) if dev is None else held_out
    began_test = time.monotonic()
    answers = _evaluate(built.net, held_out, pp, device, workers, fixed, hooks)
    if unit.phase == "tune":
        stamping.remember(folder, (train, held_out), hooks)
    tuned_on = stamping.seen_before(folder, job.name) if unit.phase == "final" and job.sweep else {}
    stamp = stamping.stamp(train, guard.first, held_out, lacking, tuned_on, job.limit is not None, hooks)
    result = _result(unit, settings, built, held_out, answers, fitted, fixed, pp, stamp)
    warning = diverged.warning(own / "metrics.jsonl", train.num_classes)
    if warning and unit.phase == "final":
        hooks.note(f"Warning: {warning}.")
    result["warnings"] = [warning] if warning else []
    result["timing"] = {
        "train_s": round(fitted.seconds, 3),
        "evaluate_s": round(time.monotonic() - began_test, 3),
        "total_s": round(time.monotonic() - began, 3),
        "train_images_per_s": round(fitted.images / fitted.seconds, 2) if fitted.images else None,
    }
    if unit.phase == "final":
        predictions.save(own / "predictions.parquet", held_out.keys, held_out.labels, answers.logits)
        assumed = tuple(name for name in built.info.assumed if name != "interpolation")  # the recipe says it
        seen = replace(built.info, mean=pp.mean, std=pp.std, interpolation=pp.interpolation, assumed=assumed)
        all_of_it = runtime.save_weights
        file = own / ("weights.safetensors" if all_of_it else "head.safetensors")
        save_weights(file, built.net, seen, train.class_names, head_only=not all_of_it)
    results.write_json(own / "result.json", result)
    (own / "state.pt").unlink(missing_ok=True)
    return result


def _augmented(pp: Preprocess, settings: Settings) -> Preprocess:
    return replace(pp, crop=settings.crop, crop_from=settings.crop_from, flip=settings.flip)


def _fix(own: Path, runtime: Runtime) -> tuple[torch.device, dict[str, Any]]:
    """Choose device, precision, threads and micro-batch; a unit that was begun keeps what it began with."""
    device = devices.pick(runtime.device)
    begun = results.read_json(own / "begun.json")
    if begun is None:
        begun = {
            "device_kind": device.type,
            "precision": devices.precision(runtime.precision, device),
            "micro_batch": runtime.micro_batch,
            "threads": torch.get_num_threads(),
        }
        results.write_json(own / "begun.json", begun)
    absent = results.lacking(begun, _BEGUN)
    if absent:
        what = f"'{own / 'begun.json'}' is damaged: it says nothing of {', '.join(absent)}"
        raise results.damaged(what, f"Delete the folder '{own}' and run the same command again.")
    if begun["device_kind"] != device.type:
        raise UsageError(
            f"This run was begun on {begun['device_kind']} and cannot go on on {device.type}.",
            "A number comes from one kind of device.",
            f"Give --device {begun['device_kind']}, or start anew with --overwrite.",
        )
    torch.set_num_threads(begun["threads"])
    return device, dict(begun)


def _training_split(unit: Unit, guard: Guard) -> tuple[Split, Split | None]:
    """Return what the phase trains on and, where val is cut from it, the dev split."""
    job, settings, scheme = unit.job, unit.settings, unit.scheme
    dev = None
    split = guard.open(scheme.tune_train if unit.phase == "tune" else scheme.final_train)
    if unit.phase == "tune":
        if scheme.tune_val == DEV:
            split, dev, _ = subsets.dev_split(split, settings["dev_fraction"])
            dev = _limited(dev, unit)
    elif settings["train_fraction"] < 1:
        split, _, _ = subsets.dev_split(split, 1 - settings["train_fraction"])
    if job.per_class is not None:
        split = subsets.per_class(split, job.per_class, unit.seed)
    return _limited(split, unit), dev


def _limited(split: Split, unit: Unit) -> Split:
    return split if unit.job.limit is None else subsets.limit(split, unit.job.limit, seed=0)


def _held_out(unit: Unit) -> str:
    return unit.scheme.tune_val if unit.phase == "tune" else unit.scheme.test


def _network(unit: Unit, num_classes: int, device: torch.device, warm: Warm | None) -> tuple[models.Built, Settings]:
    """Build the unit's network, or reset the warm one in place where only the data and the seed differ."""
    job = unit.job
    settings = Settings.model_validate(unit.settings, strict=False)
    shape = [
        unit.settings[k]
        for k in ("resolution", "posembed_resize", "gelu", "drop_path", *CHECKPOINT_KEYS)
        if k in unit.settings
    ]
    key = (job.model, str(device), *shape)
    # Drawn weights belong to their seed, and LoRA changes the modules: both are built anew.
    reusable = settings.method != "lora" and not job.from_scratch
    if warm is not None and reusable and warm.key == key and warm.built is not None:
        built = warm.built
        models.restore(built.net, warm.initial, num_classes)
        built.net.to(device)
    else:
        built = models.build(job.model, num_classes, settings, from_scratch=job.from_scratch, seed=unit.seed)
        built.net.to(device)
        if warm is not None and reusable:
            warm.key, warm.built, warm.initial = key, built, built.initial_state()
    apply(built.net, settings, seed=unit.seed)
    return built, settings.model_copy(update={"resolution": _plain(built.info.resolution)})


def _plain(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _evaluate(
    net: torch.nn.Module,
    split: Split,
    pp: Preprocess,
    device: torch.device,
    workers: int,
    fixed: Mapping[str, Any],
    hooks: Hooks,
) -> Predictions:
    batch_size = max(1, min(256, 4 * fixed["micro_batch"]))

    def told(done: int) -> None:
        hooks.phase(f"evaluate {split.name}", done, len(split))
        hooks.stop_if_asked()

    batches = eval_batches(split, pp, batch_size, device, workers, hooks)
    return predict(net, batches, len(split), split.num_classes, precision=fixed["precision"], on_progress=told)


def _result(
    unit: Unit,
    settings: Settings,
    built: models.Built,
    held_out: Split,
    answers: Predictions,
    fitted: Fitted,
    fixed: Mapping[str, Any],
    pp: Preprocess,
    data: DataStamp,
) -> dict[str, Any]:
    job, info = unit.job, built.info
    n = len(held_out)
    correct = int((answers.answers == held_out.labels).sum())
    per_image = macs(built.net, settings.size)
    protocol = {
        "recipe": job.recipe,
        "recipe_digest": job.recipe_digest,
        "resolution": side(settings.size),
        "resize": settings.resize,
        "interpolation": settings.interpolation,
        "antialias": settings.antialias,
        "normalise": settings.normalise,
        "gelu": info.architecture.gelu,
        "selection": _selection(unit),
        "from_scratch": job.from_scratch,
        "train": {"per_class": job.per_class, "limit": job.limit},
    } | ({"chosen_by_pixels": job.seen} if job.seen else {})
    return {
        "schema_version": results.SCHEMA_VERSION,
        "status": "finished",
        "kind": "finetune",
        "task": job.name,
        "model": job.model,
        "recipe": job.recipe,
        "method": settings.method,
        "phase": unit.phase,
        "seed": unit.seed,
        "metrics": {"top1": correct / n, "correct": correct, "n": n, "ci95": list(wilson(correct, n))},
        "protocol": {"id": digest(protocol), **protocol},
        "provenance": {
            **asdict(held_out.provenance),
            **data.to_dict(),
            "decoder": "Pillow",
            "checkpoint_sha256": info.sha256,
        },
        "settings": dict(fixed),
        "recipe_settings": settings.model_dump(mode="json"),
        "point": unit.point,
        "loss": {"first": fitted.first_loss, "last": fitted.last_loss},
        "checkpoint": info.to_dict(),
        "preprocess": asdict(pp),
        "num_classes": held_out.num_classes,
        "cost": {
            "macs_per_image": per_image,
            "train_images": settings.steps * settings.batch_size,
            "train_flops": _train_flops(settings, fitted, per_image),
        },
        "env": {
            "vitft": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": devices.name(fixed["device_kind"]),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def _selection(unit: Unit) -> str:
    if not unit.job.sweep:
        return "none"
    beyond = "" if unit.job.per_class is None else ", labels beyond --per-class"
    return f"{unit.scheme.tune_val}, best top1, ties to the smaller lr{beyond}"


def _train_flops(settings: Settings, fitted: Fitted, per_image: float) -> float:
    """Return about how many operations the fit took: a MAC is two, a backward pass is two forward passes."""
    if settings.method == "linear":  # nothing goes backwards through the network
        return 2 * per_image * (fitted.computed or settings.steps * settings.batch_size)
    return 6 * per_image * settings.steps * settings.batch_size
