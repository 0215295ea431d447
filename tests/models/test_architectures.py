"""An architecture told from tensors alone is the one that timm built them with: one of each size, kind and table row.

The networks have no storage, so a gigantic one costs as little as a tiny one.
"""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.layers.mlp import SwiGLUPacked

from vitft.errors import CheckpointError
from vitft.models import tags
from vitft.models.architecture import geometry, infer
from vitft.models.meta import meta_network
from vitft.models.renaming import timm_names

VITS = [
    "vit_tiny_patch16_224", "vit_small_patch32_224", "deit3_medium_patch16_224", "vit_base_patch8_224",
    "vit_large_patch32_384", "vit_so400m_patch14_siglip_224", "vit_huge_patch14_224", "vit_giant_patch14_dinov2",
    "vit_giant_patch14_clip_224", "vit_gigantic_patch14_clip_224", "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_dinov2", "deit3_small_patch16_224", "deit3_base_patch16_384", "deit_tiny_distilled_patch16_224",
    "deit_base_distilled_patch16_384", "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224",
    "vit_base_patch16_clip_224", "flexivit_small", "vit_base_patch32_siglip_256", "vit_base_patch16_clip_quickgelu_224",
    "vit_tiny_r_s16_p8_224",
    "vit_small_r26_s32_224", "vit_base_r50_s16_384", "vit_large_r50_s32_224",
]  # fmt: skip
BITS = ["resnetv2_50x1_bit", "resnetv2_50x3_bit", "resnetv2_101x1_bit", "resnetv2_152x2_bit", "resnetv2_152x4_bit"]


def shapes(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("name", VITS)
def test_a_transformer_is_built_again_from_its_tensors(name):
    net = meta_network(name)
    found = infer(net.state_dict(), hint=name)
    made = meta_network(
        found.architecture.name,
        num_classes=net.num_classes,
        img_size=net.patch_embed.img_size,
        **found.architecture.kwargs,
    )
    assert shapes(made) == shapes(net)
    heads = [m.num_heads for m in net.modules() if hasattr(m, "num_heads")]
    assert heads == [m.num_heads for m in made.modules() if hasattr(m, "num_heads")]
    for key in ("global_pool", "num_prefix_tokens", "no_embed_class", "has_class_token", "embed_dim", "num_classes"):
        assert getattr(made, key, None) == getattr(net, key, None), key
    kinds = [type(m).__name__ for m in net.modules() if not isinstance(m, torch.nn.Identity)]
    assert [type(m).__name__ for m in made.modules() if not isinstance(m, torch.nn.Identity)] == kinds
    assert found.tag.split(".")[0] == name and found.tag in timm.list_pretrained()
    assert found.grid == net.patch_embed.grid_size and found.channels == 3
    act = net.blocks[0].mlp.act
    word = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}[type(act).__name__]
    tanh = getattr(act, "approximate", "") == "tanh"
    assert found.architecture.activation == ("gelu_tanh" if tanh else word)
    assert found.architecture.norm_eps == net.blocks[0].norm1.eps
    own = net.patch_embed.patch_size
    if not hasattr(net.patch_embed, "backbone"):
        assert found.architecture.kwargs["patch_size"] == own[0] == own[1]
    side = net.patch_embed.img_size[0] // net.patch_embed.grid_size[0]
    assert found.patch == (side, side)
    # What stands in no tensor is assumed, and said to be.
    assert {"num_heads", "norm_eps", "activation", "grid"} <= set(found.assumed)
    assert ("pool" in found.assumed) == (net.global_pool == "token" and "distilled" not in name)


@pytest.mark.parametrize("name", BITS)
def test_a_resnet_is_built_again_from_its_tensors(name):
    net = meta_network(name)
    found = infer(net.state_dict(), hint=name)
    assert found.architecture.name == name and found.tag.split(".")[0] == name
    assert shapes(meta_network(name, **found.architecture.kwargs)) == shapes(net)
    assert (found.patch, found.grid, found.assumed) == ((32, 32), None, ())


