"""What the labels of each task are called; index = label."""

from vitft.catalog import tasks
from vitft.data import lists

_LISTED = frozenset(
    {
        "caltech101",
        "cifar10",
        "cifar100",
        "dtd",
        "eurosat",
        "imagenet",
        "oxford_flowers102",
        "oxford_iiit_pet",
        "resisc45",
        "sun397",
    }
)
_NAMES = {
    "patch_camelyon": ("normal", "tumour"),
    "diabetic_retinopathy": ("none", "mild", "moderate", "severe", "proliferative"),
    "clevr_count": tuple(str(n) for n in range(3, 11)),
    "clevr_distance": (
        "up to 8",
        "up to 8.5",
        "up to 9",
        "up to 9.5",
        "up to 10",
        "up to 100",
    ),
    "kitti_distance": ("up to 8 m", "up to 20 m", "farther", "no vehicle"),
    "smallnorb_azimuth": tuple(f"{degrees} degrees" for degrees in range(0, 360, 20)),
    "smallnorb_elevation": tuple(f"{degrees} degrees" for degrees in range(30, 75, 5)),
}


def class_names(task: str) -> tuple[str, ...]:
    """Return the K names of a task (canonical name or alias); the numbers themselves where a class has no name.

    ImageNet's are WordNet identifiers.
    """
    found = tasks.get(task)
    if found.name in _LISTED:
        return lists.names(found.name)
    return _NAMES.get(found.name) or tuple(str(label) for label in range(found.num_classes))
