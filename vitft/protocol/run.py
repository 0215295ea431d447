"""Run one unit: data through the guard, a network, a fit, one exact evaluation, one result file."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from vitft import compiling, machine
from vitft import device as devices
from vitft.data import portions
from vitft.data.split import Split
from vitft.errors import CheckpointError, DataError, UsageError
from vitft.evaluation import predictions, real
from vitft.evaluation.intervals import wilson
from vitft.evaluation.network import preprocess
from vitft.evaluation.predict import Batches, Predictions, predict
from vitft.group import Group
from vitft.images.batches import Images, eval_batches
from vitft.models import build as models
from vitft.models import timm_folder
from vitft.models.checkpoint import remarks
from vitft.models.flops import macs, train_flops
from vitft.models.loading import save_weights
from vitft.models.memory import evaluation_batch
from vitft.models.methods import apply
from vitft.progress import Hooks
from vitft.protocol import alike, diverged, frozen, val_curve
from vitft.protocol import stamp as stamping
from vitft.protocol.begun import begin, pixels
from vitft.protocol.guard import Guard
from vitft.protocol.jobs import Runtime
from vitft.protocol.keep import evaluated_keep, trained_keep
from vitft.protocol.stamp import DataStamp
from vitft.protocol.units import DEV, Unit
from vitft.protocol.warm import Warm
from vitft.results.files import HEAD, PREDICTIONS, RESULT, UPDATES, WEIGHTS, write_json
from vitft.results.folders import finished_unit, unit_folder
from vitft.results.parts import Computed, Cost, Env, Loss, Metrics, Provenance, Timing
from vitft.results.schema import UnitResult, to_json
from vitft.settings import CHECKPOINT_KEYS, Preprocess, Settings, as_resolution
from vitft.training.fit import Compute, Fitted


def run_unit(
    unit: Unit, folder: Path, runtime: Runtime, hooks: Hooks | None = None, warm: Warm | None = None
) -> UnitResult:
    """Bring one unit to its result file and return the result; a finished unit answers at once.

    Args:
        folder: the run folder; the unit's own is below it.
        warm: shared between the units of one process; its group's other processes are told of the unit, and `follow`.

    Raises:
        Any VitftError; what was saved before stays, and the same call goes on from there.
    """
    done = finished_unit(folder, unit.id)
    if done is not None:
        return done
    hooks, warm = hooks or Hooks(), warm or Warm()
    own = unit_folder(folder, unit.id)
    warm.group.tell({"unit": unit.to_json(), "runtime": asdict(runtime)})
    began = time.monotonic()
    with _trained(unit, own, runtime, hooks, warm) as (trained, guard, train, lacking):
        job, held_out = unit.job, trained.held_out
        if unit.phase == "tune":
            stamping.remember(folder, (train, held_out), hooks)
        tuned_on = stamping.seen_before(folder, job.name) if unit.phase == "final" and job.sweep else {}
        data = stamping.stamp(train, guard.first, held_out, lacking, tuned_on, job.limit is not None, hooks)
        warning = diverged.warning(own / UPDATES, train.num_classes)
        if warning and unit.phase == "final":
            hooks.note(f"Warning: {warning}.")
        trained = replace(trained, warnings=(warning,) if warning else ())
        result = _result(trained, data, _timing(trained, began, warm.group.size))
        if unit.phase == "final":
            _save(own, trained, runtime.save_weights, hooks)
        write_json(own / RESULT, to_json(result))
    return result


def follow(unit: Unit, runtime: Runtime, hooks: Hooks, warm: Warm) -> None:
    """Compute this process's share of a unit that process 0 brings to its result; nothing is written here."""
    with _trained(unit, Path(), runtime, hooks, warm):
        return


