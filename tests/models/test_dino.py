"""DINOv2 and DINOv3 as their owners and the transformers library keep them answer as timm's networks do.

Names and shapes are those of facebookresearch/dinov3 and of the library's save_pretrained, its versions 4 and 5. Of all
kinds the features were also equal to the library's own models to 3e-6, on 2026-11-27 with its version 5.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.library import apart, folder, spelled
from vitft.errors import CheckpointError
from vitft.models.build import build
from vitft.models.loading import load
from vitft.settings import Settings

SMALL, PLUS = "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"


def drawn(name: str, **keys: Any) -> nn.Module:
    torch.manual_seed(1)
    net = timm.create_model(name, depth=2, num_classes=0, **keys).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def features(net: nn.Module, size: tuple[int, int]) -> Tensor:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out: Tensor = net.eval().forward_features(x)  # type: ignore[operator]
    return out


def same(path: Path, net: nn.Module, size: tuple[int, int]) -> Any:
    built = build(str(path), 3, Settings(resolution=size))
    assert torch.allclose(features(built.net, size), features(net, size), atol=1e-5)
    return built.info


# --- DINOv3 ----------------------------------------------------------------------------------------------------------


def own(net: Any) -> dict[str, Tensor]:
    """Return a DINOv3's tensors as its owner's files have them: the bias of keys is not a number, and masked."""
    state: dict[str, Tensor] = {}
    gated = hasattr(net.blocks[0].mlp, "fc1_g")
    words = {
        "reg_token": "storage_tokens",
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
        "fc1_g": "w1",
        "fc1_x": "w2",
    }
    words |= {"mlp.fc2": "mlp.w3"} if gated else {}
    for name, tensor in net.state_dict().items():
        state[spelled(name, words)] = tensor
    for i in range(len(net.blocks)):
        bias = [state.pop(f"blocks.{i}.attn.{part}_bias", torch.zeros(net.embed_dim)) for part in "qv"]
        none, one = torch.full_like(bias[0], torch.nan), torch.ones(net.embed_dim)
        state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([bias[0], none, bias[1]])
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([one, 0 * one, one])
    quarter = net.embed_dim // net.blocks[0].attn.num_heads // 4
    periods = [100 ** (2 * i / (2 * quarter)) for i in range(quarter)]
    return state | {"rope_embed.periods": torch.tensor(periods).bfloat16(), "mask_token": torch.zeros(1, net.embed_dim)}


@pytest.mark.parametrize("name", [SMALL, f"{SMALL}_qkvb", PLUS, f"{PLUS}_qkvb", "vit_base_patch16_dinov3"])
def test_its_own_file_is_timms_network(tmp_path: Path, name: str) -> None:
    net = drawn(name)
    path = tmp_path / "dinov3_pretrain_lvd1689m-1.pth"
    torch.save(own(net), path)
    for size in ((48, 48), (32, 64)):
        info = same(path, net, size)
    assert (info.architecture.name, info.timm_name) == (name, f"{name}.lvd1689m")
    assert info.mean == (0.485, 0.456, 0.406) and info.assumed == ("mean", "std", "crop_pct", "interpolation", "pool")


def test_what_it_was_trained_on_is_told_by_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"
    torch.save(own(drawn("vit_large_patch16_dinov3")), path)
    assert load(str(path)).info.mean == (0.43, 0.411, 0.296)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_embed.periods": torch.tensor([10_000 ** (i / 16) for i in range(16)])}, "16 from 1 to 5.62e+03"),
        ({"rope_embed.periods": torch.ones(16)}, "other periods"),
        ({"patch_embed.proj.weight": torch.zeros(384, 3, 14, 14)}, "patches of 14x14"),
    ],
)
def test_another_network_under_its_names_is_refused(tmp_path: Path, change: dict[str, Tensor], says: str) -> None:
    torch.save(own(drawn(SMALL)) | change, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=re.escape(says)):
        load(str(tmp_path / "x.pth"))


V3 = {"model_type": "dinov3_vit", "image_size": 64, "patch_size": 16, "num_attention_heads": 6, "hidden_size": 384,
      "num_hidden_layers": 2, "num_register_tokens": 4, "rope_theta": 100.0, "layer_norm_eps": 1e-5}  # fmt: skip


def library_v3(net: Any, version: int) -> dict[str, Tensor]:
    words = {"storage_tokens": "embeddings.register_tokens", "patch_embed.proj": "embeddings.patch_embeddings",
             "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token", "mlp.w1": "mlp.gate_proj",
             "mlp.w2": "mlp.up_proj", "mlp.w3": "mlp.down_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj",
             "attn.proj": "attention.o_proj", "blocks.": "layer." if version == 4 else "model.layer."}  # fmt: skip
    state: dict[str, Tensor] = {}
    for name, tensor in own(net).items():
        if name.startswith("rope") or name.endswith("bias_mask"):
            continue
        name = re.sub(r"ls([12])\.gamma", r"layer_scale\1.lambda1", name)
        state |= apart(spelled(name, words), tensor, [f"attention.{part}_proj" for part in "qkv"])
    return {name: tensor for name, tensor in state.items() if not name.endswith("k_proj.bias")}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", [SMALL, f"{PLUS}_qkvb"])
def test_its_folder_of_the_transformers_library_is_timms_network(tmp_path: Path, name: str, version: int) -> None:
    net, act = drawn(name), "silu" if "plus" in name else "gelu"
    stamp = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    path = folder(tmp_path / "page", library_v3(net, version), {**V3, "hidden_act": act}, stamp)
    info = same(path, net, (64, 32))
    assert (info.architecture.name, info.native, info.mean) == (name, (64, 64), (0.1, 0.2, 0.3))
    assert info.interpolation == "bilinear" and info.crop_pct == 1.0 and info.assumed == ("pool",)


@pytest.mark.parametrize(
    "change",
    [{"rope_theta": 10000.0}, {"hidden_act": "silu"}, {"layer_norm_eps": 1e-6}, {"num_register_tokens": 0},
     {"num_attention_heads": 7}, {"num_hidden_layers": 3}, {"patch_size": 14}],
)  # fmt: skip
def test_a_config_of_another_network_is_refused_by_its_key(tmp_path: Path, change: dict[str, object]) -> None:
    path = folder(tmp_path / "page", library_v3(drawn(SMALL), 4), {**V3, "hidden_act": "gelu", **change})
    with pytest.raises(CheckpointError, match=next(iter(change))):
        load(str(path))


@pytest.mark.parametrize("lost", ["k_proj", "patch_embeddings", "layer.0.norm1", "layer.0.mlp", "layer.", "register"])
def test_a_file_that_lost_some_tensors_is_an_error(tmp_path: Path, lost: str) -> None:
    state = {name: tensor for name, tensor in library_v3(drawn(SMALL), 4).items() if lost not in name}
    with pytest.raises(CheckpointError) as caught:
        load(str(folder(tmp_path / "page", state, {**V3, "hidden_act": "gelu"})))
    assert "num_attention_heads" not in caught.value.lines[0]  # which is right


# --- DINOv2 ----------------------------------------------------------------------------------------------------------


def library_v2(net: Any, version: int) -> dict[str, Tensor]:
    """Return a DINOv2's tensors by the library's names; positions begin with the class token's, as in its own files."""
    gated = net.blocks[0].mlp.fc2.weight.shape[1] * 2 == net.blocks[0].mlp.fc1.weight.shape[0]
    inner = "attention.attention." if version == 4 else "attention."
    words = {"patch_embed.proj": "embeddings.patch_embeddings.projection",
             "pos_embed": "embeddings.position_embeddings", "cls_token": "embeddings.cls_token",
             "reg_token": "embeddings.register_tokens",
             "attn.proj": "attention.output.dense" if version == 4 else "attention.o_proj",
             "blocks.": "encoder.layer."}  # fmt: skip
    if gated:
        words |= {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out" if version == 4 else "mlp.down_proj"}
    state = {"embeddings.mask_token": torch.zeros(1, net.embed_dim)}
    tensors = dict(net.state_dict())
    if "reg_token" in tensors:
        position = torch.randn(1, 1, net.embed_dim, generator=torch.Generator().manual_seed(3))
        tensors["cls_token"] = tensors["cls_token"] - position
        tensors["pos_embed"] = torch.cat([position, tensors["pos_embed"]], dim=1)
    for name, tensor in tensors.items():
        name = re.sub(r"ls([12])\.gamma", r"layer_scale\1.lambda1", name)
        name = "layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        name = spelled(name, words)
        thirds = {4: ("query", "key", "value"), 5: ("q_proj", "k_proj", "v_proj")}[version]
        if "weights_in" in name and version == 5:
            for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
                state[name.replace("weights_in", part)] = half.clone()
        else:
            state |= apart(name, tensor, [f"{inner}{part}" for part in thirds])
    return state


KINDS = {
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2_with_registers": ("vit_small_patch14_reg4_dinov2", {}),
    "gated": ("vit_giant_patch14_dinov2", {"embed_dim": 384, "num_heads": 6}),
}
BIT = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def page(path: Path, kind: str, version: int, stamp: Any = BIT, **more: Tensor) -> tuple[Path, nn.Module]:
    name, keys = KINDS[kind]
    net = drawn(name, img_size=56, **keys)
    config = {"model_type": kind.replace("gated", "dinov2"), "image_size": 56, "patch_size": 14, "hidden_size": 384,
              "num_attention_heads": 6, "num_hidden_layers": 2, "use_swiglu_ffn": kind == "gated",
              "hidden_act": "gelu", "layer_norm_eps": 1e-6}  # fmt: skip
    return folder(path, library_v2(net, version) | more, config, stamp), net


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_dinov2_of_the_transformers_library_is_timms_network(tmp_path: Path, kind: str, version: int) -> None:
    path, net = page(tmp_path / "page", kind, version)
    info = same(path, net, (56, 56))
    assert (info.native, info.grid, info.assumed) == ((56, 56), (4, 4), ())
    # 256 and 224 pixels, in proportion: its networks read any size.
    assert (info.before, info.crop_mode, info.mean) == ((64, 64), "center", (0.485, 0.456, 0.406))
    assert any("prepares images of 224 pixels" in note for note in info.notes)


def test_dinov2_without_its_preprocessor_is_prepared_as_dinov2(tmp_path: Path) -> None:
    info = load(str(page(tmp_path / "page", "dinov2", 4, stamp=None)[0])).info
    assert (info.mean, info.before) == ((0.485, 0.456, 0.406), (64, 64)) and not info.notes
    assert info.assumed == ("mean", "std", "crop_pct", "interpolation")


def test_a_classifier_of_class_token_and_mean_is_left_out_and_told(tmp_path: Path) -> None:
    head = {"classifier.weight": torch.ones(5, 768), "classifier.bias": torch.ones(5)}
    path, net = page(tmp_path / "page", "dinov2", 4, **head)
    info = same(path, net, (56, 56))
    assert any("its classifier reads the class token beside the mean" in note for note in info.notes)
    assert load(str(path)).info.num_classes == 0
