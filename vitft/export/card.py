"""The model card of an export: what the network is, its number with its protocol, its data and their licences."""

from contextlib import suppress
from pathlib import PurePath

from vitft.catalog import tasks
from vitft.catalog.models import MODELS
from vitft.errors import UsageError
from vitft.models.checkpoint import cropping, remarks
from vitft.prepare.collections import of_task
from vitft.report import sentences
from vitft.report.formats import md
from vitft.report.single import method_title, model_title
from vitft.results.checkpoint import side
from vitft.results.schema import RunResult

_USE = {
    "timm": """```python
import timm

net = timm.create_model("local-dir:PATH", pretrained=True).eval()  # timm 1.0.27 or later; hf-hub:ORG/NAME once pushed
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
logits = net(transform(image)[None])
```

With an older timm name the architecture and the arguments of `config.json`:
`timm.create_model(architecture, num_classes=..., checkpoint_path="model.safetensors", **model_args)`.""",
    "hf-folder": """```python
from transformers import pipeline

pipeline("image-classification", model="PATH")("image.jpg")
```

It is timm's wrapper in the transformers library; timm itself loads the same folder
(`timm.create_model("local-dir:PATH", pretrained=True)`, timm 1.0.27 or later).""",
    "onnx": """`vitft predict model.onnx IMAGE...` names classes. In other programs: the input `images` is
(batch, 3, height, width), float32, normalised; the output `logits` is (batch, classes). How images are prepared and
what the classes are called stands in the file's metadata under `vitft`, as JSON.""",
}


