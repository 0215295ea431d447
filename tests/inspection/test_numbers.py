"""Filters, positions, norms, features and what moved: planted answers are found."""

import numpy as np
import pytest
import torch

from tests.weights import drawn
from vitft.inspection import embeddings, features
from vitft.inspection.cost import activation_bytes, cost
from vitft.inspection.moved import moved


def test_planted_components_of_filters_are_found():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(3 * 4 * 2, 3)))[0].T
    scores = np.linalg.qr(random.normal(size=(50, 3)) - 0)[0]
    scores -= scores.mean(axis=0)
    scores = np.linalg.qr(scores)[0] * [5, 2, 1]
    kernel = (scores @ basis + 7).reshape(50, 3, 4, 2).astype(np.float32)
    found, variance = embeddings.components(kernel, 5)
    np.testing.assert_allclose(variance[:3], np.array([25, 4, 1]) / 30, atol=1e-5)
    assert found.shape == (5, 4, 2, 3) and variance[3:].max() < 1e-6
    for own, planted in zip(found[:3], basis, strict=True):
        assert abs((own.transpose(2, 0, 1).ravel() * planted).sum()) == pytest.approx(1, abs=1e-5)
        assert own.ravel()[np.abs(own).argmax()] > 0


def test_a_handmade_embedding_of_rows_and_columns():
    grid = (3, 4)
    vectors = np.zeros((12, 7), dtype=np.float32)
    for r in range(3):
        for c in range(4):
            vectors[4 * r + c, [r, 3 + c]] = 5.0
    alike = embeddings.similarity(vectors, grid)
    for (r, c, r2, c2), value in np.ndenumerate(alike):
        assert value == pytest.approx(((r == r2) + (c == c2)) / 2)
    told = embeddings.rows_and_columns(alike)
    assert (told.row, told.column, told.elsewhere, told.share) == pytest.approx((0.5, 0.5, 0.0, 1.0))
    # Rows alone: no position is more like its column than like the rest.
    alone = embeddings.rows_and_columns(embeddings.similarity(vectors[:, :3], grid))
    assert (alone.row, alone.column, alone.share) == pytest.approx((1.0, 0.0, 0.0))
    assert embeddings.rows_and_columns(embeddings.similarity(vectors[:4], (1, 4))) is None


@pytest.mark.parametrize(
    "one_hump",
    [
        lambda r: r.normal(20, 3, 4000),
        lambda r: r.lognormal(3, 0.6, 4000),
        lambda r: r.gamma(2.0, 10.0, 4000) + 0.1,
        lambda r: r.uniform(5, 50, 4000),
        lambda r: r.standard_t(3, 4000) ** 2 + 5,
        lambda r: np.full(4000, 7.0),
    ],
)
def test_one_kind_of_token_has_no_artifacts(one_hump):
    assert features.artifact_share(one_hump(np.random.default_rng(1)).astype(np.float32)) == 0


@pytest.mark.parametrize("share", [0.005, 0.02, 0.2])
def test_planted_artifacts_are_counted(share):
    random = np.random.default_rng(2)
    many = round(4000 * share)
    norms = np.concatenate([random.normal(40, 5, 4000 - many), random.normal(300, 60, many)])
    random.shuffle(norms)
    assert features.artifact_share(norms.reshape(40, 100).astype(np.float32)) == pytest.approx(share, abs=0.002)


def test_alignment_of_layers():
    random = np.random.default_rng(3)
    x = random.normal(size=(80, 6)).astype(np.float32)
    turned = (x @ np.linalg.qr(random.normal(size=(6, 6)))[0] * 3 + 5).astype(np.float32)
    other = random.normal(size=(80, 4)).astype(np.float32)
    found = features.cka([x, other], [turned, other])
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    # Through Gram matrices of the examples, the form the definition has.
    k, m = (a - a.mean(0) for a in (x.astype(float), other.astype(float)))
    k, m = k @ k.T, m @ m.T
    assert found[0, 1] == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), rel=1e-4)
    assert found[0, 1] == pytest.approx(found[1, 0], rel=1e-4)


def test_colours_are_the_first_three_components():
    random = np.random.default_rng(4)
    scores = random.uniform(size=(2, 5, 4, 3)) * [9, 4, 1]
    basis = np.linalg.qr(random.normal(size=(8, 3)))[0].T
    found, shares = features.colours((scores @ basis + 3).astype(np.float32))
    assert found.shape == (2, 5, 4, 3) and found.min() == 0 and found.max() == 1
    assert shares.sum() == pytest.approx(1) and shares[0] > shares[1] > shares[2]
    for i in range(3):
        assert abs(np.corrcoef(found[..., i].ravel(), scores[..., i].ravel())[0, 1]) > 0.9


def test_what_moved_is_told_by_part():
    before = {
        "patch_embed.proj.weight": torch.ones(4, 3, 2, 2), "pos_embed": torch.ones(1, 5, 4),
        "head.weight": torch.ones(2),
        "blocks.0.attn.qkv.weight": torch.full((3,), 2.0), "blocks.0.norm1.weight": torch.ones(4),
        "blocks.11.mlp.fc1.bias": torch.zeros(4), "norm.weight": torch.ones(3), "old": torch.ones(2),
    }  # fmt: skip
    after = {name: tensor.clone() for name, tensor in before.items() if name != "old"}
    after["blocks.0.attn.qkv.weight"] += torch.tensor([1.0, 0.0, 0.0])
    after["patch_embed.proj.weight"] *= 1.5
    after["pos_embed"] = torch.ones(1, 10, 4)
    found = moved(before, after, frozenset({"head.weight"}))
    parts = {part.part: part.relative for part in found.parts}
    assert parts.pop("block 1 attention") == pytest.approx(1 / 12**0.5)
    assert parts.pop("patch embedding") == pytest.approx(0.5)
    assert parts == {"block 1 norms": 0, "block 12 MLP": 0, "final norm and pooling": 0}
    assert found.left_out == ("old", "pos_embed")


def test_cost_counts_parameters_operations_and_what_training_keeps():
    net = drawn(1)
    told = cost(net, (32, 32), torch.device("cpu"))
    d, n = 64, 17
    block = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    head = 5 * d + 5
    assert told.parameters == 2 * block + (3 * 8 * 8 * d + d) + d + n * d + 2 * d + head
    assert told.head_parameters == head
    assert told.macs_per_image == 2 * (12 * d * d * n + 2 * n * n * d) + 16 * 3 * 8 * 8 * d + 5 * d
    assert told.weights_mib == pytest.approx(4 * told.parameters / 2**20, abs=0.01)
    # A linear layer keeps its input, a square its own: 4 bytes a number, each storage once.
    linear = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 1))
    assert activation_bytes(linear, torch.zeros(1, 10)) == 4 * (10 + 20)
    assert activation_bytes(net, torch.zeros(2, 3, 32, 32)) == pytest.approx(
        2 * activation_bytes(net, torch.zeros(1, 3, 32, 32)), rel=0.02
    )
