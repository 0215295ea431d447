"""The JAX releases' `.npz` names and layouts -> timm's: ViT, AugReg, SAM, big_vision, hybrids, BiT.

Two spellings of a block exist (`MultiHeadDotProductAttention_1`, `MlpBlock_3`, `LayerNorm_2` and big_vision's `_0`,
`_0`, `_1`): parts are found by their kind, so the numbers do not matter. Kernels are stored input-first.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from vitft.errors import CheckpointError

Arrays = Mapping[str, np.ndarray]
State = dict[str, Tensor]

_PREFIXES = ("", "opt/target/", "params/", "params/img/")
_POSITIONS = ("Transformer/posembed_input/pos_embedding", "pos_embedding")


@dataclass(frozen=True)
class Translated:
    """A file in timm's names, with what the names alone do not say.

    Attributes:
        state: timm name -> tensor; `pre_logits.*` is the tanh layer before the head, where the file has one.
        num_heads: attention heads; 0 for a ResNet.
        no_embed_class: position embeddings have no row for the class token.
    """

    state: State
    num_heads: int = 0
    no_embed_class: bool = False


def translate(arrays: Arrays) -> Translated:
    """Translate one file, whatever its prefix.

    Raises:
        CheckpointError: it is no ViT, hybrid or BiT, or parts of it are missing.
    """
    try:
        for prefix in _PREFIXES:
            if f"{prefix}embedding/kernel" in arrays:
                return _vit(_under(arrays, prefix))
        for prefix in ("resnet/", ""):
            if f"{prefix}root_block/standardized_conv2d/kernel" in arrays:
                return _bit(_under(arrays, prefix))
    except KeyError as error:
        raise CheckpointError(
            f"The array '{error.args[0]}' is missing.", "every array of a ViT, AugReg or BiT release."
        ) from None
    except (ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"Its arrays do not fit together: {str(error).rstrip('.')}.") from None
    known = ", ".join(list(arrays)[:3]) or "nothing"
    raise CheckpointError(
        f"It holds no Vision Transformer and no BiT ResNet (it begins with: {known}).",
        "'embedding/kernel' or 'root_block/...', bare or under opt/target/, params/, params/img/, resnet/.",
    )


def _vit(z: Arrays) -> Translated:
    blocks = list(_blocks(z))
    if not blocks:
        raise KeyError("Transformer/encoderblock_0/...")
    state: State = {
        **{f"blocks.{i}.{k}": v for i, block in enumerate(blocks) for k, v in _block(block).items()},
        **_norm(z, "Transformer/encoder_norm", "norm"),
    }
    if z["embedding/kernel"].ndim != 4:
        raise ValueError(f"embedding/kernel has {z['embedding/kernel'].ndim} dimensions, not 4")
    state["patch_embed.proj.weight"] = _convolution(z["embedding/kernel"])
    state["patch_embed.proj.bias"] = _tensor(z["embedding/bias"])
    no_embed_class = False
    where = next((name for name in _POSITIONS if name in z), _POSITIONS[0])
    positions = _tensor(z[where])
    if positions.ndim != 3 or positions.shape[0] != 1:
        raise ValueError(f"position embeddings of shape {tuple(positions.shape)}")
    state["pos_embed"] = positions
    if "cls" in z:
        state["cls_token"] = _tensor(z["cls"]).reshape(1, 1, -1)
        # big_vision adds positions before it prepends the class token; the first releases after.
        no_embed_class = where != _POSITIONS[0] and isqrt(positions.shape[1]) ** 2 == positions.shape[1]
    for layer in ("pre_logits", "head"):
        if f"{layer}/kernel" in z:
            state |= _dense(z, layer, layer)
    if "MAPHead_0/probe" in z:
        state |= _attention_pool(_under(z, "MAPHead_0/"))
    if "conv_root/kernel" in z:
        state |= _hybrid(z)
    kernels = ((name, array) for part in (*blocks, _under(z, "MAPHead_0/")) for name, array in part.items())
    heads = {array.shape[1] for name, array in kernels if re.search(r"/(query|key|value)/kernel$", name)}
    if len(heads) > 1:
        raise ValueError(f"blocks of {', '.join(map(str, sorted(heads)))} attention heads")
    return Translated(state, heads.pop(), no_embed_class)


def _blocks(z: Arrays) -> Iterator[Arrays]:
    """Yield each block's arrays, from one folder a block or from the stacked (scan) layout."""
    stacked = _under(z, "Transformer/encoderblock/")
    if stacked:
        depths = {len(array) for array in stacked.values()}
        if len(depths) != 1:
            raise ValueError(f"stacked blocks of different depths {sorted(depths)}")
        for i in range(depths.pop()):
            yield {name: array[i] for name, array in stacked.items()}
        return
    numbers = {int(m[1]) for name in z if (m := re.match(r"Transformer/encoderblock_(\d+)/", name))}
    for i in range(len(numbers)):
        if i not in numbers:
            raise KeyError(f"Transformer/encoderblock_{i}/...")
        yield _under(z, f"Transformer/encoderblock_{i}/")


def _block(b: Arrays) -> State:
    attention, mlp = _one(b, "MultiHeadDotProductAttention_"), _one(b, "MlpBlock_")
    second = next((m[1] for name in b if (m := re.match(r"(LayerNorm_[1-9]\d*)/scale$", name))), "LayerNorm_2")
    return {
        **_norm(b, "LayerNorm_0", "norm1"),
        **_projections(b, attention, ("query", "key", "value"), "attn.qkv"),
        **_output(b, attention, "attn.proj"),
        **_norm(b, second, "norm2"),
        **_dense(b, mlp + "Dense_0", "mlp.fc1"),
        **_dense(b, mlp + "Dense_1", "mlp.fc2"),
    }


