"""Build the network of a checkpoint for a task: resolution, head, position embeddings, initial weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitft.catalog.models import MODELS
from vitft.errors import CheckpointError, UsageError
from vitft.models import drop_path, loading, posembed
from vitft.models.architecture import geometry
from vitft.models.checkpoint import Checkpoint
from vitft.models.declared import ACTIVATIONS, Declared
from vitft.models.loading import save_weights as save_weights
from vitft.models.meta import meta_network
from vitft.models.methods import classifiers, head_names
from vitft.results.checkpoint import Architecture, CheckpointInfo, Size, holds, side
from vitft.settings import Settings
from vitft.words import cause

# Parts of pre-training that a classifier has no place for.
_LEFT_OUT = ("mask_token", "decoder", "head", "pre_logits", "rope.", "dino_head", "projector", "prototypes")

# timm's tags of weights that Google's JAX code (vision_transformer, big_vision) trained.
_GOOGLE = ("augreg_", "orig_", "sam_", "webli", "v2_webli")

# Others may build at a size that they then cannot run: they are tried once.
_ANY_SIZE = ("VisionTransformer", "VisionTransformerDistilled", "Eva", "ResNetV2")


@dataclass(frozen=True)
class Built:
    """A network ready to train or evaluate, in training mode, float32, on the CPU."""

    net: nn.Module
    info: CheckpointInfo
    class_names: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()

    def initial_state(self) -> dict[str, Tensor]:
        """Return a copy of the weights, for `restore` between the units of a suite."""
        return {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}


def build(
    model: str | Checkpoint, num_classes: int | None, settings: Settings, *, from_scratch: bool = False, seed: int = 0
) -> Built:
    """Build a network at `settings.size`.

    Args:
        model: opened (with its weights, unless `from_scratch`), or a name as for `loading.load`.
        num_classes: K; the whole head (pre_logits too) becomes one zero-initialised linear layer, so the first loss
            is ln K. None keeps the file's own head.
        settings: resolution, posembed_resize, gelu and drop_path are used here.
        from_scratch: keep the architecture, draw the weights.
        seed: of drawn weights; the caller's random state is neither used nor changed.

    Raises:
        UsageError: the resolution is smaller than a patch, or random weights without num_classes.
        CheckpointError: see `loading.load`; or its tensors do not fit its architecture.
    """
    opened = model if isinstance(model, Checkpoint) else opening(model, settings, from_scratch=from_scratch)
    info = opened.info
    name = info.name if isinstance(model, Checkpoint) else model
    _reads_rgb(info)
    settings = settings.at(info.native, info.patch)
    if from_scratch and num_classes is None:
        raise UsageError("Random weights have no head to keep.", "a number of classes with --from-scratch.")
    if info.grid and not holds(settings.size, info.patch):
        raise UsageError(
            f"Resolution '{side(settings.size)}' is smaller than one patch of '{name}' ({side(info.patch)} pixels).",
            f"{side(info.patch)} or more.",
        )
    classes, state = info.num_classes if num_classes is None else num_classes, dict(opened.state)
    net = _create(info.architecture, classes, settings, seed, drawn=from_scratch)
    net = drop_path.draw_ahead(_with_eps(net, info.architecture.norm_eps))
    notes: list[str] = []
    if num_classes is not None:
        set_head(net, num_classes)
        arch = replace(info.architecture, pre_logits=0)
    else:
        arch = info.architecture
        if arch.pre_logits and classes:
            state = _two_layers(net, arch.pre_logits, classes, state)
    if from_scratch:
        notes.append(f"random weights (seed {seed})")
        info = replace(info, kind="random", path="", sha256="")
    else:
        notes += _fill(net, state, info, settings, keep_head=num_classes is None)
    original = settings.gelu == "original" and _from_google(name, info)
    if original or "tanh" in (settings.gelu, arch.gelu) or arch.activation == "gelu_tanh":
        arch = replace(arch, gelu="tanh")
        if _approximate(net) and original:
            notes.append("GELU: the tanh approximation, as in the JAX code of this checkpoint")
    patch, grid, used = geometry(net, settings.size)
    if used != settings.size:
        tiles = f"{grid[0]}x{grid[1]} patches of {side(patch)}"
        notes.append(f"resolution {side(settings.size)} is {tiles}: {side(used)} pixels used")
    positions = grid if getattr(net, "pos_embed", None) is not None else None
    info = replace(info, architecture=arch, num_classes=classes, patch=patch, grid=positions)
    info = replace(_scaled(info, settings.size), resolution=settings.size, used=used).with_notes(*notes)
    if num_classes is not None:
        return Built(net.train(), info)
    return Built(net.train(), info, opened.class_names, opened.descriptions)


def opening(model: str, settings: Settings, *, from_scratch: bool = False) -> Checkpoint:
    """Open what `build` takes: with weights unless they will be drawn, and as the settings say it is."""
    return loading.load(model, weights=not from_scratch, declared=Declared.of(settings))


def _two_layers(net: Any, width: int, classes: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a network the two-layer head of its file, without storage; return the tensors by the names inside it."""
    with torch.device("meta"):
        net.head = nn.Sequential(nn.Linear(net.num_features, width), nn.Tanh(), nn.Linear(width, classes))
    return {_inside(name): tensor for name, tensor in state.items()}


