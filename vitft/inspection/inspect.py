"""Look into one network, or into two side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitft import device as devices
from vitft.evaluation import files
from vitft.evaluation.metrics import probabilities
from vitft.evaluation.network import Network, open_network
from vitft.images.decode import decode
from vitft.images.preprocess import deterministic, normalise
from vitft.inspection import embeddings, features, relevance
from vitft.inspection.attention import Tokens, layers, tokens_of
from vitft.inspection.cost import cost
from vitft.inspection.moved import moved
from vitft.inspection.observe import Observed, observe
from vitft.models import loading, posembed
from vitft.models.architecture import FIRST_CONVOLUTIONS
from vitft.models.checkpoint import Checkpoint, remarks
from vitft.models.declared import Declared
from vitft.models.memory import evaluation_batch
from vitft.models.methods import blocks_of, head_names
from vitft.progress import Hooks
from vitft.results import inspection as found
from vitft.results.checkpoint import side
from vitft.results.inspection import Inspected, Inspection, Looked
from vitft.results.parts import Env


@dataclass(frozen=True)
class Request:
    """What is to be looked at.

    Attributes:
        models: one or two, each a name as for `models.loading.load`.
        titles: short names, for pictures.
        images: files; empty where only weights are looked at.
        what: words of `results.inspection.WHAT`.
        fixed: recipe keys that the user has set.
        target: the class whose map is drawn, by name or index; "" for each image's answer.
        crop_pct: crop fraction instead of the checkpoint's.
        batch_size: images a forward pass; 0 = by device.
        device: see `device.pick`.
    """

    models: tuple[str, ...]
    titles: tuple[str, ...]
    images: tuple[Path, ...]
    what: tuple[str, ...]
    fixed: Mapping[str, Any]
    target: str = ""
    crop_pct: float | None = None
    batch_size: int = 0
    device: str = "auto"


@dataclass
class _One:
    """One network while it is looked at."""

    network: Network
    opened: Checkpoint
    tokens: Tokens
    numbers: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    layers: list[NDArray[np.float32]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


def inspect(request: Request, hooks: Hooks) -> Inspected:
    """Look into the networks and return numbers and arrays; nothing is written.

    Raises:
        UsageError: a class that no head has, or nothing that was asked for is there.
        CheckpointError, DataDamaged: see `open_network`, and images that do not decode.
    """
    opened = [loading.load(model, declared=Declared.within(request.fixed)) for model in request.models]
    notes: list[str] = []
    sizes = [checkpoint.info.native for checkpoint in opened]
    if len(set(sizes)) > 1 and "resolution" not in request.fixed:
        request = replace(request, fixed={**request.fixed, "resolution": list(sizes[-1])})
        notes.append(f"both at {side(sizes[-1])} px, the resolution of {request.titles[-1]}; -r sets another")
    networks = [_opened(request, i, checkpoint, hooks) for i, checkpoint in enumerate(opened)]
    if len(networks) == 2 and request.images:
        networks = _alike_images(networks, request.titles, notes)
    ones = [_look(request, i, opened[i], network, hooks) for i, network in enumerate(networks)]
    both: dict[str, Any] = {}
    if len(ones) == 2:
        first, second = ones
        heads = head_names(first.network.net) | head_names(second.network.net)
        if "moved" in request.what:
            both["moved"] = moved(first.state, second.state, heads)
            if not both["moved"].parts:
                notes.append("moved: the networks have no tensor of the same name and shape")
                del both["moved"]
        if "cka" in request.what and request.images:
            both |= _alike(first, second, notes)
    if len(request.images) > found.SHOWN_IMAGES:
        notes.append(f"pictures show the first {found.SHOWN_IMAGES} images; numbers are over all {len(request.images)}")
    looked = tuple(_looked(one, request, i) for i, one in enumerate(ones))
    env = Env.now(devices.name(ones[0].network.device.type), torch.__version__)
    names = tuple(str(path) for path in request.images)
    numbers = Inspection(models=looked, images=names, notes=tuple(notes), env=env, **both)
    return Inspected(numbers, tuple(one.arrays for one in ones))


def _opened(request: Request, index: int, opened: Checkpoint, hooks: Hooks) -> Network:
    network = open_network(opened, request.fixed, crop_pct=request.crop_pct, device=request.device, precision="float32")
    for note in remarks(network.info):
        hooks.note(note if len(request.models) == 1 else f"{request.titles[index]}: {note}")
    return network


def _alike_images(networks: Sequence[Network], titles: Sequence[str], notes: list[str]) -> list[Network]:
    """Let both networks see the same pixels, as the second prepares them; each has its own mean and std."""
    first, second = networks
    if first.preprocess.size != second.preprocess.size:
        return [first, second]
    same = replace(second.preprocess, mean=first.preprocess.mean, std=first.preprocess.std)
    if same != first.preprocess:
        notes.append(
            f"both see the images as {titles[1]} prepares them ({second.preprocess.resize}, "
            f"{second.preprocess.interpolation}); --resize and --set choose another way for both"
        )
    return [replace(first, preprocess=same), second]


def _look(request: Request, index: int, opened: Checkpoint, network: Network, hooks: Hooks) -> _One:
    one = _One(network, opened, tokens_of(network.net, network.info.resolution))
    if len(request.models) == 2:
        one.state = {name: tensor.detach().cpu() for name, tensor in network.net.state_dict().items()}
    if "filters" in request.what:
        _filters(one)
    if "positions" in request.what:
        _positions(one)
    if request.images:
        _with_images(one, request, request.titles[index], hooks)
    one.numbers["cost"] = cost(network.net, network.info.resolution, network.device)
    return one


def _looked(one: _One, request: Request, index: int) -> Looked:
    info = one.network.info
    return Looked(
        model=request.models[index],
        title=request.titles[index],
        resolution=info.resolution,
        patch=one.tokens.patch,
        grid=one.tokens.grid,
        prefix_tokens=one.tokens.prefix,
        layers=len(blocks_of(one.network.net)),
        reading=one.tokens.reading,
        checkpoint=info,
        preprocess=one.network.preprocess,
        absent=one.absent,
        **one.numbers,
    )


def _filters(one: _One) -> None:
    """Take the principal components of the first convolution: the patch embedding, or a stem's."""
    state = one.network.net.state_dict()
    name = next((n for n in FIRST_CONVOLUTIONS if n in state and state[n].ndim == 4), "")
    if not name:
        one.absent["filters"] = "its patches are not embedded by one convolution"
        return
    kernel = state[name].float().cpu().numpy()
    one.arrays["filters"], variance = embeddings.components(kernel)
    where = "patch embedding" if name.startswith("patch_embed.proj") else "first convolution of the stem"
    one.numbers["filters"] = found.Filters(
        layer=where, filters=kernel.shape[0], shape=kernel.shape[2:], variance=tuple(map(float, variance))
    )


