"""Owners' files at their edges: excerpts, shards, other spacing, a damaged line."""

import io
import json
import math
import struct

import numpy as np
import pytest
from PIL import Image

from tests.data import test_label_rules as label_rules
from tests.data.test_label_rules import picture, put
from tests.layouts import refused
from tests.prepare.test_collections import opened, zipped
from vitft.data import tfrecord
from vitft.errors import DataDamaged
from vitft.images.decode import decode
from vitft.prepare.collections import clevr, hdf5, opencv
from vitft.prepare.collections.raw import Collection, File, Listed, Raw, from_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("counts", "drawn"),
    [
        ({"BACKGROUND_Google": 62, "Faces": 45, "ant": 31}, (30, 30, 30)),
        ({"BACKGROUND_Google": 29, "Faces": 12, "ant": 7}, (14, 6, 3)),  # an excerpt: half of each
        ({"ant": 30, "crab": 30}, (30, 30)),
    ],
)
def test_caltech101_draws_thirty_of_each_class_and_never_one_twice(tmp_path, counts, drawn):
    for at, (folder, n) in enumerate(reversed(counts.items())):  # the first class lies last
        for i in range(n):
            put(tmp_path / f"{at}_ObjectCategories" / folder / f"image_{i:04d}.jpg", picture(i))
        put(tmp_path / "z" / folder / "image_0001.jpg", picture(255))  # again: the first path counts
    raw = opened("caltech101", tmp_path)
    random = np.random.RandomState(1234)
    expected: dict[str, list[str]] = {"train": [], "test": []}
    images = {}
    for (folder, n), k in zip(counts.items(), drawn, strict=True):
        chosen = set(random.choice(n, k, replace=False).tolist())
        assert len(chosen) == k
        for i in range(n):
            key = f"{folder}/image_{i:04d}.jpg"
            expected["train" if i in chosen else "test"].append(key)
            images[key] = picture(i)
    assert {raw_split: list(keys) for raw_split, keys in raw.keys.items()} == expected
    for raw_split, keys in expected.items():
        assert dict(raw.read(raw_split, range(len(keys)))) == {i: images[key] for i, key in enumerate(keys)}


def test_what_is_no_jpg_stands_in_the_draw_of_caltech101_and_is_left_out_after_it(tmp_path):
    names = sorted([*(f"image_{i:04d}.jpg" for i in range(60)), "Thumbs.db", "image_0007.jpg.txt", "tmp"])
    for name in names:
        put(tmp_path / "BACKGROUND_Google" / name, picture(1))
    raw, chosen = opened("caltech101", tmp_path), np.random.RandomState(1234).choice(63, 30, replace=False)
    notes = []
    for split in ("train", "test"):
        drawn = [name for i, name in enumerate(names) if (i in chosen) == (split == "train")]
        assert raw.keys[split] == [f"BACKGROUND_Google/{name}" for name in drawn if name.endswith(".jpg")]
        notes += [
            f"'BACKGROUND_Google/{name}' is no .jpg: left out of {split} after the draw, as the rule says"
            for name in drawn
            if not name.endswith(".jpg")
        ]
    assert len(notes) == 3 and sorted(raw.notes[1:]) == sorted(notes)
    assert "30 images of each class drawn over sorted names with seed 1234" in raw.notes[0]


def example(key: str, label: int, image: bytes, /, **others: bytes) -> bytes:
    """Write a tf.train.Example by hand: {filename, label, image} with `others`, then frame it as a TFRecord."""

    def field(number: int, data: bytes) -> bytes:
        size, n = b"", len(data)
        while n >= 128:
            size, n = size + bytes([n % 128 + 128]), n // 128
        return bytes([number * 8 + 2]) + size + bytes([n]) + data

    features = {
        "filename": field(1, field(1, key.encode())),
        "label": field(3, field(1, bytes([label]))),
        "image": field(1, field(1, image)),
    } | others
    features = {name: value for name, value in features.items() if value}
    body = field(1, b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()))
    head = struct.pack("<Q", len(body))
    crc = [struct.pack("<I", tfrecord.masked_crc32c(part)) for part in (head, body)]
    return head + crc[0] + body + crc[1]