@pytest.mark.parametrize(("name", "width"), [("resnetv2_50x1_bit", 32), ("resnetv2_101x1_bit", 32)])
def test_a_resnet_of_another_width_keeps_its_widths(name, width):
    net = meta_network(name, stem_chs=width, channels=[4 * width, 8 * width, 16 * width, 32 * width])
    found = infer(net.state_dict())
    assert shapes(meta_network(found.architecture.name, **found.architecture.kwargs)) == shapes(net)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"qk_norm": True, "num_heads": 4}, ()),
        ({"qkv_bias": False}, ("num_heads",)),
        ({"class_token": False, "global_pool": "avg"}, ("num_heads",)),
        ({"fc_norm": True, "global_pool": "avg"}, ("num_heads",)),
        ({"patch_size": (8, 16)}, ("num_heads",)),
        ({"mlp_ratio": 3.3}, ("num_heads",)),
        ({"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "init_values": 1e-5}, ("num_heads",)),
        ({"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}, ("num_heads",)),
        ({"no_embed_class": True}, ("num_heads",)),
        ({"reg_tokens": 4}, ("num_heads",)),
        ({"reg_tokens": 4, "no_embed_class": True}, ("num_heads",)),
        ({"embed_dim": 64, "num_heads": 2}, ("num_heads",)),
        ({"embed_dim": 32, "num_heads": 1}, ("num_heads",)),
    ],
)
def test_each_trait_is_seen(kwargs, says):
    size = (64, 128) if "patch_size" in kwargs else (64, 64)
    plain = {"img_size": size, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 7}
    net = meta_network("vit_tiny_patch16_224", **{**plain, **kwargs})
    found = infer(net.state_dict())
    made = meta_network(found.architecture.name, num_classes=7, img_size=size, **found.architecture.kwargs)
    assert shapes(made) == shapes(net) and ("num_heads" in found.assumed) == (says != ())
    assert type(made.blocks[0].mlp) is type(net.blocks[0].mlp)
    assert made.blocks[0].attn.num_heads == net.blocks[0].attn.num_heads
    assert made.no_embed_class == net.no_embed_class and made.global_pool == net.global_pool
    assert found.grid == (8, 8)
    assert found.tag == "" and found.architecture.pre_logits == 0


ROTARY = ("vit_small_patch16_dinov3", "vit_small_patch16_rope_224", "vit_small_patch16_rope_mixed_ape_224")


@pytest.mark.parametrize("name", [*ROTARY, "vit_pe_core_tiny_patch16_384"])
def test_rotary_positions_are_refused_as_no_tensor_describes_them(name):
    with pytest.raises(CheckpointError, match="Its positions are rotary") as caught:
        infer(timm_names(meta_network(name, depth=1).state_dict()))  # with the names of a plain ViT
    assert len(caught.value.lines) == 3


def test_words_and_pixels_choose_among_networks_of_the_same_tensors():
    clip = meta_network("vit_base_patch16_clip_224").state_dict()
    for hint, quick in (("ViT-B-16-openai", True), ("b16-QuickGELU", True), ("laion2b", False)):
        found = infer(clip, hint=hint)
        assert ("quickgelu" in found.tag) is quick and (found.architecture.activation == "quick_gelu") is quick
    for name in ("vit_base_patch16_224", "vit_base_patch16_384"):
        assert infer(meta_network(name).state_dict(), hint="").tag.startswith(name)
    tiny = meta_network("vit_tiny_patch16_224", depth=1).state_dict()
    two = infer({**tiny, "pre_logits.weight": torch.empty(10, 192, device="meta")}, hint="")
    assert (two.architecture.pre_logits, infer(tiny, hint="").architecture.pre_logits) == (10, 0)


def test_what_the_caller_knows_is_not_told_from_the_tensors():
    net = meta_network("vit_tiny_patch16_224", embed_dim=192, num_heads=6, depth=2, num_classes=0)
    found = infer(net.state_dict(), num_heads=6)
    assert found.architecture.kwargs["num_heads"] == 6 and "num_heads" not in found.assumed
    square = meta_network("vit_tiny_patch16_224", img_size=64, depth=1)  # 17 rows: one and sixteen
    assert infer(square.state_dict(), no_embed_class=False).grid == (4, 4)
    with pytest.raises(CheckpointError, match=re.escape("17 position embeddings (1 prefix tokens) form no square")):
        infer(square.state_dict(), no_embed_class=True)


@pytest.mark.parametrize("gone", ["patch_embed.proj.weight", "blocks.0.norm1.weight"])
def test_what_is_no_transformer_is_refused(gone):
    state = meta_network("test_vit").state_dict()
    del state[gone]
    with pytest.raises(CheckpointError, match="no Vision Transformer"):
        infer(state)


@pytest.mark.parametrize("gone", ["blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "blocks.0.attn.qkv.weight"])
def test_other_blocks_are_refused(gone):
    state = meta_network("test_vit").state_dict()
    del state[gone]
    with pytest.raises(CheckpointError, match="no 'attn\\.qkv'"):
        infer(state)


def test_a_hybrid_of_another_number_of_units_is_refused():
    state = meta_network("vit_small_r26_s32_224", depth=1).state_dict()
    less = {name: tensor for name, tensor in state.items() if ".stages.2.blocks.1." not in name}
    with pytest.raises(CheckpointError, match=re.escape("No hybrid with [2, 2, 1, 2] ResNet units")):
        infer(less)


def test_a_resnet_that_is_no_bit_model_is_refused():
    with pytest.raises(CheckpointError, match=re.escape("[2, 2, 2, 2]")):
        infer(meta_network("resnetv2_18").state_dict())
    state = meta_network("resnetv2_50x1_bit").state_dict()
    with pytest.raises(CheckpointError, match=re.escape("[3, 4, 5, 3]")):
        infer({k: v for k, v in state.items() if not k.startswith("stages.2.blocks.5.")})
    state = meta_network("resnetv2_50").state_dict()  # batch norm
    with pytest.raises(CheckpointError, match="no BiT model"):
        infer(state)
    with pytest.raises(CheckpointError):
        infer({k: v for k, v in meta_network("resnetv2_50x1_bit").state_dict().items() if not k.startswith("stages.0")})


@pytest.mark.parametrize(
    ("hint", "classes", "native", "half", "tag"),
    [
        ("", 1000, None, False, "augreg_in21k_ft_in1k"),
        ("B_16-i21k-300ep", 21843, None, True, "augreg_in21k"),
        ("ViT-B_16", 21843, None, True, "orig_in21k"),
        ("imagenet21k", 21843, None, False, "augreg_in21k"),
        ("vit_base_patch16_224.dino", 0, None, False, "dino"),
        ("vit_base_patch16_224.mae", 0, None, False, "mae"),
        ("sam", 1000, None, False, "sam_in1k"),
        ("x", 1000, (224, 224), True, "augreg_in21k_ft_in1k"),
    ],
)
def test_the_words_of_a_files_name_choose_its_release(hint, classes, native, half, tag):
    found = tags.closest_tag(["vit_base_patch16_224*"], hint, classes, native, half)
    assert found == f"vit_base_patch16_224.{tag}"
    assert tags.closest_tag(["no_such_*"], hint, classes, native, half) == ""


def test_the_resolution_and_the_head_choose_where_words_do_not():
    def of(classes: int, native: tuple[int, int]) -> str:
        return tags.closest_tag(["vit_base_patch16_[0-9][0-9][0-9]"], "", classes, native, True)

    assert of(1000, (384, 384)).startswith("vit_base_patch16_384.augreg_in21k_ft_in1k")
    assert of(1000, (224, 224)).startswith("vit_base_patch16_224.augreg_in21k_ft_in1k")
    assert of(21843, (224, 224)) == "vit_base_patch16_224.augreg_in21k"


@pytest.mark.parametrize(("hidden", "width"), [(256, 64), (4304, 1152), (633, 192), (1, 3), (8192, 1408), (2047, 768)])
def test_the_width_of_an_mlp_is_a_ratio_that_timm_turns_back(hidden, width):
    from vitft.models.architecture import _ratio

    found = _ratio(hidden, width)
    assert int(width * found) == hidden
    assert found == (hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width)


def test_heads_that_do_not_divide_the_width_and_a_stem_that_no_bit_model_has_are_refused():
    state = meta_network("vit_tiny_patch16_224", embed_dim=192, depth=1).state_dict()
    with pytest.raises(CheckpointError, match="A width of 192 cannot be split into 5 heads"):
        infer(state, num_heads=5)
    assert infer(state, num_heads=4).architecture.kwargs["num_heads"] == 4
    state = meta_network("resnetv2_152x2_bit").state_dict()
    assert infer(state).architecture.name == "resnetv2_152x2_bit"
    with pytest.raises(CheckpointError, match="No BiT model has a stem of 96 channels"):
        infer({**state, "stem.conv.weight": state["stem.conv.weight"][:96]})


def test_a_network_that_cannot_be_built_without_storage_is_built_with_it(monkeypatch):
    calls: list[str] = []
    real = timm.create_model

    def create(name, **kwargs):
        calls.append(str(torch.empty(0).device))
        if len(calls) == 1:
            raise RuntimeError("Tensor on device cpu is not on the expected device meta!")
        return real(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    net = meta_network("test_vit", num_classes=3)
    assert calls == ["meta", "cpu"] and next(net.parameters()).device.type == "cpu" and net.head.out_features == 3
    assert torch.equal(before, torch.get_rng_state())

    def broken(name, **kwargs):
        raise RuntimeError("no such network")

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(RuntimeError, match="no such network"):
        meta_network("test_vit")


@pytest.mark.parametrize(
    ("width", "heads"),
    [(1152, 16), (1280, 16), (1408, 16), (1664, 16), (1792, 16), (64, 2), (192, 3), (768, 12), (1536, 24), (32, 1)],
)
def test_heads_that_no_tensor_tells_are_the_usual_ones_of_a_width(width, heads):
    from vitft.models.architecture import _heads

    assert _heads({}, width, 0) == (heads, ("num_heads",)) and _heads({}, width, 4) == (4, ())
    norm = {"blocks.0.attn.q_norm.weight": torch.zeros(width // 2)}
    assert _heads(norm, width, 0) == (2, ())


SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 1, "num_heads": 2, "num_classes": 7}
TOLD = ("num_heads", "norm_eps", "activation", "pool", "grid")


@pytest.mark.parametrize(
    ("kwargs", "how", "assumed", "said"),
    [
        ({}, {}, TOLD, (1e-6, "gelu")),
        ({}, {"half": True}, (), (1e-6, "gelu")),
        ({}, {"num_heads": 4}, TOLD[1:], (1e-6, "gelu")),
        ({}, {"grid": (2, 8)}, TOLD[:-1], (1e-6, "gelu")),
        ({"class_token": False, "global_pool": "avg"}, {}, (*TOLD[:3], "grid"), (1e-6, "gelu")),
        ({"pre_norm": True}, {}, TOLD, (1e-5, "gelu")),
        ({"pre_norm": True}, {"hint": "ViT-OpenAI.bin"}, TOLD, (1e-5, "quick_gelu")),
        ({"pre_norm": True}, {"hint": "a_QuickGELU"}, TOLD, (1e-5, "quick_gelu")),
        ({}, {"hint": "openai"}, TOLD, (1e-6, "gelu")),
    ],
)
def test_what_no_tensor_tells_is_assumed_and_said_to_be(kwargs, how, assumed, said):
    for channels in (3, 1):
        net = meta_network("vit_tiny_patch16_224", **SMALL, in_chans=channels, **kwargs)
        found = infer(net.state_dict(), **how)
        assert (found.assumed, found.channels, found.patch) == (assumed, channels, (16, 16))
        assert (found.architecture.norm_eps, found.architecture.activation) == said
        assert found.grid == how.get("grid", (4, 4))


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "resnetv2_50x1_bit"])
def test_the_channels_of_images_are_those_of_the_first_convolution(name):
    net = meta_network(name, in_chans=5)
    assert infer(net.state_dict()).channels == 5


@pytest.mark.parametrize("name", ["deit3_base_patch16_384", "deit3_base_patch16_224"])
def test_a_nameless_file_has_the_tag_of_its_resolution(name):
    net = meta_network(name)
    assert infer(net.state_dict()).tag.split(".")[0] == name


@pytest.mark.parametrize(
    ("tokens", "prefix", "bare", "registers", "said", "expected"),
    [
        (10, 1, None, False, None, ((3, 3), False)),
        (9, 1, None, False, None, ((3, 3), True)),  # the class token has no position
        (9, 5, None, False, None, ((2, 2), False)),
        (9, 5, None, True, None, ((3, 3), True)),  # registers usually have none
        (14, 5, None, True, None, ((3, 3), False)),
        (9, 5, False, True, None, ((2, 2), False)),
        (9, 5, True, False, None, ((3, 3), True)),
        (9, 0, None, False, None, ((3, 3), False)),
        (11, 1, None, False, (2, 5), ((2, 5), False)),
        (10, 1, None, False, (5, 2), ((5, 2), True)),
        (1, 1, None, False, None, ((1, 1), True)),
        (5, 5, None, True, None, None),
        (10, 1, None, False, (2, 4), None),
        (9, 0, True, False, (9, 2), None),
    ],
)
def test_position_embeddings_are_prefix_tokens_and_a_grid(tokens, prefix, bare, registers, said, expected):
    from vitft.models.architecture import _grid

    if expected is None:
        with pytest.raises(CheckpointError, match=f"Its {tokens} position embeddings"):
            _grid(tokens, prefix, bare, registers, said)
    else:
        assert _grid(tokens, prefix, bare, registers, said) == expected


def test_patch_grid_and_the_pixels_that_are_used():
    def of(**embed: Any) -> Any:
        return geometry(SimpleNamespace(patch_embed=SimpleNamespace(**embed)), (65, 97))

    assert of(grid_size=(3, 5), patch_size=(8, 16)) == ((8, 16), (3, 5), (24, 80))
    assert of(grid_size=(3, 5), patch_size=(1, 2), feature_ratio=(8, 16)) == ((8, 32), (3, 5), (65, 97))
    assert of() == geometry(SimpleNamespace(), (65, 97)) == ((32, 32), (3, 4), (65, 97))