def _positions(one: _One) -> None:
    """Compare position embeddings with each other, as the file has them and as the network uses them."""
    net: Any = one.network.net
    own = one.opened.info.grid
    if getattr(net, "pos_embed", None) is None or own is None:
        rotary = getattr(net, "rope", None) is not None
        if rotary:
            why = "it has no learned positions: queries and keys are rotated (rotary); attention shows what that does"
        elif layers(net):
            why = "it has no learned positions; attention shows how far its layers look"
        else:
            why = "a convolutional network has no positions; filters, class and features can be looked at"
        one.absent["positions"] = why
        return
    settings = one.network.settings
    embedding = one.opened.state["pos_embed"]
    alike = {"before": (embedding[0, embedding.shape[1] - own[0] * own[1] :], own)}
    used = net.pos_embed.detach().cpu()
    grid = one.tokens.grid
    alike["after"] = (used[0, used.shape[1] - grid[0] * grid[1] :], grid)
    numbers: dict[str, Any] = {"resize": posembed.describe(own, grid, settings.posembed_resize)}
    for name, (vectors, size) in alike.items():
        if name == "after" and own == grid:
            continue
        one.arrays[name] = embeddings.similarity(vectors.float().numpy(), size)
        if (likeness := embeddings.rows_and_columns(one.arrays[name])) is not None:
            numbers[name] = likeness
    one.numbers["positions"] = found.Positions(**numbers)


def _pixels(request: Request, network: Network) -> NDArray[np.uint8]:
    """Return all images as the network's evaluation prepares them, (n, H, W, 3). Raises DataDamaged, DataMissing."""
    read = (decode(files.read(path), str(path), exif=True) for path in request.images)
    return np.stack([deterministic(image, network.preprocess) for image in read])


