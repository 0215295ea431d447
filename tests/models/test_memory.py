"""The rule for memory: against the tensors that torch keeps, against a card's counter, and what follows from it."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.layers.mlp import GluMlp, SwiGLU
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.autograd.graph import saved_tensors_hooks

from vitft.models.memory import MOST_TOKENS, Need, Plan, Shape, Wish, evaluation_batch, need, plan, planned, room, shape
from vitft.models.meta import meta_network
from vitft.models.methods import apply
from vitft.settings import Checkpointing, Settings

CPU = torch.device("cpu")
PLAIN = partial(VisionTransformer, img_size=64, patch_size=8, embed_dim=96, depth=5, num_heads=3, num_classes=7)
NETWORKS: dict[str, Callable[..., Any]] = {
    "plain": PLAIN,
    "narrow": partial(PLAIN, mlp_ratio=1.5, depth=3),
    "wide": partial(PLAIN, embed_dim=192, img_size=32, mlp_ratio=6.0),
    "scaled": partial(PLAIN, init_values=1e-3),
    "gated": partial(PLAIN, mlp_layer=SwiGLU, mlp_ratio=8 / 3),
    "eva": partial(
        Eva, img_size=64, patch_size=8, embed_dim=96, depth=5, num_heads=3, num_classes=7, use_abs_pos_emb=True
    ),
}
WAYS = {
    "full": {},
    "bf16": {},
    "bias": {"method": "bias"},
    "lora": {"method": "lora"},
    "lora of the MLP": {"method": "lora", "lora_targets": ("q", "v", "fc1", "fc2")},
}


def kept(net: torch.nn.Module, images: int, side: int, precision: str) -> int:
    """Return the bytes that a forward pass leaves for the backward pass, each storage once."""
    found = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", enabled=precision == "bf16"):
        loss = net(torch.randn(images, 3, side, side)).float().sum()
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    del loss
    return total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", WAYS)
def test_what_an_image_keeps_is_what_torch_keeps_for_it(name, way):
    if name == "eva" and "MLP" in way:
        pytest.skip("its plain MLP is the other rows'")
    net = NETWORKS[name]().train()
    side = net.patch_embed.img_size[0]
    settings = Settings(resolution=side, flip=False, **WAYS[way])
    apply(net, settings)
    precision = "bf16" if way == "bf16" else "float32"
    torch.manual_seed(0)
    own = (kept(net, 6, side, precision) - kept(net, 2, side, precision)) / 4  # what is there once falls out
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    rule = need(shape(net), trained, settings, precision).image - 24 * side * side  # pixels are no activations
    assert rule == pytest.approx(own, rel=0.15)


# Peak of torch's allocator on one H200 (GiB): bare loops of timm 1.0.29, torch 2.11, bf16 autocast, SGD with momentum.
@pytest.mark.parametrize(
    ("model", "side", "images", "peak"),
    [
        ("vit_large_patch16_224", 384, 64, 34.2),
        ("vit_base_patch16_224", 384, 128, 25.0),
        ("vit_base_patch16_224", 224, 64, 5.1),
        ("vit_huge_patch14_224", 518, 16, 36.9),
    ],
)
def test_the_peak_on_a_card_was_the_rules(model, side, images, peak):
    of = shape(meta_network(model, img_size=side, num_classes=102))
    found = plan(of, need(of, of.parameters, Settings(resolution=side), "bf16"), 1 << 40, images, "cuda", Wish(images))
    assert found.memory / 2**30 == pytest.approx(peak, rel=0.1)


def test_h14_at_518_pixels_fits_a_card_of_80_gb_without_a_failed_attempt():
    of, room = huge(), int(79.1 * 2**30)
    for optimizer in ("sgd", "adamw"):
        needed = need(of, of.parameters, Settings(resolution=518, optimizer=optimizer), "bf16")
        found = plan(of, needed, room, 512, "cuda", Wish())
        assert (found.micro_batch, found.checkpoint, found.fits) == (32, False, True)
    # Where there is room for less than one image's activations they are computed again, and that is all that changes.
    small = plan(of, needed, needed.fixed + needed.image // 2, 512, "cuda", Wish())
    assert small.checkpoint and small.fits and small.micro_batch >= 1
    assert not plan(of, needed, needed.fixed + needed.image // 2, 512, "cuda", Wish(checkpoint="off")).fits
    asked = plan(of, needed, room, 512, "cuda", Wish(checkpoint="on"))
    assert asked.checkpoint and asked.micro_batch == 32 and asked.memory < found.memory / 2


def huge() -> Shape:
    return shape(meta_network("vit_huge_patch14_224", img_size=518, num_classes=102))


@pytest.mark.parametrize(
    ("fit", "batch", "images"),
    [
        (1000, 512, 256),  # 65,536 tokens are 332 images, of which 256 divides the batch
        (90, 512, 64),
        (90, 60, 60),
        (9, 20, 5),
        (9, 22, 9),  # no divisor from 5 to 9: the last forward pass is smaller
        (9, 44, 9),
        (8, 44, 4),
        (0, 22, 1),
    ],
)
def test_forward_passes_are_as_large_as_fits_and_alike_where_the_batch_divides(fit, batch, images):
    of = Shape(1000, 196, 768, 197, 12, 3072)
    needed = Need(fixed=1000, image=100, checkpointed=100)
    room = (1000 + fit * 100 + 50) / 0.92
    assert MOST_TOKENS // 197 == 332
    assert plan(of, needed, int(room), batch, "cuda", Wish()).micro_batch == images
    assert plan(of, needed, int(room), batch, "cuda", Wish(7)).micro_batch == 7
    prime, one = MOST_TOKENS + 1, Shape(1, 1, 8, 1, 2, 32)
    assert plan(one, Need(0, 1, 1), 1 << 30, prime, "cuda", Wish()).micro_batch == MOST_TOKENS


def test_on_a_cpu_a_forward_pass_holds_about_3200_tokens():
    def of(patches: int) -> int:
        return plan(Shape(1, patches, 8, patches + 1, 2, 32), Need(0, 1, 1), 1 << 30, 512, "cpu", Wish()).micro_batch

    assert [of(n) for n in (196, 16, 33, 576, 1024, 0)] == [16, 200, 96, 5, 4, 16]


@pytest.mark.parametrize(
    ("settings", "fixed"),
    [({}, 8), ({"optimizer": "adamw"}, 12), ({"ema": 0.9}, 12), ({"optimizer": "adamw", "ema": 0.9}, 16)],
)
def test_gradients_optimiser_and_average_count_where_parameters_learn(settings, fixed):
    of = Shape(1009, 4, 8, 5, 2, 32)
    assert need(of, 103, Settings(resolution=8, **settings), "float32").fixed == 4 * 1009 + fixed * 103
    assert need(of, 103, Settings(resolution=8, **settings), "bf16").fixed == 6 * 1009 + fixed * 103


D, HIDDEN = 11, 17
FULL = 8 * D + 4 * (4 * D + HIDDEN)  # float32: inputs of two norms; queries, keys, values, answer; the hidden layer


@pytest.mark.parametrize(
    ("shaped", "settings", "token"),
    [
        ({}, {}, FULL + 4 * (2 * D + HIDDEN)),
        ({}, {"mixup": 0.1}, FULL + 4 * (2 * D + HIDDEN)),
        ({"depth": 1}, {}, FULL + 4 * (2 * D + HIDDEN)),
        ({"gated": True}, {}, FULL + 8 * HIDDEN + 4 * (2 * D + HIDDEN)),
        ({"scaled": True}, {}, FULL + 4 * (4 * D + HIDDEN)),
        ({}, {"method": "linear"}, FULL + 4 * (2 * D + HIDDEN)),
        ({}, {"method": "bias"}, FULL),
        *(
            ({}, {"method": "lora", "lora_targets": targets}, FULL + 4 * inputs)
            for targets, inputs in (
                *((name, D) for name in ("qkv", "q", "k", "v", "q,k,v", "fc1")),
                ("proj", 0), ("fc2", HIDDEN), ("k,fc1,fc2", 2 * D + HIDDEN),
            )
        ),
    ],
)  # fmt: skip
def test_bytes_of_an_image_are_counted_layer_by_layer(shaped, settings, token):
    of = Shape(**{"parameters": 0, "patches": 12, "width": D, "tokens": 13, "depth": 7, "hidden": HIDDEN, **shaped})
    chosen = Settings(resolution=(5, 3), **settings)
    pixels = 3 * 5 * 3 * 8 * (2 if "mixup" in settings else 1)
    block, stream = 13 * token, 4 * 13 * D
    found = need(of, 0, chosen, "float32")
    if settings.get("method") == "linear":
        assert found == Need(0, pixels + block, pixels + block)  # one block at work
        return
    whole, again = pixels + stream + of.depth * block, pixels + (1 + of.depth) * stream + block
    assert found == Need(0, whole, min(whole, again))
    half = need(of, 0, chosen, "bf16").image - pixels - stream
    assert half == of.depth * 13 * (8 * D + (token - 8 * D) // 2)  # but the norms' inputs, which stay float32


class Told(torch.nn.Module):
    """What says nothing of itself but what is given."""

    def __init__(self, **told: object) -> None:
        super().__init__()
        for name, value in told.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("net", "patches", "width", "tokens", "depth", "hidden", "gated", "scaled"),
    [
        (partial(PLAIN, img_size=(16, 24), reg_tokens=2), 6, 96, 9, 5, 384, False, False),
        (partial(NETWORKS["narrow"], init_values=0.1), 64, 96, 65, 3, 144, False, True),
        (partial(PLAIN, mlp_layer=SwiGLU, mlp_ratio=2), 64, 96, 65, 5, 192, True, False),
        (partial(PLAIN, mlp_layer=GluMlp, mlp_ratio=2), 64, 96, 65, 5, 96, True, False),
        (partial(NETWORKS["eva"], init_values=0.1), 64, 96, 65, 5, 384, False, True),
        (partial(torch.nn.Linear, 3, 2), 0, 768, 197, 12, 3072, False, False),
        (partial(Told, patch_embed=SimpleNamespace(grid_size=(2, 5))), 0, 768, 197, 12, 3072, False, False),
        (partial(Told, blocks=[1], patch_embed=SimpleNamespace(num_patches=7)), 7, 768, 197, 12, 3072, False, False),
        (
            partial(
                Told,
                blocks=[Told(mlp=Told(fc2=SimpleNamespace(in_features=5))), Told()],
                embed_dim=9,
                patch_embed=SimpleNamespace(grid_size=(1, 1)),
            ),
            0, 9, 1, 2, 5, False, False,
        ),
        (
            partial(Told, blocks=[Told()], embed_dim=9, patch_embed=SimpleNamespace(grid_size=(300, 400))),
            0, 9, 120_000, 1, 36, False, False,
        ),
    ],
)  # fmt: skip
def test_the_shape_of_a_network_is_read_off_it(net, patches, width, tokens, depth, hidden, gated, scaled):
    made = net()
    parameters = sum(p.numel() for p in made.parameters())
    assert shape(made) == Shape(parameters, patches, width, tokens, depth, hidden, gated, scaled)
    if tokens > MOST_TOKENS:
        assert evaluation_batch(made, torch.device("cuda")) == 1


def test_activations_are_computed_again_only_where_no_image_fits_and_it_helps():
    of = Shape(1, 4, 8, 5, 2, 32)

    def asked(image: int, checkpointed: int, wish: Checkpointing = "auto") -> tuple[bool, int, int]:
        found = plan(of, Need(42, image, checkpointed), 100, 10, "cuda", Wish(checkpoint=wish))  # 50 bytes are left
        return found.checkpoint, found.micro_batch, found.memory

    assert asked(50, 10) == (False, 1, 92) and asked(51, 10) == (True, 5, 92)
    assert asked(51, 51) == (False, 1, 93) and asked(51, 10, "off") == (False, 1, 93)
    assert asked(10, 10, "on") == (True, 5, 92) and asked(20, 5, "on") == (True, 10, 92)
    assert Plan(1, False, 0, 5, 5).fits and not Plan(1, False, 0, 6, 5).fits


def test_room_on_a_card_is_what_is_free_and_what_this_process_keeps_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    forgotten: list[bool] = []  # what the last fit left on a CPU is given back before it is asked
    monkeypatch.setattr("vitft.device.forget", lambda: forgotten.append(True))
    monkeypatch.setattr("vitft.machine.memory", lambda: 7 if forgotten else 3)
    assert room(torch.device("cuda")) == 1050 and not forgotten and room(CPU) == 7


def test_a_network_that_is_built_counts_as_room_that_is_there(monkeypatch):
    net = PLAIN()
    monkeypatch.setattr("vitft.models.memory.room", lambda device: 1000)
    found = planned(net, Settings(resolution=64, batch_size=9), CPU, "float32", Wish(), processes=2)
    parameters = sum(p.numel() for p in net.parameters())
    assert found.room == 1000 + 4 * parameters and found.micro_batch == 5 and not found.fits
    apply(net, frozen := Settings(resolution=64, batch_size=9, method="linear"))
    trained = sum(p.numel() for p in net.get_classifier().parameters())
    found = planned(net, frozen, CPU, "float32", Wish())
    assert (found.micro_batch, found.fixed) == (9, 4 * parameters + 8 * trained)
    assert planned(net.to("meta"), frozen, CPU, "float32", Wish()).room == 1000


def test_evaluation_takes_a_power_of_two_on_a_card_and_few_images_on_a_cpu():
    net = PLAIN()
    assert [evaluation_batch(net, CPU, n) for n in (0, 1, 16, 100)] == [16, 4, 64, 256]
    assert evaluation_batch(net, torch.device("cuda")) == 256
    assert [evaluation_batch(net, torch.device("mps"), n) for n in (0, 5)] == [64, 20]
    assert evaluation_batch(net, CPU) == 16
    large = meta_network("vit_huge_patch14_224", img_size=518)
    assert evaluation_batch(large, torch.device("cuda"), 4) == 32  # 47 of 1,370 tokens are 65,536
