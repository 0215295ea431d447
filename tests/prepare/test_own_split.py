"""A user's own images split: counts by hand, nothing lost, no content on two sides, and every wrong turn told."""

import hashlib
import json
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli_data import Run, vitft
from tests.layouts import alone, image, refused, write
from vitft.data import find
from vitft.errors import DataError, UsageError, VitftError
from vitft.prepare import own_split

__all__ = ["alone", "vitft"]

# images of each class; 30 % of 10, 5 and 2 are 3, 1.5 and 0.6: rounded half up 3, 2 and 1.
SIZES = {"Great Dane": 10, "beagle_dog": 5, "pug": 2}
TESTED = {"Great Dane": 3, "beagle_dog": 2, "pug": 1}


def numbered(sizes: dict[str, int] = SIZES) -> list[tuple[str, int, int]]:
    return [(name, i, 100 * label + i) for label, (name, n) in enumerate(sizes.items()) for i in range(n)]


def flat(root: Path) -> Path:
    for name, i, number in numbered():
        write(root / f"{name}_{i:02d}.png", image(number))
    return root


def classes(root: Path, below: str = "") -> Path:
    for name, i, number in numbered():
        write(root / below / name / f"{i}.png", image(number))
    return root


def table(root: Path, name: str = "labels.csv", below: str = "") -> Path:
    rows = []
    for label, _, number in numbered():
        write(root / below / f"{number}.png", image(number))
        rows.append((f"{number}.png", label))
    if name.endswith(".csv"):
        text = "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in rows)
    else:
        text = "".join(json.dumps({"file_name": file, "label": label}) + "\n" for file, label in rows)
    write(root / name, text)
    return root


KINDS = {
    "flat": flat,
    "flat in images": lambda root: flat(root / "images").parent,
    "flat in train": lambda root: flat(root / "train").parent,
    "csv": table,
    "jsonl": lambda root: table(root, "truth.jsonl"),
    "csv beside images": lambda root: table(root, below="images"),
    "metadata": lambda root: table(root, "metadata.csv"),
    "classes": classes,
    "train alone": lambda root: classes(root, "train"),
}


def sides(output: Path) -> dict[str, dict[bytes, str]]:
    """Return side -> content -> class as `vitft` reads the folder."""
    source = find.at(output)
    found = {}
    for name in source.splits:
        opened = source.open(name)
        found[name] = {opened.read(i): opened.class_names[opened.labels[i]] for i in range(len(opened))}
        assert len(found[name]) == len(opened)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_counts_that_a_hand_computes_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    root = KINDS[kind](tmp_path / "photos")
    own_split.split(root, tmp_path / "out")
    found = sides(tmp_path / "out")
    assert Counter(found["test"].values()) == TESTED
    assert Counter(found["train"].values()) == {name: n - TESTED[name] for name, n in SIZES.items()}
    assert not found["train"].keys() & found["test"].keys()
    assert found["train"] | found["test"] == {image(number): name for name, _, number in numbered()}


def test_the_split_is_of_seed_and_content_whatever_the_files_are_called(tmp_path: Path) -> None:
    first, _ = own_split.split(flat(tmp_path / "a"), tmp_path / "one")
    same, _ = own_split.split(classes(tmp_path / "b"), tmp_path / "two")
    other, _ = own_split.split(tmp_path / "a", tmp_path / "three", seed=1)
    assert sides(tmp_path / "one") == sides(tmp_path / "two")
    assert first.digest == same.digest != other.digest
    assert sides(tmp_path / "one") != sides(tmp_path / "three")
    assert (first.images, first.seed, first.classes) == ({"train": 11, "test": 6}, 0, 3)


def test_val_is_cut_from_what_test_leaves_and_train_keeps_one(tmp_path: Path) -> None:
    own_split.split(flat(tmp_path / "a"), tmp_path / "out", test_fraction=0.2, val_fraction=0.1)
    found = {name: Counter(of.values()) for name, of in sides(tmp_path / "out").items()}
    # 20 % of 10, 5, 2: 2, 1, and one at least; 10 %: 1, 0.5 -> 1, and the last pug stays in train.
    assert found["test"] == {"Great Dane": 2, "beagle_dog": 1, "pug": 1}
    assert found["val"] == {"Great Dane": 1, "beagle_dog": 1}
    assert found["train"] == {"Great Dane": 7, "beagle_dog": 3, "pug": 1}
    for left, taken in (([[1, 2, 3], [4, 5]], [4, 5]), ([[1, 2], [3, 4, 5]], [1, 2])):  # each more than is wanted
        assert own_split._take(left, 1, keep=1) == taken and len(left) == 1
    assert own_split._within(["train/a.png", "images/b.png"]) == ""
    for name in ("train", "val", "validation", "test", "images", "Images", "TEST"):
        assert own_split._within([f"{name}/images/a.png", f"{name}/images/b.png"]) == f"{name}/images/"
    assert own_split._within(["cats/a.png", "cats/b.png"]) == ""