def _scaled(info: CheckpointInfo, size: Size) -> CheckpointInfo:
    """Bring the size before the crop to another resolution, in whole pixels."""
    if info.before is None or size == info.resolution:
        return info
    height, width = (b * new // old for b, new, old in zip(info.before, size, info.resolution, strict=True))
    return replace(info, before=(max(1, height), max(1, width)))


def _reads_rgb(info: CheckpointInfo) -> None:
    """Refuse a network whose patches are made of other images than RGB ones."""
    if info.channels != 3:
        raise CheckpointError(
            f"'{info.name}' reads {info.channels}-channel images; vitft's have 3 channels, R, G and B.",
            "a checkpoint of RGB images.",
            "'vitft models show' describes it; nothing can be trained or measured with it.",
        )


def _approximate(net: nn.Module) -> bool:
    """Make every exact GELU the tanh approximation, in place; False where there is none."""
    exact = [module for module in net.modules() if isinstance(module, nn.GELU) and module.approximate == "none"]
    for module in exact:
        module.approximate = "tanh"
    return bool(exact)


def _from_google(model: str, info: CheckpointInfo) -> bool:
    """Tell whether Google's JAX code trained the weights: by the layout, or by the timm tag that the user named."""
    if info.kind == "npz":
        return True
    named = model in MODELS or model.startswith("timm:") or model.endswith(f"/{info.timm_name}")
    base, _, tag = info.timm_name.partition(".")
    return named and (base.startswith("flexivit_") or tag.startswith(_GOOGLE))


def set_head(net: Any, num_classes: int) -> None:
    """Replace the classifier by one zero-initialised linear layer; attention pooling stays."""
    with drawing(0):
        net.reset_classifier(num_classes)
    for head in classifiers(net):
        if any(parameter.is_meta for parameter in head.parameters()):
            head.to_empty(device="cpu")
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def restore(net: nn.Module, state: Mapping[str, Tensor], num_classes: int | None = None) -> None:
    """Put initial weights back in place, for the next unit of a warm worker.

    Args:
        net: from `build`.
        state: from `Built.initial_state`.
        num_classes: also give the network a new zero head of this size; the state's own head is then left out.
    """
    if num_classes is not None:
        set_head(net, num_classes)
    own = net.state_dict()
    heads = head_names(net)
    with torch.no_grad():
        for name, tensor in own.items():
            if num_classes is None or name not in heads:
                tensor.copy_(state[name])
    for parameter in net.parameters():
        parameter.grad = None


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Draw from a generator of this seed and leave the caller's as it was (CPU: weights are drawn there)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _create(arch: Architecture, num_classes: int, settings: Settings, seed: int, *, drawn: bool) -> Any:
    """Build at the wanted size; unless weights must be drawn, without storage, which the file's tensors bring."""
    kwargs: dict[str, Any] = {**arch.kwargs, "num_classes": num_classes}
    act = arch.activation
    if act and act not in ACTIVATIONS:
        raise CheckpointError(f"Its activation '{act}' is not known.", f"{', '.join(ACTIVATIONS)}.")
    if act:
        kwargs["act_layer"] = nn.GELU if act == "gelu_tanh" else ACTIVATIONS[act]
    if settings.drop_path:
        kwargs["drop_path_rate"] = settings.drop_path
    sized = timm.get_pretrained_cfg(arch.name)
    if sized is not None and sized.fixed_input_size:
        kwargs["img_size"] = settings.size
    try:
        if not drawn:
            net = meta_network(arch.name, **kwargs)
            if next(net.buffers(), None) is None and type(net).__name__ in _ANY_SIZE:
                return net
        with drawing(seed):
            net = timm.create_model(arch.name, pretrained=False, **kwargs)
        if getattr(net, "dynamic_img_size", False):
            # The dynamic form refuses a resolution that does not divide by the patch; the fixed one takes the floor.
            with drawing(seed):
                fixed = {"img_size": settings.size, "dynamic_img_size": False}
                net = timm.create_model(arch.name, pretrained=False, **{**kwargs, **fixed})
        if type(net).__name__ not in _ANY_SIZE:
            with torch.no_grad():
                net.eval()(torch.zeros(1, 3, *settings.size))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"timm cannot build '{arch.name}' at {side(settings.size)} pixels: {cause(error)}.",
            "a resolution this architecture takes.",
            "Try its native resolution: vitft models show.",
        ) from None
    return net


