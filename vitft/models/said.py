"""What a user may say of a checkpoint because its tensors do not tell it: heads, epsilon, activation, pooling, grid."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from timm import layers
from torch import nn

from vitft.errors import CheckpointError, UsageError
from vitft.models.checkpoint import Checkpoint
from vitft.results.checkpoint import Size
from vitft.settings import CHECKPOINT_KEYS, Settings, checked

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
class Said:
    """Zero, "" or None where the user has said nothing."""

    num_heads: int = 0
    norm_eps: float = 0.0
    activation: str = ""
    pool: str = ""
    grid: Size | None = None

    @staticmethod
    def of(settings: Settings) -> "Said":
        """Take it from a run's settings. Raises UsageError for an activation that is not known."""
        activation = settings.activation.replace("checkpoint", "")
        if activation and activation not in ACTIVATIONS:
            raise UsageError(f"activation '{activation}' is not known.", f"{', '.join(ACTIVATIONS)}.")
        grid = settings.grid if isinstance(settings.grid, tuple) else None
        return Said(settings.num_heads, settings.norm_eps, activation, settings.pool.replace("checkpoint", ""), grid)

    @staticmethod
    def within(fixed: Mapping[str, object]) -> "Said":
        """Take it from the keys a user has fixed. Raises UsageError for a value that is not possible."""
        return Said.of(checked({key: value for key, value in fixed.items() if key in CHECKPOINT_KEYS}))


def apply(checkpoint: Checkpoint, said: Said) -> Checkpoint:
    """Return the checkpoint as the user says it is: their word stands before the file's, with a note.

    Raises:
        UsageError: a ResNet has none of it. CheckpointError: the file has no such grid.
    """
    if said == Said():
        return checkpoint
    info, arch = checkpoint.info, checkpoint.info.architecture
    if arch.name.startswith("resnetv2"):
        raise UsageError(
            f"'{info.name}' is a ResNet.", fact=f"{', '.join(CHECKPOINT_KEYS)} are said of Vision Transformers."
        )
    kwargs = dict(arch.kwargs)
    if said.num_heads:
        kwargs["num_heads"] = said.num_heads
    if said.pool:
        kwargs["global_pool"] = said.pool
        kwargs.setdefault("fc_norm", "fc_norm.weight" in checkpoint.state)
    if said.grid is not None and said.grid != info.grid:
        if info.grid is None or said.grid[0] * said.grid[1] != info.grid[0] * info.grid[1]:
            have = f"{info.grid[0]}x{info.grid[1]}" if info.grid else "none"
            raise CheckpointError(
                f"grid {said.grid[0]}x{said.grid[1]} is not that of '{info.name}' ({have}).",
                "as many rows times columns as it has position embeddings.",
            )
        native = (said.grid[0] * info.patch[0], said.grid[1] * info.patch[1])
        info = replace(info, grid=said.grid, native=native, resolution=native, used=native)
    arch = replace(
        arch,
        kwargs=kwargs,
        norm_eps=said.norm_eps or arch.norm_eps,
        activation=said.activation or arch.activation,
        gelu="exact" if said.activation else arch.gelu,
    )
    told = {key: getattr(said, key) for key in CHECKPOINT_KEYS if getattr(said, key)}
    words = ", ".join(f"{key} {'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in told.items())
    assumed = tuple(name for name in info.assumed if name not in told)
    info = replace(info, architecture=arch, assumed=assumed).with_notes(f"as said: {words}")
    return replace(checkpoint, info=info)