@pytest.mark.parametrize("seed", range(20))
def test_copies_stay_on_one_side_and_an_image_of_two_classes_is_not_tested(tmp_path: Path, seed: int) -> None:
    contents = [b"a", b"b", b"b", b"b", b"c", b"d", b"d", b"e", b"f", b"x", b"x", b"y", b"y"]
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    found = own_split.assign(contents, labels, 0.3, 0.2, seed)
    assert sorted(i for of in found.values() for i in of) == list(range(13))
    of = {name: {contents[i] for i in side} for name, side in found.items()}
    assert not of["train"] & of["test"] and not of["train"] & of["val"] and not of["val"] & of["test"]
    assert b"x" in of["train"]
    for side in found.values():
        assert sum(labels[i] == 0 for i in side) > 0
    # class 1 has x in train, so that its other content can be tested
    assert {i for i in found["test"] if labels[i] == 1} == {11, 12}


def test_a_label_in_a_name_by_default_and_by_an_expression(tmp_path: Path) -> None:
    names = ("cat.12.png", "dog-3.png", "Great Dane (7).png", "n0144_17.png", "pug9.png", "plain.png")
    assert [own_split._by_name(name, None) for name in names] == ["cat", "dog", "Great Dane", "n0144", "pug", "plain"]
    assert own_split._by_name("a/ cat _1.png", re.compile(r"(.+)_")) == "cat"
    for name, number in (("s1-cat-a", 0), ("s2-cat-b", 1), ("s1-dog-a", 2), ("s2-dog-b", 3)):
        write(tmp_path / "a" / f"{name}.png", image(number))
    for at, regex in enumerate((r"-(\w+)-", r"(s\d)-(?P<label>\w+)-[ab]$")):
        own_split.split(tmp_path / "a", tmp_path / f"out{at}", by_name=regex)
        assert find.at(tmp_path / f"out{at}").class_names == ("cat", "dog")  # type: ignore[attr-defined]


def test_wrong_folders_are_told_and_leave_nothing(tmp_path: Path) -> None:
    def told(root: Path, *words: str, kind: type[VitftError] = DataError, out: str = "out", **given: object) -> None:
        refused(lambda: own_split.split(root, tmp_path / out, **given), *words, kind=kind)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    good = flat(tmp_path / "good")
    told(tmp_path / "absent", "absent", "exists")
    (tmp_path / "empty").mkdir()
    told(tmp_path / "empty", "holds no image")
    told(good, "good' exists", kind=UsageError, out="good")
    told(good, "among the images", kind=UsageError, out="good/out")
    told(good, "'(x'", "no regular expression", kind=UsageError, by_name="(x")
    told(good, "'pug'", "no group", kind=UsageError, by_name="pug")
    told(good, "does not name its class", "zz", by_name=r"(\d+)zz")
    told(good, "does not name its class", "finds no label", by_name=r"(zz)?.")
    told(good, "one class", by_name=r"(\.png)")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    told(good, "nowhere' exists", kind=UsageError, out="nowhere")
    told(good, "--test-fraction '0'", kind=UsageError, test_fraction=0.0)
    told(good, "--test-fraction 'nan'", kind=UsageError, test_fraction=float("nan"))
    told(good, "--val-fraction '0.4'", kind=UsageError, test_fraction=0.6, val_fraction=0.4)
    write(good / "extra.raw", b"1")
    told(good, "extra.raw", "no image")
    (good / "extra.raw").unlink()
    write(good / "akita_1.png", image(900))
    told(good, "1 of 4 classes have one image", "'akita'")
    (good / "akita_1.png").rename(good / "17.png")
    told(good, "'17.png' does not name its class")
    write(classes(tmp_path / "mixed") / "top.png", image(901))
    told(tmp_path / "mixed", "beside folders of images")
    told(classes(classes(tmp_path / "split", "train"), "test"), "splits already: train, test")
    rows = table(tmp_path / "short")
    write(rows / "more.png", image(902))
    told(rows, "labels.csv", "no row for 1 of 18 images")


