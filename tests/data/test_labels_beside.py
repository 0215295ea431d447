"""Labels that stand beside the images: metadata tables, lists of splits; and names of splits that are never classes."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.layouts import alone, image, image_folders, number_of, parquet_folder, refused, write  # noqa: F401
from vitft.data.find import at
from vitft.data.sources.parquet import Parquet
from vitft.data.split import Split
from vitft.errors import DataDamaged, DataMissing

ROWS = {
    "train": [("a.png", "dog"), ("sub/b c.PNG", "cat"), ("Ünï.png", "dog")],
    "test": [("a.png", "cat"), ("z.png", "dog")],
}
NUMBERS = {"cat": 0, "dog": 1}


def csv_of(rows: list[tuple[str, object]]) -> bytes:
    return ("\ufefffile_name,caption,label\r\n" + "".join(f'{f},"one, two",{y}\r\n' for f, y in rows)).encode()


def jsonl_of(rows: list[tuple[str, object]]) -> bytes:
    return "".join(json.dumps({"file_name": f, "label": y}) + "\n" for f, y in rows).encode()


def parquet_of(rows: list[tuple[str, object]]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"file_name": [f for f, _ in rows], "label": [y for _, y in rows]}), out)
    return bytes(out.getvalue())


WRITERS: dict[str, Callable[[list[tuple[str, object]]], bytes]] = {
    ".csv": csv_of, ".jsonl": jsonl_of, ".parquet": parquet_of,
}  # fmt: skip


def drawn(root: Path, folders: dict[str, str] | None = None) -> Path:
    """Write the images of ROWS, each telling its place: 10 * split + row."""
    for s, (split, rows) in enumerate(ROWS.items()):
        for i, (file, _) in enumerate(rows):
            write(root / (folders or {}).get(split, split) / file, image(10 * s + i))
    return root


def content(split: Split) -> dict[int, str]:
    return {number_of(split.read(i)): split.class_names[label] for i, label in enumerate(split.labels.tolist())}


EXPECTED = {
    split: {10 * s + i: name for i, (_, name) in enumerate(rows)} for s, (split, rows) in enumerate(ROWS.items())
}


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("suffix", WRITERS)
class TestMetadata:
    def label(self, name: str, numbered: bool) -> object:
        return NUMBERS[name] if numbered else name

    def expected(self, numbered: bool) -> dict[str, dict[int, str]]:
        return {s: {n: str(self.label(y, numbered)) for n, y in rows.items()} for s, rows in EXPECTED.items()}

    def test_one_table_a_split(self, tmp_path: Path, suffix: str, numbered: bool) -> None:
        root = drawn(tmp_path / "my set", {"test": "Validation"})
        for split, folder in (("train", "train"), ("test", "Validation")):
            rows = [(f.replace("/", "\\"), self.label(y, numbered)) for f, y in ROWS[split]]
            write(root / folder / f"metadata{suffix}", WRITERS[suffix](rows))
        source = at(root)
        assert (source.task, source.splits) == ("my set", ("train", "val"))
        assert content(source.open("train")) == self.expected(numbered)["train"]
        assert content(source.open("val")) == self.expected(numbered)["test"]

    def test_one_table_at_the_root(self, tmp_path: Path, suffix: str, numbered: bool) -> None:
        root = drawn(tmp_path / "x")
        rows = [(f"./{split}/{f}", self.label(y, numbered)) for split, rows in ROWS.items() for f, y in rows]
        write(root / f"metadata{suffix}", WRITERS[suffix](rows))
        source = at(root)
        assert source.splits == ("train", "test")
        assert {split: content(source.open(split)) for split in source.splits} == self.expected(numbered)


def test_a_column_split_or_none_at_all(tmp_path: Path) -> None:
    root = drawn(tmp_path / "x", {"train": "images", "test": "images/deep"})
    lines = [f"images/{f};{y};train" for f, y in ROWS["train"]] + [f"images/deep/{f};{y};test" for f, y in ROWS["test"]]
    write(root / "metadata.csv", "file_name;label;split\n" + "\n".join(lines))
    assert {s: content(at(root).open(s)) for s in at(root).splits} == EXPECTED
    write(root / "metadata.csv", "file_name,label\n" + "\n".join(",".join(line.split(";")[:2]) for line in lines))
    assert at(root).splits == ("test",)
    assert content(at(root).open("test")) == EXPECTED["train"] | EXPECTED["test"]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": "file_name,label\na.png,dog\n"}, ("no row for 2 of 3 images",)),
        (
            {"train": "file_name,label\na.png,dog\na.png,dog\nsub/b c.PNG,cat\nÜnï.png,cat"},
            ("'train/a.png' more than",),
        ),
        ({"train": "file_name,label\na.png,dog\nsub/b c.PNG,\nÜnï.png,cat"}, ("row 2", "label is ''")),
        ({"train": "file_name,label,labels\na.png,dog,1\n"}, ("several label columns",)),
        ({"train": "file_name,label\n../a.png,dog\n"}, ("no path of an image",)),
        ({"train": "file_name,label\na.png,0\nsub/b c.PNG,2\nÜnï.png,0"}, ("numbers",)),
        ({"train": "file_name,label\na.png,dog\nsub/b c.PNG,cat\nÜnï.png,dog\nq.png,cat"}, ("q.png' is missing",)),
        ({"train": "file_name,label\na.png,sub\nsub/b c.PNG,cat\nÜnï.png,cat"}, ("lies in the folder 'sub'",)),
        ({".": "file_name,label\ntrain/a.png,dog\n"}, ("holds both",)),
        (
            {
                "train": "file_name,label\na.png,0\nsub/b c.PNG,1\nÜnï.png,0",
                "test": "file_name,label\na.png,-1\nz.png,-1\n",
            },
            ("has the label -1: it is hidden",),
        ),
    ],
)
def test_what_is_ambiguous_is_said(tmp_path: Path, tables: dict[str, str], words: tuple[str, ...]) -> None:
    root = drawn(tmp_path)
    write(root / "test/metadata.csv", csv_of(ROWS["test"]))  # type: ignore[arg-type]
    write(root / "train/metadata.csv", csv_of(ROWS["train"]))  # type: ignore[arg-type]
    for folder, text in tables.items():
        write(root / folder / "metadata.csv", text)
    assert refused(lambda: at(root).open("train"), *words).exit_code == 3


def test_a_split_without_its_table_and_two_tables_are_said(tmp_path: Path) -> None:
    root = drawn(tmp_path)
    write(root / "train/metadata.csv", csv_of(ROWS["train"]))  # type: ignore[arg-type]
    refused(lambda: at(root).splits, "test' holds images and no metadata", kind=DataDamaged)
    write(root / "test/metadata.csv", csv_of(ROWS["test"]))  # type: ignore[arg-type]
    write(root / "test/metadata.jsonl", jsonl_of(ROWS["test"]))  # type: ignore[arg-type]
    refused(lambda: at(root).splits, "metadata.csv", "metadata.jsonl", kind=DataDamaged)


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "valid"), ("test", "validation"), ("val",)])
def test_names_of_splits_are_never_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name / "a.png", image(1))
    refused(lambda: at(tmp_path).open("test"), "without class folders", "metadata.csv", kind=DataDamaged)
    write(tmp_path / "cat/a.png", image(1))
    refused(lambda: at(tmp_path).open("test"), "without class folders", kind=DataDamaged)


def test_captions_beside_class_folders_are_no_labels(tmp_path: Path) -> None:
    root = image_folders(tmp_path / "x")
    write(root / "train/metadata.csv", "file_name,text\ncat/0.png,a cat\n")
    assert at(root).open("train").class_names == ("cat", "dog")
    tables = parquet_folder(tmp_path / "y")
    write(tables / "metadata.parquet", parquet_of([("a.png", 1)]))
    assert Parquet(tables, "y").splits == ("train", "test")


class TestLists:
    def lists(self, root: Path, line: Callable[[str, str], str], end: str = "\n") -> Path:
        for s, (split, rows) in enumerate(ROWS.items()):
            for i, (file, y) in enumerate(rows):
                write(root / "images" / y / split / file, image(10 * s + i))
            lines = [line(f"{y}/{split}/{file}", y) for file, y in rows]
            write(root / f"{split}.txt", "\ufeff" + end.join(lines) + end + end)
        return root

    @pytest.mark.parametrize(
        "line",
        [
            lambda f, y: f"images/{f} {NUMBERS[y]}",
            lambda f, y: f"{f}\t{NUMBERS[y]}",
            lambda f, y: f"./images/{f}, {NUMBERS[y]}",
            lambda f, y: "images\\" + f.replace("/", "\\") + f" {NUMBERS[y]}",
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_path_and_label(self, tmp_path: Path, line: Callable[[str, str], str], end: str) -> None:
        source = at(self.lists(tmp_path / "beetles", line, end))
        assert (source.task, source.splits) == ("beetles", ("train", "test"))
        assert {s: content(source.open(s)) for s in source.splits} == {
            s: {n: str(NUMBERS[y]) for n, y in rows.items()} for s, rows in EXPECTED.items()
        }
        write(tmp_path / "beetles/classes.txt", "tiger cat\ndog\n")
        assert content(at(tmp_path / "beetles").open("test")) == {10: "tiger cat", 11: "dog"}

    def test_names_as_labels_and_the_folder_as_class(self, tmp_path: Path) -> None:
        root = self.lists(tmp_path, lambda f, y: f"images/{f} {y}")
        assert {s: content(at(root).open(s)) for s in at(root).splits} == EXPECTED
        for s, rows in ROWS.items():
            for i, (_, y) in enumerate(rows):
                write(root / "images" / y / f"{s} {i}.png", image(i))
            write(root / f"{s}.txt", "\n".join(f"{y}/{s} {i}.png" for i, (_, y) in enumerate(rows)))
        assert content(at(root).open("train")) == {0: "dog", 1: "cat", 2: "dog"}

    def test_what_no_split_holds_is_told(self, tmp_path: Path) -> None:
        root = self.lists(tmp_path, lambda f, y: f"images/{f} {y}")
        write(root / "images/extra.png", image(1))
        write(root / "trainval.txt", "images/extra.png cat\n")
        write(root / "README.txt", "hello world 1\n")
        why = at(root).open("train").provenance.why
        assert "lists not read: trainval.txt" in why
        assert "1 images stand in no list" in why
        refused(lambda: at(root).open("val"), "no split 'val'", "trainval.txt", kind=DataMissing)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("images/absent.png 1", ("absent.png",)),
            ("/etc/passwd 1", ("no path of an image",)),
            ("images/dog/train/a.png", ("labels to some images and none to others",)),
        ],
    )
    def test_a_line_that_cannot_be_used_is_said(self, tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
        root = self.lists(tmp_path, lambda f, y: f"images/{f} {NUMBERS[y]}")
        write(root / "train.txt", (root / "train.txt").read_text(encoding="utf-8") + line)
        assert refused(lambda: at(root).open("train"), *words).exit_code == 3

    def test_lists_beside_class_folders_are_told_of(self, tmp_path: Path) -> None:
        root = image_folders(tmp_path)
        write(root / "train.txt", "train/cat/0.png 0\n")
        split = at(root).open("train")
        assert len(split) == 6
        assert "not read: train.txt" in split.provenance.why
