"""ImageNet in every layout that people keep."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.layouts import (  # noqa: F401
    WNIDS,
    alone,
    image,
    image_folders,
    imagenet_classes,
    imagenet_flat,
    imagenet_name,
    imagenet_tar,
    refused,
    table,
    write,
)
from vitft.data import lists
from vitft.data.find import at, find
from vitft.data.sources.imagenet import ImageNet
from vitft.errors import DataDamaged, DataMissing


class TestImageNet:
    def test_four_layouts_give_the_same_labels_and_keys(self, tmp_path: Path) -> None:
        labels = lists.imagenet_validation()
        tar = ImageNet(imagenet_tar(tmp_path / "tar")).open("test")
        assert list(tar.keys) == [imagenet_name(n) for n in (1, 2, 3)]
        classes = ImageNet(imagenet_classes(tmp_path / "classes")).open("test")
        flat = ImageNet(imagenet_flat(tmp_path / "flat")).open("test")
        (tmp_path / "flat/labels.txt").unlink()
        numbered = ImageNet(tmp_path / "flat").open("test")
        for split in (tar, classes, flat, numbered):
            for key, label in zip(split.keys, split.labels.tolist(), strict=True):
                assert label == labels[int(key[15:23]) - 1]
            assert split.class_names == WNIDS
            assert split.provenance.completeness == "partial"
            first = Image.open(io.BytesIO(split.read(0))).convert("RGB").getpixel((0, 0))
            assert abs(first[0] - int(split.keys[0][15:23])) <= 3  # type: ignore[index]

    def test_lists_with_identifiers_folders_bom_and_crlf(self, tmp_path: Path) -> None:
        root = imagenet_flat(tmp_path)
        (root / "labels.txt").unlink()
        wnid = WNIDS[lists.imagenet_validation()[4]]
        write(root / "val.txt", f"\ufeffval/{imagenet_name(5)} {wnid}\r\n")
        split = at(root).open("test")
        assert split.labels.tolist() == [lists.imagenet_validation()[4]]

    @pytest.mark.parametrize(
        "line", ["ILSVRC2012_val_00000005.JPEG 1000", "ILSVRC2012_val_00000005.JPEG -1", "ILSVRC2012_val_00000005.JPEG"]
    )
    def test_a_label_outside_is_shown(self, tmp_path: Path, line: str) -> None:
        write(imagenet_flat(tmp_path) / "labels.txt", f"{imagenet_name(9)} 4\n{line}\n")
        refused(lambda: ImageNet(tmp_path).open("test"), "line 2", "0 to 999", kind=DataDamaged)

    def test_an_image_that_is_listed_but_absent_or_listed_twice(self, tmp_path: Path) -> None:
        root = imagenet_flat(tmp_path)
        write(root / "labels.txt", f"{imagenet_name(5)} 4\n{imagenet_name(6)} 4\n")
        refused(lambda: ImageNet(root).open("test"), imagenet_name(6), "line 2", kind=DataMissing)
        write(root / "labels.txt", f"{imagenet_name(5)} 4\n{imagenet_name(5)} 4\n")
        refused(lambda: ImageNet(root).open("test"), imagenet_name(5), "more than once", kind=DataDamaged)

    def test_a_tar_cut_short(self, tmp_path: Path) -> None:
        file = imagenet_tar(tmp_path) / "ILSVRC2012_img_val.tar"
        for size in (600, 512 * 3 + 40, 100):
            file.write_bytes(file.read_bytes()[:size])
            refused(lambda: ImageNet(tmp_path).open("test"), "ILSVRC2012_img_val.tar", kind=DataDamaged)

    def test_tables_of_the_hub_have_their_validation_as_test(self, tmp_path: Path) -> None:
        names = [f"class {i}" for i in range(1000)]
        folder = tmp_path / "imagenet-1k" / "data"
        folder.mkdir(parents=True)
        cells = [{"bytes": image(n), "path": f"ILSVRC2012_val_{n:08d}_{WNIDS[0]}.JPEG"} for n in (8, 3)]
        made = table([5, 6], "image", names=names)
        made = made.set_column(0, "image", pa.array(cells)).replace_schema_metadata(made.schema.metadata)
        pq.write_table(made, folder / "validation-00000-of-00001.parquet")
        pq.write_table(table([-1, -1], "image", names=names), folder / "test-00000-of-00001.parquet")
        source = find("imagenet", tmp_path)
        assert source.splits == ("test",)
        split = source.open("test")
        assert list(split.keys) == [imagenet_name(8), imagenet_name(3)]
        assert split.labels.tolist() == [5, 6]

    def test_the_validation_images_are_not_called_val(self, tmp_path: Path) -> None:
        refused(lambda: ImageNet(imagenet_classes(tmp_path)).open("val"), "are the split 'test' here", kind=DataMissing)

    def test_a_task_of_a_few_of_its_classes_is_the_users_own(self, tmp_path: Path) -> None:
        image_folders(tmp_path / "imagenette", classes=WNIDS[:3], names=("train", "val"))
        source = at(tmp_path / "imagenette")
        assert source.open("train").num_classes == 3
        assert find("imagenet", tmp_path / "imagenette").open("test").num_classes == 1000

    def test_other_images_of_its_classes_are_not_imagenet(self, tmp_path: Path) -> None:
        for name in ("imagenet-r", "imagenet"):
            for wnid in WNIDS[5:7]:
                write(tmp_path / name / wnid / "art_0.jpg", image(1, "JPEG"))
        rendered = at(tmp_path / "imagenet-r")
        split = rendered.open("test")
        assert rendered.task == split.task == "imagenet-r" and split.labels.tolist() == [5, 6]
        assert split.provenance.why == "images of ImageNet's classes, not its validation images"
        assert at(tmp_path / "imagenet").task == "imagenet"  # as its folder's name says
        assert at(imagenet_classes(tmp_path / "copy")).task == "imagenet"  # as its files' names say

    def test_real_ones(self, shared: Path) -> None:
        split = find("imagenet", shared / "data" / "imagenet-val-sample").open("test")
        official = lists.imagenet_validation()
        assert len(split) == 1300
        assert [official[int(key[15:23]) - 1] for key in split.keys] == split.labels.tolist()
        tar = at(shared / "data" / "raw-format-samples" / "imagenet2012").open("test")
        assert tar.keys[0] == imagenet_name(1)
        assert tar.read(9)[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("given", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("solution", [True, False])
@pytest.mark.parametrize("sorted_into_classes", [True, False])
def test_kaggles_archive_is_read_from_its_root_and_below(
    tmp_path: Path, given: str, solution: bool, sorted_into_classes: bool
) -> None:
    """The labels of the solution are told from the official ones: image 1 is given the class of its own row."""
    root = tmp_path / "imagenet"
    official = lists.imagenet_validation()
    rows, expected = ["ImageId,PredictionString"], {}
    for n in (1, 2, 3, 48981):
        label = int(official[n - 1])
        if solution and n == 1 and not sorted_into_classes and given != "ILSVRC/Data/CLS-LOC":
            label = (label + 1) % 1000
        folder = f"val/{WNIDS[label]}" if sorted_into_classes else "val"
        write(root / f"ILSVRC/Data/CLS-LOC/{folder}/{imagenet_name(n)}", image(n, "JPEG"))
        rows.append(f"ILSVRC2012_val_{n:08d},{WNIDS[label]} 85 1 499 272 {WNIDS[label]} 1 2 3 4 ")
        expected[imagenet_name(n)] = label
    if solution:
        write(root / "LOC_val_solution.csv", "\r\n".join(rows) + "\r\n")
    write(root / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", image(9, "JPEG"))
    write(root / "ILSVRC/ImageSets/CLS-LOC/val.txt", "ILSVRC2012_val_00000001 1\n")
    write(root / f"ILSVRC/Data/CLS-LOC/train/{WNIDS[7]}/{WNIDS[7]}_18.JPEG", image(8, "JPEG"))
    source = find("imagenet", root / given)
    assert source.splits == ("train", "test")
    test = source.open("test")
    assert dict(zip(test.keys, test.labels.tolist(), strict=True)) == expected
    assert source.open("train").labels.tolist() == [7]
    assert at(root / given).open("test").digest == test.digest
    assert find("imagenet", tmp_path).open("test").digest == test.digest or given != "."


def test_an_image_that_kaggles_solution_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "LOC_val_solution.csv", f"ImageId,PredictionString\nILSVRC2012_val_00000001,{WNIDS[3]} 1 2 3 4\n")
    for n in (1, 2):
        write(tmp_path / "ILSVRC/Data/CLS-LOC/val" / imagenet_name(n), image(n, "JPEG"))
    refused(lambda: ImageNet(tmp_path).open("test"), "no row for 'ILSVRC2012_val_00000002", kind=DataDamaged)
