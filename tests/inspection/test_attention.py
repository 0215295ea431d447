"""Attention against closed forms and a slow NumPy network."""

import math

import numpy as np
import pytest
import timm
import torch

from tests.weights import drawn
from vitft.inspection.attention import Tokens, distances, layers, mean_distance, read, recorded, rolled, tokens_of
from vitft.inspection.observe import observe
from vitft.inspection.relevance import grad_cam, gradient_rollout


def lying(prefix=1, grid=(2, 3), patch=(8, 4), readers=1):
    return Tokens(prefix, grid, patch, readers, "class token")


def pixels_apart(tokens: Tokens) -> np.ndarray:
    points = [(r * tokens.patch[0], c * tokens.patch[1]) for r in range(tokens.grid[0]) for c in range(tokens.grid[1])]
    return np.array([[math.dist(a, b) for b in points] for a in points])


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("grid", [(2, 3), (4, 4), (1, 5)])
def test_uniform_attention_looks_as_far_as_patches_are_apart(grid, prefix):
    tokens = lying(prefix, grid)
    uniform = torch.full((2, 3, tokens.count, tokens.count), 1 / tokens.count)
    np.testing.assert_allclose(distances(tokens), pixels_apart(tokens), rtol=1e-6)
    np.testing.assert_allclose(mean_distance(uniform, tokens), np.full((2, 3), pixels_apart(tokens).mean()), rtol=1e-5)


def test_attention_to_itself_looks_nowhere_and_prefix_tokens_do_not_count():
    tokens = lying()
    itself = torch.eye(7)[None, None]
    assert mean_distance(itself, tokens).item() == 0
    # Nine tenths go to the class token, the rest to the right neighbour (the last of a row: to itself).
    mostly = torch.zeros(1, 1, 7, 7)
    mostly[..., 0] = 0.9
    for i in range(6):
        mostly[0, 0, 1 + i, 1 + (i if i % 3 == 2 else i + 1)] = 0.1
    assert mean_distance(mostly, tokens).item() == pytest.approx(4 * 4 / 6)
    # A patch that looks at the class token alone is left out.
    mostly[0, 0, 1, 2] = 0
    assert mean_distance(mostly, tokens).item() == pytest.approx(3 * 4 / 5)


def test_rollout_of_closed_forms():
    tokens = lying()
    eye, uniform = torch.eye(7)[None, None], torch.full((1, 1, 7, 7), 1 / 7)
    torch.testing.assert_close(rolled(rolled(None, eye), eye), torch.eye(7)[None])
    # With U the matrix of 1/7, ((U + I) / 2)^n = I / 2^n + (1 - 2^-n) U, as U^2 = U.
    three = rolled(rolled(rolled(None, uniform), uniform), uniform)
    torch.testing.assert_close(three, (torch.eye(7) / 8 + 7 / 8 / 7)[None])
    assert torch.allclose(read(three, tokens), torch.full((1, 2, 3), 1 / 6))
    # Order: the last layer stands on the left.
    first, last = (torch.rand(1, 2, 7, 7, generator=torch.Generator().manual_seed(s)).softmax(-1) for s in (1, 2))
    a, b = ((x.mean(1)[0] + torch.eye(7)) / 2 for x in (first, last))
    torch.testing.assert_close(rolled(rolled(None, first), last)[0], b @ a)


def test_who_reads_decides_whose_rows_are_shown():
    matrix = torch.arange(49.0).reshape(1, 7, 7)
    by_class = read(matrix, lying())
    assert torch.allclose(by_class.flatten(), torch.arange(1.0, 7.0) / 21)
    by_patches = read(matrix, lying(readers=0))
    assert torch.allclose(by_patches.flatten(), matrix[0, 1:, 1:].mean(0) / matrix[0, 1:, 1:].mean(0).sum())
    both = read(matrix, lying(prefix=2, grid=(1, 5), readers=2))
    assert torch.allclose(both.flatten(), matrix[0, :2, 2:].mean(0) / matrix[0, :2, 2:].mean(0).sum())