def _attention_pool(z: Arrays) -> State:
    attention, mlp = "MultiHeadDotProductAttention_0/", "MlpBlock_0/"
    return {
        "attn_pool.latent": _tensor(z["probe"]),
        **_projections(z, attention, ("query",), "attn_pool.q"),
        **_projections(z, attention, ("key", "value"), "attn_pool.kv"),
        **_output(z, attention, "attn_pool.proj"),
        **_norm(z, "LayerNorm_0", "attn_pool.norm"),
        **_dense(z, mlp + "Dense_0", "attn_pool.mlp.fc1"),
        **_dense(z, mlp + "Dense_1", "attn_pool.mlp.fc2"),
    }


def _hybrid(z: Arrays) -> State:
    """Return the ResNet that a hybrid takes its patches from."""
    stages = stage_units(z, r"block(\d+)/unit(\d+)/")
    trunk = "patch_embed.backbone."
    stem = trunk + "stem." if stages else trunk
    state = {stem + "conv.weight": _convolution(z["conv_root/kernel"]), **_norm(z, "gn_root", stem + "norm")}
    for i, j in _units(stages):
        source, target = f"block{i + 1}/unit{j + 1}/", f"{trunk}stages.{i}.blocks.{j}."
        for r in (1, 2, 3):
            state[f"{target}conv{r}.weight"] = _convolution(z[f"{source}conv{r}/kernel"])
            state |= _norm(z, f"{source}gn{r}", f"{target}norm{r}")
        if f"{source}conv_proj/kernel" in z:
            state[target + "downsample.conv.weight"] = _convolution(z[f"{source}conv_proj/kernel"])
            state |= _norm(z, f"{source}gn_proj", target + "downsample.norm")
    return state


def _bit(z: Arrays) -> Translated:
    stages = stage_units(z, r"block(\d+)/unit(\d+)/")
    conv = "standardized_conv2d/kernel"
    state: State = {"stem.conv.weight": _convolution(z[f"root_block/{conv}"]), **_norm(z, "group_norm", "norm")}
    for i, j in _units(stages):
        source, target = f"block{i + 1}/unit{j + 1:02d}/", f"stages.{i}.blocks.{j}."
        for r, part in enumerate("abc", start=1):
            state[f"{target}conv{r}.weight"] = _convolution(z[f"{source}{part}/{conv}"])
            state |= _norm(z, f"{source}{part}/group_norm", f"{target}norm{r}")
        if f"{source}a/proj/{conv}" in z:
            state[target + "downsample.conv.weight"] = _convolution(z[f"{source}a/proj/{conv}"])
    if "head/conv2d/kernel" in z:
        state["head.fc.weight"] = _convolution(z["head/conv2d/kernel"])
        state["head.fc.bias"] = _tensor(z["head/conv2d/bias"])
    return Translated(state)


def stage_units(names: Iterable[str], pattern: str) -> tuple[int, ...]:
    """Count the units of each stage of a ResNet, from names like block3/unit11/; () for a bare stem."""
    units = {(int(m[1]), int(m[2])) for name in names if (m := re.match(pattern, name))}
    return tuple(sum(1 for i, _ in units if i == stage) for stage in sorted({i for i, _ in units}))


def _units(stages: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i, units in enumerate(stages) for j in range(units))


def _under(z: Arrays, prefix: str) -> Arrays:
    return {name[len(prefix) :]: array for name, array in z.items() if name.startswith(prefix)}


def _one(z: Arrays, kind: str) -> str:
    """Return the folder, with its slash, of the part whose name begins with `kind`."""
    name = next((name for name in z if name.startswith(kind)), None)
    if name is None:
        raise KeyError(kind + "0/...")
    return name.split("/")[0] + "/"


def _tensor(array: np.ndarray) -> Tensor:
    """Return float32; big_vision's bfloat16 is stored as two raw bytes a number."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        array = (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if array.dtype.kind != "f":
        raise ValueError(f"an array of type {array.dtype}, not of floats")
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def _convolution(array: np.ndarray) -> Tensor:
    """(h, w, in, out) -> (out, in, h, w)."""
    return _tensor(array).permute(3, 2, 0, 1).contiguous()


def _dense(z: Arrays, source: str, target: str) -> State:
    weight = _tensor(z[f"{source}/kernel"]).T.contiguous()
    return {f"{target}.weight": weight, f"{target}.bias": _tensor(z[f"{source}/bias"])}


def _norm(z: Arrays, source: str, target: str) -> State:
    """Scale and shift; BiT calls them gamma and beta, hybrids store them as (1, 1, 1, C)."""
    scale, shift = ("gamma", "beta") if f"{source}/gamma" in z else ("scale", "bias")
    flat: Callable[[np.ndarray], Tensor] = lambda array: _tensor(array).flatten()  # noqa: E731
    return {f"{target}.weight": flat(z[f"{source}/{scale}"]), f"{target}.bias": flat(z[f"{source}/{shift}"])}


def _projections(z: Arrays, where: str, names: tuple[str, ...], target: str) -> State:
    """(D, heads, D / heads) kernels, one a name -> one weight of (names * D, D)."""
    return {
        f"{target}.weight": torch.cat([_tensor(z[f"{where}{n}/kernel"]).flatten(1).T for n in names]),
        f"{target}.bias": torch.cat([_tensor(z[f"{where}{n}/bias"]).flatten() for n in names]),
    }


def _output(z: Arrays, where: str, target: str) -> State:
    """(heads, D / heads, D) -> (D, D)."""
    weight = _tensor(z[f"{where}out/kernel"]).flatten(0, 1).T.contiguous()
    return {f"{target}.weight": weight, f"{target}.bias": _tensor(z[f"{where}out/bias"])}
