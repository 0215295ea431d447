"""The columns of a suite that train nothing: evaluations and few-shot classification, one network for all of them."""

from collections.abc import Sequence
from pathlib import Path

from vitft import machine
from vitft.data.find import find
from vitft.data.split import Source
from vitft.engines import suite as planning
from vitft.engines.suite import Leg
from vitft.errors import DiskFull, Interrupted, UsageError, VitftError
from vitft.evaluation import evaluate, fewshot, frozen, predictions
from vitft.evaluation.network import Network, open_network
from vitft.models.checkpoint import remarks
from vitft.progress import Hooks
from vitft.protocol import unchanged
from vitft.protocol.jobs import Runtime
from vitft.results.files import PREDICTIONS, write_json
from vitft.results.schema import to_json
from vitft.suites.suite import Column


def measure(
    leg: Leg, names: Sequence[str], runtime: Runtime, devices: Sequence[str] = (), hooks: Hooks | None = None
) -> dict[str, str]:
    """Bring data sets to their result files, one after the other, on the first device; return name -> why it failed.

    Raises:
        Interrupted: a signal came; what is finished stays.
        UsageError, DiskFull, CheckpointError: what would stop every other one too.
    """
    hooks = hooks or Hooks()
    columns = leg.tasks(leg.part.columns)
    fixed = dict(leg.overrides)
    if leg.part.first.protocol == "big-vision" and leg.part.first.run == "fewshot":
        fixed = {**fewshot.BIG_VISION, **fixed}
    device = devices[0] if devices else runtime.device
    network = open_network(leg.model, fixed, device=device, precision=runtime.precision)
    for note in remarks(network.info):
        hooks.note(note)
    failed: dict[str, str] = {}
    for done, name in enumerate(names):
        hooks.unit(f"{name}: {leg.part.first.run}", done, len(names))
        hooks.stop_if_asked()
        try:
            source = find(columns[name].task, leg.data_dir, columns[name].shots)
            unchanged.hold(leg.folder(), source, hooks.note)
            one = _evaluated if leg.part.first.run == "eval" else _classified
            one(leg, name, network, source, runtime, hooks)
        except (Interrupted, UsageError, DiskFull):
            raise
        except VitftError as error:
            failed[name] = error.lines[0]
            hooks.note(f"{name} failed: {' '.join(error.lines)}")
    network.net.to("cpu")  # the workers of the next leg may need the room
    return failed


def _evaluated(leg: Leg, name: str, network: Network, source: Source, runtime: Runtime, hooks: Hooks) -> None:
    """Evaluate every test image once; top-1 and ReaL are of the same answers."""
    with_real = any(c.real for c in _columns(leg, name))
    subject = evaluate.subject(source, with_real=with_real, limit=None, complete=False)
    evaluation = evaluate.evaluate(network, subject, workers=runtime.workers or machine.cores(), hooks=hooks)
    file, split = planning.measurement(leg, name), evaluation.subject.split
    answers = evaluation.predictions.logits
    predictions.save(_beside(file), split.keys, split.labels, answers, split.class_names)
    write_json(file, to_json(evaluate.result(evaluation)))


def _classified(leg: Leg, name: str, network: Network, source: Source, runtime: Runtime, hooks: Hooks) -> None:
    """Fit on k examples of each class, for every k that a column asks for; features are computed once."""
    first, per_class = leg.part.first, planning.counts(leg, name)
    data = frozen.examples(source, big_vision=first.protocol == "big-vision")
    for count in () if data.stands_in else per_class:
        short = fewshot.short_classes(data.pool.labels, data.pool.class_names, count)
        fewshot.refuse_short(short, count, data.pool.name)
    workers = runtime.workers or machine.cores()
    result = frozen.run(network, data, first.classifier, per_class, leg.seeds, workers=workers, hooks=hooks)
    write_json(planning.measurement(leg, name), to_json(result))


def _columns(leg: Leg, name: str) -> list[Column]:
    return [c for c in leg.part.columns if leg.name(c) == name]


def _beside(file: Path) -> Path:
    return file.with_name(PREDICTIONS)