def card(result: RunResult, to: str, differs: tuple[str, ...], difference: float) -> str:
    """Return README.md of an export.

    Args:
        result: of the run.
        to: "timm", "hf-folder" or "onnx".
        differs: what the other program does otherwise with images.
        difference: between the run's logits and those of the files, as it was measured.
    """
    name, task = _called(result), _task(result)
    parts = [
        _front(result, to, name, task),
        f"# {md(name)}, {md(method_title(result.method))} on {md(task)}",
        f"A network of vitft {result.env.vitft}: {_architecture(result)}",
        "## Number",
        _number(result, task),
        "## Protocol",
        _bullets(_protocol(result)),
        "## Data",
        _bullets(_data(result, task)),
        "## Weights it began with",
        _bullets(_weights(result)),
        "## Use",
        _USE[to],
        _bullets(
            [f"These files alone give the run's logits: {difference:.1e} apart, as measured when they were written."]
            + [f"Its own way with images is not quite the run's: {md(text)}." for text in differs]
        ),
        "## Limits",
        "The number holds for images like those of the split it was measured on, prepared in the same way. Nothing was "
        "measured on others. No licence is stated here: that of the weights it began with and that of the data bind "
        "whoever passes this network on.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _called(result: RunResult) -> str:
    """Return the name of the model that training began with; of a path, and of a hub's page, only its last part."""
    return PurePath(model_title(result.model)).name


def _task(result: RunResult) -> str:
    """Return a task's name; of a path only its last part, as folders of this machine are nobody's business."""
    return PurePath(result.task).name


def _front(result: RunResult, to: str, name: str, task: str) -> str:
    """Return the front matter that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    alias = MODELS.get(result.model)
    base = f"timm/{alias.timm}" if alias is not None and alias.timm else None
    base = result.model.removeprefix("hf-hub:") if result.model.startswith("hf-hub:") else base
    base = f"timm/{result.model.removeprefix('timm:')}" if result.model.startswith("timm:") else base
    measured = EvalResult(
        task_type="image-classification",
        dataset_type=task,
        dataset_name=task,
        dataset_split=result.provenance.split,
        metric_type="accuracy",
        metric_value=round(_own(result)[0], 6),
        metric_name=f"top-1, vitft protocol {result.protocol.id}",
    )
    data = ModelCardData(
        library_name={"timm": "timm", "hf-folder": "timm", "onnx": "onnx"}[to],
        pipeline_tag="image-classification",
        tags=["image-classification", "vitft", *(["timm", "transformers"] if to == "hf-folder" else [])],
        datasets=[result.task.removeprefix("hf:")] if result.task.startswith("hf:") else None,
        base_model=base,
        model_name=f"{name}, {task}",
        eval_results=[measured],
    )
    return f"---\n{data.to_yaml()}\n---"


def _own(result: RunResult) -> tuple[float, int]:
    """Return top-1 and n of the seed whose weights these are."""
    own = result.metrics if result.seeds is None else result.seeds.get(str(result.seed), result.metrics)
    return own.top1, own.n


def _architecture(result: RunResult) -> str:
    info = result.checkpoint
    return (
        f"`{info.architecture.name}` at {side(info.resolution)} pixels with {result.num_classes} classes"
        + (f", patches of {side(info.patch)} pixels" if info.grid else "")
        + f"; {2 * result.cost.macs_per_image / 1e9:.2f} GFLOPs an image."
    )


def _number(result: RunResult, task: str) -> str:
    top1, n = _own(result)
    interval, kind = result.metrics.ci95, "Wilson"
    if result.seeds is not None:
        own = result.seeds.get(str(result.seed))
        interval = own.ci95 if own is not None else interval
    lines = [
        f"| task | split | top-1 | 95 % interval ({kind}) | n | seed |",
        "|---|---|---|---|---|---|",
        f"| {md(task)} | {result.provenance.split} | {100 * top1:.1f} | {100 * interval[0]:.1f} – "
        f"{100 * interval[1]:.1f} | {n:,} | {result.seed} |",
    ]
    if result.seeds is not None and len(result.seeds) > 1:
        low, high = result.metrics.ci95
        lines += [
            "",
            f"These are the weights of seed {result.seed}. Over {len(result.seeds)} seeds the mean is "
            f"{100 * result.metrics.top1:.1f} [{100 * low:.1f}, {100 * high:.1f}] (t-interval over seeds).",
        ]
    return "\n".join(lines)


def _protocol(result: RunResult) -> list[str]:
    p, s, pp = result.protocol, result.recipe_settings, result.preprocess
    resized = cropping(pp, pp.size) if pp.resize == "checkpoint" else pp.resize
    chosen = ", ".join(f"{key} {value}" for key, value in result.point.items())
    return [
        f"id `{p.id}`, recipe {md(PurePath(result.recipe).name)} (digest `{p.recipe_digest[:12]}`), "
        f"{method_title(result.method)}",
        f"images: {side(p.resolution)} px, {resized}, {p.interpolation}{' without antialiasing' * (not p.antialias)}; "
        f"mean {', '.join(f'{v:.4g}' for v in pp.mean)}, std {', '.join(f'{v:.4g}' for v in pp.std)}",
        f"training: {s.steps:,} updates of {s.batch_size} images, {s.optimizer}, peak learning rate {s.lr:g}, weight "
        f"decay {s.weight_decay:g}",
        f"chosen on {md(p.selection)}: {md(chosen)}" if chosen else "nothing was chosen on held-out images",
        "the test split was opened once, last",
        *(["from random weights, not pretrained ones"] if p.from_scratch else []),
        *[f"{text[0].upper()}{text[1:]}" for text in map(md, result.warnings)],
    ]


def _data(result: RunResult, task: str) -> list[str]:
    p = result.provenance
    known = tasks.canonical(result.task)
    lines = [f"source: {md(_source(p.source))}{f', revision {md(p.revision)}' if p.revision else ''}"]
    if known is not None:
        with suppress(UsageError):  # built in, or not from an owner's files
            collection = of_task(known)
            lines.append(f"owner: [{md(collection.title)}]({collection.page}); licence: {md(collection.licence)}")
    if len(lines) < 2:
        lines.append(f"licence of {md(task)}: not known to vitft")
    trained = f"trained on {p.train_n:,} images of {p.train_split}" if p.train_n else "training images: not recorded"
    lines += [trained, f"evaluated on `{p.split}`, digest `{p.split_digest[:16]}`"]
    if not p.reference and p.why:
        lines.append(md(p.why))
    return [*lines, *map(md, sentences.of_data(p))]


def _source(source: str) -> str:
    return PurePath(source).name if source.startswith(("/", "~", ".")) else source


def _weights(result: RunResult) -> list[str]:
    info, alias = result.checkpoint, MODELS.get(result.model)
    lines = [md(_called(result)) + (f", sha256 `{info.sha256}`" if info.sha256 else "")]
    if alias is not None:
        lines.append(f"{md(alias.title)}; source: {md(alias.source)}; licence: {md(alias.licence)}")
    elif info.kind != "random":
        lines.append("licence: not known to vitft")
    return [*lines, *map(md, remarks(info))]


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
