"""The label rules of VTAB's structured tasks (task_adaptation/data/*.py); boundaries are compared in float32."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
NO_VEHICLE = 1000.0
VEHICLES = ("Car", "Van", "Truck")


def interval(values: ArrayLike, bounds: tuple[float, ...]) -> NDArray[np.int64]:
    """Return the index i of the largest bound below each value, bounds[i] < value <= bounds[i + 1]; -1 below all."""
    thresholds = np.asarray(bounds, np.float32)
    return np.searchsorted(thresholds, np.asarray(values, np.float32)).astype(np.int64) - 1


def clevr_count(objects: ArrayLike) -> NDArray[np.int64]:
    """Return 0..7 for 3..10 objects."""
    return np.asarray(objects, np.int64) - 3


def clevr_distance(nearest: ArrayLike) -> NDArray[np.int64]:
    """Return 0..5 for the smallest third pixel coordinate of a scene."""
    return interval(nearest, CLEVR_DISTANCES)


def kitti_distance(nearest: ArrayLike) -> NDArray[np.int64]:
    """Return 0..3 for the smallest z (metres) of a vehicle, NO_VEHICLE where there is none."""
    return interval(nearest, KITTI_DISTANCES)


def dsprites_location(x: ArrayLike) -> NDArray[np.int64]:
    """Return 0..15 for one of 32 horizontal positions."""
    return np.asarray(x, np.int64) * 16 // 32


def dsprites_orientation(orientation: ArrayLike) -> NDArray[np.int64]:
    """Return 0..15 for one of 40 orientations: floor(orientation / 2.5), so bins of 3 and 2 in turn."""
    return np.asarray(orientation, np.int64) * 16 // 40


def smallnorb_azimuth(azimuth: ArrayLike) -> NDArray[np.int64]:
    """Return 0..17 for the raw azimuth 0, 2, ..., 34."""
    return np.asarray(azimuth, np.int64) // 2
