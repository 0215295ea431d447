"""Every spelling of the JAX releases, written here, loads as timm loads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from vitft import recipes
from vitft.errors import CheckpointError
from vitft.models.build import build
from vitft.settings import Settings

WIDTH, HEADS, DEPTH, PATCH, GRID, CLASSES = 32, 2, 2, 8, 4, 7
SIDE = GRID * PATCH


class Writer:
    """Draw the arrays of one release, layer by layer, under one prefix and one spelling."""

    def __init__(self, *, new: bool = False, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: dict[str, np.ndarray] = {}
        self.attention, self.mlp, self.second = (0, 0, 1) if new else (1, 3, 2)

    def add(self, name: str, *shape: int, scale: float = 0.2, offset: float = 0.0) -> None:
        self.arrays[name] = (offset + scale * self.rng.standard_normal(shape, dtype=np.float32)).astype(np.float32)

    def dense(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}/kernel", inputs, outputs)
        self.add(f"{name}/bias", outputs)

    def norm(self, name: str, *shape: int, scale: str = "scale", bias: str = "bias") -> None:
        self.add(f"{name}/{scale}", *shape, offset=1.0)
        self.add(f"{name}/{bias}", *shape)

    def mha(self, name: str, width: int, heads: int) -> None:
        for part in ("query", "key", "value"):
            self.add(f"{name}/{part}/kernel", width, heads, width // heads)
            self.add(f"{name}/{part}/bias", heads, width // heads)
        self.add(f"{name}/out/kernel", heads, width // heads, width)
        self.add(f"{name}/out/bias", width)

    def blocks(self, width: int = WIDTH, heads: int = HEADS, depth: int = DEPTH) -> None:
        for i in range(depth):
            at = f"Transformer/encoderblock_{i}/"
            self.norm(at + "LayerNorm_0", width)
            self.mha(at + f"MultiHeadDotProductAttention_{self.attention}", width, heads)
            self.norm(at + f"LayerNorm_{self.second}", width)
            self.dense(at + f"MlpBlock_{self.mlp}/Dense_0", width, 4 * width)
            self.dense(at + f"MlpBlock_{self.mlp}/Dense_1", 4 * width, width)
        self.norm("Transformer/encoder_norm", width)

    def conv(self, name: str, size: int, inputs: int, outputs: int) -> None:
        self.add(f"{name}/kernel", size, size, inputs, outputs, scale=(size * size * inputs) ** -0.5)

    def save(self, path: Path, prefix: str = "", scan: bool = False) -> Path:
        arrays = self.arrays
        if scan:
            first = {n: a for n, a in arrays.items() if "encoderblock_0/" in n}
            stacked = {
                n.replace("encoderblock_0/", "encoderblock/"): np.stack(
                    [arrays[n.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(DEPTH)]
                )
                for n in first
            }
            arrays = {n: a for n, a in arrays.items() if "encoderblock_" not in n} | stacked
        np.savez(path, **{prefix + name: array for name, array in arrays.items()})  # type: ignore[arg-type]
        return path


def vit(*, new: bool = False, cls: bool = True, cls_row: bool = True, where: str = "", pool: bool = False) -> Writer:
    writer = Writer(new=new)
    writer.conv("embedding", PATCH, 3, WIDTH)
    writer.add("embedding/bias", WIDTH)
    if cls:
        writer.add("cls", 1, 1, WIDTH)
    place = where or ("pos_embedding" if new else "Transformer/posembed_input/pos_embedding")
    writer.add(place, 1, GRID * GRID + int(cls and cls_row), WIDTH)
    writer.blocks()
    if pool:
        writer.add("MAPHead_0/probe", 1, 1, WIDTH)
        writer.mha("MAPHead_0/MultiHeadDotProductAttention_0", WIDTH, HEADS)
        writer.norm("MAPHead_0/LayerNorm_0", WIDTH)
        writer.dense("MAPHead_0/MlpBlock_0/Dense_0", WIDTH, 4 * WIDTH)
        writer.dense("MAPHead_0/MlpBlock_0/Dense_1", 4 * WIDTH, WIDTH)
    writer.dense("head", WIDTH, CLASSES)
    return writer


def timms(path: Path, name: str = "vit_tiny_patch16_224", prefix: str | None = None, **kwargs: Any) -> Any:
    shape = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": SIDE}
    net: Any = timm.create_model(name, num_classes=CLASSES, **{**shape, **kwargs})
    net.load_pretrained(str(path)) if prefix is None else net.load_pretrained(str(path), prefix)
    return net.eval()


def same(path: Path, theirs: Any, side: int = SIDE) -> None:
    built = build(str(path), None, Settings(resolution=side))
    ours: Any = built.net.eval()
    assert built.info.num_classes == CLASSES
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = theirs.forward_features(images)
        assert features.std() > 0.1
        torch.testing.assert_close(ours.forward_features(images), features, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_first_releases(tmp_path, prefix):
    path = vit().save(tmp_path / "a.npz", prefix)
    same(path, timms(path))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("prefix", ["params/", "params/img/"])
def test_big_vision_without_a_class_row(tmp_path, prefix, scan):
    path = vit(new=True, cls_row=False).save(tmp_path / "a.npz", prefix, scan)
    same(path, timms(path, no_embed_class=True))


def test_big_vision_gap_and_scan(tmp_path):
    path = vit(new=True, cls=False).save(tmp_path / "a.npz", "params/", scan=True)
    same(path, timms(path, class_token=False, global_pool="avg", fc_norm=False))


def test_attention_pooling(tmp_path):
    path = vit(new=True, cls=False, pool=True).save(tmp_path / "a.npz", "params/")
    same(path, timms(path, class_token=False, global_pool="map"))
    built = build(str(path), 5, Settings(resolution=SIDE))
    assert built.net.attn_pool is not None
    assert built.net.head.out_features == 5


def test_pre_logits_stays_for_the_files_own_head_and_goes_for_a_new_one(tmp_path):
    writer = vit()
    writer.dense("pre_logits", WIDTH, 11)
    writer.dense("head", 11, CLASSES)
    path = writer.save(tmp_path / "a.npz")
    built = build(str(path), None, Settings(resolution=SIDE))
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        features = built.net.eval().forward_head(built.net.forward_features(images), pre_logits=True).numpy()
        z = writer.arrays
        hidden = np.tanh(features @ z["pre_logits/kernel"] + z["pre_logits/bias"])
        np.testing.assert_allclose(built.net(images), hidden @ z["head/kernel"] + z["head/bias"], atol=1e-5)
    fresh = build(str(path), 5, Settings(resolution=SIDE))
    assert [tuple(p.shape) for p in fresh.net.head.parameters()] == [(5, WIDTH), (5,)]
    assert fresh.info.architecture.pre_logits == 0


@pytest.mark.parametrize(
    ("name", "stages"),
    [("vit_tiny_r_s16_p8_224", ()), ("vit_small_r26_s32_224", (2, 2, 2, 2)), ("vit_base_r50_s16_224", (3, 4, 9))],
)
def test_hybrids(tmp_path, name, stages):
    writer = Writer()
    writer.conv("conv_root", 7, 3, 64)
    writer.norm("gn_root", 1, 1, 1, 64)
    inputs = 64
    for i, units in enumerate(stages):
        width = 256 * 2**i
        for j in range(units):
            at = f"block{i + 1}/unit{j + 1}/"
            for r, shape in enumerate(
                ((1, inputs, width // 4), (3, width // 4, width // 4), (1, width // 4, width)), 1
            ):
                writer.conv(f"{at}conv{r}", *shape)
                writer.norm(f"{at}gn{r}", 1, 1, 1, shape[2])
            if j == 0:
                writer.conv(f"{at}conv_proj", 1, inputs, width)
                writer.norm(f"{at}gn_proj", 1, 1, 1, width)
            inputs = width
    patch = 1 if stages else 8
    stride = 4 * 2 ** max(0, len(stages) - 1) * patch
    writer.conv("embedding", patch, inputs, WIDTH)
    writer.add("embedding/bias", WIDTH)
    writer.add("cls", 1, 1, WIDTH)
    writer.add("Transformer/posembed_input/pos_embedding", 1, 1 + 4, WIDTH)
    writer.blocks()
    writer.dense("head", WIDTH, CLASSES)
    path = writer.save(tmp_path / "a.npz")
    same(path, timms(path, name, patch_size=patch, img_size=2 * stride), 2 * stride)
    if stages:
        return
    higher = build(str(path), 3, Settings(resolution=3 * stride))
    assert higher.info.notes[0] == "position embeddings 2x2 -> 3x3 (bilinear)"
    assert higher.info.used == (3 * stride, 3 * stride)


def test_bit(tmp_path):
    writer, channels, inputs = Writer(), [128, 128, 128, 128], 32
    conv = "standardized_conv2d"
    writer.conv(f"root_block/{conv}", 7, 3, inputs)
    for i, (units, width) in enumerate(zip((3, 4, 6, 3), channels, strict=True)):
        for j in range(units):
            at = f"block{i + 1}/unit{j + 1:02d}/"
            middle = width // 4
            for part, shape in {"a": (1, inputs, middle), "b": (3, middle, middle), "c": (1, middle, width)}.items():
                # group norm comes before each convolution
                writer.norm(f"{at}{part}/group_norm", shape[1], scale="gamma", bias="beta")
                writer.conv(f"{at}{part}/{conv}", *shape)
            if j == 0:
                writer.conv(f"{at}a/proj/{conv}", 1, inputs, width)
            inputs = width
    writer.norm("group_norm", inputs, scale="gamma", bias="beta")
    writer.conv("head/conv2d", 1, inputs, CLASSES)
    writer.add("head/conv2d/bias", CLASSES)
    path = writer.save(tmp_path / "a.npz", "resnet/")
    theirs = timm.create_model("resnetv2_50x1_bit", channels=channels, stem_chs=32, num_classes=CLASSES)
    theirs.load_pretrained(str(path))
    same(path, theirs.eval(), 64)
    built = build(str(path), 3, Settings(resolution=(48, 80)))
    assert built.net(torch.randn(2, 3, 48, 80)).abs().max() == 0


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_files(tmp_path, kind):
    writer = vit(new=True, cls_row=False)
    exact = dict(writer.arrays)
    for name, array in exact.items():
        if kind == "float16":
            writer.arrays[name] = array.astype(np.float16)
        else:
            # big_vision stores the upper two bytes of a float32 as raw data
            writer.arrays[name] = (array.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    built = build(str(writer.save(tmp_path / "a.npz", "params/")), None, Settings(resolution=SIDE))
    weight = built.net.blocks[0].mlp.fc1.weight.detach()
    assert weight.dtype == torch.float32
    wanted = exact["Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"].T
    np.testing.assert_allclose(weight, wanted, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        ("Transformer/encoderblock_0/LayerNorm_0/scale", "LayerNorm_0/scale"),
        ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
        ("embedding/kernel", "no Vision Transformer"),
    ],
)
def test_a_missing_array_is_named(tmp_path, drop, says):
    writer = vit()
    del writer.arrays[drop]
    with pytest.raises(CheckpointError, match=says) as caught:
        build(str(writer.save(tmp_path / "a.npz")), 3, Settings(resolution=SIDE))
    assert len(caught.value.lines) <= 3


def test_arrays_that_do_not_fit_are_named(tmp_path):
    writer = vit()
    writer.add("Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel", WIDTH, 3 * WIDTH)
    with pytest.raises(CheckpointError, match=r"blocks.1.mlp.fc1.weight.*\(96, 32\).*\(128, 32\)"):
        build(str(writer.save(tmp_path / "a.npz")), 3, Settings(resolution=SIDE))
    writer = vit()
    writer.add("Transformer/posembed_input/pos_embedding", 1, 1 + 13, WIDTH)
    with pytest.raises(CheckpointError, match="no square grid"):
        build(str(writer.save(tmp_path / "b.npz")), 3, Settings(resolution=SIDE))


def test_the_real_checkpoint_equals_timms_loading(shared):
    path = shared / "checkpoints" / "Ti_16-i21k-ft-in1k-224.npz"
    theirs = timm.create_model("vit_tiny_patch16_224")
    theirs.load_pretrained(str(path))
    built = build(str(path), None, Settings(resolution=224))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = theirs.eval().forward_features(images)
        torch.testing.assert_close(built.net.eval().forward_features(images), features, atol=1e-5, rtol=0)
        torch.testing.assert_close(built.net(images), theirs(images), atol=1e-5, rtol=0)
    assert built.info.timm_name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert built.info.mean == (0.5, 0.5, 0.5)
    assert built.info.assumed == ("mean", "std", "crop_pct", "interpolation")
    assert built.info.sha256.startswith("bfcc0736")


@pytest.mark.parametrize("recipe", ["vit-paper", "vision-transformer", "big-vision", "vtab-vit"])
def test_recipes_of_the_jax_code_take_its_gelu_for_its_own_weights_alone(tmp_path, recipe):
    path = vit().save(tmp_path / "google.npz")
    settings = recipes.load(recipe).resolve("", {"resolution": SIDE})
    built = build(str(path), None, settings)
    theirs, exact = timms(path, act_layer="gelu_tanh"), timms(path)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), theirs(images), atol=1e-6, rtol=0)
        assert (exact(images) - theirs(images)).abs().max() > 1e-4
    assert built.info.architecture.gelu == "tanh"
    assert any("tanh approximation" in note for note in built.info.notes)
    assert "GELU" in recipes.load(recipe).text
    # Not Google's: the same architecture in timm's spelling, and other people's tags.
    save_file({name: t.contiguous() for name, t in theirs.state_dict().items()}, tmp_path / "mine.safetensors")
    for model, scratch in ((str(tmp_path / "mine.safetensors"), False), ("timm:vit_small_patch16_224.dino", True)):
        assert build(model, 3, settings, from_scratch=scratch).info.architecture.gelu == "exact"


@pytest.mark.parametrize(
    ("model", "gelu"),
    [
        ("vit-b16", "tanh"),
        ("vit-b16-augreg", "tanh"),
        ("vit-b16-sam", "tanh"),
        ("flexivit-s", "tanh"),
        ("timm:vit_small_patch16_224.augreg_in21k_ft_in1k", "tanh"),
        ("deit3-s16", "exact"),
        ("dino-s16", "exact"),
        ("mae-b16", "exact"),
        ("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "exact"),  # fine-tuned anew by timm's author
        ("vit-mini", "exact"),
    ],
)
def test_whose_weights_they_are_is_known_from_the_tag(model, gelu):
    settings = Settings(resolution=32, gelu="original")
    assert build(model, 3, settings, from_scratch=True).info.architecture.gelu == gelu
