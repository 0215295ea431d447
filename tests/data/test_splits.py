"""The official splits: the order of the hash, digests of the real thing, and the parts vitft cuts itself."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import packed_lists
from vitft.catalog import tasks
from vitft.catalog.tasks import VTAB
from vitft.data import labels, lists, official_splits, portions
from vitft.data.split import Provenance, Split
from vitft.errors import DataError, UsageError
from vitft.results.checks import keys_digest

GOLDEN = {
    "cifar100": "cifar100",
    "svhn_cropped": "svhn",
    "dsprites": "dsprites_location",
    "eurosat/rgb": "eurosat",
}
# The first 16 digits of the digests of train800 and val200. Every set, and the order of every val200, was found equal
# to vtab_trainval_splits.json, which the authors of VPT (Jia et al. 2022) dumped from TFDS 4.4 with the data in place.
DUMPED = {
    "cifar100": ("5b25ee0661c3bc4a", "93377e439662509b"),
    "sun397": ("bbfe318c912bf278", "ed3f4079a4f342a7"),
    "patch_camelyon": ("c1122cb7e413b8b3", "b3998b44bc8423a1"),
    "eurosat": ("7dac90dec1b73063", "5c9a3ab3702faf20"),
    "resisc45": ("7c42d524f21f8a68", "2a2bb0da49b4bb17"),
    "clevr_count": ("5dc1033102716488", "9a9150228251ccef"),
    "clevr_distance": ("5dc1033102716488", "9a9150228251ccef"),
}
ENUMERABLE = [task.name for task in VTAB if official_splits.raw_keys(task, "train") is not None]


@given(
    st.lists(st.text(max_size=12), unique=True, max_size=60),
    st.sampled_from(["train", "validation", "test"]),
)
@settings(max_examples=60, deadline=None)
def test_order_is_ascending_md5_of_salt_and_key(keys: list[str], raw_split: str) -> None:
    def number(key: str) -> int:
        return int(hashlib.md5((raw_split + key.replace("\\", "/")).encode()).hexdigest(), 16)

    order = official_splits.hash_order(keys, raw_split)
    assert [keys[i] for i in order] == sorted(keys, key=number)


def test_numbers_text_and_bytes_hash_alike() -> None:
    numbers = list(range(500))
    order = official_splits.hash_order(numbers, "train")
    assert (order == official_splits.hash_order([str(n) for n in numbers], "train")).all()
    assert (order == official_splits.hash_order([str(n).encode() for n in numbers], "train")).all()


@pytest.mark.parametrize("collection", GOLDEN)
def test_digests_of_the_real_thing(shared: Path, collection: str) -> None:
    golden = json.loads((shared / "facts" / "vtab_tasks.json").read_text())["golden_slices"][collection]
    for split, expected in golden["slices"].items():
        keys = official_splits.split_keys(GOLDEN[collection], split)
        assert keys[:3] == expected["first3"]
        assert keys[-1] == expected["last"]
        described = official_splits.describe(GOLDEN[collection], split, keys)
        assert described["sha256"][:16] == expected["sha256_16_of_newline_joined_keys_in_hash_order"]
        assert described["keys"] == keys


@pytest.mark.parametrize("name", DUMPED)
def test_sets_are_those_dumped_from_the_real_thing(name: str) -> None:
    digests = (keys_digest(official_splits.split_keys(name, split))[:16] for split in ("train800", "val200"))
    assert tuple(digests) == DUMPED[name]


def test_order_of_every_collection_that_tensorflow_datasets_wrote_itself(
    shared: Path,
) -> None:
    oracle = json.loads((shared / "facts" / "tfds_oracle.json").read_text())["collections"]
    for name, collection in oracle.items():
        for raw_split, found in collection["splits"].items():
            keys = [example["key"] for example in found["examples"]]
            assert official_splits.hash_order(keys, raw_split).tolist() == list(range(len(keys))), (
                name,
                raw_split,
            )


@pytest.mark.parametrize("name", ENUMERABLE)
def test_enumerable_splits_hold_what_they_should(name: str) -> None:
    task = tasks.get(name)
    if name in ("dsprites_orientation", "clevr_distance", "smallnorb_elevation"):
        pytest.skip("the same keys as its sister task")
    parts = {split: official_splits.split_keys(name, split) for split in ("train800", "val200", "test")}
    assert {split: len(keys) for split, keys in parts.items()} == {
        "train800": 800,
        "val200": 200,
        "test": sum(piece.stop - piece.start for piece in task.splits["test"]),
    }
    assert official_splits.split_keys(name, "train800val200") == parts["train800"] + parts["val200"]
    if len({piece.raw_split for pieces in task.splits.values() for piece in pieces}) == 1:
        assert not set(parts["train800"]) & set(parts["test"])


def test_the_keys_of_a_raw_split_are_as_many_as_it_has_and_no_two_are_equal() -> None:
    for name in ENUMERABLE:
        task = tasks.get(name)
        for raw_split, n in task.sizes.items():
            keys = official_splits.raw_keys(task, raw_split)
            assert keys is not None
            assert len(keys) == len(set(keys)) == n, (name, raw_split)


def test_sun397_class_counts_that_its_users_report() -> None:
    classes = {
        "train800": 309,
        "train800val200": 325,
    }  # github.com/google-research/task_adaptation issue 21
    for split, n in classes.items():
        assert len({key.rpartition("/")[0] for key in official_splits.split_keys("sun397", split)}) == n


def test_keys_that_stand_in_the_data_only_are_asked_for() -> None:
    with pytest.raises(DataError, match="--source"):
        official_splits.split_keys("dtd", "train800")
    with pytest.raises(UsageError, match="has no split 'dev'"):
        official_splits.split_keys("dtd", "dev")
    given = {
        "train": [f"a/{i}.jpg" for i in range(1880)],
        "validation": [f"b/{i}.jpg" for i in range(1880)],
    }
    chosen = official_splits.split_keys("dtd", "train800val200", given)
    assert [key[0] for key in chosen] == ["a"] * 800 + ["b"] * 200
    for name, split in (("dtd", "train800val200"), ("cifar100", "test")):  # of data, all that is asked for, or none
        with pytest.raises(DataError, match="known from its data only"):
            official_splits.split_keys(name, split, {"train": given["train"]})


def test_caltech101_moves_its_val_when_one_training_image_is_lost_and_is_never_the_reference() -> None:
    for n, start in ((3060, 2754), (3059, 2753)):
        keys = [f"accordion/{i}.jpg" for i in range(n)]
        order = [keys[i] for i in official_splits.hash_order(keys, "train")]
        assert official_splits.split_keys("caltech101", "val200", {"train": keys}) == order[start : start + 200]
        assert official_splits.split_keys("caltech101", "val", {"train": keys}) == order[start:]
        assert official_splits.split_keys("caltech101", "train800", {"train": keys}) == order[:800]
        both = {"train": keys, "test": keys[:9]}
        assert sorted(official_splits.split_keys("caltech101", "test", both)) == sorted(keys[:9])
    described = official_splits.describe("caltech101", "val", [])
    assert not described["reference"]
    assert "listing" in described["why"]


def test_shipped_lists_are_the_published_ones(shared: Path) -> None:
    folder = shared / "facts" / "lists"
    for raw_split, short in (("train", "tr"), ("validation", "va"), ("test", "te")):
        assert list(lists.sun397()[raw_split]) == (folder / f"sun397_tfds_{short}.txt").read_text().split()
    wnids = [lists.names("imagenet")[label] for label in lists.imagenet_validation()]
    assert wnids == (folder / "imagenet2012_validation_labels.txt").read_text().split()


def test_lists_survive_packing() -> None:
    assert packed_lists.pack_sun397(lists.sun397()) == _shipped("sun397.bin.xz")
    wnids = [lists.names("imagenet")[label] for label in lists.imagenet_validation()]
    assert packed_lists.pack_imagenet(wnids) == _shipped("imagenet_val.bin.xz")
    assert (np.bincount(lists.imagenet_validation()) == 50).all()


def _shipped(name: str) -> bytes:
    return (Path(lists.__file__).parent / name).read_bytes()


def test_every_task_names_its_classes() -> None:
    for task in tasks.TASKS:
        names = labels.class_names(task.name)
        assert len(set(names)) == task.num_classes, task.name


def _split(of_class: list[int], shuffle: bool = True) -> Split:
    y = np.asarray(of_class, dtype=np.int64)
    if shuffle:
        y = y[np.random.default_rng(0).permutation(len(y))]
    names = tuple(f"c{i}" for i in range(int(y.max()) + 1))
    keys = [f"k{i}" for i in range(len(y))]
    return Split(
        "t",
        "train",
        names,
        keys,
        y,
        lambda i: keys[i].encode(),
        Provenance("drawn", completeness="full"),
    )


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_limit_is_stratified_repeatable_and_in_order(of_class: list[int], n: int, seed: int) -> None:
    split = _split(of_class)
    part = portions.limit(split, n, seed)
    assert len(part) == min(n, len(split)) == len(set(part.keys))
    assert list(part.keys) == [key for key in split.keys if key in set(part.keys)]
    assert portions.limit(split, n, seed).keys == part.keys
    assert [part.read(i) for i in range(len(part))] == [key.encode() for key in part.keys]
    have, got = Counter(split.labels.tolist()), Counter(part.labels.tolist())
    if n >= len(have):
        assert set(got) == set(have) or n < 2 * len(have)
    for label, count in have.items():
        assert abs(got[label] - count * len(part) / len(split)) < 1 + 1e-9


def test_limit_depends_on_keys_and_seed_not_on_order() -> None:
    split = _split([0] * 50 + [1] * 50)
    backwards = split.select(np.arange(len(split))[::-1])
    assert set(portions.limit(split, 10, 0).keys) == set(portions.limit(backwards, 10, 0).keys)
    assert set(portions.limit(split, 10, 0).keys) != set(portions.limit(split, 10, 1).keys)


def test_per_class_gives_k_of_each_nested_and_names_the_class_that_has_too_few() -> None:
    split = _split([0] * 9 + [1] * 4 + [2] * 20)
    small, large = portions.per_class(split, 2, 7), portions.per_class(split, 4, 7)
    assert Counter(large.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert set(small.keys) < set(large.keys)
    with pytest.raises(DataError, match="'c1' has 4 images") as caught:
        portions.per_class(split, 5, 7)
    assert caught.value.exit_code == 3


def test_dev_split_is_the_end_and_of_each_class_where_they_stand_sorted() -> None:
    mixed = _split([0] * 500 + [1] * 500)
    train, dev, rule = portions.dev_split(mixed, 0.02)
    assert (len(train), len(dev), rule) == (980, 20, "end")
    assert list(train.keys) + list(dev.keys) == list(mixed.keys)
    ordered = _split([0] * 40 + [1] * 10 + [2] * 1, shuffle=False)
    train, dev, rule = portions.dev_split(ordered, 0.1)
    assert rule == "stratified end"
    assert Counter(dev.labels.tolist()) == {0: 4, 1: 1}
    assert sorted(int(key[1:]) for key in [*train.keys, *dev.keys]) == list(range(51))
    assert list(dev.keys) == ["k36", "k37", "k38", "k39", "k49"]
    with pytest.raises(DataError):
        portions.dev_split(_split([0]), 0.1)


def test_joined_splits_keep_order_images_and_the_weaker_claim() -> None:
    a, b = _split([0, 1, 0]), _split([1, 1])
    both = portions.join([a, b.select([0, 1], "val")], "trainval")
    assert len(both) == 5 == len(set(both.keys))
    assert both.labels.tolist() == a.labels.tolist() + b.labels.tolist()
    assert both.read(3) == b.read(0)
    assert both.provenance.completeness == "partial"
    with pytest.raises(DataError, match="an image twice"):
        portions.join([a, a], "trainval")