def test_dmlab_counts_rows_through_its_shards(tmp_path):
    drawn = {"train": [["a", "b"], ["c"], ["d", "e"]], "validation": [["f"]], "test": [["g"], ["h", "i"]]}
    number = {key: i for i, key in enumerate("abcdefghi")}
    for raw_split, shards in drawn.items():
        for i, keys in enumerate(shards):
            data = b"".join(example(key, number[key] % 6, picture(20 * number[key], "PNG")) for key in keys)
            put(tmp_path / f"dmlab-{raw_split}.tfrecord-{i:05d}-of-{len(shards):05d}", data)
    raw = opened("dmlab", tmp_path)
    for raw_split, shards in drawn.items():
        keys = [key for shard in shards for key in shard]
        assert list(raw.keys[raw_split]) == keys
        assert raw.labels["dmlab"][raw_split].tolist() == [number[key] % 6 for key in keys]
        for rows_ in (range(len(keys)), [len(keys) - 1], [0]):
            got = dict(raw.read(raw_split, list(rows_)))
            assert got == {i: picture(20 * number[keys[i]], "PNG") for i in rows_}
    first = tmp_path / "dmlab-train.tfrecord-00001-of-00003"
    data = bytearray(first.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1  # a pixel of the frame
    first.write_bytes(bytes(data))
    refused(lambda: opened("dmlab", tmp_path), first.name, kind=DataDamaged)


@pytest.mark.parametrize("line", ["Abyssinian_100", "Abyssinian_100 one 1 1", "Abyssinian_100  "])
def test_a_line_of_the_pets_that_has_no_class_is_named(tmp_path, line):
    put(tmp_path / "annotations/trainval.txt", f"# a comment\n\n{line}\n")
    put(tmp_path / "annotations/test.txt", "Abyssinian_2 1 1 1\n")
    put(tmp_path / "images/Abyssinian_2.jpg", picture(1))
    refused(lambda: opened("oxford_iiit_pet", tmp_path), "line 3", line.strip(), kind=DataDamaged)


def test_clevr_scenes_may_be_written_in_any_spacing():
    text = json.dumps({"info": {"split": "x [1]"}, "scenes": [{"objects": [1]}, {"objects": []}]}, indent=3)
    assert list(clevr.scenes(text, "f")) == [{"objects": [1]}, {"objects": []}]
    assert list(clevr.scenes('{"scenes":[]}', "f")) == [] and list(clevr.scenes('{"scenes":[\t{},\r\n{}]}', "f")) == [
        {},
        {},
    ]
    for bad in ("{}", '{"scenes": [', '{"scenes": [{}', '{"scenes": [{"a"]}', "", '["a"]'):
        refused(lambda bad=bad: list(clevr.scenes(bad, "the file")), "'the file'", kind=DataDamaged)


@pytest.mark.parametrize(
    ("chunks", "read"),
    [
        ((4, 2), [(1, 4), (7, 8), (8, 10), (32, 33), (64, 65)]),
        (None, [(row, row + 1) for row in (1, 2, 3, 7, 8, 9, 32, 64)]),
    ],
)
def test_each_stored_chunk_that_holds_a_wanted_row_is_read_once(chunks, read):
    class Stored:
        def __init__(self) -> None:
            self.chunks = chunks
            self.read: list[tuple[int, int]] = []

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.read.append((rows.start, rows.stop))
            return 10 * np.arange(65)[rows]

    dataset = Stored()
    found = list(hdf5.chosen(dataset, [64, 9, 1, 3, 2, 8, 1, 32, 7], "x"))
    assert found == [(row, 10 * row) for row in (1, 2, 3, 7, 8, 9, 32, 64)] and dataset.read == read
    assert not list(hdf5.chosen(dataset, [], "x"))


def test_a_dsprites_image_of_zeros_and_ones_is_black_and_white_and_another_is_as_it_is(tmp_path):
    import h5py

    label_rules.dsprites(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 2, (3, 64, 64), dtype=np.uint8)
    pixels[1] *= 2
    with h5py.File(next(tmp_path.rglob("*.hdf5")), "a") as file:
        file["imgs"][...] = pixels
    for row, data in opened("dsprites", tmp_path).read("train", [2, 0, 1]):
        assert np.array_equal(decode(data, "x")[..., 0], pixels[row] * np.uint8(1 if row == 1 else 255))


def test_a_clevr_scene_without_objects_has_labels_that_no_task_has(tmp_path):
    label_rules.clevr(tmp_path)
    put(tmp_path / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json", '{"scenes": [{"objects": []}]}')
    labels = opened("clevr", tmp_path).labels
    assert (labels["clevr_count"]["validation"].tolist(), labels["clevr_distance"]["validation"].tolist()) == (
        [-3],
        [-1],
    )


def test_clevr_scenes_that_name_their_images_are_compared_with_them(tmp_path):
    label_rules.clevr(tmp_path)
    scenes = tmp_path / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
    objects = [{"pixel_coords": [0, 0, z]} for z in (9.2, 8.2, 9.9)]  # the nearest counts
    own = {"objects": objects, "image_filename": "CLEVR_val_000000.png"}
    put(scenes, json.dumps({"scenes": [own]}))
    labels = opened("clevr", tmp_path).labels
    assert [labels[f"clevr_{name}"]["validation"].tolist() for name in ("count", "distance")] == [[0], [1]]
    put(scenes, json.dumps({"scenes": [own, own | {"image_filename": "CLEVR_val_000001.png"}]}))
    refused(lambda: opened("clevr", tmp_path), "2 scenes", "1 images", kind=DataDamaged)


def test_images_of_another_type_are_no_smallnorb(tmp_path):
    from tests.data.test_label_rules import smallnorb

    smallnorb(tmp_path)
    raw = opened("smallnorb", tmp_path)
    assert len(dict(raw.read("train", [0, 1]))) == 2
    file = tmp_path / "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat"
    head, rest = file.read_bytes()[:24], file.read_bytes()[24:]
    file.write_bytes(struct.pack("<i", 0x1E3D4C54) + head[4:] + rest * 4)  # said to be int32
    refused(lambda: dict(opened("smallnorb", tmp_path).read("train", [0])), file.name, kind=DataDamaged)
    file.write_bytes(head + rest[:-5])
    refused(lambda: dict(opened("smallnorb", tmp_path).read("train", [1])), "1 whole images", kind=DataDamaged)


def test_a_kitti_label_file_may_hold_blank_lines():
    from vitft.prepare.collections import kitti

    line = "Car " + " ".join(["0"] * 12) + " 7.5 0"
    assert kitti.nearest_vehicle(f"\n{line}\n\n  \n", "f") == 7.5


@pytest.mark.parametrize(
    "text", ["", "image,level\n", "image,level\n9_left,1\n10_left,\n", "image\n10_left\n", "image,level\n,3\n"]
)
def test_a_table_of_the_retinas_that_lacks_a_value_is_named(tmp_path, text):
    label_rules.diabetic_retinopathy_detection(tmp_path)
    put(tmp_path / "trainLabels.csv", text)
    refused(lambda: opened("diabetic_retinopathy_detection", tmp_path), "trainLabels.csv", kind=DataDamaged)


@pytest.mark.parametrize("row", [",1,Private", "1_left,,Private", "1_left,1,", "1_left,one,Private"])
def test_a_solution_of_the_retinas_that_lacks_a_value_is_named(tmp_path, row):
    label_rules.diabetic_retinopathy_detection(tmp_path)
    put(tmp_path / "retinopathy_solution.csv", f"image,level,Usage\n5_left,2,Private\n{row}\n")
    refused(lambda: opened("diabetic_retinopathy_detection", tmp_path), "retinopathy_solution.csv", kind=DataDamaged)


@pytest.mark.parametrize("owner", label_rules.DRAWN, ids=lambda owner: owner.__name__)
def test_an_owners_files_may_lie_deeper(tmp_path, owner):
    owner(tmp_path / "flat")
    owner(tmp_path / "deep" / "er" / "still")
    flat, deep = opened(owner.__name__, tmp_path / "flat"), opened(owner.__name__, tmp_path / "deep")
    assert flat.drawn == (owner.__name__ in {"cifar100", "svhn_cropped", "patch_camelyon", "dsprites", "smallnorb"})
    for salt, keys in flat.keys.items():
        assert list(deep.keys[salt]) == list(keys)
        assert {task: of[salt].tolist() for task, of in deep.labels.items()} == {
            task: of[salt].tolist() for task, of in flat.labels.items()
        }
        assert {of[salt].dtype.name for of in deep.labels.values()} == {"int64"}
        everything = list(range(len(keys)))
        whole = dict(flat.read(salt, everything))
        assert dict(deep.read(salt, everything)) == whole
        assert dict(flat.read(salt, everything[-1:])) == {everything[-1]: whole[everything[-1]]}  # and no other row


@pytest.mark.parametrize(
    ("owner", "first", "second"),
    [
        ("oxford_iiit_pet", "images/Bengal_2.jpg", "z/images/Bengal_2.jpg"),
        ("oxford_flowers102", "jpg/image_00001.jpg", "z/image_00001.jpg"),
        ("dtd", "dtd/images/woven/woven_0004.jpg", "z/woven/woven_0004.jpg"),
        ("eurosat", "2750/Forest/Forest_7.jpg", "z/Forest/Forest_7.jpg"),
        ("sun397", "SUN397/a/abbey/sun_a.jpg", "z0/a/abbey/sun_a.jpg"),
        ("diabetic_retinopathy_detection", "test/1_left.jpeg", "z/test/1_left.jpeg"),
    ],
)
def test_of_two_files_of_one_name_the_first_path_counts(tmp_path, owner, first, second):
    getattr(label_rules, owner)(tmp_path)
    plain = opened(owner, tmp_path)
    whole = {split: dict(plain.read(split, range(len(keys)))) for split, keys in plain.keys.items()}
    noise, out = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    put(tmp_path / second, out.getvalue())
    both = opened(owner, tmp_path)
    assert both.keys == plain.keys
    assert {split: dict(both.read(split, range(len(keys)))) for split, keys in both.keys.items()} == whole
    (tmp_path / first).unlink()
    moved = opened(owner, tmp_path)
    assert moved.keys == plain.keys
    found = {split: dict(moved.read(split, range(len(keys)))) for split, keys in moved.keys.items()}
    assert sum(found[split][i] != whole[split][i] for split in found for i in found[split]) == 1


def test_flowers_may_lie_beside_their_lists_whose_numbers_are_of_any_type_and_shape(tmp_path):
    from scipy.io import savemat

    label_rules.oxford_flowers102(tmp_path)
    plain = opened("oxford_flowers102", tmp_path)
    whole = {split: dict(plain.read(split, range(len(keys)))) for split, keys in plain.keys.items()}
    for file in (tmp_path / "jpg").iterdir():
        file.rename(tmp_path / file.name)
    savemat(tmp_path / "setid.mat", {"trnid": [[2.0]], "valid": [[4.0]], "tstid": [[1.0], [3.0]]})  # MATLAB's doubles
    moved = opened("oxford_flowers102", tmp_path)
    assert moved.keys == plain.keys and moved.absent == {}
    assert {split: dict(moved.read(split, range(len(keys)))) for split, keys in moved.keys.items()} == whole
    packed = opened("oxford_flowers102", zipped(tmp_path, tmp_path.with_suffix(".zip")))
    assert packed.keys == plain.keys and dict(packed.read("test", [0, 1])) == whole["test"]


def eye(shape: tuple[int, int], *columns: int) -> np.ndarray:
    """Draw noise that is brighter from the left to the right, black but for some columns where they are given."""
    height, width = shape
    noise = (
        np.random.default_rng(height).integers(1, 256, (height, width, 3)) * (np.arange(width)[:, None] / width) ** 2
    )
    if columns:
        noise[:, [x for x in range(width) if x not in columns]] = 0
    return noise.astype(np.uint8)


@pytest.mark.parametrize(
    "image", [eye((60, 91)), eye((90, 61)), eye((3, 4), 2, 3), eye((6, 9), 4), eye((40, 31), 30), eye((40, 30), -1)]
)
def test_an_eye_is_what_the_winner_of_the_competition_made_of_it(image, monkeypatch):
    import cv2

    written = []
    monkeypatch.setattr(opencv, "_jpeg", lambda image, name, quality=None: written.append((image, name, quality)))
    opencv.retinopathy(bytes(cv2.imencode(".png", image)[1]), "the name")
    ((found, name, quality),) = written
    light = image[image.shape[0] // 2].astype(int).sum(axis=1)
    radius = np.count_nonzero(10 * light > light.mean()) / 2
    scale = 300 / (radius if radius >= 1 else image.shape[0] / 2)
    large = cv2.resize(image, None, fx=scale, fy=scale)
    blurred = cv2.GaussianBlur(large, None, sigmaX=10)
    height, width = large.shape[:2]
    y, x = np.mgrid[:height, :width]
    away = np.hypot(y - height // 2, x - width // 2)[..., None]
    flat = np.where(away <= 270, cv2.addWeighted(large, 4, blurred, -4, 128), 128)
    rows, columns = (slice(max(0, side // 2 - 270), side // 2 + 270) for side in (height, width))
    expected, ring = flat[rows, columns], np.abs(away[rows, columns] - 270) < 1  # OpenCV draws a circle in whole pixels
    assert found.shape == expected.shape and np.array_equal(found * ~ring, expected * ~ring)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and (name, quality) == ("the name", 72)


@pytest.mark.parametrize("process", [opencv.sun397, opencv.retinopathy])
def test_what_opencv_does_not_write_is_named(process, monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    refused(lambda: process(picture(3, "PNG", (20, 30, 3)), "the name"), "'the name'", "as JPEG", kind=DataDamaged)


def test_an_image_of_sun397_keeps_its_colours_whatever_it_is_written_as():
    import cv2

    rgb = np.random.default_rng(2).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    deep = (rgb.astype(np.uint16) << 8) + 255  # of two bytes the first counts
    files = [bytes(cv2.imencode(".png", image[..., ::-1])[1]) for image in (rgb, deep)]
    for kind in ("PCX", "TGA"):  # formats that OpenCV does not know
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, kind)
        files.append(out.getvalue())
    for data in files:
        assert np.array_equal(opencv._decode(data, "x"), rgb[..., ::-1])
    large, side = np.random.default_rng(2).integers(0, 256, (400, 500, 3), dtype=np.uint8), math.sqrt(0.6)
    expected = cv2.imencode(".jpg", cv2.resize(large, None, fx=side, fy=side))[1]  # 120,000 of 200,000 pixels
    assert opencv.sun397(bytes(cv2.imencode(".png", large)[1]), "x") == bytes(expected)


def test_the_badly_encoded_image_of_sun397_is_left_out_and_said_where_a_list_has_it(tmp_path):
    label_rules.sun397(tmp_path)
    plain = opened("sun397", tmp_path)
    assert plain.notes == ()
    lines = ("/t/track/outdoor/sun_aophkoiosslinihb.jpg", *plain.keys["train"])
    put(tmp_path / "sun397_tfds_tr.txt", "\n".join(lines))
    put(tmp_path / f"SUN397{lines[0]}", picture(1))
    found = opened("sun397", tmp_path)
    assert found.keys == plain.keys and found.labels["sun397"]["train"].tolist() == [0]
    assert found.notes == (
        f"train lacks '{lines[0]}', which is badly encoded (so in TensorFlow Datasets from 4.9.3 on)",
    )


def test_a_folder_in_a_list_that_is_no_class_has_no_label(tmp_path):
    label_rules.sun397(tmp_path / "sun")
    put(tmp_path / "sun/sun397_tfds_tr.txt", "/a/abbey/sun_a.jpg\n/q/nowhere/sun_q.jpg")
    put(tmp_path / "sun/SUN397/q/nowhere/sun_q.jpg", picture(1))
    assert opened("sun397", tmp_path / "sun").labels["sun397"]["train"].tolist() == [0, -1]
    label_rules.dtd(tmp_path / "dtd")
    put(next((tmp_path / "dtd").rglob("train1.txt")), "woven/woven_0004.jpg\nnone/none_0001.jpg")
    put(tmp_path / "dtd/dtd/images/none/none_0001.jpg", picture(1))
    assert opened("dtd", tmp_path / "dtd").labels["dtd"]["train"].tolist() == [44, -1]  # woven is the 45th of 47


def test_a_collection_is_what_is_known_of_its_files():
    here, asked = File("https://x.org/a/b%20c.zip?download=1", 5), File("", name="d.rar", about=7)
    assert [(f.filename, f.size, f.about) for f in (here, asked)] == [("b c.zip", 5, 0), ("d.rar", 0, 7)]
    assert File("https://x.org/e.zip", name="f.zip").filename == "f.zip"
    unknown = File("https://x.org/g.zip")
    for files, automatic, size in (
        ((here,), True, 5), ((here, here), True, 10), ((here, asked), False, 12), ((asked,), False, 7),
        ((here, unknown), True, 0), ((unknown,), True, 0), ((File("", 3, about=4),), False, 3),
    ):  # fmt: skip
        found = Collection("c", "C", "page", "licence", files, lambda _: Raw({}, {}, lambda *_: iter(())))
        assert (found.automatic, found.size, found.opencv, found.processing) == (automatic, size, False, "")


def test_of_listed_images_those_that_lie_there_are_read_and_the_first_other_one_is_named():
    class Files:
        def stream(self, names: object) -> object:
            return ((name, name.encode()) for name in sorted(names, reverse=True))  # type: ignore[call-overload]

        def label(self, name: str) -> str:
            return f"at {name}"

    train = [Listed("a", "x", (1, 5)), Listed("b", None, (2, 6)), Listed("c", "y", (3, 7)), Listed("d", None, (4, 8))]
    given = {"train": train, "test": [Listed("e", "z", (0, 9))]}
    for process, sign in ((None, b""), (lambda data, label: data + label.encode(), b"at ")):
        raw = from_files(Files(), ("one", "two"), given, process, ("note",))  # type: ignore[arg-type]
        assert raw.keys == {"train": ["a", "c"], "test": ["e"]} and (raw.drawn, raw.notes) == (False, ("note",))
        labels = {task: {name: of.tolist() for name, of in found.items()} for task, found in raw.labels.items()}
        assert labels == {"one": {"train": [1, 3], "test": [0]}, "two": {"train": [5, 7], "test": [9]}}
        assert raw.absent == {"train": "b"}
        read = list(raw.read("train", [0, 1]))
        assert read == [(1, b"y" + sign + b"y" * bool(sign)), (0, b"x" + sign + b"x" * bool(sign))]
    assert from_files(Files(), (), {}).notes == ()  # type: ignore[arg-type]
    assert Raw({}, {}, lambda *_: iter(())).absent == {} and not Raw({}, {}, lambda *_: iter(())).drawn
