"""Networks whose images, patches and grids are no squares, and each part of what a network is built with."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import zoom
from timm.layers.mlp import GluMlp
from torch import Tensor, nn

from vitft.errors import CheckpointError, UsageError
from vitft.models import build as models
from vitft.models import library
from vitft.models.adapters import _scale, _target
from vitft.models.architecture import Inferred, classes_in, infer
from vitft.models.build import build, restore, set_head
from vitft.models.checkpoint import Checkpoint
from vitft.models.flops import macs, train_flops
from vitft.models.meta import meta_network
from vitft.results.checkpoint import Architecture, CheckpointInfo
from vitft.settings import Settings

SHAPE: dict[str, Any] = {"img_size": (16, 64), "patch_size": (8, 16), "embed_dim": 32, "depth": 2, "num_heads": 2}
ARCH = Architecture("vit_tiny_patch16_224", {key: value for key, value in SHAPE.items() if key != "img_size"})


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SHAPE)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return dict(net.state_dict())


def opened(state: dict[str, Tensor], arch: Architecture = ARCH, **known: Any) -> Checkpoint:
    own: dict[str, Any] = {
        "name": "a.pth", "kind": "pth", "path": "a.pth", "sha256": "0" * 64, "timm_name": "", "mean": (0.5,) * 3,
        "std": (0.5,) * 3, "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", "native": (16, 64),
        "num_classes": 5, "patch": (8, 16), "grid": (2, 4), "resolution": (16, 64), "used": (16, 64),
        "architecture": arch,
    }  # fmt: skip
    return Checkpoint(CheckpointInfo(**{**own, **known}), state, tuple("abcde"), tuple("ABCDE"))


@pytest.mark.parametrize("size", [(16, 64), (24, 32), (8, 48), (29, 40)])
def test_positions_and_pixels_of_an_oblong_network(state, size):
    built = build(opened(state, before=(19, 71)), None, Settings(resolution=size, posembed_resize="bilinear"))
    rows, columns = size[0] // 8, size[1] // 16
    table = state["pos_embed"][0, 1:].reshape(2, 4, 32).numpy().astype(np.float64)
    wanted = zoom(table, (rows / 2, columns / 4, 1), order=1).reshape(-1, 32)
    positions = built.net.state_dict()["pos_embed"]
    np.testing.assert_allclose(positions[0, 1:], wanted, atol=1e-6)
    assert torch.equal(positions[0, 0], state["pos_embed"][0, 0])
    info = built.info
    assert (info.resolution, info.used, info.grid, info.patch) == (
        size,
        (rows * 8, columns * 16),
        (rows, columns),
        (8, 16),
    )
    assert info.before == (19 * size[0] // 16, 71 * size[1] // 64)
    assert (built.class_names, built.descriptions) == (tuple("abcde"), tuple("ABCDE"))
    assert any(note.startswith("resolution") for note in info.notes) is (size != info.used)
    assert any("2x4 -> " in note for note in info.notes) is ((rows, columns) != (2, 4))


def test_the_size_before_the_crop_is_one_pixel_at_least():
    info = opened({}, before=(1, 3)).info
    assert models._scaled(info, (8, 16)).before == (1, 1) and models._scaled(info, (40, 128)).before == (2, 6)
    assert models._scaled(info, (16, 64)) is info and models._scaled(opened({}).info, (8, 16)).before is None


def test_native_and_higher_sizes_are_those_of_each_side(state):
    for word, size in (("native", (16, 64)), ("higher", (24, 112))):  # 12/7 of each side, in whole patches
        assert build(opened(state), 2, Settings(resolution=word)).info.resolution == size


@pytest.mark.parametrize(("size", "fits"), [((8, 16), True), ((8, 15), False), ((7, 16), False), ((16, 8), False)])
def test_an_image_holds_a_patch_on_each_side(state, size, fits):
    if fits:
        assert build(opened(state), 2, Settings(resolution=size)).info.grid == (1, 1)
        return
    with pytest.raises(UsageError, match=f"'{size[0]}x{size[1]}' is smaller than one patch of 'a.pth'") as caught:
        build(opened(state), 2, Settings(resolution=size))
    assert "8x16 or more" in str(caught.value)


def test_a_network_without_positions_may_see_less_than_its_stride():
    arch = Architecture("resnetv2_50x1_bit", {"channels": (128, 256, 512, 1024), "stem_chs": 32})
    info = {"patch": (32, 32), "grid": None, "native": (64, 96)}
    built = build(opened({}, arch, **info), 3, Settings(resolution=(16, 40)), from_scratch=True)
    assert (built.info.grid, built.info.patch, built.info.used) == (None, (32, 32), (16, 40))
    assert built.net(torch.zeros(1, 3, 16, 40)).shape == (1, 3)


@pytest.mark.parametrize(
    ("gelu", "kind", "own", "activation", "kept", "noted"),
    [
        ("exact", "pth", "exact", "", "exact", False),
        ("exact", "npz", "exact", "gelu", "exact", False),
        ("original", "pth", "exact", "gelu", "exact", False),
        ("original", "npz", "exact", "gelu", "tanh", True),
        ("original", "npz", "exact", "relu", "tanh", False),
        ("original", "npz", "tanh", "", "tanh", True),
        ("original", "run", "tanh", "gelu", "tanh", False),
        ("original", "hub", "exact", "gelu_tanh", "tanh", False),
        ("exact", "run", "tanh", "gelu", "tanh", False),
        ("exact", "hub", "exact", "gelu_tanh", "tanh", False),
        ("tanh", "pth", "exact", "gelu", "tanh", False),
        ("tanh", "npz", "exact", "gelu", "tanh", False),
    ],
)
def test_which_gelu_a_network_is_built_with(state, gelu, kind, own, activation, kept, noted):
    arch = dataclasses.replace(ARCH, gelu=own, activation=activation)
    built = build(opened(state, arch, kind=kind), 2, Settings(resolution=(16, 64), gelu=gelu))
    assert built.info.architecture.gelu == kept
    exact = [m.approximate for m in built.net.modules() if isinstance(m, nn.GELU)]
    assert exact == ([] if activation == "relu" else [{"exact": "none"}.get(kept, kept)] * 2)
    assert any("JAX code" in note for note in built.info.notes) is noted


def test_parts_of_pre_training_are_left_out_and_no_others(state):
    settings = Settings(resolution=(16, 64))
    parts = ("mask_token", "decoder_pred.weight", "head.old.weight", "rope.freqs", "pre_logits.weight",
             "dino_head.mlp.weight", "projector.0.weight", "prototypes.weight")  # fmt: skip
    assert build(opened({**state, **dict.fromkeys(parts, torch.ones(2))}), 3, settings).info.num_classes == 3
    others = ("masks", "my.decoder.weight", "ropes", "pre.weight", "dino", "project", "proto")
    with pytest.raises(CheckpointError, match=re.escape("'dino' has no place in the architecture (and 6 more)")):
        build(opened({**state, **dict.fromkeys(others, torch.ones(2))}), 3, settings)


@pytest.mark.parametrize(
    ("change", "size", "what", "advice"),
    [
        ({"norm.weight": None, "norm.bias": None}, (16, 64), "'norm.bias' is missing (and 1 more)", "lacks parts"),
        ({"norm.bias": None, "odd": 1}, (16, 64), "'norm.bias' is missing (and 1 more)", "changed before"),
        ({"odd": 1, "even": 1, "new": 1}, (16, 64), "'even' has no place in the architecture (and 2 more)", "changed"),
        ({"norm.weight": 1, "norm.bias": 1, "odd": 1, "blocks.0.norm1.bias": None}, (16, 64),
         "'norm.bias' has shape (1,), the architecture needs (32,) (and 3 more)", "changed before"),
        ({"odd": 1}, (16, 64), "'odd' has no place in the architecture.", "changed before"),
        ({"norm.bias": None}, (16, 32), "'norm.bias' is missing.", "-r native"),
        ({"head.bias": None}, (16, 64), "'head.bias' is missing.", "lacks parts"),
        ({"head.bias": 1}, (16, 64), "'head.bias' has shape (1,), the architecture needs (5,).", "changed before"),
        ({"patch_embed.proj.weight": None}, (16, 64), "'patch_embed.proj.weight' is missing.", "lacks parts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_counted_and_advised_on(state, change, size, what, advice):
    wrong = {name: tensor for name, tensor in state.items() if change.get(name, 1) is not None}
    wrong |= {name: torch.ones(1) for name, value in change.items() if value is not None}
    with pytest.raises(CheckpointError) as caught:
        build(opened(wrong), None, Settings(resolution=size))
    assert f"'a.pth' does not fit vit_tiny_patch16_224: {what}" in caught.value.lines[0]
    assert advice in caught.value.lines[2] and len(caught.value.lines) == 3
    kind = "of these shapes" if "shape" in what else "every one" if "missing" in what else "and no others"
    assert f"the tensors of that architecture, {kind}." in caught.value.lines[1]
    if all(name.startswith("head.") for name in change):  # a head that is replaced need not fit
        build(opened(wrong), 2, Settings(resolution=size))


def test_positions_that_a_network_does_not_add_are_a_misfit(state):
    none = Architecture(ARCH.name, {**ARCH.kwargs, "pos_embed": "none"})
    with pytest.raises(CheckpointError, match="'pos_embed' has no place in the architecture"):
        build(opened(state, none), None, Settings(resolution=(16, 64)))


def test_weights_are_copied_and_random_states_left_alone(state):
    before = {name: tensor.clone() for name, tensor in state.items()}
    strided = {**state, "blocks.0.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"].T.contiguous().T}
    built = build(opened(strided), 3, Settings(resolution=(16, 64)))
    assert built.net.training and all(p.is_contiguous() and p.requires_grad for p in built.net.parameters())
    start, random = built.initial_state(), torch.get_rng_state()
    with torch.no_grad():
        for parameter in built.net.parameters():
            parameter.add_(1.0)
            parameter.grad = torch.ones_like(parameter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert all(torch.equal(tensor, before.get(name, tensor)) for name, tensor in start.items() if "head" not in name)
    restore(built.net, start)
    assert all(parameter.grad is None for parameter in built.net.parameters())
    assert all(torch.equal(tensor, start[name]) for name, tensor in built.net.state_dict().items())
    set_head(built.net, 4)
    restore(built.net, start, 6)
    assert built.net.head.weight.shape == (6, 32) and torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("eps", "wanted"), [(0.0, 1e-6), (1e-3, 1e-3)])
def test_an_epsilon_is_every_layer_norms(state, eps, wanted):
    net = build(opened(state, dataclasses.replace(ARCH, norm_eps=eps)), 2, Settings(resolution=(16, 64))).net
    assert [m.eps for m in net.modules() if isinstance(m, nn.LayerNorm)] == [wanted] * 5


def test_a_head_of_two_layers_is_kept_or_replaced_whole(state):
    arch = dataclasses.replace(ARCH, pre_logits=7)
    two = {**state, "pre_logits.weight": torch.randn(7, 32), "pre_logits.bias": torch.randn(7)}
    two |= {"head.weight": torch.randn(5, 7), "head.bias": torch.randn(5)}
    built = build(opened(two, arch), None, Settings(resolution=(16, 64)))
    images = torch.randn(2, 3, 16, 64)
    with torch.no_grad():
        net = built.net.eval()
        features = net.forward_head(net.forward_features(images), pre_logits=True)
        first = torch.tanh(features @ two["pre_logits.weight"].T + two["pre_logits.bias"])
        torch.testing.assert_close(net(images), first @ two["head.weight"].T + two["head.bias"])
    assert built.info.architecture.pre_logits == 7
    new = build(opened(two, arch), 3, Settings(resolution=(16, 64)))
    assert new.info.architecture.pre_logits == 0 and new.net.head.weight.shape == (3, 32)
    headless = {name: tensor for name, tensor in two.items() if not name.startswith(("head", "pre_logits"))}
    assert build(opened(headless, arch, num_classes=0), None, Settings(resolution=(16, 64))).info.num_classes == 0


# ---- what tensors tell


@pytest.mark.parametrize(
    ("name", "kwargs", "patch", "grid", "tag"),
    [
        ("vit_tiny_r_s16_p8_224", {"patch_size": (1, 2), "img_size": (16, 64)}, (4, 8), (4, 8), ""),
        ("vit_base_patch16_224", {"patch_size": (16, 32), "img_size": (64, 64)}, (16, 32), (4, 2), ""),
        ("vit_base_patch16_224", {"img_size": (224, 384)}, (16, 16), (14, 24), "vit_base_patch16_224"),
    ],
)
def test_an_oblong_network_is_built_again_from_its_tensors(name, kwargs, patch, grid, tag):
    net = meta_network(name, num_classes=3, **kwargs)
    found = infer(net.state_dict(), grid=grid)
    assert (found.patch, found.grid) == (patch, grid)
    assert found.tag.split(".")[0] == tag  # no release of timm has patches that are no squares
    again = {**found.architecture.kwargs, "num_classes": 3, "img_size": kwargs["img_size"]}
    made = meta_network(found.architecture.name, **again)
    assert {n: t.shape for n, t in made.state_dict().items()} == {n: t.shape for n, t in net.state_dict().items()}


def test_layer_scale_and_a_head_are_told_by_their_tensors():
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, init_values=0.1)
    found = infer(net.state_dict())
    assert found.architecture.kwargs["init_values"] == 1e-5  # timm's own, for random weights
    assert classes_in(net.state_dict()) == 0
    layer = {"pre_logits.weight": torch.ones(48, 192), "pre_logits.bias": torch.ones(48)}
    assert infer({**net.state_dict(), **layer}).architecture.pre_logits == 48


@pytest.mark.parametrize("name", ["stem.conv.weight", "stages.0.blocks.0.conv1.weight"])
def test_a_part_of_a_resnet_is_none(name):
    with pytest.raises(CheckpointError, match="timm's names"):
        infer({name: torch.ones(8, 3, 7, 7)})


# ---- networks of the transformers library


def described(state: dict[str, Tensor], **config: Any) -> tuple[Inferred, tuple[int, int], tuple[str, ...]]:
    return library._network({"model_type": "vit", "num_attention_heads": 2, **config}, state, "m", None)


def test_a_config_says_what_is_assumed_without_it(state):
    whole = {"layer_norm_eps": 1e-5, "hidden_act": "relu", "image_size": [16, 64]}
    found, image, unsaid = described(state, **whole)
    assert (found.grid, found.patch, image, unsaid) == ((2, 4), (8, 16), (16, 64), ())
    assert (found.architecture.norm_eps, found.architecture.activation) == (1e-5, "relu")
    for key, word in (("layer_norm_eps", "norm_eps"), ("hidden_act", "activation")):
        assert described(state, **{k: v for k, v in whole.items() if k != key})[2] == (word,)
    square = {**state, "pos_embed": state["pos_embed"][:, :5]}
    found, image, unsaid = described(square, layer_norm_eps=1e-5, hidden_act="relu")
    assert (found.grid, image, unsaid) == ((2, 2), (224, 224), ("grid",))


# ---- operations


def test_a_frozen_network_sends_each_image_forwards_alone_or_once():
    for method in ("full", "bias", "lora"):
        assert train_flops(Settings(method=method, steps=7, batch_size=3), 11.0, 5) == 6 * 11 * 21
    linear = Settings(method="linear", steps=7, batch_size=3)
    assert (train_flops(linear, 11.0, 5), train_flops(linear, 11.0, 0)) == (2 * 11 * 5, 2 * 11 * 21)


def test_operations_of_an_oblong_network_with_registers():
    net = meta_network("vit_tiny_patch16_224", **SHAPE, num_classes=0, reg_tokens=3, mlp_ratio=3)
    block = 12 * (4 * 32 * 32 + 2 * 32 * 96) + 2 * 12 * 12 * 32  # 8 patches, the class token, 3 registers
    assert macs(net, (16, 64)) == 2 * block + 8 * 3 * 8 * 16 * 32
    # the halves of a gated block's first layer become one
    gated = meta_network("vit_tiny_patch16_224", **SHAPE, num_classes=0, mlp_layer=GluMlp, mlp_ratio=4)
    block = 9 * (4 * 32 * 32 + 32 * 128 + 64 * 32) + 2 * 9 * 9 * 32
    assert macs(gated, (16, 64)) == 2 * block + 8 * 3 * 8 * 16 * 32


# ---- adapters


def test_ranks_and_alphas_of_an_adapter_by_the_ends_of_names():
    config = {"r": 4, "lora_alpha": 6, "rank_pattern": {"a.fc": 2, "q": 3}, "alpha_pattern": {"fc": 10}}
    for module, wanted in (("x.a.fc", 10 / 2), ("x.b.fc", 10 / 4), ("q", 6 / 3), ("x.q", 6 / 3), ("x.kq", 6 / 4),
                           ("x.q.y", 6 / 4), ("a.fc", 10 / 2)):  # fmt: skip
        assert _scale(config, module) == wanted
        assert _scale({**config, "use_rslora": True}, module) == pytest.approx(
            wanted * {"x.a.fc": 2, "a.fc": 2, "q": 3, "x.q": 3}.get(module, 4) ** 0.5
        )
    assert _scale({"r": 4}, "x") == 2.0 and _scale({"lora_alpha": 4}, "x") == 0.5 and _scale({}, "x") == 1.0


def test_names_of_an_adapter_are_tensors_of_its_base(tmp_path, state):
    for name, target, rows in (
        ("blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.weight", None),
        ("net.blocks.1.attn.proj.bias", "blocks.1.attn.proj.bias", None),
        ("vit.encoder.layer.0.attention.attention.query.weight", "blocks.0.attn.qkv.weight", slice(0, 32)),
        ("vit.encoder.layer.1.attention.attention.key.bias", "blocks.1.attn.qkv.bias", slice(32, 64)),
        ("vit.encoder.layer.1.attention.attention.value.weight", "blocks.1.attn.qkv.weight", slice(64, 96)),
        ("classifier.weight", "head.weight", None),
        ("classifier.bias", "head.bias", None),
    ):
        for base in (state, {n: t for n, t in state.items() if not n.startswith("head")}):
            assert _target(tmp_path, name, base) == (target, rows)
