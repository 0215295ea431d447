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
from tests.prepare.test_collections import opened
from vitft.data import tfrecord
from vitft.errors import DataDamaged
from vitft.images.decode import decode
from vitft.prepare.collections import clevr, opencv


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def caltech(root, **counts: int) -> dict[str, list[str]]:
    for folder, n in counts.items():
        for i in range(n):
            put(root / "101_ObjectCategories" / folder / f"image_{i:04d}.jpg", picture(i))
    raw = opened("caltech101", root)
    return {raw_split: list(keys) for raw_split, keys in raw.keys.items()}


@pytest.mark.parametrize(
    ("counts", "drawn"),
    [
        ({"BACKGROUND_Google": 62, "Faces": 45, "ant": 31}, (30, 30, 30)),
        ({"BACKGROUND_Google": 29, "Faces": 12, "ant": 7}, (14, 6, 3)),  # an excerpt: half of each
    ],
)
def test_caltech101_draws_thirty_of_each_class_and_never_one_twice(tmp_path, counts, drawn):
    found = caltech(tmp_path, **counts)
    random = np.random.RandomState(1234)
    expected: dict[str, list[str]] = {"train": [], "test": []}
    for (folder, n), k in zip(counts.items(), drawn, strict=True):
        chosen = set(random.choice(n, k, replace=False).tolist())
        assert len(chosen) == k
        for i in range(n):
            expected["train" if i in chosen else "test"].append(f"{folder}/image_{i:04d}.jpg")
    assert found == expected


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


@pytest.mark.parametrize("shape", [(300, 401), (401, 300), (90, 140)])
def test_an_eye_has_radius_300_and_the_grey_outside_nine_tenths(shape):
    import cv2

    height, width = shape
    y, x = np.mgrid[:height, :width]
    radius = 0.4 * min(shape)
    eye = ((y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2)[..., None] * np.array([60, 90, 160])
    ok, data = cv2.imencode(".png", eye.astype(np.uint8))
    assert ok
    out = decode(opencv.retinopathy(bytes(data), "e"), "e").astype(int)
    scale = 300 / ((eye[height // 2].sum(axis=1) > 0).sum() / 2)
    expected = [min(540, round(side * scale)) for side in shape]
    assert list(out.shape[:2]) == pytest.approx(expected, abs=1)
    cy, cx = out.shape[0] // 2, out.shape[1] // 2
    assert np.abs(out[cy, cx] - 128).max() <= 3  # flat where the eye is
    for corner in (out[:12, :12], out[-12:, -12:]):
        far = math.hypot(cy, cx) > 290
        assert not far or np.abs(corner - 128).max() <= 6
    noise = np.random.default_rng(0).integers(40, 220, (*shape, 1)) * (eye[..., :1] > 0) * np.ones((1, 1, 3))
    rough = decode(opencv.retinopathy(bytes(cv2.imencode(".png", noise.astype(np.uint8))[1]), "n"), "n").astype(float)
    y, x = np.mgrid[: rough.shape[0], : rough.shape[1]]
    away = np.hypot(y - rough.shape[0] // 2, x - rough.shape[1] // 2)
    assert rough[away < 200].std() > 20 and np.abs(rough[away > 280] - 128).max(initial=0) < 12
    whole = decode(opencv.retinopathy(bytes(cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1]), "d"), "d")
    assert whole.shape == (540, 540, 3)  # too dark to tell: half the height is the radius


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
    "text", ["", "image,level\n", "image,level\n10_left,\n", "image\n10_left\n", "image,level\n,3\n"]
)
def test_a_table_of_the_retinas_that_lacks_a_value_is_named(tmp_path, text):
    label_rules.diabetic_retinopathy_detection(tmp_path)
    put(tmp_path / "trainLabels.csv", text)
    refused(lambda: opened("diabetic_retinopathy_detection", tmp_path), "trainLabels.csv", kind=DataDamaged)


@pytest.mark.parametrize("row", [",1,Private", "1_left,,Private", "1_left,1,"])
def test_a_solution_of_the_retinas_that_lacks_a_value_is_named(tmp_path, row):
    label_rules.diabetic_retinopathy_detection(tmp_path)
    put(tmp_path / "retinopathy_solution.csv", f"image,level,Usage\n{row}\n")
    refused(lambda: opened("diabetic_retinopathy_detection", tmp_path), "retinopathy_solution.csv", kind=DataDamaged)


@pytest.mark.parametrize("owner", label_rules.DRAWN, ids=lambda owner: owner.__name__)
def test_an_owners_files_may_lie_deeper(tmp_path, owner):
    owner(tmp_path / "flat")
    owner(tmp_path / "deep" / "er" / "still")
    flat, deep = opened(owner.__name__, tmp_path / "flat"), opened(owner.__name__, tmp_path / "deep")
    for salt, keys in flat.keys.items():
        assert list(deep.keys[salt]) == list(keys)
        assert {task: of[salt].tolist() for task, of in deep.labels.items()} == {
            task: of[salt].tolist() for task, of in flat.labels.items()
        }
        everything = list(range(len(keys)))
        assert dict(deep.read(salt, everything)) == dict(flat.read(salt, everything))


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
