"""LoRA adapters of the peft library; the expected network adds B A x beside each layer and merges nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights import State, a, b, config_of, drawn, hf_names, is_network, opened, refused
from vitft.protocol.jobs import model_sha256


def adapter(folder: Path, factors: State, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    usual = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": "../base"}
    (folder / "adapter_config.json").write_text(json.dumps({**usual, **config}))
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def pair(rank: int, width: int, height: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator) / 8, torch.randn(height, rank, generator=generator) / 8


# The base's folder, the module that an adapter names and the layer of timm's network: whole, or a third of its rows.
LAYERS: dict[str, dict[str, tuple[str, int | None]]] = {
    "timm": {"blocks.0.attn.qkv": ("blocks.0.attn.qkv", None), "blocks.1.mlp.fc1": ("blocks.1.mlp.fc1", None)},
    "transformers": {
        "vit.encoder.layer.0.attention.attention.query": ("blocks.0.attn.qkv", 0),
        "vit.encoder.layer.0.attention.attention.value": ("blocks.0.attn.qkv", 2),
        "vit.encoder.layer.1.intermediate.dense": ("blocks.1.mlp.fc1", None),
    },
    "transformers 5": {
        "vit.layers.0.attention.k_proj": ("blocks.0.attn.qkv", 1),
        "vit.layers.1.attention.o_proj": ("blocks.1.attn.proj", None),
        "vit.layers.1.mlp.fc2": ("blocks.1.mlp.fc2", None),
    },
}


def base(folder: Path, spelling: str) -> Path:
    folder.mkdir()
    config = {"model_type": "vit", "num_attention_heads": 2, "image_size": 32, "layer_norm_eps": 1e-6}
    save_file(a if spelling == "timm" else hf_names(a), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of() if spelling == "timm" else config))
    return folder


def beside(layer: nn.Module, down: Tensor, up: Tensor, scale: float, third: int | None) -> None:
    """Add scale * B (A x) to what a layer answers, as a network with an adapter does that is not merged."""

    def add(_module: nn.Module, args: Any, out: Tensor) -> Tensor:
        added = scale * (args[0] @ down.T) @ up.T
        if third is None:
            return out + added
        return out + nn.functional.pad(added, (64 * third, 64 * (2 - third)))

    layer.register_forward_hook(add)


@pytest.mark.parametrize("spelling", LAYERS)
@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({}, 4, 6 / 4),
        ({"use_rslora": True}, 4, 6 / 2),
        ({"rank_pattern": {".*": 2}, "alpha_pattern": {".*": 10}}, 2, 10 / 2),
        ({"rank_pattern": {"layers.7": 9}, "lora_alpha": 1}, 4, 1 / 4),
    ],
)
def test_a_lora_adapter_is_merged_into_its_base(tmp_path, spelling, config, rank, scale):
    base(tmp_path / "base", spelling)
    net = drawn(1)
    factors: State = {}
    for seed, (name, (layer, third)) in enumerate(LAYERS[spelling].items()):
        module = net.get_submodule(layer)
        height = module.out_features if third is None else module.out_features // 3
        down, up = pair(rank, module.in_features, height, seed)
        factors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
        beside(module, down, up, scale, third)
    folder = adapter(tmp_path / "adapter", factors, **config)
    info = is_network(folder, net)
    layers = {layer for layer, _ in LAYERS[spelling].values()}
    assert f"LoRA adapter adapter merged into {len(layers)} tensors of" in "".join(info.notes)
    assert (info.name, info.path) == (str(folder), str(folder / "adapter_model.safetensors"))
    is_network(folder / "adapter_model.safetensors", net)
    is_network(f"{folder}::base={tmp_path / 'base'}", net)
    before = model_sha256(str(folder))
    with (tmp_path / "base" / "config.json").open("a") as file:
        file.write("\n")
    assert model_sha256(str(folder)) != before


def test_a_transposed_and_a_convolutional_layer(tmp_path):
    """fan_in_fan_out: the product is of the stored weight's transpose. A convolution's factors are convolutions."""
    base(tmp_path / "base", "timm")
    down, up = pair(4, 64, 64, 1)
    kernel = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) / 8
    names = [f"base_model.model.{name}.lora_" for name in ("blocks.0.attn.proj", "patch_embed.proj")]
    state = {name: tensor.clone() for name, tensor in a.items()}
    net = drawn(1)
    state["blocks.0.attn.proj.weight"] += 1.5 * (up @ down).T
    net.load_state_dict(state)
    factors = {f"{names[0]}A.weight": down, f"{names[0]}B.weight": up}
    is_network(adapter(tmp_path / "adapter", factors, fan_in_fan_out=True), net)

    net = drawn(1)
    net.patch_embed.proj.register_forward_hook(
        lambda module, args, out: (
            out
            + 1.5
            * nn.functional.conv2d(nn.functional.conv2d(args[0], kernel, stride=module.stride), up[..., None, None])
        )
    )
    factors = {f"{names[1]}A.weight": kernel, f"{names[1]}B.weight": up[..., None, None].contiguous()}
    is_network(adapter(tmp_path / "adapter", factors), net)


def test_biases_saved_with_an_adapter(tmp_path):
    base(tmp_path / "base", "transformers")
    down, up = pair(4, 64, 64, 1)
    name = "base_model.model.vit.layers.0.attention.v_proj"
    bias = torch.linspace(-1, 1, 64)
    net = drawn(1)
    with torch.no_grad():
        net.blocks[0].attn.qkv.weight[128:] += 1.5 * up @ down
        net.blocks[0].attn.qkv.bias[128:] = bias
    factors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.base_layer.bias": bias}
    is_network(adapter(tmp_path / "adapter", factors, bias="lora_only"), net)


def test_a_saved_head_comes_with_its_adapter(tmp_path):
    (tmp_path / "base").mkdir()
    headless = {name: tensor for name, tensor in hf_names(a, "").items() if "classifier" not in name}
    save_file(headless, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 2}))
    down, up = pair(4, 64, 64, 1)
    name = "base_model.model.vit.encoder.layer.0.attention.attention.key"
    factors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    factors |= {f"base_model.model.classifier.{kind}": b[f"head.{kind}"] for kind in ("weight", "bias")}
    state = {n: t.clone() for n, t in a.items()} | {n: b[n] for n in ("head.weight", "head.bias")}
    state["blocks.0.attn.qkv.weight"][64:128] += 1.5 * up @ down
    net = drawn(1)
    net.load_state_dict(state)
    info = is_network(adapter(tmp_path / "adapter", factors, modules_to_save=["classifier"]), net)
    assert info.num_classes == 5
    factors |= {
        "base_model.model.classifier.weight": b["head.weight"][:3].clone(),
        "base_model.model.classifier.bias": b["head.bias"][:3].clone(),
    }
    assert opened(adapter(tmp_path / "adapter", factors)).info.num_classes == 3


def test_adapters_that_cannot_be_merged_are_named(tmp_path):
    down, up = pair(4, 64, 192, 1)
    factors = {"base_model.model.blocks.0.attn.qkv.lora_A.weight": down}
    factors["base_model.model.blocks.0.attn.qkv.lora_B.weight"] = up
    folder = adapter(tmp_path / "adapter", factors, base_model_name_or_path="/nowhere/base")
    refused(folder, "LoRA adapter", "/nowhere/base", f"{folder}::base=MODEL")
    refused(f"{folder}::model", "LoRA adapter", "::base=MODEL")
    torch.save(a, tmp_path / "base.pth")
    named = f"{folder}::base={tmp_path / 'base.pth'}"
    opened(named)
    adapter(folder, factors, use_dora=True)
    refused(named, "DoRA")
    adapter(folder, factors, init_lora_weights="pissa_niter_4")  # its start was taken out of the base
    refused(named, "init_lora_weights pissa_niter_4")
    for begun in ("pissa", "PiSSA", "olora", "corda", "loftq"):
        adapter(folder, factors, init_lora_weights=begun)
        refused(named, f"init_lora_weights {begun.lower()}")
    for key in ("use_qalora", "layer_replication", "alora_invocation_tokens", "target_parameters"):
        adapter(folder, factors, **{key: [[0, 1], [0, 2]]})
        refused(named, f"not merged here: {key}.", "merge_and_unload")
    adapter(folder, factors, use_qalora=True, use_dora=True, init_lora_weights="pissa")
    refused(named, "not merged here: DoRA.")
    for harmless in (True, "gaussian", "eva"):
        adapter(folder, factors, init_lora_weights=harmless)
        opened(named)
    adapter(folder, {**factors, "base_model.model.blocks.0.attn.qkv.lora_magnitude_vector": up.clone()})
    refused(named, "DoRA")
    adapter(folder, factors, peft_type="IA3")
    refused(named, "IA3")
    adapter(folder, {"base_model.model.blocks.7.attn.qkv.lora_A.weight": down.clone()} | factors)
    refused(named, "lacks the other")
    adapter(folder, {name.replace("qkv", "proj"): tensor for name, tensor in factors.items()})
    refused(named, "does not fit its base")
    (folder / "adapter_config.json").unlink()
    refused(folder / "adapter_model.safetensors", "LoRA adapter without its adapter_config.json")


def test_a_base_is_what_the_user_says_or_lies_beside_or_the_config_names(tmp_path):
    from vitft.errors import UnknownName
    from vitft.models import adapters
    from vitft.models.loading import load

    own = load(str(base(tmp_path / "base", "timm")))
    down, up = pair(4, 64, 192, 1)
    name = "base_model.model.blocks.0.attn.qkv.lora_"
    factors = {f"{name}A.weight": down, f"{name}B.weight": up}

    def asked(word: str = "", **config: Any) -> str:
        seen: list[str] = []
        adapters.merged(adapter(tmp_path / "adapter", factors, **config), word, lambda m: seen.append(m) or own)
        return seen[0]

    for named in ((), tuple("abcde")):
        found = adapters.merged(
            adapter(tmp_path / "adapter", factors), "base=x", lambda m, named=named: replace(own, class_names=named)
        )
        assert found.class_names == named, "the head is the base's own, and so are its classes"
    assert asked("base=other", base_model_name_or_path="x/y") == "other"
    assert asked("base=its/place", base_model_name_or_path="x/y") == "its/place"
    assert asked(base_model_name_or_path="google/vit") == "hf-hub:google/vit"
    assert asked(base_model_name_or_path="vit-mini") == "vit-mini"
    assert asked(base_model_name_or_path="a/b/c") == "a/b/c"
    folder = adapter(tmp_path / "adapter", factors, base_model_name_or_path=None)
    refused(folder, "base '?' cannot be opened: Its config names no base.")
    for word in ("bass=x", "base=", "base"):
        with pytest.raises(Exception, match="means nothing for a LoRA adapter"):
            adapters.merged(folder, word, lambda m: own)

    def unknown(model: str) -> Any:
        raise UnknownName("model", model, ["a"])

    with pytest.raises(Exception, match=r"'x' cannot be opened: Unknown model 'x'"):
        adapters.merged(folder, "base=x", unknown)


def test_tensors_of_an_adapter_that_fit_nothing_are_named(tmp_path):
    base(tmp_path / "base", "timm")
    down, up = pair(4, 64, 192, 1)
    folder = adapter(tmp_path / "adapter", {"x.lora_C.weight": down})
    refused(folder, "'x.lora_C.weight'")
    adapter(folder, {"base_model.model.blocks.9.attn.qkv.lora_A.weight": down,
                     "base_model.model.blocks.9.attn.qkv.lora_B.weight": up})  # fmt: skip
    refused(folder, "adapts 'blocks.9.attn.qkv.weight', which its base has not")
    save_file({}, folder / "adapter_model.safetensors")
    refused(folder, "holds no LoRA factors")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "LoRA adapter without its weights", "adapter_model.safetensors beside its config")
