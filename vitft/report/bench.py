"""A measurement of speed as a table: a row a loop, and below it what vitft's own waited for."""

from vitft.report.table import Column, Row, Table, Value
from vitft.results.bench import BenchResult, LoopPace, Pace
from vitft.words import rate

_NAMES = {
    "vitft": "vitft",
    "bare": "bare loop, eager",
    "compiled": "bare loop, blocks compiled",
    "timm": "timm's way",
}


def table(result: BenchResult) -> Table:
    """Return images a second of each loop, and vitft's over them."""
    h, w = result.resolution
    columns = [Column("loop", "loop")]
    for key, title in (("train", "trained/s"), ("evaluate", "evaluated/s")):
        if any(getattr(loop, key) for loop in result.loops):
            columns += [Column(key, title), Column(f"{key}_ratio", "vitft over it")]
    own = "compiled" if result.compiled else f"eagerly{result.eager_why and f' ({result.eager_why})'}"
    failed = [f"{_NAMES[loop.name]}: {loop.why}." for loop in result.loops if loop.why]
    products = result.products
    shapes = f", {rate(products.own_shapes)} at a block's own shapes" if products.own_shapes else ""
    return Table(
        f"Speed of {result.model} at {h} x {w}, {result.method} with {result.optimizer}, batch {result.batch_size} in "
        f"micro-batches of {result.micro_batch}, {result.precision}, {result.env.device}, {result.threads} threads",
        tuple(columns),
        tuple(_row(loop) for loop in result.loops if not loop.why),
        notes=(
            f"Images a second: median of {result.rounds} rounds of {result.steps} updates, in turn (slowest, fastest); "
            "ratios are of the same round.",
            f"vitft's own blocks ran {own}, as --compile says; those of the compiled loop are compiled in any case.",
            f"vitft waited for batches {100 * result.waiting:.1f} % of its training time; a state holds it up "
            f"{result.saving.seconds:.2g} s, {100 * result.saving.share:.2f} % at the usual intervals.",
            f"Training {rate(products.train)}, {100 * products.share:.0f} % of a large matrix product's "
            f"{rate(products.square)} measured in this call{shapes}; {result.macs_per_image / 1e9:.3g} G "
            f"multiply-accumulates an image.",
            f"Memory at the peak: {result.memory_bytes / 2**30:.2g} GiB "
            f"({'the whole process' if result.env.device == 'cpu' else 'on the card'}, vitft's loop alone).",
            *failed,
        ),
    )


def _row(loop: LoopPace) -> Row:
    cells: dict[str, Value] = {"loop": _NAMES[loop.name]}
    for key, pace in (("train", loop.train), ("evaluate", loop.evaluate)):
        if pace:
            cells |= {key: _pace(pace), f"{key}_ratio": _ratio(pace)}
    return Row(cells)


def _pace(pace: Pace) -> str:
    return f"{pace.images_per_s:,.4g} ({pace.span[0]:,.4g}, {pace.span[1]:,.4g})"


def _ratio(pace: Pace) -> str:
    if pace.ratio is None or pace.ratio_span is None:
        return ""
    return f"{pace.ratio:.2f} ({pace.ratio_span[0]:.2f}, {pace.ratio_span[1]:.2f})"
