"""The networks of CLIP and SigLIP that see, from folders of the transformers library, answer as timm's do.

Names and shapes are those of the library's save_pretrained; features were also equal to its own models to 5e-7, on
2026-11-27 with its version 5.
"""

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

SMALL: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 4, "img_size": 64, "patch_size": 16}
CONFIG: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "image_size": 64, "patch_size": 16}  # fmt: skip
KINDS = {"clip": "vit_base_patch32_clip_quickgelu_224", "siglip": "vit_base_patch16_siglip_224"}
WORDS = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm_pre": "pre_layrnorm",
    "blocks.": "encoder.layers.",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "attn_pool.latent": "head.probe",
    "attn_pool.proj": "head.attention.out_proj",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp": "head.mlp",
}


def drawn(kind: str) -> nn.Module:
    torch.manual_seed(1)
    act: dict[str, Any] = {"clip": {}, "siglip": {"act_layer": "gelu_tanh"}}[kind]  # the library's own; timm's is exact
    net = timm.create_model(KINDS[kind], num_classes=0, **SMALL, **act).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def tower(net: nn.Module) -> dict[str, Tensor]:
    """Return a timm network's tensors by the library's names."""
    state: dict[str, Tensor] = {}
    tensors = dict(net.state_dict())
    if "cls_token" in tensors:
        state["embeddings.class_embedding"] = tensors.pop("cls_token").flatten()
    state["embeddings.position_embedding.weight"] = tensors.pop("pos_embed")[0]
    state["embeddings.position_ids"] = torch.arange(len(state["embeddings.position_embedding.weight"]))[None]
    for part in ("weight", "bias"):
        if f"attn_pool.q.{part}" in tensors:
            joined = [tensors.pop(f"attn_pool.{one}.{part}") for one in ("q", "kv")]
            state[f"head.attention.in_proj_{part}"] = torch.cat(joined)
    for name, tensor in tensors.items():
        if name.startswith("norm."):
            name = f"post_layernorm.{name.removeprefix('norm.')}"
        state |= apart(spelled(name, WORDS), tensor, [f"self_attn.{letter}_proj" for letter in "qkv"])
    return {f"vision_model.{name}": tensor for name, tensor in state.items()}


def pooled(net: Any) -> Tensor:
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out: Tensor = net.eval().forward_head(net.forward_features(x), pre_logits=True)
    return out


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_that_sees_is_timms(tmp_path: Path, kind: str, whole: bool) -> None:
    net = drawn(kind)
    state, config = tower(net), {**CONFIG, "model_type": f"{kind}_vision_model"}
    if whole:  # with the network that reads beside it
        config = {"model_type": kind, "vision_config": CONFIG, "text_config": {"hidden_size": 8}, "projection_dim": 4}
        state |= {"text_model.embeddings.token_embedding.weight": torch.zeros(9, 8),
                  "visual_projection.weight": torch.zeros(4, 128), "logit_scale": torch.tensor(4.6)}  # fmt: skip
    path = folder(tmp_path / "page", state, config)
    built = build(str(path), 3, Settings(resolution=64))
    assert torch.allclose(pooled(built.net), pooled(net), atol=1e-5)
    mean, before = {"clip": ((0.48145466, 0.4578275, 0.40821073), (64, 64)), "siglip": ((0.5,) * 3, None)}[kind]
    assert (built.info.mean, built.info.before) == (mean, before) and built.info.num_classes == 3
    assert built.info.assumed == ("mean", "std", "crop_pct", "interpolation")
    assert any("text_model" in note for note in built.info.notes) is whole


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_config_leaves_out_is_the_librarys_own(tmp_path: Path, kind: str) -> None:
    """Of a network of 12 heads 768 wide, as the library has them: another width is refused by its key."""
    state = tower(drawn(kind))
    with pytest.raises(CheckpointError, match=r"(?s)says num_hidden_layers '12'.*2, which the tensors have"):
        load(str(folder(tmp_path / "a", state, {"model_type": kind, "vision_config": {"hidden_size": 128}})))
    for key, value in (("hidden_act", "gelu"), ("layer_norm_eps", 1e-3)):
        config = {"model_type": kind, "vision_config": {**CONFIG, key: value}}
        arch = load(str(folder(tmp_path / key, state, config))).info.architecture
        own = {"clip": ("quick_gelu", 1e-5), "siglip": ("gelu_tanh", 1e-6)}[kind]
        expected = (value, own[1]) if key == "hidden_act" else (own[0], value)
        assert (arch.activation, arch.norm_eps) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_of_the_mean_of_the_patches_is_left_out_and_told(tmp_path: Path, kind: str) -> None:
    state = tower(drawn(kind)) | {"classifier.weight": torch.ones(3, 128), "classifier.bias": torch.ones(3)}
    info = load(str(folder(tmp_path / "page", state, {"model_type": kind, "vision_config": CONFIG}))).info
    assert info.num_classes == 0 and any("its classifier reads the mean of the patches" in note for note in info.notes)


@pytest.mark.parametrize("value", [[], 3, "small"])
def test_what_is_no_config_of_a_network_is_refused_by_its_key(tmp_path: Path, value: object) -> None:
    path = folder(tmp_path / "page", tower(drawn("clip")), {"model_type": "clip", "vision_config": value})
    with pytest.raises(CheckpointError, match="says vision_config"):
        load(str(path))