def test_what_is_split_already_or_labelled_twice_is_told(tmp_path: Path) -> None:
    def told(root: Path, *words: str) -> None:
        refused(lambda: own_split.split(root, tmp_path / "out"), *words, kind=DataError)
        assert not (tmp_path / "out").exists()

    community = tmp_path / "vtab"
    for name in ("train800", "val200", "train800val200", "test"):
        write(community / f"{name}.txt", "images/a.png 0\n")
    write(community / "images/a.png", image(1))
    told(community, "is a data set already", f"vitft finetune {community}")
    several = tmp_path / "several"
    for name in ("train", "test"):
        write(several / name / "metadata.csv", "file_name,label\n0.png,a\n")
        write(several / name / "0.png", image(2))
    told(several, "splits already: train, test")
    three = tmp_path / "three"
    for name in ("test", "val", "train"):
        classes(three, name)
    told(three, "splits already: train, val, test")
    two = table(table(tmp_path / "two", "a.csv"), "b.csv")
    told(two, "several tables of labels: a.csv, b.csv")
    split_column = tmp_path / "column"
    write(split_column / "labels.csv", "file_name,label,split\n0.png,a,train\n1.png,b,test\n")
    for i in range(2):
        write(split_column / f"{i}.png", image(3 + i))
    told(split_column, "splits already: train, test")


def test_copies_are_counted_and_an_image_in_two_classes_is_said(tmp_path: Path) -> None:
    root = classes(tmp_path / "a")
    write(root / "pug" / "copy.png", image(200))
    write(root / "pug" / "twin.png", image(0))  # the first Great Dane
    _, notes = own_split.split(root, tmp_path / "out")
    assert notes == (
        "2 images are copies of others, byte for byte; copies are kept on one side",
        "1 images stand in two classes, byte for byte; they are kept in train",
    )
    assert own_split.split(classes(tmp_path / "b"), tmp_path / "out2")[1] == ()
    for name in ("B.CSV", "a.tsv", "c.jsonl", "d.txt"):  # no tables of labels
        write(tmp_path / "b" / name, b"{}\n")
    said = "not read, as it has no columns file_name and label: "
    assert own_split.split(tmp_path / "b", tmp_path / "out3")[1] == (f"{said}B.CSV", f"{said}a.tsv", f"{said}c.jsonl")


@pytest.mark.parametrize("name", ["a\\b", "line\nbreak", "a "])
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    root = classes(tmp_path / "a")
    write(root / name / "0.png", image(300))
    write(root / name / "1.png", image(301))
    refused(lambda: own_split.split(root, tmp_path / "out"), "A list cannot hold the name", kind=DataError)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(1, "no links here")

    root = classes(tmp_path / "a")
    monkeypatch.setattr(Path, "symlink_to", no_links)
    refused(lambda: own_split.split(root, tmp_path / "deep/out"), "no links here", "takes links", kind=VitftError)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_folder_beside_train_is_no_class_and_train_among_classes_is_one(tmp_path: Path) -> None:
    write(classes(tmp_path / "a", "train") / "unlabelled" / "x.png", image(999))
    stamp, _ = own_split.split(tmp_path / "a", tmp_path / "out")
    assert sum(stamp.images.values()) == 17
    for name in ("car", "train"):
        for i in range(2):
            write(tmp_path / "b" / name / f"{i}.png", image(len(name) * 10 + i))
    own_split.split(tmp_path / "b", tmp_path / "out2")
    assert find.at(tmp_path / "out2").class_names == ("car", "train")  # type: ignore[attr-defined]


