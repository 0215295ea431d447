"""A whole run a second time: a plain loop that takes nothing of vitft but the settings and the numbered random draws.

It works image by image and parameter by parameter, from the definitions: no batches of pixels, no optimiser of torch,
no cache, no micro-batches. `test_reference.py` holds vitft's own runs against it.
"""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from scipy.ndimage import zoom
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from timm.models import VisionTransformer

from vitft.settings import Settings
from vitft.training import randomness

SHAPE: dict[str, Any] = {
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "qkv_bias": False,
}
NATIVE = 24
OWN: dict[str, Any] = {"mean": (0.2, 0.45, 0.7), "std": (0.3, 0.5, 0.4), "crop_pct": 0.875, "crop_mode": "center"}
STATISTICS = {
    "checkpoint": (OWN["mean"], OWN["std"]),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
Pixels = np.ndarray  # (h, w, 3) uint8
State = dict[str, torch.Tensor]


def draw(root: Path) -> Path:
    """Draw eleven training and five test images of unlike shapes in data/, a checkpoint of timm's layout in model/."""
    rng = np.random.default_rng(7)
    for split, counts in (("train", (5, 4, 2)), ("test", (2, 2, 1))):
        for name, n in zip("abc", counts, strict=True):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                shape = tuple((2 * rng.integers(15, 35, 2) + 1).tolist())  # odd: no mean lies half-way between levels
                Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    torch.manual_seed(5)
    net = VisionTransformer(**SHAPE, img_size=NATIVE, num_classes=4)
    for name, parameter in net.named_parameters():  # larger than timm draws them, so that attention matters
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "patch_embed" not in name else 0.1)
    (root / "model").mkdir()
    save_file(net.state_dict(), root / "model" / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 4,
        "model_args": {**SHAPE, "img_size": NATIVE},
        "pretrained_cfg": {**OWN, "input_size": [3, NATIVE, NATIVE], "interpolation": "bicubic"},
    }
    (root / "model" / "config.json").write_text(json.dumps(config))
    return root


# --- pixels ----------------------------------------------------------------------------------------------------------


def resized(image: Pixels, size: tuple[int, int], s: Settings) -> Pixels:
    if image.shape[:2] == size:
        return image
    if s.interpolation == "area":
        down, across = (covered(n, m) for n, m in zip(image.shape, size, strict=False))
        return np.einsum("ij,jkc,lk->ilc", down, image.astype(float), across).round().astype(np.uint8)
    x = torch.tensor(image).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=size, mode=s.interpolation, antialias=s.antialias)
    return x[0].permute(1, 2, 0).round().clamp(0, 255).numpy().astype(np.uint8)


def covered(n: int, m: int) -> np.ndarray:
    """Return (m, n): the share of each old pixel in what a new one covers, as tf.image.resize's "area"."""
    edges = np.arange(m + 1) * n / m
    upper, lower = np.minimum(edges[1:, None], np.arange(1, n + 1)), np.maximum(edges[:-1, None], np.arange(n))
    return np.maximum(0, upper - lower) * m / n


def covering(image: Pixels, size: tuple[int, int], whole: Callable[[float], float] = round) -> tuple[int, int]:
    h, w = image.shape[:2]
    if size[0] * w >= size[1] * h:
        return size[0], max(size[1], int(whole(size[0] * w / h + 1e-6 * (whole is int))))
    return max(size[0], int(whole(size[1] * h / w + 1e-6 * (whole is int)))), size[1]


def fixed_part(image: Pixels, s: Settings, training: bool) -> Pixels:
    """What is the same in each step: the resize, and the centre crop where there is no random one."""
    crop = s.crop if training else "none"
    height, width = s.size
    keeps_aspect = not s.resize.startswith("squash") and not (s.resize == "checkpoint" and OWN["crop_mode"] == "squash")
    eighth = (round(height * 8 / 7), round(width * 8 / 7))
    if crop == "inception":
        return image
    if crop == "random":
        if s.crop_from:
            eighth = (
                max(s.size[0], round(s.size[0] * s.crop_from / max(s.size))),
                max(s.size[1], round(s.size[1] * s.crop_from / max(s.size))),
            )
        return resized(image, covering(image, eighth) if keeps_aspect else eighth, s)
    if s.resize == "squash":
        return resized(image, s.size, s)
    if s.resize in ("resize-small", "squash-crop"):
        image = resized(image, covering(image, eighth) if keeps_aspect else eighth, s)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    else:
        bound = (int(height / OWN["crop_pct"]), int(width / OWN["crop_pct"]))
        size = covering(image, bound, int if height == width else round) if keeps_aspect else bound
        if s.antialias and s.interpolation != "area":
            how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[s.interpolation]
            image = np.asarray(Image.fromarray(image).resize(size[::-1], how))
        else:
            image = resized(image, size, s)
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return image[top : top + height, left : left + width]


