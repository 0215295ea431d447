"""What each method trains, LoRA's identities, the optimiser's groups."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vitft import recipes
from vitft.errors import UsageError
from vitft.models.build import build
from vitft.models.meta import meta_network
from vitft.models.methods import LoraLinear, apply, head_names, merged_state, parameter_groups
from vitft.settings import Settings

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


def network(**kwargs: Any) -> Any:
    return build("timm:test_vit", 3, Settings(resolution=32, **kwargs), from_scratch=True).net.eval()


def merge(net: torch.nn.Module) -> None:
    """Fold every LoRA update into its weight, in place; the network is then as it was before `apply`, but trained."""
    with torch.no_grad():
        for name, module in list(net.named_modules()):
            if isinstance(module, LoraLinear):
                plain = torch.nn.Linear(
                    module.in_features, module.out_features, bias=module.bias is not None, device="meta"
                )
                plain.weight, plain.bias = torch.nn.Parameter(module.merged()), module.bias
                plain.train(module.training)
                net.set_submodule(name, plain)


def trained(net: torch.nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def step(net: torch.nn.Module, settings: Settings, images: torch.Tensor = IMAGES) -> None:
    optimizer = torch.optim.SGD(parameter_groups(net, settings), lr=0.5)
    for _ in range(2):  # the first moves the zero head alone, the second what lies below it
        optimizer.zero_grad()
        F.cross_entropy(net(images), LABELS).backward()
        optimizer.step()


def changed(before: dict[str, torch.Tensor], net: torch.nn.Module) -> set[str]:
    return {name for name, tensor in merged_state(net).items() if not torch.equal(tensor, before[name])}


def test_what_each_method_trains():
    everything = {name for name, _ in network().named_parameters()}
    for method, wanted in (
        ("full", everything),
        ("linear", {"head.weight", "head.bias"}),
        ("bias", {name for name in everything if name.endswith("bias")} | {"head.weight"}),
    ):
        net = network()
        before = copy.deepcopy(net.state_dict())
        settings = Settings(method=method)
        apply(net, settings)
        assert trained(net) == wanted
        step(net, settings)
        assert changed(before, net) <= wanted
        if method != "full":
            # a key's bias shifts all scores of a query alike: softmax never sees it, but q's and v's parts move
            assert changed(before, net) == wanted


def test_lora_at_zero_changes_nothing_and_merged_equals_unmerged():
    net, images = network().double(), IMAGES.double()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        plain = net.forward_features(images)
    settings = Settings(method="lora", lora_rank=4, lora_alpha=8.0)
    apply(net, settings, seed=3)
    layers = [module for module in net.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 2 * len(net.blocks)
    assert all(layer.scale == 2.0 and layer.lora_a.shape[0] == 4 and layer.lora_a.std() > 0 for layer in layers)
    assert trained(net) == {name for name, _ in net.named_parameters() if ".lora_" in name or name.startswith("head")}
    with torch.no_grad():
        assert torch.equal(net.forward_features(images), plain)
    step(net, settings, images)
    wanted = {f"blocks.{i}.attn.{part}.weight" for i in range(len(net.blocks)) for part in ("qkv", "proj")}
    assert changed(before, net) == wanted | {"head.weight", "head.bias"}
    with torch.no_grad():
        unmerged = net(images)
        exported = merged_state(net)
        merge(net)
        assert not any(isinstance(module, LoraLinear) for module in net.modules())
        torch.testing.assert_close(net(images), unmerged, atol=1e-10, rtol=0)
    assert set(net.state_dict()) == set(before) == set(exported)
    assert all(torch.equal(tensor, exported[name]) for name, tensor in net.state_dict().items())


def test_lora_is_drawn_from_its_seed_alone():
    def drawn(*seed: int) -> torch.Tensor:
        torch.manual_seed(torch.initial_seed() + 1)
        net = network()
        apply(net, Settings(method="lora"), **({"seed": seed[0]} if seed else {}))
        return net.blocks[1].attn.proj.lora_a

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(), drawn(0))


@pytest.mark.parametrize("model", ["timm:vit_small_patch16_dinov3", "timm:vit_small_patch16_dinov3_qkvb"])
def test_lora_reaches_rotary_attention(model):
    kwargs = {"resolution": 32, "method": "lora"}
    net = build(model, 3, Settings(**kwargs), from_scratch=True).net
    apply(net, Settings(**kwargs))
    assert sum(isinstance(module, LoraLinear) for module in net.modules()) >= len(net.blocks)
    with torch.no_grad():
        net.head.weight.normal_()
    F.cross_entropy(net(IMAGES), LABELS).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_lora_needs_attention():
    net = build("timm:resnetv2_50x1_bit", 3, Settings(resolution=32), from_scratch=True).net
    assert head_names(net) == {"head.fc.weight", "head.fc.bias"}
    with pytest.raises(UsageError, match="finds no layers 'proj, qkv' to change in this ResNetV2"):
        apply(net, Settings(method="lora"))
    groups = parameter_groups(net, Settings(layer_decay=0.5))
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scale["head.fc.weight"] == 1
    assert scale["stages.3.blocks.0.conv1.weight"] == 0.5
    assert scale["stages.0.blocks.0.conv1.weight"] == 0.5**4
    assert scale["stem.conv.weight"] == 0.5**5


def test_groups_decay_matrices_alone_and_hold_every_trained_parameter_once():
    net = build("timm:vit_small_patch14_reg4_dinov2", 3, Settings(resolution=28), from_scratch=True).net
    groups = parameter_groups(net, Settings(weight_decay=0.1))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(names)
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert {"head.weight", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= decayed
    parameters = dict(net.named_parameters())
    assert all(parameters[name].ndim >= 2 for name in decayed)
    assert not decayed & {"pos_embed", "cls_token", "reg_token"}
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_layer_decay_falls_from_head_to_embeddings():
    net = network()
    depth = len(net.blocks)
    groups = parameter_groups(net, Settings(layer_decay=0.5))
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scale["head.weight"] == scale["norm.weight"] == 1
    for i in range(depth):
        assert scale[f"blocks.{i}.mlp.fc1.weight"] == 0.5 ** (depth - i)
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token"):
        assert scale[name] == 0.5 ** (depth + 1)


@pytest.mark.parametrize(
    ("name", "kwargs", "first", "last"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False},
         {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"},
         {"norm.weight", "attn_pool.latent", "head.bias"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "pre_norm": True},
         {"cls_token", "reg_token", "pos_embed", "norm_pre.weight", "norm_pre.bias"}, {"norm.bias", "head.weight"}),
        ("deit_tiny_distilled_patch16_224", {}, {"cls_token", "dist_token"}, {"head.bias", "head_dist.weight"}),
    ],
)  # fmt: skip
def test_tokens_do_not_decay_and_step_with_the_embeddings(name, kwargs, first, last):
    net = meta_network(name, depth=2, embed_dim=64, num_heads=1, num_classes=3, **kwargs)
    groups = parameter_groups(net, Settings(layer_decay=0.5, weight_decay=0.1))
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert {scale[name] for name in first} == {0.125} and {scale[name] for name in last} == {1.0}
    assert {scale[name] for name in scale if name.startswith("blocks.0")} == {0.25}
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert decayed == {name for name in scale if name.endswith("weight") and "norm" not in name}
    assert len(groups) == 2 * 4 and len(parameter_groups(net, Settings(weight_decay=0.1))) == 2
    assert len({(group["lr_scale"], group["weight_decay"]) for group in groups}) == 8


def test_frozen_parameters_are_in_no_group():
    net = network()
    settings = Settings(method="linear", layer_decay=0.5)
    apply(net, settings)
    assert {name for group in parameter_groups(net, settings) for name in group["names"]} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("targets", "rank", "closed_form"),
    [
        (("qkv",), 8, 12 * 8 * (768 + 3 * 768)),  # one update of the fused layer, as NOAH's: 294,912
        (("q", "v"), 8, 12 * 2 * 8 * (768 + 768)),  # two updates of the same size together
        (("qkv", "proj"), 8, 12 * 8 * (768 + 3 * 768 + 768 + 768)),
        (("fc1", "fc2"), 4, 12 * 2 * 4 * (768 + 3072)),
    ],
)
def test_lora_has_as_many_parameters_as_the_closed_form_says(targets, rank, closed_form):
    net = meta_network("vit_base_patch16_224", num_classes=0)
    net.blocks.to_empty(device="cpu")
    apply(net, Settings(method="lora", lora_targets=targets, lora_rank=rank))
    assert sum(p.numel() for name, p in net.named_parameters() if ".lora_" in name) == closed_form
    assert trained(net) == {name for name, _ in net.named_parameters() if ".lora_" in name}


def test_the_peft_recipe_adapts_the_fused_qkv_alone_as_its_published_rows_do():
    settings = recipes.load("vtab-peft").resolve("dtd")
    net = meta_network("vit_base_patch16_224", num_classes=47)
    net.blocks.to_empty(device="cpu")
    apply(net, settings)
    layers = {name for name, module in net.named_modules() if isinstance(module, LoraLinear)}
    assert layers == {f"blocks.{i}.attn.qkv" for i in range(12)}
    assert sum(p.numel() for name, p in net.named_parameters() if ".lora_" in name) == 294_912
    assert all(net.get_submodule(name).scale == 1 for name in layers)
    drawn = torch.stack([net.get_submodule(name).lora_a for name in sorted(layers)]).abs()
    # nn.init.kaiming_uniform_(weight, a=sqrt(5)) of a Linear(768, 8): sqrt(6 / ((1 + 5) * 768))
    assert 0.999 / 768**0.5 < drawn.max() <= 1 / 768**0.5
    assert drawn.mean().item() == pytest.approx(0.5 / 768**0.5, rel=0.02)


def test_lora_on_parts_of_the_fused_layer_changes_those_alone():
    net, images = network().double(), IMAGES.double()
    before = copy.deepcopy(net.state_dict())
    settings = Settings(method="lora", lora_targets=("q", "v"), lora_rank=2, lora_alpha=6.0, lora_init="normal")
    apply(net, settings, seed=3)
    layer, width = net.blocks[0].attn.qkv, net.blocks[0].attn.qkv.out_features // 3
    a, b = layer.lora_a.detach(), layer.lora_b.detach()
    assert b.abs().max() > 0
    wanted = torch.cat([b[:width] @ a[:2], torch.zeros_like(b[:width] @ a[:2]), b[width:] @ a[2:]]) * 3.0
    torch.testing.assert_close(layer.merged().detach() - before["blocks.0.attn.qkv.weight"], wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.eye(width).double()), layer.merged().T + layer.bias)
        unmerged = net(images)
        merge(net)
        torch.testing.assert_close(net(images), unmerged, atol=1e-10, rtol=0)


def test_lora_reaches_a_fused_layer_whose_bias_lies_beside_it():
    kwargs = {"resolution": 32, "method": "lora", "lora_targets": ("qkv",), "lora_init": "normal"}
    net = build("timm:vit_small_patch16_dinov3_qkvb", 3, Settings(**kwargs), from_scratch=True).net.eval().double()
    with torch.no_grad():
        plain = net.forward_features(IMAGES.double())
        apply(net, Settings(**kwargs))
        updated = net.forward_features(IMAGES.double())
        merge(net)
        assert (updated - plain).abs().max() > 1e-7  # drawn layer scales are small
        torch.testing.assert_close(net.forward_features(IMAGES.double()), updated, atol=1e-11, rtol=0)


@pytest.mark.parametrize("targets", [(), ("qkv", "q"), ("q", "q"), ("head",)])
def test_lora_targets_that_contradict_each_other_are_refused(targets):
    with pytest.raises(ValueError, match="lora_targets"):
        Settings(lora_targets=targets)
