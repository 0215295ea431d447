"""Parts of a split at their edges: the smallest, the last row, the class with one image."""

import dataclasses
import hashlib

import numpy as np
import pytest

from tests.layouts import refused
from vitft.catalog import tasks
from vitft.data import labels, portions, vtab_splits
from vitft.data.split import Provenance, Split
from vitft.errors import DataDamaged, DataError, DataMissing, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def rows(n: int, labels: list[int], name: str = "train", **stamp: object) -> Split:
    keys = [f"{name}-{i}" for i in range(n)]
    provenance = Provenance(**{"source": "drawn", **stamp})  # type: ignore[arg-type]
    classes = tuple("abcdefgh"[: max(labels) + 1])
    return Split("drawn", name, classes, keys, np.array(labels, np.int64), lambda i: f"{name}{i}".encode(), provenance)


@pytest.mark.parametrize(
    ("n", "fraction", "train"),
    [(10, 0.2, 8), (3, 0.01, 2), (3, 0.99, 1), (2, 0.5, 1), (50, 0.02, 49), (7, 0.5, 4), (101, 0.02, 99)],
)
def test_the_end_of_a_split_is_held_out_and_neither_part_is_empty(n, fraction, train):
    split = rows(n, [i % 2 for i in range(n)])
    kept, dev, rule = portions.dev_split(split, fraction)
    assert rule == "end" and kept.name == "train" and dev.name == "dev"
    assert kept.keys == split.keys[:train] and dev.keys == split.keys[train:]


def test_of_a_sorted_split_each_class_gives_its_end():
    labels = [0] * 10 + [1] * 3 + [2] * 1 + [3] * 2
    kept, dev, rule = portions.dev_split(rows(16, labels), 0.2)
    assert rule == "stratified end"
    # 2 of 10, 1 of 3 (0.6), none of a single one, 1 of 2 (0.4, but at least one)
    assert dev.keys == ["train-8", "train-9", "train-12", "train-15"]
    assert sorted(kept.keys + dev.keys, key=lambda k: int(k[6:])) == rows(16, labels).keys
    many = portions.dev_split(rows(16, labels), 0.9)[1]  # 9 of 10, 2 of 3 (2.7), none of a single one, 1 of 2 (1.8)
    assert np.bincount(many.labels).tolist() == [9, 2, 0, 1]
    assert np.bincount(portions.dev_split(rows(16, labels), 0.26)[1].labels).tolist() == [3, 1, 0, 1]  # 2.6 of 10
    assert not portions.sorted_by_class(np.array([0, 1, 2]))  # one image a class is no order
    assert not portions.sorted_by_class(np.array([0, 0, 0])) and not portions.sorted_by_class(np.array([0, 1, 0]))
    assert portions.sorted_by_class(np.array([1, 1, 0]))
    for fraction in (0.0, 1.0, -0.1, 1.5):
        refused(lambda f=fraction: portions.dev_split(rows(4, [0, 1, 0, 1]), f), "0 and 1", kind=UsageError)
    refused(lambda: portions.dev_split(rows(1, [0]), 0.5), "1 image", kind=DataError)