def random_part(image: Pixels, u: np.ndarray, s: Settings) -> Pixels:
    """One view: u[0] flips, u[1] and u[2] place the crop, u[4:] shape the box."""
    height, width = s.size
    if s.crop == "inception":
        top, left, h, w = box(image.shape[0], image.shape[1], u)
        plain = {"interpolation": "bilinear", "antialias": False} if s.interpolation == "area" else {}
        image = resized(image[top : top + h, left : left + w], s.size, s.model_copy(update=plain))
    else:
        if s.crop == "pad":
            by_h, by_w = math.ceil(height / 8), math.ceil(width / 8)
            image = np.pad(image, ((by_h, by_h), (by_w, by_w), (0, 0)))
        top = math.floor(u[1] * (image.shape[0] - height + 1))
        left = math.floor(u[2] * (image.shape[1] - width + 1))
        image = image[top : top + height, left : left + width]
    return image[:, ::-1] if s.flip and u[0] < 0.5 else image


def box(h: int, w: int, u: np.ndarray) -> tuple[int, int, int, int]:
    """As the kernel of tf.image.sample_distorted_bounding_box, with area 0.05 to 1 and aspect 3/4 to 4/3."""
    least, most = 0.05 * h * w, 1.0 * h * w
    for height_u, aspect_u in u[4:24].reshape(10, 2):
        aspect = 0.75 + (4 / 3 - 0.75) * aspect_u
        height, highest = round(math.sqrt(least / aspect)), round(math.sqrt(most / aspect))
        if round(highest * aspect) > w:
            highest = int((w + 0.5 - 1e-7) / aspect)
            highest -= round(highest * aspect) > w
        highest = min(highest, h)
        height = min(height, highest)
        height += int(height_u * (highest - height + 1))
        if height * round(height * aspect) < least:
            height += 1
        elif height * round(height * aspect) > most:
            height -= 1
        width = round(height * aspect)
        if least <= height * width <= most and 0 < width <= w and 0 < height <= h:
            return int(u[1] * (h - height)), int(u[2] * (w - width)), height, width
    return 0, 0, h, w


def normalised(image: Pixels, s: Settings) -> torch.Tensor:
    mean, std = STATISTICS[s.normalise]
    x = image.astype(np.float32) / np.float32(255)
    planes = [(x[..., c] - np.float32(mean[c])) / np.float32(std[c]) for c in range(3)]
    return torch.from_numpy(np.stack(planes))


# --- the network -----------------------------------------------------------------------------------------------------


def network(state: State, s: Settings, classes: int) -> VisionTransformer:
    """Build it at the resolution: positions resampled as the paper's code does, a head of zeros."""
    net = VisionTransformer(**SHAPE, img_size=s.size, num_classes=classes).eval()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    grid, n = net.patch_embed.grid_size, NATIVE // SHAPE["patch_size"]
    table = state["pos_embed"]
    if s.posembed_resize == "bilinear":
        old = table[0, 1:].reshape(n, n, -1).double().numpy()
        new = zoom(old, (grid[0] / n, grid[1] / n, 1), order=1)
        state["pos_embed"] = torch.cat([table[:, :1], torch.from_numpy(new).float().reshape(1, -1, old.shape[2])], 1)
    else:
        state["pos_embed"] = resample_abs_pos_embed(table, list(grid), [n, n], num_prefix_tokens=1)
    net.load_state_dict({**state, "head.weight": torch.zeros(classes, 16), "head.bias": torch.zeros(classes)})
    for block in net.blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh" if s.gelu == "tanh" else "none")
    return net