def test_an_empty_split_folder_is_none_and_numbers_of_a_table_are_those_of_its_class_list(tmp_path: Path) -> None:
    (classes(tmp_path / "a", "train") / "test").mkdir()
    assert own_split.split(tmp_path / "a", tmp_path / "out")[0].rule == "class folders"
    for i in range(4):
        write(tmp_path / "b" / f"{i}.png", image(i))
    write(tmp_path / "b" / "labels.csv", "file_name,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(4)))
    for lists, names in ((False, ("0", "1")), (True, ("cat", "dog"))):
        if lists:
            write(tmp_path / "b" / "classes.txt", "cat\ndog\n")
        stamp, _ = own_split.split(tmp_path / "b", tmp_path / f"out{lists}")
        assert (stamp.rule, find.at(tmp_path / f"out{lists}").class_names) == ("labels.csv", names)  # type: ignore[attr-defined]


def test_provenance_names_the_split_until_a_list_is_changed(tmp_path: Path) -> None:
    own_split.split(flat(tmp_path / "a"), tmp_path / "out", seed=3, test_fraction=0.25, val_fraction=0.1)
    why = find.at(tmp_path / "out").open("test").provenance.why
    assert why == "your own split (seed 3, 25 % test, 10 % val)"
    lists = {name: (tmp_path / "out" / f"{name}.txt").read_bytes() for name in ("train", "val", "test")}
    stamp = json.loads((tmp_path / "out/split.json").read_text())
    assert stamp["lists"] == {f"{name}.txt": hashlib.sha256(data).hexdigest() for name, data in lists.items()}
    (tmp_path / "out/test.txt").write_bytes(lists["test"].splitlines(keepends=True)[0])
    assert "changed" in find.at(tmp_path / "out").open("test").provenance.why
    assert find.at(classes(classes(tmp_path / "b", "train"), "test")).open("test").provenance.why == "your own split"


def test_the_verb_prints_counts_and_json_and_finetune_names_it(vitft: Run, tmp_path: Path) -> None:
    root = flat(tmp_path / "my photos")
    code, out, err = vitft("split", str(root), "-o", str(tmp_path / "out"))
    assert code == 0
    assert "train 11, test 6 images of 3 classes" in out
    assert f"vitft finetune {tmp_path / 'out'}" in err.replace("\n", "")
    code, out, _ = vitft("split", str(root), "-o", str(tmp_path / "out2"), "--format", "json")
    assert (code, json.loads(out)["images"]) == (0, {"train": 11, "test": 6})
    assert vitft("split", str(root), "-o", str(tmp_path / "out"))[0] == 2
    assert vitft("split", str(root), "-o", str(tmp_path / "o"), "--by-name", "x")[0] == 2
    assert (tmp_path / "out/images").readlink() == root
    shutil.rmtree(tmp_path / "out")
    assert len(list(root.iterdir())) == 17


@pytest.mark.parametrize("kind", ["flat", "flat in train", "classes", "train alone", "csv", "metadata"])
def test_the_errors_of_finetune_on_unsplit_folders_name_the_command(kind: str, tmp_path: Path) -> None:
    from vitft import recipes
    from vitft.protocol.jobs import make

    root = KINDS[kind](tmp_path / "my photos")
    refused(
        lambda: make(str(root), model="vit-mini", recipe=recipes.load("quick"), overrides={}),
        f"vitft data split '{root}' -o '{root}-split'",
    )


@pytest.mark.parametrize(
    ("groups", "wanted", "keep", "taken"),
    [
        ([[1], [2], [3], [4]], 2, 1, [1, 2]),
        ([[1], [2]], 5, 1, [1]),  # one stays
        ([[1], [2]], 5, 0, [1, 2]),
        ([[1, 2, 3], [4]], 1, 1, [4]),  # twins go together or not at all
        ([[1], [2, 3], [4]], 2, 1, [1, 4]),
        ([[1, 2, 3], [4, 5], [6, 7]], 1, 1, [4, 5]),  # one group at least, the smallest, the first of equals
        ([[1], [2], [3]], 0, 1, [1]),
        ([[1, 2]], 1, 1, []),
        ([[1, 2]], 1, 0, [1, 2]),
        ([], 3, 0, []),
    ],
)
def test_whole_groups_are_taken_up_to_what_is_wanted(groups: Any, wanted: int, keep: int, taken: list[int]) -> None:
    left = [*groups]
    assert own_split._take(left, wanted, keep) == taken
    assert left == [group for group in groups if not set(group) & set(taken)]


def test_fractions_leave_something_on_each_side() -> None:
    for test, val in ((0.3, 0.0), (0.001, 0.0), (0.999, 0.0), (0.5, 0.499), (0.25, 0.25)):
        own_split._fractions(test, val)
    for test in (0.0, 1.0, -0.1, 1.5):
        refused(partial(own_split._fractions, test, 0.0), f"'{test:g}' leaves nothing", kind=UsageError)
    for test, val in ((0.5, 0.5), (0.25, 0.75), (0.3, 0.9), (0.3, -0.1)):
        refused(partial(own_split._fractions, test, val), f"below {1 - test:g}", kind=UsageError)


def test_an_expression_comes_before_a_table_and_a_list_is_read_as_a_table_is(tmp_path: Path) -> None:
    rows, rule, _ = own_split.labelled(table(tmp_path / "a"), re.compile(r"^(\d)"))
    assert {name for _, name in rows} == {str(number)[0] for _, _, number in numbered()}, rule
    for i in range(4):
        write(tmp_path / f"b/images/{i}.png", image(i))
    write(tmp_path / "b/train.txt", "".join(f"images/{i}.png {i % 2}\n" for i in range(4)))
    rows, rule, _ = own_split.labelled(tmp_path / "b", None)
    assert [(key, name) for key, name in rows] == [(f"images/{i}.png", str(i % 2)) for i in range(4)], rows