def slow(net, image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Run a plain ViT in NumPy, loops and all: each layer's attention (heads, N, N), and the tokens after it."""
    w = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    p, d = w["patch_embed.proj.weight"].shape[2], w["cls_token"].shape[-1]
    rows, columns = image.shape[1] // p, image.shape[2] // p
    x = [w["cls_token"][0, 0]]
    for r in range(rows):
        for c in range(columns):
            patch = image[:, r * p : (r + 1) * p, c * p : (c + 1) * p]
            x.append((w["patch_embed.proj.weight"] * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    x = np.array(x) + w["pos_embed"][0]

    def norm(x, name):
        centred = x - x.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
    maps = []
    for i in range(len(net.blocks)):
        heads = net.blocks[i].attn.num_heads
        q, k, v = np.split(linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, axis=1)
        own, mixed = [], []
        for h in range(heads):
            part = slice(h * d // heads, (h + 1) * d // heads)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(d // heads))
            own.append(scores / scores.sum(1, keepdims=True))
            mixed.append(own[-1] @ v[:, part])
        maps.append(np.array(own))
        x = x + linear(np.concatenate(mixed, axis=1), f"blocks.{i}.attn.proj")
        x = x + linear(gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return maps, x


def small(**kwargs):
    """Draw a network whose attention is neither flat nor saturated."""
    net = drawn(3, **kwargs)
    for name, parameter in net.named_parameters():
        if "weight" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    return net


@pytest.mark.parametrize("fused", [True, False])
def test_a_two_block_network_against_slow_numpy(fused):
    net = small(img_size=(16, 32))
    for block in net.blocks:
        block.attn.fused_attn = fused
    images = torch.randn(3, 3, 16, 32, generator=torch.Generator().manual_seed(4))
    tokens = tokens_of(net, (16, 32))
    assert (tokens.prefix, tokens.grid, tokens.patch, tokens.readers) == (1, (2, 4), (8, 8), 1)
    seen = observe(net, [images[:2], images[2:]], 3, tokens)
    assert [block.attn.fused_attn for block in net.blocks] == [fused, fused], "left as it was"
    far = pixels_apart(tokens)
    for n, image in enumerate(images.double().numpy()):
        maps, after = slow(net, image)
        rollout = np.eye(9)
        for layer, own in enumerate(maps):
            expected = []
            for head in own:
                rows = [row[1:] / row[1:].sum() for row in head[1:]]
                expected.append(np.mean([sum(row * far[q]) for q, row in enumerate(rows)]))
            np.testing.assert_allclose(np.concatenate(seen.distance)[n, layer], expected, rtol=1e-4)
            rollout = (own.mean(0) + np.eye(9)) / 2 @ rollout
        np.testing.assert_allclose(
            np.concatenate(seen.rollout)[n].ravel(), rollout[0, 1:] / rollout[0, 1:].sum(), rtol=1e-4
        )
        last = maps[-1].mean(0)[0, 1:]
        np.testing.assert_allclose(np.concatenate(seen.last)[n].ravel(), last / last.sum(), rtol=1e-4)
        np.testing.assert_allclose(np.concatenate(seen.norms)[n, -1], np.linalg.norm(after[1:], axis=1), rtol=1e-4)


def test_gradient_rollout_is_its_formula():
    net, tokens = small(), lying(grid=(4, 4), patch=(8, 8))
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    kept: list[torch.Tensor] = []
    for block in net.blocks:  # the maps as leaves of nothing: taken by hooks of this test, with their own gradients
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, out: (out.retain_grad(), kept.append(out))[0])
    net(image)[0, 3].backward()
    relevance = np.eye(17)
    for attention in kept:
        step = np.maximum(attention.grad[0].numpy() * attention.detach()[0].numpy(), 0).mean(0)
        relevance = relevance + step @ relevance
    expected = relevance[0, 1:] / relevance[0, 1:].sum()
    kept.clear()
    found = gradient_rollout(net, image, 3, tokens)
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-4)
    assert not np.allclose(found, gradient_rollout(net, image, 4, tokens)), "it is of its class"


def test_grad_cam_of_a_linear_head_is_its_weights():
    net = timm.create_model("resnetv2_50x1_bit", num_classes=4).eval()
    torch.nn.init.normal_(net.head.fc.weight)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        features = net.forward_features(image)[0]
        expected = torch.einsum("d,dhw->hw", net.head.fc.weight[2].flatten(), features).clamp(min=0)
    torch.testing.assert_close(grad_cam(net, image, 2), expected / expected.sum())


@pytest.mark.parametrize(
    ("name", "kwargs", "prefix", "readers", "word"),
    [
        ("vit_tiny_patch16_224", {}, 1, 1, "class token"),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, 5, 1, "class token"),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, 1, 0, "reads no class token"),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}, 0, 0, "reads no class token"),
        ("vit_tiny_patch16_224", {"global_pool": "map", "class_token": False}, 0, 0, "pools by attention"),
        ("deit_tiny_distilled_patch16_224", {}, 2, 2, "class and distillation token"),
    ],
)
def test_how_tokens_lie_and_who_reads_them(name, kwargs, prefix, readers, word):
    net = small(name=name, **kwargs)
    tokens = tokens_of(net, (32, 32))
    assert (tokens.prefix, tokens.readers, tokens.grid) == (prefix, readers, (4, 4))
    assert word in tokens.reading
    maps = []
    with torch.no_grad(), recorded(net, lambda _, attention: maps.append(attention)):
        net(torch.randn(2, 3, 32, 32))
    assert len(maps) == len(layers(net)) == 2
    assert all(m.shape == (2, 2, tokens.count, tokens.count) for m in maps)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, tokens.count))