def _with_images(one: _One, request: Request, title: str, hooks: Hooks) -> None:
    network = one.network
    pixels = _pixels(request, network)
    size = request.batch_size or max(1, evaluation_batch(network.net, network.device) // 4)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(pixels), size):
            part = torch.from_numpy(pixels[start : start + size]).to(network.device)
            yield normalise(part, network.preprocess)
            hooks.phase(f"look at images ({title})", min(start + size, len(pixels)), len(pixels))
            hooks.stop_if_asked()

    seen = observe(network.net, batches(), len(pixels), one.tokens)
    one.arrays["images"] = pixels[: found.SHOWN_IMAGES]
    parts = len(seen.layers[0])
    one.layers = [np.concatenate([batch[i] for batch in seen.layers]) for i in range(parts)]
    _of_attention(one, request.what, seen)
    if "norms" in request.what:
        _norms(one, seen)
    if "features" in request.what:
        whole = np.concatenate(seen.features)
        coloured, shares = features.colours(whole)
        one.arrays["features"] = coloured[: found.SHOWN_IMAGES]
        one.numbers["feature_variance"] = tuple(map(float, shares))
    if "class" in request.what:
        _class_maps(one, request, seen, hooks)


def _of_attention(one: _One, methods: Sequence[str], observed: Observed) -> None:
    methods = [word for word in ("attention", "rollout") if word in methods]
    if not observed.distance:
        for word in methods:
            one.absent[word] = "its blocks have no attention over all tokens; class and features can be looked at"
        return
    if "attention" in methods:
        mean = np.concatenate(observed.distance).mean(axis=0)
        rows = [
            found.AttentionLayer(layer=i, heads=tuple(map(float, row)), mean=float(row.mean()), spread=float(row.std()))
            for i, row in enumerate(mean, 1)
        ]
        third = max(1, len(rows) // 3)
        early, late = (float(np.mean([row.spread for row in part])) for part in (rows[:third], rows[-third:]))
        one.numbers["attention"] = found.Attention(
            images=sum(map(len, observed.distance)), layers=tuple(rows), early_spread=early, late_spread=late
        )
    if "rollout" in methods:
        one.arrays["rollout"] = np.concatenate(observed.rollout)
        one.arrays["attention"] = np.concatenate(observed.last)


def _norms(one: _One, observed: Observed) -> None:
    if not observed.norms:
        one.absent["norms"] = "its layers are feature maps of several sizes, not tokens"
        return
    norms = np.concatenate(observed.norms)
    rows = []
    for i in range(norms.shape[1]):
        own = norms[:, i]
        low, median, high = (float(v) for v in np.percentile(own, [1, 50, 99]))
        share = features.artifact_share(own)
        rows.append(
            found.NormLayer(layer=i + 1, median=median, p1=low, p99=high, largest=float(own.max()), artifacts=share)
        )
    one.arrays["norms"] = norms[:, -1].reshape(len(norms), *one.tokens.grid)
    one.numbers["norms"] = found.Norms(images=len(norms), tokens=norms.shape[0] * norms.shape[2], layers=tuple(rows))


def _class_maps(one: _One, request: Request, observed: Observed, hooks: Hooks) -> None:
    """Draw what speaks for one class: by attention where there is any, else by the last feature map."""
    network = one.network
    if not network.info.num_classes:
        one.absent["class"] = "it has no head, so no class"
        return
    names = files.names_of(network)
    given = relevance.target_of(request.target, names, network.class_names)
    chances = probabilities(np.concatenate(observed.logits))
    maps, rows = [], []
    by_attention = bool(observed.distance)
    shown = one.arrays["images"]
    for i, image in enumerate(shown):
        target = int(chances[i].argmax()) if given is None else given
        batch = normalise(torch.from_numpy(image[None]).to(network.device), network.preprocess)
        if by_attention:
            drawn = relevance.gradient_rollout(network.net, batch, target, one.tokens)
        else:
            drawn = relevance.grad_cam(network.net, batch, target)
        maps.append(drawn.float().cpu().numpy())
        rows.append(
            found.ImageMap(
                image=str(request.images[i]),
                target=names[target],
                probability=min(1.0, float(chances[i, target])),
                given=given is not None,
            )
        )
        hooks.phase("class-specific maps", i + 1, len(shown))
    one.arrays["class"] = np.stack(maps)
    one.numbers["class_maps"] = tuple(rows)
    one.numbers["class_method"] = relevance.GRADIENT_ROLLOUT if by_attention else relevance.GRAD_CAM


def _alike(first: _One, second: _One, notes: list[str]) -> dict[str, Any]:
    """Return the alignment of the layers of two networks, where their tokens lie at the same places."""
    same = first.tokens.grid == second.tokens.grid
    shapes = {len(layer) for one in (first, second) for layer in one.layers}
    if not same or len(shapes) != 1:
        notes.append("cka: the networks have other grids of tokens, so there is nothing to compare place by place")
        return {}
    values = features.cka(first.layers, second.layers)
    rows = tuple(tuple(float(min(1.0, v)) for v in row) for row in values)
    return {"cka": found.Cka(tokens=shapes.pop(), of="patch tokens after each block", values=rows)}
