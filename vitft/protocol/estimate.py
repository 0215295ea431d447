"""What a run will take: images, operations, time on this device, memory, disk. One rule, before anything runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vitft import device as devices
from vitft import recipes
from vitft.data.portions import JOINED
from vitft.data.split import Sized
from vitft.evaluation.network import preprocess
from vitft.images.room import limit
from vitft.models import loading
from vitft.models.declared import Declared
from vitft.models.flops import Counted, counted, train_flops
from vitft.models.memory import Plan, Wish, need, plan
from vitft.models.memory import room as free
from vitft.protocol.grid import length
from vitft.protocol.jobs import Runtime, examples
from vitft.protocol.units import Job, counts, fits
from vitft.results.checkpoint import CheckpointInfo, Size, side
from vitft.settings import Settings, as_resolution
from vitft.training import speed as speeds
from vitft.training.speed import Speed
from vitft.words import duration, size

_SMALL = 2e12
"""Operations that any machine does in a few minutes at most: no speed is measured for them."""

_SLOW = 1e10
_GPU = 1e14
"""Operations a second of a card of the last years in bf16, assumed where there is none."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        resolution: (height, width) in pixels.
        units: fits, tuning included.
        steps: updates of all fits.
        train_images: through a training step, or once through a frozen network.
        test_images: to evaluate, tuning included.
        flops: floating-point operations of all of it: six a multiply-accumulate trained, two evaluated.
        seconds: at the speed; start-up is not in it, nor decoding where the speed says nothing of it.
        plan: images a forward pass, and the memory that takes.
        disk: bytes below the run folder, and of decoded pixels in the cache.
    """

    resolution: Size
    units: int
    steps: int
    train_images: int
    test_images: int
    flops: float
    seconds: float
    plan: Plan
    disk: int
    speed: Speed

    @property
    def memory(self) -> int:
        """Bytes at the peak."""
        return self.plan.memory


def to_json(cost: Estimate) -> dict[str, object]:
    """Return an estimate as JSON."""
    return asdict(cost) | {"memory": cost.memory}


def estimate(
    job: Job, data: Sized, runtime: Runtime, info: CheckpointInfo | None = None, speed: Speed | None = None
) -> Estimate:
    """Estimate a job on the runtime's device; no image is read, the network not fetched.

    Args:
        info: of the job's checkpoint, where it is open already.
        speed: where it is known; else a block of the network is timed.

    Raises:
        UsageError: the device is not here, or the resolution is none for the network (exit code 2).
        CheckpointError: a file that cannot be opened (exit code 4).
    """
    return total([(job, data)], runtime, info, speed)


def total(
    jobs: Sequence[tuple[Job, Sized]],
    runtime: Runtime,
    info: CheckpointInfo | None = None,
    speed: Speed | None = None,
    *,
    apart: bool = False,
) -> Estimate:
    """Estimate jobs of one model that run one after the other on one device; memory is that of the largest.

    Args:
        apart: the speed of a card is measured in a process of its own, which leaves the card to the workers.

    Raises as `estimate`.
    """
    info = info or _info(jobs[0][0])
    works = [_work(job, data, info) for job, data in jobs]
    most = max(works, key=lambda work: work.net.macs)
    trained, forward = (sum(values) for values in zip(*(work.flops for work in works), strict=True))
    flops = trained + forward
    speed = speed or speed_of(most.net, flops, runtime, apart=apart)
    decoded = sum(work.examples + sum(n for _, n in work.runs) for work in works)
    runs = [run for work in works for run in work.runs]
    return Estimate(
        resolution=most.largest.size,
        units=len(runs),
        steps=sum(settings.steps for settings, _ in runs),
        train_images=sum(settings.steps * settings.batch_size for settings, _ in runs),
        test_images=sum(n for _, n in runs),
        flops=flops,
        seconds=trained / speed.flops_per_s
        + forward / (speed.forward_per_s or speed.flops_per_s)
        + (decoded / speed.decoded_per_s if speed.decoded_per_s else 0.0),
        plan=max((_plan(work, runtime) for work in works), key=lambda plan: (not plan.fits, plan.memory)),
        disk=sum(_stored_bytes(work, runtime) for work in works)
        + min(limit(), sum(_pixels(work, info, runtime) for work in works)),
        speed=speed,
    )


@dataclass(frozen=True)
class _Work:
    """The fits and evaluations of a job, as an estimate counts them.

    Attributes:
        runs: settings of each fit, and images that it is evaluated on.
        examples: of the final run's training split.
        largest: of the settings, by resolution; `net` is the network at it.
        flops: with a backward pass, and without one.
    """

    job: Job
    runs: list[tuple[Settings, int]]
    examples: int
    largest: Settings
    net: Counted
    flops: tuple[float, float]


def _work(job: Job, data: Sized, info: CheckpointInfo) -> _Work:
    runs = [(settings.at(info.native, info.patch), length(job, data, split)) for settings, split in fits(job)]
    train, classes = _trained_on(job, data)
    nets = {settings.size: counted(info, settings.size, classes) for settings, _ in runs}
    trained = forward = 0.0
    for settings, n in runs:
        macs = nets[settings.size].macs
        of_fit = train_flops(settings, macs, train * settings.fixed_views)
        frozen = settings.method == "linear"
        trained, forward = trained + of_fit * (not frozen), forward + of_fit * frozen + 2 * macs * n
    largest = max((settings for settings, _ in runs), key=lambda settings: settings.size)
    return _Work(job, runs, train, largest, nets[largest.size], (trained, forward))


def speed_of(net: Counted, flops: float, runtime: Runtime, *, apart: bool = False) -> Speed:
    """Return the speed of a device on a network: measured, but for what is over soon anywhere."""
    device = devices.pick(runtime.device)
    if flops < _SMALL:
        return speeds.assumed(_SLOW, device.type)
    measure = speeds.measured_apart if apart and device.type != "cpu" else speeds.measured
    return measure(net.shape.width, net.shape.tokens, device, devices.precision(runtime.precision, device))


_LONG = 12 * 3600.0
"""Seconds from which what would be cheaper is told."""


def in_lines(job: Job, data: Sized, cost: Estimate, info: CheckpointInfo | None = None) -> list[str]:
    """Return an estimate in one line, and for a long run a second one with cheaper ways; `info` as for `estimate`."""
    lines = [line(cost)] if cost.plan.fits else [line(cost), _TOO_LARGE]
    if cost.seconds < _LONG:
        return lines
    quick = recipes.load("quick").resolve(job.name)
    rest = [f"{words} ({duration(seconds)})" for words, seconds in cheaper(job, data, cost, [("quick", quick)], info)]
    if cost.speed.device == "cpu":
        rest.append(f"a GPU ({duration(cost.flops / _GPU)} at an assumed {_GPU / 1e12:.0f} TFLOP/s)")
    return [*lines, f"That is long for {cost.speed.device}. Cheaper: {', '.join(rest)}."]


_TOO_LARGE = "More memory than there is: it may run out. Smaller are -r, --method lora or linear, and --micro-batch."


def line(cost: Estimate) -> str:
    """Return an estimate in one line."""
    units = f"{cost.units} fits, {cost.steps:,} steps" if cost.units > 1 else f"{cost.steps:,} steps"
    speed = cost.speed
    return (
        f"{units}, {cost.train_images:,} images to train on, {cost.test_images:,} to evaluate: about "
        f"{duration(cost.seconds)} on {speed.device} ({speed.how}{'' if speed.decoded_per_s else _ON_TOP}), "
        f"{memory(cost.plan)}, disk {size(cost.disk)}"
    )


_ON_TOP = "; decoding comes on top"


def memory(plan: Plan) -> str:
    """Return a run's memory and whether that fits its device, in words."""
    again = ", activations computed again" * plan.checkpoint
    fits = "fits" if plan.fits else "DOES NOT FIT"
    return f"memory {size(plan.memory)} of {size(plan.room)} in micro-batches of {plan.micro_batch}{again}: {fits}"


