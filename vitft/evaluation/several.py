"""Several models on one test split: each opened and evaluated once, all seeds of a run, all on the same images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vitft.data.labels import absent_note
from vitft.evaluation import evaluate as ev
from vitft.evaluation import predictions, seeds
from vitft.evaluation.network import head_fits, open_network
from vitft.evaluation.seeds import Seed
from vitft.images.cache import Keep
from vitft.models import loading
from vitft.models.checkpoint import Checkpoint
from vitft.models.declared import Declared
from vitft.progress import Hooks
from vitft.results.files import PREDICTIONS, RESULT, write_json
from vitft.results.schema import Comparison, EvalResult, to_json


@dataclass(frozen=True)
class How:
    """How networks are opened and what is counted.

    Attributes:
        fixed, crop_pct, device, precision: see `open_network`.
        batch_size, workers: see `evaluate`.
        per_class, confusion: the accuracy of each class and which was taken for which, too.
        keep: what becomes of decoded pixels; several networks keep them where there is room.
    """

    fixed: Mapping[str, object] = field(default_factory=dict)
    crop_pct: float | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 0
    workers: int = 2
    per_class: bool = False
    confusion: bool = False
    keep: Keep = "no"


@dataclass(frozen=True)
class Evaluated:
    """One model: its result, a mean over seeds where a run has several, and what each seed's network answered."""

    result: EvalResult
    of_seed: Mapping[Seed, ev.Evaluation]

    @property
    def subject(self) -> ev.Subject:
        return next(iter(self.of_seed.values())).subject

    def save(self, folder: Path) -> None:
        """Write result.json and predictions.parquet, those of each seed in a folder of its own."""
        for seed, found in self.of_seed.items():
            split, logits = found.subject.split, found.predictions.logits
            own = folder if seed is None else folder / f"seed-{seed}"
            predictions.save(own / PREDICTIONS, split.keys, split.labels, logits, split.class_names)
        write_json(folder / RESULT, to_json(self.result))


def evaluate_all(models: Sequence[str], subject: ev.Subject, how: How, hooks: Hooks) -> Iterator[Evaluated]:
    """Evaluate one model after the other; of several, all are opened before the first is evaluated.

    Raises:
        CheckpointError: one of them cannot be read, or does not answer in the task's classes (exit code 4); see also
            `open_network` and `evaluate`.
    """
    members = [seeds.members(name) for name in models]
    paths = [path for own, _ in members for path in own.values()]
    how = replace(how, keep="room" if len(paths) > 1 else how.keep)
    opened = _opened(paths, subject, how)
    for name, (own, choice) in zip(models, members, strict=True):
        if choice:
            hooks.note(f"{name}: {choice}.")
        of_seed: dict[Seed, ev.Evaluation] = {}
        for seed, path in own.items():
            of_seed[seed] = _evaluated(name, seed, opened.pop(path, path), choice, subject, how, hooks, bool(of_seed))
        answers = {
            seed: ev.result(found, per_class=how.per_class, with_confusion=how.confusion)
            for seed, found in of_seed.items()
        }
        done = Evaluated(seeds.combined(answers), of_seed)
        if absent := absent_note(done.subject.classes_without_test):
            hooks.note(f"{name}: {absent}")
        yield done


def _evaluated(
    name: str,
    seed: Seed,
    checkpoint: str | Checkpoint,
    choice: str,
    subject: ev.Subject,
    how: How,
    hooks: Hooks,
    quiet: bool,
) -> ev.Evaluation:
    """Evaluate one network of a model; `quiet` drops notes that the first seed's network has given already."""
    network = open_network(checkpoint, how.fixed, crop_pct=how.crop_pct, device=how.device, precision=how.precision)
    for note in () if quiet else network.info.notes:
        hooks.note(f"{name}: {note}")
    info = replace(network.info, name=name if seed is not None else network.info.name)
    network = replace(network, info=info.with_notes(choice))
    done = ev.evaluate(network, subject, batch_size=how.batch_size, workers=how.workers, hooks=hooks, keep=how.keep)
    network.net.to("cpu")  # the next one may need the room
    return done


def _opened(models: Sequence[str], subject: ev.Subject, how: How) -> dict[str, Checkpoint]:
    """Open several models before the first is evaluated, so that an error of the last loses no result."""
    several = models if len(models) > 1 else ()
    opened = {name: loading.load(name, declared=Declared.within(how.fixed)) for name in several}
    for checkpoint in opened.values():
        head_fits(checkpoint, subject.split)
    return opened


def comparisons(done: Sequence[Evaluated]) -> list[Comparison]:
    """Compare every two models on the same images."""
    return seeds.comparisons([(one.result.model, one.of_seed) for one in done])
