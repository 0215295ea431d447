"""Other spellings of tensors: each name by its own, and what is joined, moved or left as it is."""

import pytest
import torch

from vitft.errors import CheckpointError
from vitft.models import renaming

KERNEL = {"patch_embed.proj.weight": torch.zeros(2, 3, 4, 6)}


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("blocks.3.gamma_1", "blocks.3.ls1.gamma"), ("blocks.3.gamma_2", "blocks.3.ls2.gamma"),
        ("blocks.3.mlp.w12.weight", "blocks.3.mlp.fc1.weight"), ("blocks.3.mlp.w3.bias", "blocks.3.mlp.fc2.bias"),
        ("pre_logits.fc.weight", "pre_logits.weight"), ("norm.weight", "norm.weight"),
    ],
)  # fmt: skip
def test_other_spellings_of_timms_own_names(theirs, timms):
    kernel, tensor = torch.zeros(2, 3, 4, 4), torch.ones(2)
    found = renaming.timm_names({"patch_embed.proj.weight": kernel, theirs: tensor})
    assert found[timms] is tensor and found["patch_embed.proj.weight"] is kernel and len(found) == 2


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.distillation_token", "dist_token"),
        *(
            (f"{stack}.12.{theirs}.weight", f"blocks.12.{timms}.weight")
            for stack, names in (
                ("encoder.layer", {
                    "attention.output.dense": "attn.proj", "attention.attention.query": "attn.query",
                    "attention.attention.key": "attn.key", "attention.attention.value": "attn.value",
                    "layernorm_before": "norm1", "layernorm_after": "norm2", "intermediate.dense": "mlp.fc1",
                    "output.dense": "mlp.fc2",
                }),
                ("layers", {
                    "attention.o_proj": "attn.proj", "attention.q_proj": "attn.query", "attention.k_proj": "attn.key",
                    "attention.v_proj": "attn.value", "layernorm_before": "norm1", "layernorm_after": "norm2",
                    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
                }),
            )
            for theirs, timms in names.items()
        ),
        ("layernorm.bias", "norm.bias"),
        ("classifier.weight", "head.weight"),
        ("cls_classifier.weight", "head.weight"),
        ("distillation_classifier.bias", "head_dist.bias"),
        ("my.layernorm.bias", "my.layernorm.bias"),
        ("embeddings.cls_token.more", "embeddings.cls_token.more"),
        ("encoder.layer.x.layernorm_before.bias", "encoder.layer.x.layernorm_before.bias"),
    ],
)  # fmt: skip
def test_names_of_the_transformers_library(theirs, timms):
    assert renaming.renamed(theirs) == timms and renaming.renamed(timms) == timms


def test_query_key_and_value_are_joined_in_that_order_and_what_no_classifier_reads_goes():
    state = {"embeddings.patch_embeddings.projection.weight": torch.zeros(1), "pooler.dense.weight": torch.zeros(1),
             "embeddings.mask_token": torch.zeros(1), "layernorm.weight": torch.ones(1)}  # fmt: skip
    for layer in (0, 1):
        for i, part in enumerate(("value", "query", "key")):
            at = f"encoder.layer.{layer}.attention.attention.{part}"
            state |= {f"{at}.weight": torch.full((1, 2), 10.0 * layer + i), f"{at}.bias": torch.full((1,), 5.0 + i)}
    found = renaming.timm_names(state)
    assert set(found) == {"patch_embed.proj.weight", "norm.weight"} | {
        f"blocks.{layer}.attn.qkv.{kind}" for layer in (0, 1) for kind in ("weight", "bias")
    }
    for layer in (0, 1):
        assert found[f"blocks.{layer}.attn.qkv.weight"][:, 1].tolist() == [10 * layer + i for i in (1, 2, 0)]
        assert found[f"blocks.{layer}.attn.qkv.bias"].tolist() == [6, 7, 5]


def test_blocks_in_chunks_are_numbered_through_by_their_numbers():
    places = [(10, 11), (2, 9), (2, 10), (0, 3), (10, 2)]
    saved = {f"blocks.{i}.{j}.norm1.weight": torch.tensor(100 * i + j) for i, j in places}
    found = renaming.timm_names({**KERNEL, **saved, "norm.blocks.1.2.weight": torch.tensor(7)})
    assert {name: int(tensor) for name, tensor in found.items() if name.startswith("blocks")} == {
        f"blocks.{n}.norm1.weight": 100 * i + j for n, (i, j) in enumerate(sorted(places))
    }
    assert "norm.blocks.1.2.weight" in found
    mixed = {**KERNEL, **saved, "blocks.1.norm1.weight": torch.zeros(1)}  # numbered in two ways: as it is
    assert set(renaming.timm_names(mixed)) == set(mixed)
    assert set(renaming.timm_names(KERNEL)) == set(KERNEL)


def test_a_position_of_the_class_token_beside_registers_is_added_to_it():
    tokens, rows = torch.tensor([[[1.0, 2.0]]]), torch.arange(10.0).reshape(1, 5, 2)
    state = {**KERNEL, "register_tokens": torch.ones(1, 3, 2), "pos_embed": rows, "cls_token": tokens}
    found = renaming.timm_names(state)
    assert set(found) == {*KERNEL, "reg_token", "pos_embed", "cls_token"}
    assert found["reg_token"] is state["register_tokens"] and found["cls_token"].tolist() == [[[1.0, 3.0]]]
    assert found["pos_embed"].tolist() == rows[:, 1:].tolist()
    for name in ("register_tokens", "pos_embed", "cls_token"):  # a file of another kind
        less = {key: tensor for key, tensor in state.items() if key != name}
        assert {key: id(tensor) for key, tensor in renaming.timm_names(less).items()} == {
            key: id(tensor) for key, tensor in less.items()
        }


@pytest.mark.parametrize("shape", [(4,), (2, 48), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_a_patch_embedding_that_is_no_convolution_is_refused(shape):
    with pytest.raises(CheckpointError, match=f"patch embedding has {len(shape)} dimensions, not 4"):
        renaming.timm_names({"patch_embed.proj.weight": torch.zeros(shape)})
    assert renaming.timm_names({"norm.weight": torch.zeros(shape)})


def test_heads_of_moco_are_twelve_and_those_of_others_unsaid():
    for names, heads in (
        (["module.base_encoder.a", "b"], 12), (["a", "module.momentum_encoder.b"], 12), (["base_encoder"], 0),
        (["a", "encoder."], 0), ([], 0),
    ):  # fmt: skip
        assert renaming.heads_of_layout(names) == heads


def test_a_distillation_token_without_a_head_of_its_own_is_a_register():
    token, head, other = torch.ones(1, 1, 2), torch.ones(5, 2), torch.ones(5, 2)
    base = {**KERNEL, "dist_token": token}
    assert renaming.timm_names(base) == base  # features alone
    one = renaming.timm_names({**base, "head.weight": head})
    assert one == {**KERNEL, "reg_token": token, "head.weight": head}
    for both in ({**base, "head.weight": head, "head_dist.weight": other}, {**KERNEL, "head.weight": head}):
        assert renaming.timm_names(both) == both