@contextmanager
def _trained(
    unit: Unit, folder: Path, runtime: Runtime, hooks: Hooks, warm: Warm
) -> Iterator[tuple["_Done", Guard, Split, tuple[str, ...]]]:
    """Fit and evaluate a unit, all processes of the group together; its state stays until the block has ended well.

    Yields:
        what was done; the guard; the training split; the classes without an image to be tested on.
    """
    group = warm.group
    group.join(runtime.device)
    with group.together():
        device, begun = begin(folder, runtime, pixels(unit.job), group, hooks)
        _deterministic(runtime.deterministic)
        guard = Guard(warm.open(unit.job), unit)
        train, dev = _training_split(unit, guard)
        built, settings = _network(unit, train.num_classes, device, warm)
        pp = preprocess(settings, built.info)
        workers = runtime.workers or machine.cores()
        augmented = pp.augmented(settings)
        images = Images(train, augmented, device, workers, hooks, trained_keep(unit, augmented, len(train)))
        val = _val(unit, runtime, guard, train, dev, group)
    alike.hold_weights(built.info, group)
    begun = group.from_first(begun)
    torch.set_num_threads(begun.threads or torch.get_num_threads())
    for note in remarks(built.info):
        hooks.note(note)
    compute = _compute(runtime, begun, group, compiling.Blocks(built.net, bool(begun.compiled)))
    if val is not None:

        def answers_of_val(micro_batch: int, split: Split = val) -> Predictions:
            size = evaluation_batch(built.net, device, micro_batch)
            batches = eval_batches(split, pp, size, device, workers, hooks, keep="make")
            return _evaluate(built.net, split, batches, begun, hooks, group)

        compute = replace(compute, watch=val_curve.watch(val, runtime.val_every, answers_of_val, hooks.note))
    fitted = frozen.fit_unit(unit, built.net, images, settings, folder, compute, hooks, warm)
    begun = _computed(begun, fitted, compute)

    with fitted.state if group.first else nullcontext():
        guard.trained()
        began_test = time.monotonic()
        with group.together():
            held_out, lacking = stamping.classes(train, dev if dev is not None else guard.open(unit.held_out))
            held_out = _limited(held_out, unit) if dev is None else held_out
            size = evaluation_batch(built.net, device, fitted.micro_batch)
            keep = evaluated_keep(unit, runtime)
            batches = eval_batches(held_out, pp, size, device, workers, hooks, group, keep=keep)
        alike.hold_names(held_out, group)
        of = (unit.job.name, held_out.name, held_out.digest, pp, size)
        asked_of = frozen.evaluated(unit, built.net, batches, of, len(held_out), begun.precision, warm)
        answers = _evaluate(asked_of[0], held_out, asked_of[1], begun, hooks, group)
        alike.hold_images(held_out, size, group, hooks)
        seconds = time.monotonic() - began_test
        yield _Done(unit, settings, built, held_out, answers, fitted, begun, pp, seconds), guard, train, lacking


def _compute(runtime: Runtime, begun: Computed, group: Group, blocks: compiling.Blocks) -> Compute:
    return Compute(
        begun.precision,
        begun.micro_batch or 0,
        runtime.state_seconds,
        group,
        runtime.parallel,
        blocks=blocks,
        checkpoint=runtime.checkpoint_activations,
    )


def _computed(begun: Computed, fitted: Fitted, compute: Compute) -> Computed:
    """Return how a fit computed in the end."""
    why = compute.blocks.eager() if compute.blocks is not None else ""
    return begun.model_copy(
        update={
            "micro_batch": fitted.micro_batch,
            "compiled": None if why else begun.compiled,
            "eager_why": why or None,
            "checkpointed": fitted.checkpointed or None,
        }
    )


def _val(unit: Unit, runtime: Runtime, guard: Guard, train: Split, dev: Split | None, group: Group) -> Split | None:
    """Return the split for `--val-every`. Raises UsageError where several processes share the unit."""
    if not runtime.val_every:
        return None
    if group.size > 1:
        raise UsageError("--val-every looks at val in one process alone.", "a run in one process, or without it.")
    val = val_curve.val(guard, train, dev)
    return val if val is None or dev is not None else _limited(val, unit)


def _deterministic(deterministic: bool) -> None:
    if deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, chosen before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)


def _save(folder: Path, done: "_Done", weights: bool, hooks: Hooks) -> None:
    """Write the answers and the network, for vitft and, where timm can build it by itself, for timm."""
    split, info, pp = done.held_out, done.built.info, done.pp
    predictions.save(folder / PREDICTIONS, split.keys, split.labels, done.answers.logits, split.class_names)
    assumed = tuple(name for name in info.assumed if name != "interpolation")  # the recipe says it
    seen = replace(info, mean=pp.mean, std=pp.std, interpolation=pp.interpolation, assumed=assumed)
    name = WEIGHTS if weights else HEAD
    save_weights(folder / name, done.built.net, seen, split.class_names, head_only=not weights)
    if not weights:
        return
    try:
        write_json(folder / timm_folder.CONFIG, timm_folder.config(done.built.net, info, pp, split.class_names))
    except CheckpointError as error:
        hooks.note(f"No {timm_folder.CONFIG}: {error.lines[0]} vitft loads the run all the same.")


def _training_split(unit: Unit, guard: Guard) -> tuple[Split, Split | None]:
    """Return the phase's training split and, where val is cut from it, the dev split."""
    job, settings, scheme = unit.job, unit.settings, unit.scheme
    dev = None
    split = guard.open(scheme.tune_train if unit.phase == "tune" else scheme.final_train)
    if unit.phase == "tune":
        if scheme.tune_val == DEV:
            split, dev, _ = portions.dev_split(split, settings.dev_fraction)
            dev = _limited(dev, unit)
    elif settings.train_fraction < 1:
        split, _, _ = portions.dev_split(split, 1 - settings.train_fraction)
    if split.num_classes < 2:
        raise DataError(
            f"'{job.name}' has one class, '{split.class_names[0]}': every answer would be right.",
            "two classes or more.",
            "Look at its folders: train/<class>/*, test/<class>/*.",
        )
    if job.per_class is not None:
        split = portions.per_class(split, job.per_class, unit.seed)
    return _limited(split, unit), dev


