"""The checkpoint inside the package: small, 16-bit, a plain ViT, described truthfully by the card beside it."""

import hashlib
import re

import pytest
import torch
from safetensors import safe_open

from vitft import recipes
from vitft.catalog.models import MODELS
from vitft.models import build
from vitft.settings import Settings

FILE = MODELS["vit-mini"].file
CARD = FILE.with_suffix(".md")


@pytest.fixture(scope="module")
def own_head():
    return build.build("vit-mini", None, Settings(resolution="native"))


def test_the_file_is_16_bit_and_at_most_6_mb():
    assert FILE.stat().st_size <= 6_000_000
    with safe_open(FILE, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in list(file.keys())} == {torch.float16}
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in list(file.keys()))


def test_it_is_a_plain_vit_of_at_most_3_million_parameters(own_head):
    net, info = own_head.net, own_head.info
    assert sum(p.numel() for p in net.parameters()) <= 3_000_000
    assert net.cls_token.shape == (1, 1, net.embed_dim) and net.global_pool == "token"
    assert net.pos_embed.shape == (1, 1 + info.grid[0] * info.grid[1], net.embed_dim)
    assert info.mean == info.std == (0.5, 0.5, 0.5) and not info.assumed
    assert own_head.class_names[0] == "airplane" and len(own_head.class_names) == net.num_classes == 10


def test_the_card_says_what_the_file_and_the_recipe_are(own_head):
    card = CARD.read_text()
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in card
    settings = recipes.load("pretrain-vit-mini").resolve("cifar10")
    assert f"{settings.steps:,} updates of {settings.batch_size} images" in card
    assert f"{sum(p.numel() for p in own_head.net.parameters()):,} parameters" in card
    assert not re.search(r"/(work|tmp|root|home)/", card + str(own_head.info.to_dict()["notes"]))


def test_it_grows_to_a_higher_resolution_with_a_zero_head_and_its_own_class_position(own_head):
    grown = build.build("vit-mini", 7, Settings(resolution="higher"))
    assert min(grown.info.resolution) > max(own_head.info.resolution)
    assert any("position embeddings" in note for note in grown.info.notes)
    assert torch.equal(grown.net.pos_embed[:, 0], own_head.net.pos_embed[:, 0])
    with torch.no_grad():
        logits = grown.net.eval()(torch.randn(2, 3, *grown.info.resolution))
    assert logits.shape == (2, 7) and not logits.any()


def test_its_architecture_can_be_built_with_drawn_weights(own_head):
    drawn = build.build("vit-mini", 10, Settings(resolution="native"), from_scratch=True, seed=1)
    same = own_head.net.state_dict()
    assert {k: v.shape for k, v in drawn.net.state_dict().items()} == {k: v.shape for k, v in same.items()}
    assert not torch.allclose(drawn.net.blocks[0].attn.qkv.weight, own_head.net.blocks[0].attn.qkv.weight, atol=1e-3)


def test_it_names_cifar10_test_images_it_has_never_seen(shared, own_head):
    import io

    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(shared / "data/cifar10/test.parquet").slice(0, 500).to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows])
    labels = torch.tensor([row["label"] for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        top1 = float((own_head.net.eval()(images).argmax(1) == labels).float().mean())
    stated = float(re.search(r"CIFAR-10 test \(10,000\)[^0-9]*([0-9.]+) %", CARD.read_text())[1]) / 100
    # 500 of 10,000 images: three standard errors of a share near one half are 6.7 points.
    assert abs(top1 - stated) < 0.067
