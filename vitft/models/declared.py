"""What a user declares of a checkpoint, as its tensors do not tell it: heads, epsilon, activation, pooling, grid."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from timm import layers
from torch import nn

from vitft.errors import CheckpointError, UsageError
from vitft.models.checkpoint import Checkpoint
from vitft.models.meta import meta_network
from vitft.results.checkpoint import Size
from vitft.settings import CHECKPOINT_KEYS, Settings, checked
from vitft.words import cause

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": layers.GELUTanh,
    "quick_gelu": layers.QuickGELU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""The activations an MLP may have, by timm's words; none has parameters."""


@dataclass(frozen=True)
class Declared:
    """Facts of a checkpoint by the user's word; 0, "" or None for those that are not declared."""

    num_heads: int = 0
    norm_eps: float = 0.0
    activation: str = ""
    pool: str = ""
    grid: Size | None = None

    @staticmethod
    def of(settings: Settings) -> "Declared":
        """Return what a run's settings declare. Raises UsageError for an activation that is not known."""
        activation = settings.activation.replace("checkpoint", "")
        if activation and activation not in ACTIVATIONS:
            raise UsageError(f"activation '{activation}' is not known.", f"{', '.join(ACTIVATIONS)}.")
        grid = settings.grid if isinstance(settings.grid, tuple) else None
        return Declared(
            settings.num_heads, settings.norm_eps, activation, settings.pool.replace("checkpoint", ""), grid
        )

    @staticmethod
    def within(fixed: Mapping[str, object]) -> "Declared":
        """Return what the keys that a user has fixed declare. Raises UsageError for a value that is not possible."""
        return Declared.of(checked({key: value for key, value in fixed.items() if key in CHECKPOINT_KEYS}))


def apply(checkpoint: Checkpoint, declared: Declared) -> Checkpoint:
    """Return the checkpoint with the declared facts in place of the file's, and a note of them.

    Raises:
        UsageError: a ResNet has none of it, or timm cannot build it so. CheckpointError: the file has no such grid.
    """
    if declared == Declared():
        return checkpoint
    info, arch = checkpoint.info, checkpoint.info.architecture
    if arch.name.startswith("resnetv2"):
        raise UsageError(
            f"'{info.name}' is a ResNet.", fact=f"{', '.join(CHECKPOINT_KEYS)} are said of Vision Transformers."
        )
    kwargs = _arguments(checkpoint, declared)
    if declared.grid is not None and declared.grid != info.grid:
        if info.grid is None or declared.grid[0] * declared.grid[1] != info.grid[0] * info.grid[1]:
            have = f"{info.grid[0]}x{info.grid[1]}" if info.grid else "none"
            raise CheckpointError(
                f"grid {declared.grid[0]}x{declared.grid[1]} is not that of '{info.name}' ({have}).",
                "as many rows times columns as it has position embeddings.",
            )
        native = (declared.grid[0] * info.patch[0], declared.grid[1] * info.patch[1])
        info = replace(info, grid=declared.grid, native=native, resolution=native, used=native)
    arch = replace(
        arch,
        kwargs=kwargs,
        norm_eps=declared.norm_eps or arch.norm_eps,
        activation=declared.activation or arch.activation,
        gelu="exact" if declared.activation else arch.gelu,
    )
    changed = {key: getattr(declared, key) for key in CHECKPOINT_KEYS if getattr(declared, key)}
    words = ", ".join(f"{key} {'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in changed.items())
    assumed = tuple(name for name in info.assumed if name not in changed)
    info = replace(info, architecture=arch, assumed=assumed).with_notes(f"as said: {words}")
    return replace(checkpoint, info=info)


def _arguments(checkpoint: Checkpoint, declared: Declared) -> dict[str, object]:
    """Return arguments of timm's factory with the heads and the pool that are declared. Raises UsageError."""
    arch = checkpoint.info.architecture
    said: dict[str, object] = {"num_heads": declared.num_heads, "global_pool": declared.pool}
    said = {key: value for key, value in said.items() if value}
    if not said:
        return dict(arch.kwargs)
    # Where the norm stands, before the pool or behind it, is the file's; its word differs from class to class.
    behind = "fc_norm.weight" in checkpoint.state
    places: list[dict[str, object]] = [{}]
    if declared.pool and "fc_norm" not in arch.kwargs:
        places = [{"fc_norm": behind}, {"use_fc_norm": behind}, {}]
    why = ""
    for place in places:
        try:
            meta_network(arch.name, **(kwargs := {**arch.kwargs, **said, **place}))
        except (TypeError, AssertionError, RuntimeError, ValueError) as error:
            why = why if "unexpected keyword" in str(error) and why else cause(error)
        else:
            return kwargs
    words = ", ".join(f"{key.removeprefix('global_')} {value}" for key, value in said.items())
    raise UsageError(
        f"'{checkpoint.info.name}' cannot be built with {words}: {why}.", fact=f"It is timm's {arch.name}."
    )