def _with_eps(net: Any, eps: float) -> Any:
    """Give every layer norm of a network this epsilon, in place; 0 leaves it its own."""
    for module in net.modules() if eps else ():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return net


def _fill(
    net: nn.Module, state: dict[str, Tensor], info: CheckpointInfo, settings: Settings, keep_head: bool
) -> list[str]:
    """Load the file's tensors, positions and patches resized; return the notes."""
    notes = []
    own = net.state_dict()
    heads = head_names(net)
    if "pos_embed" in state and "pos_embed" in own and info.grid:
        target = geometry(net, settings.size)[1]
        prefix = own["pos_embed"].shape[1] - target[0] * target[1]
        tokens = state["pos_embed"].shape[1] - prefix
        if tokens == info.grid[0] * info.grid[1]:
            mode = settings.posembed_resize
            state["pos_embed"] = posembed.resize(state["pos_embed"], info.grid, target, prefix, mode)
            notes.append(posembed.describe(info.grid, target, mode))
    name = "patch_embed.proj.weight"
    if name in state and name in own and state[name].shape[:2] == own[name].shape[:2]:
        theirs, ours = ((tensor.shape[2], tensor.shape[3]) for tensor in (state[name], own[name]))
        if theirs != ours:
            state[name] = posembed.resize_patch(state[name], ours)
            notes.append(f"patch embedding {side(theirs)} -> {side(ours)} pixels (pseudo-inverse of the resize)")
    if not keep_head:
        state = {name: tensor for name, tensor in state.items() if name not in heads}
    missing = sorted(name for name in own if name not in state and (keep_head or name not in heads))
    strange = sorted(name for name in state if name not in own and not name.startswith(_LEFT_OUT))
    wrong = sorted(name for name in state if name in own and state[name].shape != own[name].shape)
    if missing or strange or wrong:
        raise _misfit(info, own, state, missing, strange, wrong, native=settings.size == info.native)
    # The network owns its weights: nothing may change the opened file, or another network built from it.
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items() if name in own
    }
    net.load_state_dict(weights, strict=False, assign=True)
    return notes


def _misfit(
    info: CheckpointInfo,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    strange: list[str],
    wrong: list[str],
    native: bool,
) -> CheckpointError:
    if wrong:
        name = wrong[0]
        what = f"'{name}' has shape {tuple(state[name].shape)}, the architecture needs {tuple(own[name].shape)}"
    elif missing:
        what = f"'{missing[0]}' is missing"
    else:
        what = f"'{strange[0]}' has no place in the architecture"
    count = len(missing) + len(strange) + len(wrong)
    more = f" (and {count - 1} more)" if count > 1 else ""
    kind = "of these shapes" if wrong else "every one" if missing else "and no others"
    if not native:
        action = "Its own resolution may fit (-r native)."
    elif missing and not strange:
        action = "The file lacks parts of the network: see what it was saved from; 'vitft models show' describes it."
    else:
        action = "Was the network changed before it was saved? 'vitft models show' describes what its tensors say."
    legal = f"the tensors of that architecture, {kind}."
    return CheckpointError(f"'{info.name}' does not fit {info.architecture.name}: {what}{more}.", legal, action)


def _inside(name: str) -> str:
    """Name a tensor of the file's two-layer head as it is called inside the network."""
    if name.startswith("head."):
        return name.replace("head.", "head.2.")
    return name.replace("pre_logits.", "head.0.")
