"""What a network's first layer holds: the principal components of its patch filters, the likeness of its positions."""

import numpy as np
from numpy.typing import NDArray

from vitft.results.checkpoint import Size
from vitft.results.inspection import Alike

COMPONENTS = 28
"""As many as the paper's Figure 7 shows."""


def components(kernel: NDArray[np.float32], count: int = COMPONENTS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the principal components of patch filters, and the share of the filters' variance that each has.

    Args:
        kernel: (D, C, h, w).
        count: how many, where there are as many.

    Returns:
        (n, h, w, C) of norm 1, the largest value of each positive, and (n,).
    """
    filters, shape = kernel.shape[0], kernel.shape[1:]
    flat = kernel.reshape(filters, -1).astype(np.float64)
    _, values, vectors = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    found = positive(vectors[: min(count, filters - 1)])
    total = float((values**2).sum()) or 1.0
    return found.reshape(-1, *shape).transpose(0, 2, 3, 1), values[: len(found)] ** 2 / total


def positive(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, D) vectors, the largest entry of each positive: a component itself has no sign."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def similarity(embedding: NDArray[np.float32], grid: Size) -> NDArray[np.float64]:
    """Return the cosine similarity of every two positions, (rows, columns, rows, columns).

    Args:
        embedding: (rows * columns, D), without prefix tokens.
        grid: (rows, columns).
    """
    vectors = embedding.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return (vectors @ vectors.T).reshape(*grid, *grid)


def rows_and_columns(alike: NDArray[np.float64]) -> Alike | None:
    """Return how much a similarity (rows, columns, rows, columns) shows rows and columns; None for one row or column.

    `share` is that of the positions which are on average more like their own row, and more like their own column, than
    like positions that are in neither.
    """
    height, width = alike.shape[:2]
    if min(height, width) < 2:
        return None
    row = np.eye(height, dtype=bool)[:, None, :, None] & ~np.eye(width, dtype=bool)[None, :, None, :]
    column = ~np.eye(height, dtype=bool)[:, None, :, None] & np.eye(width, dtype=bool)[None, :, None, :]
    elsewhere = ~np.eye(height, dtype=bool)[:, None, :, None] & ~np.eye(width, dtype=bool)[None, :, None, :]
    means = [np.mean(alike, axis=(2, 3), where=np.broadcast_to(w, alike.shape)) for w in (row, column, elsewhere)]
    own = (means[0] > means[2]) & (means[1] > means[2])
    in_row, in_column, rest = (float(mean.mean()) for mean in means)
    return Alike(grid=(height, width), row=in_row, column=in_column, elsewhere=rest, share=float(own.mean()))