@pytest.mark.parametrize(
    ("counts", "n", "shares"),
    [
        # Shares rounded down, then one more for the classes that have none, then for the largest remainders.
        ((14, 0, 1, 5), 1, (1, 0, 0, 0)),
        ((14, 0, 1, 5), 2, (1, 0, 0, 1)),
        ((14, 0, 1, 5), 6, (4, 0, 1, 1)),
        ((14, 0, 1, 5), 7, (5, 0, 1, 1)),
        ((14, 0, 1, 5), 19, (13, 0, 1, 5)),
        ((2, 2), 1, (1, 0)),
        ((2, 2), 3, (2, 1)),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_a_draw_takes_of_each_class_those_with_the_smallest_digest_of_seed_and_key(counts, n, shares, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    split = rows(len(labels), labels.tolist())

    def least(of_class: tuple[int, ...]) -> list[str]:
        chosen = []
        for label, k in enumerate(of_class):
            keys = [key for key, y in zip(split.keys, labels.tolist(), strict=True) if y == label]
            chosen += sorted(keys, key=lambda k: hashlib.blake2b(f"{seed}:{k}".encode(), digest_size=8).digest())[:k]
        return sorted(chosen, key=lambda key: int(key[6:]))

    assert portions.limit(split, n, seed).keys == least(shares)
    if 0 not in counts:
        assert portions.per_class(split, 1, seed).keys == least((1,) * len(counts))


def test_joined_splits_keep_order_names_and_the_worst_that_is_said_of_them():
    a = rows(2, [0, 1], "train", reference=True, completeness="full", revision="r1")
    b = rows(3, [1, 1, 0], "val", reference=False, why="drawn", completeness="declared", revision="r2", source="other")
    both = portions.join([a, b], "train+val")
    assert (both.name, both.task, both.class_names) == ("train+val", "drawn", ("a", "b"))
    assert both.keys == ["train-0", "train-1", "val-0", "val-1", "val-2"] and both.labels.tolist() == [0, 1, 1, 1, 0]
    assert [both.read(i) for i in range(5)] == [b"train0", b"train1", b"val0", b"val1", b"val2"]
    assert both.provenance == Provenance("drawn", False, "drawn", "declared", "r1")
    again = rows(2, [0, 1], "val", completeness="partial", reference=True)
    again = dataclasses.replace(again, keys=["train-0", "train-1"])
    same = portions.join([a, again], "train+val")  # row numbers start anew in each split
    assert same.keys == ["train/train-0", "train/train-1", "val/train-0", "val/train-1"]
    assert same.provenance.completeness == "partial" and same.provenance.reference and not same.provenance.why
    refused(lambda: portions.join([a, a], "twice"), "twice", kind=DataError)
    exif = dataclasses.replace(a, exif=True)
    assert portions.join([exif, b], "x").exif and not both.exif


def test_a_class_that_has_too_few_is_named():
    split = rows(9, [0, 0, 0, 0, 0, 1, 1, 1, 2])
    error = refused(lambda: portions.per_class(split, 2, 0), "'c' has 1 images", "up to 1 of", kind=DataError)
    assert "classes have" not in str(error)
    refused(lambda: portions.per_class(split, 4, 0), "'c' has 1", "(2 classes have too few)", kind=DataError)
    assert np.bincount(portions.per_class(split, 1, 0).labels).tolist() == [1, 1, 1]
    refused(lambda: portions.per_class(split, 0, 0), "--per-class 0", kind=UsageError)
    refused(lambda: portions.limit(split, 0, 0), "--limit 0", kind=UsageError)
    assert portions.limit(split, 9, 0) is split and len(portions.limit(split, 1, 0)) == 1
    small = portions.per_class(split, 1, 3)
    assert set(small.keys) <= set(split.keys) and small.keys == [k for k in split.keys if k in small.keys]


class Owner:
    """A collection that comes as its owner's raw splits, with the owner's keys."""

    owner_keys = True

    def __init__(self, task: str, sizes: dict[str, int], **stamp: object) -> None:
        self.task, self.sizes, self.stamp = task, sizes, stamp

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def open(self, name: str) -> Split:
        n = self.sizes[name]
        return dataclasses.replace(rows(n, [i % 3 for i in range(n)], name, **self.stamp), task=self.task)


@pytest.mark.parametrize("task", ["caltech101", "dtd", "oxford_flowers102"])
def test_splits_cut_of_raw_ones_are_slices_of_the_hash_order(task):
    found = tasks.get(task)
    raw = {"train": "train", "validation": "val", "test": "test"}
    source = Owner(task, {raw[s]: n for s, n in found.sizes.items()}, reference=True, completeness="full", revision="v")
    for name in ("train800", "val200", "train800val200", "test"):
        got = vtab_splits.OfRaw(source).open(name)
        expected: list[tuple[str, int]] = []
        for piece in found.splits[name]:
            split = source.open(raw[piece.raw_split])
            order = sorted(
                range(len(split)), key=lambda i: hashlib.md5((piece.raw_split + split.keys[i]).encode()).digest()
            )
            expected += [(split.keys[i], int(split.labels[i])) for i in order[piece.start : piece.stop]]
        if name != "test":
            assert len(expected) == {"train800": 800, "val200": 200, "train800val200": 1000}[name]
        assert list(zip(got.keys, got.labels.tolist(), strict=True)) == expected
        assert got.read(3) == expected[3][0].replace("-", "").encode()
        assert (got.task, got.name, got.class_names) == (task, name, ("a", "b", "c"))
        why = found.non_reference
        assert got.provenance == Provenance("drawn", not why, why, "full", "v") and bool(why) == (task == "caltech101")
    unlike = Owner(task, source.sizes, reference=False, why="other")
    assert vtab_splits.OfRaw(unlike).open("test").provenance.why == "other"
    assert vtab_splits.OfRaw(source).splits == ("train800", "val200", "train800val200", "test")
    assert vtab_splits.OfRaw(source, full=True).splits == ("train", "val", "test")
    refused(lambda: vtab_splits.OfRaw(source).open("train"), "no split 'train'", kind=DataMissing)
    short = Owner(task, {**source.sizes, "train": source.sizes["train"] - 1})
    refused(lambda: vtab_splits.OfRaw(short).open("train800"), "official", kind=DataDamaged)
    assert vtab_splits.can_cut(source) and not vtab_splits.can_cut(Owner("my-own", source.sizes))
    assert not vtab_splits.can_cut(Owner(task, {"train": 1})) and not vtab_splits.can_cut(
        Owner("cifar10", source.sizes)
    )
    source.owner_keys = False
    assert not vtab_splits.can_cut(source)


def test_a_vals_owner_decides_whether_it_is_train():
    from vitft.data.vtab_splits import val_is_train

    class Sized(Owner):
        def count(self, split):
            return self.sizes[split]

    pets = {"train": 2944, "val": 736, "test": 3669}
    assert val_is_train(Sized("oxford_iiit_pet", pets))
    assert not val_is_train(Sized("oxford_iiit_pet", {**pets, "val": 735}))
    assert not val_is_train(Sized("oxford_iiit_pet", {**pets, "train": 2943}))
    assert not val_is_train(Sized("oxford_iiit_pet", {"train": 2944, "test": 3669}))
    assert val_is_train(Sized("oxford_iiit_pet", {"train": 2944, "val": 736}))
    assert not val_is_train(Sized("digits", {"train": 10, "val": 5, "test": 5}))  # known, without a val
    assert not val_is_train(Sized("dtd", {"train": 1880, "val": 1880, "test": 1880}))  # its owner's own val


def plain(name: str) -> dict[str, str]:
    return dict.fromkeys(("train", "validation", "test", "extra"), name)


@pytest.mark.parametrize(
    ("collection", "ends"),
    [
        ("patch_camelyon", {"train": "train_{}", "validation": "valid_{}", "test": "test_{}"}),
        ("clevr", {split: f"CLEVR_{owners}_{{:06d}}.png" for split, owners in
                   (("train", "train"), ("validation", "val"), ("test", "test"))}),
        *((name, plain("{}")) for name in ("cifar10", "cifar100", "svhn_cropped", "dsprites", "smallnorb")),
    ],
)  # fmt: skip
def test_each_raw_split_has_the_owners_keys(collection, ends):
    from vitft.data import official_splits

    task = next(t for t in tasks.TASKS if t.collection == collection)
    for raw_split, n in task.sizes.items():
        keys = official_splits.raw_keys(task, raw_split)
        assert keys is not None and len(keys) == n
        assert [keys[0], keys[7], keys[-1]] == [ends[raw_split].format(i) for i in (0, 7, n - 1)], raw_split
    folders = {"eurosat": ("AnnualCrop_AnnualCrop_1.jpg", "SeaLake_SeaLake_3000.jpg"),
               "resisc45": ("airplane_airplane_001.jpg", "wetland_wetland_700.jpg")}  # fmt: skip
    for name, (first, last) in folders.items():
        keys = official_splits.raw_keys(tasks.get(name), "train")
        assert keys is not None and (keys[0], keys[-1]) == (first, last)
        assert len(official_splits.split_keys(name, "test")) == tasks.get(name).count("test") > 0


@pytest.mark.parametrize(
    ("task", "splits", "expected"),
    [
        ("cifar100", ["train", "val"], (50_000, 55_000)),  # the owner's train, or VTAB's part of it, and val
        ("cifar100", ["train"], (50_000, 45_000)), ("cifar100", ["test"], (10_000,)),
        ("caltech101", ["test"], (6084, 6085)), ("sun397", ["train"], (76_128, 76_127)),
        ("sun397", ["train", "val"], (76_127 + 10_875, 76_128 + 10_875)),
        ("svhn", ["train", "val"], (73_257, 73_257 + 7326)),
        ("svhn", ["train800", "val200"], (1000,)), ("svhn", ["train", "nothing"], ()), ("no task", ["train"], ()),
    ],
)  # fmt: skip
def test_official_counts_of_splits_together_are_in_order(task, splits, expected):
    from vitft.data import official

    assert official.joined(task, splits) == expected
    assert expected or not official.shortfall(task, splits[-1], 7)
    if len(splits) == 1:
        assert official.counts(task, splits[0]) == expected
        for n in expected:
            assert official.completeness(task, splits[0], n) == "full" and not official.shortfall(task, splits[0], n)
            assert official.completeness(task, splits[0], n - 2) == "partial"
    if expected and len(splits) == 1:
        first = f"{splits[0]} has 7 of the official {expected[0]:,} images"
        assert official.shortfall(task, splits[0], 7) == first


def test_classes_are_the_same_where_their_names_are():
    split = dataclasses.replace(rows(4, [0, 1, 1, 2]), class_names=("x", "y", "z"))
    found = labels.by_name(split, ("z", "w", "y", "x"), "'m'")
    assert (found.labels.tolist(), found.class_names, found.keys) == ([3, 2, 2, 0], ("z", "w", "y", "x"), split.keys)
    assert labels.by_name(split, ("x", "y", "z"), "'m'") is split
    lacking = dataclasses.replace(split, labels=np.array([0, 1, 1, 0]))  # of z there is no image
    assert labels.by_name(lacking, ("y", "x"), "'m'").labels.tolist() == [1, 0, 0, 1]
    refused(lambda: labels.by_name(split, ("y", "x"), "'m'"), "has the class 'z', which 'm' has not", "the 2 classes")
    refused(lambda: labels.by_name(split, ("x", "w"), "'m'"), "has the class 'y' (2 classes)")
    one_name = dataclasses.replace(split, class_names=("x", "y", "y"))
    for asked, names in ((split, ("x", "y", "z", "x")), (one_name, ("x", "y"))):
        refused(lambda a=asked, n=names: labels.by_name(a, n, "'m'"), "gives one name to two classes")


def test_classes_without_an_image_are_named_three_at_most():
    split = dataclasses.replace(rows(3, [1, 1, 4]), class_names=tuple("abcdefg"))
    assert labels.absent(split) == ("a", "c", "d", "f", "g")
    assert labels.absent_note(("a",)) == "class 'a': no test image" and labels.absent_note(()) == ""
    assert labels.absent_note(("a", "b")) == "classes 'a', 'b': no test image"
    assert labels.absent_note(tuple("abcde")) == "classes 'a', 'b', 'c' and 2 more: no test image"