def low_rank(net: VisionTransformer, s: Settings, seed: int) -> State:
    """LoRA's A and B of each block's layers, drawn layer by layer; parts of a fused layer lie one below the other."""
    generator, found = torch.Generator().manual_seed(seed), State()
    for i in range(SHAPE["depth"]):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            name = f"blocks.{i}.{layer}"
            weight, n = net.get_parameter(f"{name}.weight"), len(parts(layer, s))
            if not n:
                continue
            width = weight.shape[0] // (3 if layer == "attn.qkv" and "qkv" not in s.lora_targets else 1)
            a, b = torch.empty(n * s.lora_rank, weight.shape[1]), torch.zeros(n * width, s.lora_rank)
            if s.lora_init == "normal":
                a.normal_(0, 0.02, generator=generator)
                b.normal_(0, 0.02, generator=generator)
            else:
                a.uniform_(-(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5, generator=generator)
            found |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
    return found


def parts(layer: str, s: Settings) -> list[int]:
    """Return which of a layer's thirds have an update each: [0] is a whole layer, [] none."""
    if layer == "attn.qkv" and "qkv" not in s.lora_targets:
        return [i for i, part in enumerate("qkv") if part in s.lora_targets]
    return [0] * (layer.split(".")[1] in s.lora_targets)


def merged(weights: State, s: Settings) -> State:
    out = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for name in weights:
        if name.endswith(".lora_a"):
            layer, thirds = name.removesuffix(".lora_a"), parts(name.removesuffix(".lora_a").split(".", 2)[2], s)
            a, b = (weights[f"{layer}.lora_{letter}"].chunk(len(thirds)) for letter in "ab")
            update = [torch.zeros_like(b[0] @ a[0])] * (len(out[f"{layer}.weight"]) // len(b[0]))
            for third, one, other in zip(thirds, a, b, strict=True):
                update[third] = other @ one
            scale = s.lora_alpha / s.lora_rank
            out[f"{layer}.weight"] = out[f"{layer}.weight"] + scale * torch.cat(update)
    return out


# --- the loop --------------------------------------------------------------------------------------------------------


def rate(s: Settings, t: int) -> float:
    """The learning rate of update t = 0, 1, ...: a warmup that never is 0, and a decay over what follows it."""
    part = max(0, t - s.warmup_steps) / (s.steps - s.warmup_steps) if s.steps > s.warmup_steps else 0.0
    factor = {
        "constant": lambda: 1.0,
        "linear": lambda: 1 - part,
        "cosine": lambda: math.cos(math.pi * part / 2) ** 2,
        "staircase": lambda: 0.1 ** len([at for at in s.decay_steps if t > at]),
    }[s.schedule]()
    return s.lr * factor * (min(s.warmup_steps, t + 1) / s.warmup_steps if s.warmup_steps else 1)


def layer_factor(name: str, s: Settings) -> float:
    """1 for head and last norm; d for the last block, one d more for each below it and for the embeddings."""
    depth = SHAPE["depth"]
    if name.startswith("blocks."):
        return s.layer_decay ** (depth - int(name.split(".")[1]))
    return s.layer_decay ** (depth + 1) if name.startswith(("cls_token", "pos_embed", "patch_embed")) else 1.0


def learns(name: str, s: Settings) -> bool:
    head = name.startswith("head.")
    return {
        "full": True,
        "linear": head,
        "bias": head or name.endswith("bias"),
        "lora": head or ".lora_" in name,
    }[s.method]


def run(s: Settings, state: State, data: Path, seed: int) -> tuple[State, np.ndarray]:
    """Return (weights under timm's names, probabilities of the test images) of a run on class folders."""
    images, labels, classes = _folder(data / "train")
    images = [fixed_part(image, s, training=True) for image in images]
    net = network(state, s, classes)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    if s.method == "lora":
        weights |= low_rank(net, s, seed)
    names = [name for name in weights if learns(name, s)]
    average = {name: weights[name].clone() for name in names}
    first: State = {}
    second = {name: torch.zeros_like(weights[name]) for name in names}
    for t in range(s.steps):
        chosen = randomness.order(seed, len(images), t, s.batch_size)
        uniforms = randomness.uniforms(seed, t, s.batch_size, 24)
        x = torch.stack([normalised(random_part(images[i], u, s), s) for i, u in zip(chosen, uniforms, strict=True)])
        y = torch.eye(classes)[labels[chosen]]
        y = (1 - s.label_smoothing) * y + s.label_smoothing / classes
        if s.mixup:
            share = randomness.mixup_weight(seed, t, s.mixup)
            x, y = share * x + (1 - share) * x.flip(0), share * y + (1 - share) * y.flip(0)
        leaves = {name: weights[name].requires_grad_() for name in names}
        logits = torch.func.functional_call(net, merged(weights, s), (x,))
        loss = -(y * F.log_softmax(logits, dim=1)).sum() / s.batch_size
        gradients = dict(zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))
        shrink = min(1.0, s.clip_norm / (norm + 1e-6)) if s.clip_norm else 1.0
        for name, g in gradients.items():
            w, g = weights[name].detach(), g * shrink
            lr = rate(s, t) * layer_factor(name, s)
            matrix = w.ndim >= 2 and name not in ("cls_token", "pos_embed")
            w = w * (1 - lr * s.weight_decay) if matrix else w
            if s.optimizer == "sgd":
                first[name] = s.momentum * first[name] + g if t else g
                w = w - lr * first[name]
            else:
                first[name] = s.momentum * first.get(name, torch.zeros_like(w)) + (1 - s.momentum) * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                mean, square = first[name] / (1 - s.momentum ** (t + 1)), second[name] / (1 - 0.999 ** (t + 1))
                w = w - lr * mean / (square.sqrt() + 1e-8)
            weights[name] = w
            average[name] = s.ema * average[name] + (1 - s.ema) * w
    final = merged(weights | (average if s.ema else {}), s)
    tested = torch.stack([normalised(fixed_part(image, s, training=False), s) for image in _folder(data / "test")[0]])
    with torch.no_grad():
        chances = torch.func.functional_call(net, final, (tested,)).softmax(1).numpy()
    return {name: tensor.detach() for name, tensor in final.items()}, chances


def _folder(folder: Path) -> tuple[list[Pixels], np.ndarray, int]:
    """Read class folders in the order of their names, each file in the order of its name."""
    classes = sorted(path for path in folder.iterdir())
    files = [(path, label) for label, inside in enumerate(classes) for path in sorted(inside.iterdir())]
    images = [np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")) for path, _ in files]
    return images, np.array([label for _, label in files]), len(classes)
