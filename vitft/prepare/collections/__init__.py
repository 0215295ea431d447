"""The raw collections of VTAB (and CIFAR-10): one `Collection` each, opened from its owner's files."""

from vitft.catalog import tasks
from vitft.errors import UsageError
from vitft.prepare.collections.cifar import CIFAR10, CIFAR100
from vitft.prepare.collections.clevr import CLEVR
from vitft.prepare.collections.dmlab import DMLAB
from vitft.prepare.collections.folders import CALTECH101, DTD, EUROSAT, RESISC45
from vitft.prepare.collections.hdf5 import CAMELYON, DSPRITES
from vitft.prepare.collections.kitti import KITTI
from vitft.prepare.collections.oxford import FLOWERS, PETS
from vitft.prepare.collections.processed import RETINOPATHY, SUN397
from vitft.prepare.collections.raw import Collection
from vitft.prepare.collections.smallnorb import SMALLNORB
from vitft.prepare.collections.svhn import SVHN

VTAB: tuple[Collection, ...] = (
    CALTECH101, CIFAR100, DTD, FLOWERS, PETS, SUN397, SVHN,
    CAMELYON, EUROSAT, RESISC45, RETINOPATHY,
    CLEVR, DMLAB, DSPRITES, KITTI, SMALLNORB,
)  # fmt: skip
COLLECTIONS: tuple[Collection, ...] = (*VTAB, CIFAR10)


def of_task(task: str) -> Collection:
    """Return the collection that a task (canonical name or alias) is built from.

    Raises:
        UnknownName: no such task (exit code 2).
        UsageError: the task is not built from an owner's files (ImageNet, digits, the drawn ones).
    """
    known = tasks.get(task)
    for collection in COLLECTIONS:
        if collection.name == known.collection:
            return collection
    raise UsageError(
        f"Task '{known.name}' cannot be prepared.",
        ", ".join(t.name for t in tasks.TASKS if any(c.name == t.collection for c in COLLECTIONS)) + ".",
        "Give its folder with --data-dir instead.",
    )