def cheaper(
    job: Job,
    data: Sized,
    cost: Estimate,
    others: Sequence[tuple[str, Settings]],
    info: CheckpointInfo | None = None,
) -> list[tuple[str, float]]:
    """Return (option, seconds) of ways that take less than half of an estimate, the longest first.

    Args:
        others: recipes' names, with their settings for this task.
        info: as for `estimate`.
    """
    info = info or _info(job)
    train, classes = _trained_on(job, data)
    own = job.settings.at(info.native, info.patch)
    other = [(f"--recipe {name}", settings.at(info.native, info.patch), 1) for name, settings in others]
    if max(own.size) > max(info.native):
        smaller = own.model_copy(update={"resolution": as_resolution(info.native)})
        other.append((f"-r {side(info.native)}", smaller, cost.units))
    if own.method != "linear":
        other.append(("--method linear", own.model_copy(update={"method": "linear", "crop": "none"}), cost.units))
    options = []
    for words, settings, times in other:
        net = counted(info, settings.size, classes)
        computed = train * settings.fixed_views
        flops = times * train_flops(settings, net.macs, computed) + 2 * net.macs * cost.test_images
        options.append((words, flops / cost.speed.flops_per_s))
    return sorted(((words, s) for words, s in options if s < cost.seconds / 2), key=lambda pair: -pair[1])


def _info(job: Job) -> CheckpointInfo:
    return loading.load(job.model, weights=False, declared=Declared.of(job.settings)).info


def _trained_on(job: Job, data: Sized) -> tuple[int, int]:
    """Return how many examples the final run trains on, and of how many classes."""
    classes = data.num_classes(job.scheme.final_train.split(JOINED)[0])
    return examples(data, job.scheme, job.limit, job.per_class), classes


def _trained(settings: Settings, net: Counted) -> int:
    """Return about how many parameters learn: all, or next to none."""
    return net.shape.parameters if settings.method == "full" else 0


def _plan(work: _Work, runtime: Runtime) -> Plan:
    settings, net = work.largest, work.net
    device = devices.pick(runtime.device)
    precision = devices.precision(runtime.precision, device)
    needed = need(net.shape, _trained(settings, net), settings, precision)
    # A warm worker keeps the weights that a unit began with beside those that it trains.
    room = free(device) - 4 * net.shape.parameters
    return plan(
        net.shape,
        needed,
        room,
        settings.batch_size,
        device.type,
        Wish(runtime.micro_batch, runtime.checkpoint_activations),
    )


def _stored_bytes(work: _Work, runtime: Runtime) -> int:
    """Return the bytes of weights and of the state that a run folder takes."""
    settings, net = work.largest, work.net
    kept = 4 * net.shape.parameters * len(work.job.seeds) * runtime.save_weights
    copies = 1 + (2 if settings.optimizer == "adamw" else 1) + bool(settings.ema)
    state = 4 * copies * _trained(settings, net)  # of the unit at work; deleted at its end
    return kept + state


def _pixels(work: _Work, info: CheckpointInfo, runtime: Runtime) -> int:
    """Return the bytes of pixels that the cache takes: those of test only where they are read again."""
    settings = work.largest
    pp = preprocess(settings, info).augmented(settings)
    height, width = pp.stored_size or (0, 0)
    again = counts(work.job)[1] * runtime.models > 1
    return 3 * height * width * (work.examples + again * work.runs[-1][1])
