"""Which files are images, whatever the verb; and what their samples become."""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.layouts import WNIDS, alone, image, image_folders, imagenet_name, vtab_folders, write  # noqa: F401
from vitft.data.find import at
from vitft.data.sources import files
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.sources.imagenet import ImageNet
from vitft.errors import DataDamaged
from vitft.images.decode import decode


def encoded(picture: Image.Image, kind: str, **more: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def test_every_format_of_pillow_is_read_in_either_case(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    kinds = {"a.avif": "AVIF", "b.JP2": "JPEG2000", "c.WebP": "WEBP", "d.TIF": "TIFF", "e.jpe": "JPEG", "f.tga": "TGA",
             "g.ppm": "PPM", "h.qoi": "QOI", "i.BMP": "BMP"}  # fmt: skip
    for codec, name in (("avif", "a.avif"), ("jpg_2000", "b.JP2"), ("webp", "c.WebP")):
        if not features.check(codec):
            kinds.pop(name)
    for name, kind in kinds.items():
        try:
            write(root / "train/cat" / name, encoded(picture, kind))
        except (KeyError, OSError):  # this Pillow does not write it
            continue
    written = sorted(p.name for p in (root / "train/cat").iterdir())
    split = ImageFolder(root, "x").open("train")
    assert sorted(key.split("/")[1] for key in split.keys if key.startswith("cat/")) == written
    assert len(written) > 3 + 4
    for i, key in enumerate(split.keys):
        if key.rsplit("/", 1)[1] in kinds:
            assert abs(decode(split.read(i), key)[8, 8].astype(int) - (200, 30, 30)).max() < 12


DEBRIS = (".DS_Store", "Thumbs.db", "thumbs.DB", "._a.jpg", "desktop.ini", "list.txt", "labels.csv", "README",
          ".gitkeep", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._a.jpg")  # fmt: skip
FOREIGN = ("a.heic", "IMG_0001", "film.mp4", "a.jpg.part", "b.npy", "deep er/x.HEIC", ".hidden.jpg", "a.eps")


def test_what_is_no_image_is_refused_by_name_and_count_unless_it_is_debris(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    for name in DEBRIS:
        write(root / "test/dog" / name, b"x")
    assert len(ImageFolder(root, "x").open("test")) == 6
    for name in FOREIGN:
        if name.lower().endswith(".heic") and ".heic" in files.suffixes():
            continue  # a plugin of this Pillow reads it
        file = write(root / "test/dog" / name, b"x")
        with pytest.raises(DataDamaged, match="1 file that is no image by name") as caught:
            ImageFolder(root, "x").open("test")
        assert (caught.value.exit_code, name in str(caught.value)) == (3, True)
        file.unlink()
    for i in range(5):
        write(root / f"test/dog/{i}", b"x")
    with pytest.raises(DataDamaged, match=r"5 files .*\(5 no suffix\): '0', '1', '2', \.\.\."):
        ImageFolder(root, "x").open("test")


def test_heic_is_an_image_only_where_a_plugin_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    files.suffixes.cache_clear()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert not files.is_image("a.HEIC")
    files.suffixes.cache_clear()
    monkeypatch.setitem(Image.OPEN, "HEIF", (type("Plugin", (), {"__module__": "pillow_heif"}), None))  # type: ignore[misc]
    assert files.is_image("a.HEIC")
    files.suffixes.cache_clear()


def test_imagenet_folders_have_the_same_rule(tmp_path: Path) -> None:
    for n in (1, 2):
        write(tmp_path / f"c/val/{WNIDS[n]}/{imagenet_name(n)}", image(n, "JPEG"))
        write(tmp_path / f"f/images/{imagenet_name(n)}", image(n, "JPEG"))
    write(tmp_path / f"c/val/{WNIDS[1]}/Thumbs.db", b"x")
    write(tmp_path / "f/images/names.txt", b"x")
    assert len(ImageNet(tmp_path / "c").open("test")) == len(ImageNet(tmp_path / "f").open("test")) == 2
    write(tmp_path / f"c/val/{WNIDS[1]}/ILSVRC2012_val_00000009.heic", b"x")
    write(tmp_path / "f/images/ILSVRC2012_val_00000009", b"x")
    for root in (tmp_path / "c", tmp_path / "f"):
        with pytest.raises(DataDamaged, match="ILSVRC2012_val_00000009"):
            ImageNet(root).open("test")


def test_predict_is_handed_what_is_no_image_so_that_it_is_told(tmp_path: Path) -> None:
    from vitft.evaluation.files import images

    write(tmp_path / "in/a.png", image(1))
    write(tmp_path / "in/deep/suffixless", image(2))
    write(tmp_path / "in/b.heic", b"\0\0\0\x18ftypheic")
    write(tmp_path / "in/notes.txt", b"x")
    assert [p.name for p in images([tmp_path / "in"])] == ["a.png", "b.heic", "suffixless"]


GRADIENT = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize(
    ("samples", "white"),
    [
        (GRADIENT, 1),
        (GRADIENT * 0.3, 1),
        (GRADIENT * np.float32(255), 255),
        ((GRADIENT * 65535).astype(np.uint16), 65535),
        ((GRADIENT * 30000).astype(np.int32), 65535),
        ((GRADIENT * 200).astype(np.int32), 255),
    ],
)
def test_samples_of_other_depths_are_scaled_by_their_range(samples: np.ndarray, white: int) -> None:
    got = decode(encoded(Image.fromarray(samples), "TIFF"), "x")
    expected = np.asarray(samples, np.float64) * 255 / white
    assert np.abs(got - expected[..., None]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "samples",
    [GRADIENT - np.float32(0.5), GRADIENT * 1000, GRADIENT * np.float32("nan"), (GRADIENT * 70000).astype(np.int32),
     (GRADIENT * 100 - 50).astype(np.int32)],
)  # fmt: skip
def test_samples_outside_every_range_are_refused_by_name(samples: np.ndarray) -> None:
    with pytest.raises(DataDamaged, match=r"Image 'scan\.tif' has .*samples from"):
        decode(encoded(Image.fromarray(samples), "TIFF"), "scan.tif")


def test_transparent_pixels_are_white_in_every_mode() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 256)
    deep = Image.fromarray(np.full((4, 4), 3000, np.uint16))
    pictures = [encoded(clear, "PNG"), encoded(clear.convert("LA"), "PNG"), encoded(clear, "WEBP"),
                encoded(palette, "PNG", transparency=3), encoded(deep, "PNG", transparency=3000),
                encoded(clear.convert("LA"), "TIFF")]  # fmt: skip
    assert all((decode(data, "x") == 255).all() for data in pictures)
    cmyk = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert decode(encoded(cmyk, "TIFF"), "x")[0, 0].tolist() == [0, 255, 255]


def test_a_png_of_16_bits_is_read_as_tensorflow_reads_it(shared: Path) -> None:
    cases = json.loads((shared / "facts/tfds_oracle.json").read_text())["rules"]["decode_cases"]
    for name in ("png_16bit_gray", "png_gray", "png_rgb", "png_palette", "bmp"):
        pixels = decode(base64.b64decode(cases[name]["base64"]), name)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == cases[name]["tfds"]["sha256"]


def test_class_folders_without_a_split_have_the_same_rule(tmp_path: Path) -> None:
    image_folders(tmp_path, names=(".",))
    write(tmp_path / "dog/b.heif", b"x")
    with pytest.raises(DataDamaged, match="no image by name"):
        at(tmp_path).open("test")


def test_a_list_that_names_no_image_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for root in (vtab_folders(tmp_path / "vtab", k=3), tmp_path / "lists"):
        write(root / "images/test/IMG_1.HEIC", b"x")
        write(root / "images/test/plain", image(1))
        write(root / "test.txt", "images/test/plain 0\n")
        assert len(at(root).open("test")) == 1
        write(root / "test.txt", "images/test/plain 0\nimages/test/IMG_1.HEIC 1\n")
        with pytest.raises(DataDamaged, match=r"IMG_1\.HEIC"):
            at(root).open("test")


def test_a_repository_of_images_on_the_hub_has_the_same_rule() -> None:
    from vitft.data.sources.hub import _all_images
    from vitft.data.sources.hub_cache import Repo

    repo, names = Repo("org/toy"), ["README.md", ".gitattributes", "train/cat/a.png", "train/metadata.csv"]
    _all_images(repo, names)
    _all_images(repo, ["train.zip", "model.bin"])  # no image files: another form, which `datasets` knows
    with pytest.raises(DataDamaged, match=r"'org/toy' holds 1 file .*cat/b\.heic"):
        _all_images(repo, [*names, "train/cat/b.heic"])