def _limited(split: Split, unit: Unit) -> Split:
    return split if unit.job.limit is None else portions.limit(split, unit.job.limit, seed=0)


def _network(unit: Unit, num_classes: int, device: torch.device, warm: Warm) -> tuple[models.Built, Settings]:
    """Build the unit's network, or reset the warm one in place where only the data and the seed differ."""
    job = unit.job
    settings = unit.settings
    decides = ("resolution", "posembed_resize", "gelu", "drop_path", *CHECKPOINT_KEYS)
    key = (job.model, str(device), *(getattr(settings, k) for k in decides))
    # Drawn weights belong to their seed, and LoRA changes the modules: both are built anew.
    reusable = settings.method != "lora" and not job.from_scratch
    if reusable and warm.key == key and warm.built is not None:
        built = warm.built
        models.restore(built.net, warm.initial, num_classes)
        built.net.to(device)
    else:
        opened = warm.checkpoint(job, settings)
        built = models.build(opened, num_classes, settings, from_scratch=job.from_scratch, seed=unit.seed)
        built.net.to(device)
        if reusable:
            warm.key, warm.built, warm.initial = key, built, built.initial_state()
    apply(built.net, settings, seed=unit.seed)
    return built, settings.model_copy(update={"resolution": as_resolution(built.info.resolution)})


def _evaluate(
    net: torch.nn.Module, split: Split, batches: Batches, begun: Computed, hooks: Hooks, group: Group
) -> Predictions:
    def on_progress(done: int) -> None:
        hooks.phase(f"evaluate {split.name}", done, len(split))
        hooks.stop_if_asked()

    return predict(
        net, batches, len(split), split.num_classes, precision=begun.precision, on_progress=on_progress, group=group
    )


@dataclass(frozen=True)
class _Done:
    """A unit that was trained and evaluated."""

    unit: Unit
    settings: Settings
    built: models.Built
    held_out: Split
    answers: Predictions
    fitted: Fitted
    begun: Computed
    pp: Preprocess
    evaluate_s: float
    warnings: tuple[str, ...] = ()


def _timing(done: _Done, began: float, processes: int) -> Timing:
    fitted = done.fitted
    return Timing(
        train_s=round(fitted.seconds, 3),
        evaluate_s=round(done.evaluate_s, 3),
        total_s=round(time.monotonic() - began, 3),
        train_images_per_s=round(fitted.images / fitted.seconds, 2) if fitted.images else None,
        processes=processes if processes > 1 else None,
    )


def _result(done: _Done, data: DataStamp, timing: Timing) -> UnitResult:
    job, settings, held_out = done.unit.job, done.settings, done.held_out
    per_image = macs(done.built.net, settings.size)
    return UnitResult(
        task=job.name,
        model=job.model,
        recipe=job.recipe,
        method=settings.method,
        phase=done.unit.phase,
        seed=done.unit.seed,
        metrics=_metrics(held_out, done.answers),
        protocol=stamping.protocol(done.unit, done.settings, done.built.info.architecture.gelu),
        provenance=Provenance(
            **{**asdict(held_out.provenance), **asdict(data)}, checkpoint_sha256=done.built.info.sha256
        ),
        settings=done.begun,
        recipe_settings=settings,
        point=done.unit.point,
        loss=Loss(first=done.fitted.first_loss, last=done.fitted.last_loss),
        checkpoint=done.built.info,
        preprocess=done.pp,
        num_classes=held_out.num_classes,
        class_names=held_out.class_names,
        cost=Cost(
            macs_per_image=per_image,
            train_images=settings.steps * settings.batch_size,
            train_flops=train_flops(settings, per_image, done.fitted.computed),
        ),
        timing=timing,
        warnings=done.warnings,
        env=Env.now(devices.name(done.begun.device_kind), torch.__version__),
    )


def _metrics(split: Split, answers: Predictions) -> Metrics:
    """Count the right answers; for ImageNet's validation images under the ReaL labels, too: it is the same network."""
    n, correct = len(split), int((answers.answers == split.labels).sum())
    metrics = Metrics(top1=correct / n, correct=correct, n=n, ci95=wilson(correct, n))
    return real.judged(metrics, real.of_validation(split.keys, split.labels, split.num_classes), answers.answers)
