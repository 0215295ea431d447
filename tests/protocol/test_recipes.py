"""Recipes as documents: strict, all errors at once, and each shipped one sound."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from vitft import recipes
from vitft.catalog import tasks
from vitft.errors import Interrupted, RecipeError, UnknownName, UsageError
from vitft.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_is_sound_and_listed(name):
    recipe = recipes.load(name)
    assert recipe.title and recipe.source
    assert recipe.text.startswith(f"# {name}: ") and "# Command: vitft " in recipe.text
    assert f"`{name}`" in (FOLDER / "README.md").read_text()
    for task in recipe.for_task:
        assert tasks.get(task).name == task
        recipe.resolve(task, {}, 1000)


def test_all_errors_come_at_once_and_the_nearest_key_is_named():
    data = {"stepz": 3, "lr": "fast", "resize": "crop", "for": {"cifar10": {"lrr": 1}}, "sweep": {"flip": [True]}}
    with pytest.raises(RecipeError) as caught:
        recipes.parse(data, "mine")
    message = str(caught.value)
    for part in (
        "stepz: unknown key, did you mean 'steps'?",
        "lr: ",
        "not 'fast'",
        "resize: ",
        "for.cifar10.lrr",
        "sweep.flip",
    ):
        assert part in message, part
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "keys",
    [
        {"lr": -1},
        {"steps": 1.5},
        {"resolution": [1, 2, 3]},
        {"resolution": 0},
        {"resolution": "big"},
        {"schedule": "staircase"},
        {"crop": "random", "resolution": 384, "crop_from": 200},
        {"flip": 1},
        {"ema": 1.0},
        {"size": {"many": {"steps": 1}}},
        {"pixels": {"96x96": {"resolution": 128}}},
        {"pixels": {"9216": {"sweep": {"lr": [0.1, 0.2]}}}},
    ],
)
def test_values_out_of_range_are_refused(keys):
    with pytest.raises(RecipeError):
        recipes.parse(keys, "mine")


def test_precedence_is_base_size_task_method_user():
    recipe = recipes.parse(
        {
            "lr": 0.1, "steps": 100, "batch_size": 8, "warmup_steps": 1,
            "size": {"20": {"steps": 10, "lr": 0.2}}, "method": {"linear": {"lr": 0.3, "warmup_steps": 2}},
            "for": {"digits": {"lr": 0.4}},
        },
        "mine",
    )  # fmt: skip
    assert recipe.resolve("", {}, 100).lr == 0.1
    assert (recipe.resolve("", {}, 10).lr, recipe.resolve("", {}, 10).steps) == (0.2, 10)
    assert recipe.resolve("", {"method": "linear"}, 10).lr == 0.3
    assert recipe.resolve("digits", {}).lr == 0.4
    assert recipe.resolve("digits", {"method": "linear"}).lr == 0.3
    assert recipe.resolve("digits", {"lr": 0.5}).lr == 0.5


def test_no_crop_or_flip_that_changes_labels_unless_asked_for():
    recipe = recipes.parse({"flip": True, "crop": "random", "for": {"dmlab": {"crop": "pad"}}}, "mine")

    def drawn(task, **overrides):
        s = recipe.resolve(task, overrides)
        return s.crop, s.flip

    assert drawn("cifar10") == drawn("a folder") == ("random", True)
    assert drawn("dsprites_location") == ("none", False)
    assert drawn("smallnorb_azimuth") == ("random", False)
    assert drawn("clevr_count") == ("none", True)
    assert drawn("dmlab") == ("pad", True)
    assert drawn("dsprites_location", crop="pad", flip=True) == ("pad", True)
    # The recipes of the papers say the same by themselves.
    for name in ("vtab-vit", "vtab-bit-hyperrule", "vtab-mini"):
        own = recipes.load(name)
        for task in tasks.MINI if name == "vtab-mini" else tasks.VTAB:
            told = {**own.settings, **own.for_task.get(task.name, {})}
            s = own.resolve(task.name)
            assert (told["crop"], told["flip"]) == (s.crop, s.flip)


def test_bits_rule_is_one_for_vtab_and_all_else():
    for examples, steps, mixup in ((1000, 500, 0.0), (20000, 10000, 0.1), (500000, 20000, 0.1)):
        one, other = (recipes.load(n).resolve("", {}, examples) for n in ("bit-hyperrule", "vtab-bit-hyperrule"))
        for s in (one, other):
            assert (s.steps, s.mixup, s.antialias) == (steps, mixup, False)
        assert (one.warmup_steps, one.decay_steps) == (other.warmup_steps, other.decay_steps)


@pytest.mark.parametrize(("name", "large"), [("bit-hyperrule", (384, 448)), ("vtab-bit-hyperrule", (480, 512))])
def test_bits_rule_looks_at_the_size_of_the_images(name, large):
    """bit_hyperrule.get_resolution: 160 and 128 for an area below 96 x 96, else the larger pair."""
    recipe = recipes.load(name)
    for height, width in ((8, 8), (32, 32), (64, 64), (95, 97), (96, 96), (90, 103), (224, 224), (300, 30)):
        s = recipe.resolve("a folder", {}, 1000, height * width)
        assert (s.resolution, s.crop_from) == ((128, 160) if height * width < 96 * 96 else large)
    assert recipe.resolve("a folder").resolution == large[0]
    # The names that the rule's answer is known for, without looking.
    small = {"cifar100", "svhn", "eurosat", "dsprites_location", "dsprites_orientation"}
    for task in tasks.VTAB:
        assert recipe.resolve(task.name).resolution == (128 if task.name in small else large[0])
    assert not any(recipe.looks_at_images(task) for task in small) and recipe.looks_at_images("a folder")
    assert not recipes.load("vit-paper").looks_at_images("a folder")
    assert recipe.resolve("a folder", {"resolution": 96}, 1000, 1024).resolution == 96


def test_warmup_and_staircase_keep_their_share_of_the_steps():
    paper = recipes.load("vit-paper")
    assert paper.resolve("cifar10", {}).warmup_steps == 500
    assert paper.resolve("cifar10", {"steps": 1000}).warmup_steps == 50
    assert paper.resolve("cifar10", {"steps": 20}).warmup_steps == 1
    assert paper.resolve("cifar10", {"steps": 20, "warmup_steps": 7}).warmup_steps == 7
    stairs = recipes.load("bit-hyperrule").resolve("", {"steps": 50}, 1000)
    assert (stairs.warmup_steps, stairs.decay_steps) == (10, (20, 30, 40))


def test_a_random_crop_keeps_its_share_of_the_image_at_another_resolution():
    """The paper of BiT cuts 384 pixels out of 448; at 224 pixels that is out of 261, not a quarter of the image."""
    bit, quick = recipes.load("bit-hyperrule"), recipes.load("quick")
    found = [bit.resolve("", keys, 1000, 50176).crop_from for keys in ({}, {"resolution": 224}, {"resolution": 480})]
    assert found == [448, round(448 * 224 / 384), 560] and found[1] == 261
    assert bit.resolve("", {"resolution": 480, "crop_from": 512}, 1000, 50176).crop_from == 512
    assert bit.resolve("", {"resolution": (96, 192)}, 1000, 50176).crop_from == 224
    assert [quick.resolve("digits", {"resolution": n}).crop_from for n in (40, 80, "native")] == [44, 88, 0]
    assert recipes.load("vit-paper").resolve("cifar10", {"resolution": 224}).crop_from == 0  # the rule of the paper


def test_what_the_user_fixes_is_no_longer_swept():
    recipe = recipes.load("vit-paper")
    assert recipe.sweep_for("cifar10", recipe.resolve("cifar10"), {})["lr"] == [0.001, 0.003, 0.01, 0.03]
    assert recipe.sweep_for("imagenet", recipe.resolve("imagenet"), {})["lr"] == [0.003, 0.01, 0.03, 0.06]
    assert recipe.sweep_for("cifar10", recipe.resolve("cifar10"), {"lr": 0.01}) == {}


def test_the_digest_changes_with_any_value_or_override():
    base = recipes.parse({"lr": 0.1}, "mine")
    others = [
        base.digest({"steps": 3}),
        recipes.parse({"lr": 0.2}, "mine").digest({}),
        recipes.parse({"lr": 0.1, "for": {"digits": {"lr": 1}}}, "mine").digest({}),
    ]
    assert len({base.digest({}), *others}) == 4


def test_overrides_are_toml_values_or_bare_words():
    assert recipes.parse_override("warmup_steps=10") == ("warmup_steps", 10)
    assert recipes.parse_override("resize=squash") == recipes.parse_override(" resize = squash ") == (
        "resize", "squash",
    )  # fmt: skip
    assert recipes.parse_override(" lr = 0.5 ") == ("lr", 0.5)
    for word in ("q,v", '["q", "v"]'):
        key, value = recipes.parse_override(f"lora_targets={word}")
        assert recipes.load("vtab-peft").resolve("", {key: value}).lora_targets == ("q", "v")
    with pytest.raises(RecipeError, match=r"Set over recipe 'vtab-peft': lora_targets\.0: .*not 'head'"):
        recipes.load("vtab-peft").resolve("", {"lora_targets": "head"})
    assert recipes.parse_override("resolution=[224, 320]") == ("resolution", [224, 320])
    with pytest.raises(UnknownName, match="Did you mean 'warmup_steps'"):
        recipes.parse_override("warmup=1")
    with pytest.raises(UsageError):
        recipes.parse_override("lr")


def test_higher_is_twelve_sevenths_in_whole_patches():
    s = Settings(resolution="higher")
    assert s.at((224, 224), (16, 16)).resolution == 384
    assert s.at((32, 32), (4, 4)).resolution == 56
    assert s.at((224, 224), (14, 14)).resolution == 378
    assert Settings(resolution="native").at((224, 320), (16, 16)).size == (224, 320)
    with pytest.raises(ValueError, match="depends on the checkpoint"):
        _ = s.size


def test_a_missing_or_broken_file_is_a_recipe_error(tmp_path):
    with pytest.raises(RecipeError):
        recipes.load(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("steps = ")
    with pytest.raises(RecipeError):
        recipes.load(str(tmp_path / "bad.toml"))
    with pytest.raises(UnknownName, match="Did you mean 'vit-paper'"):
        recipes.load("vit-papr")


@pytest.mark.parametrize(
    "override", ["lr=inf", "lr=-inf", "lr=nan", "weight_decay=inf", "clip_norm=nan", "lora_alpha=inf", "steps=0"]
)
def test_what_no_run_could_write_down_is_refused_and_the_user_is_told(override):
    key, value = recipes.parse_override(override)
    with pytest.raises(RecipeError, match=f"Set over recipe 'quick': {key}: ") as caught:
        recipes.load("quick").resolve("", {key: value})
    assert 1 < len(caught.value.lines) <= 3
    with pytest.raises(RecipeError, match=f"^Recipe 'mine': {key}: "):
        recipes.parse({key: value}, "mine")


def test_a_name_that_is_like_none_is_not_guessed_at():
    for kind, name, legal in (("task", "nope", ["pet", "dtd"]), ("recipe key", "nope", ["crop", "ema"])):
        assert "Did you mean" not in str(UnknownName(kind, name, legal))
    assert "Did you mean 'dtd'" in str(UnknownName("task", "dtdd", ["pet", "dtd"]))


def test_an_error_is_what_is_wrong_what_is_legal_and_what_to_do_also_from_another_process():
    error = RecipeError("Wrong.", "right.", "Do it.")
    assert error.lines == ("Wrong.", "Legal: right.", "Do it.")
    assert RecipeError("Wrong.", fact="It is late.", action="Do it.").lines == ("Wrong.", "It is late.", "Do it.")
    stopped = pickle.loads(pickle.dumps(Interrupted(15, "Stopped.", "to go on.")))
    assert (stopped.lines, stopped.exit_code) == (("Stopped.", "Legal: to go on."), 143)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"method": {"lineer": {"lr": 1.0}}}, "method.lineer: full, linear, bias, lora"),
        ({"for": {"digits": {"sweep": 3}}}, "for.digits.sweep: a table"),
        ({"for": {"digits": {"sweep": {"lr": 3}}}}, "for.digits.sweep.lr: a list of different values"),
        ({"sweep": {"lr": []}}, "sweep.lr: a list of different values"),
        ({"sweep": {"lr": [0.1, 0.1]}}, "sweep.lr: a list of different values"),
        ({"size": {"100": {"sweep": {"lr": [0.1, 1.0]}}}}, "size.100.sweep: a sweep stands alone"),
    ],
)
def test_a_slip_in_a_variation_is_told_when_the_recipe_is_read(keys, said):
    with pytest.raises(RecipeError, match=said):
        recipes.parse({"lr": 0.1, **keys}, "mine")


def test_a_crop_larger_than_what_it_is_cut_from_is_refused_whatever_the_resolution_is_called():
    s = Settings(crop="random", crop_from=40, resolution="native")
    assert s.at((32, 32), (8, 8)).crop_from == 40
    with pytest.raises(RecipeError, match="crop_from 40 is smaller"):
        s.at((48, 48), (8, 8))


@pytest.mark.parametrize(
    "data",
    [
        {"steps": 100, "warmup_steps": 100},
        {"warmup_steps": 600},  # of the 500 steps that stand where none are given
        {"steps": 1000, "warmup_steps": 200, "for": {"cifar10": {"steps": 150}}},
        {"steps": 1000, "size": {"2000": {"warmup_steps": 1000}}},
        {"steps": 0},
        {"sweep": {"steps": [0, 100]}},
    ],
)
def test_a_warmup_as_long_as_the_run_and_no_steps_are_refused(data):
    with pytest.raises(RecipeError, match=r"warmup_steps|steps") as caught:
        recipes.parse(data, "mine")
    assert caught.value.exit_code == 2


def test_a_warmup_set_over_a_recipe_is_held_to_its_steps_and_shorter_runs_shorten_it():
    recipe = recipes.parse({"steps": 100, "warmup_steps": 80}, "mine")
    with pytest.raises(RecipeError, match="Set over recipe 'mine': warmup_steps 100 is not below steps 100"):
        recipe.resolve("", {"warmup_steps": 100})
    for steps in (1, 2, 3, 7):
        assert recipe.resolve("", {"steps": steps}).warmup_steps < steps
    # Swept steps take their share of the warmup, so a short one is no fault.
    recipes.parse({"steps": 100, "warmup_steps": 80, "sweep": {"steps": [10, 200]}}, "mine")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"lr": "fast", "schedule": "staircase"}, ("lr: ", "staircase")),
        ({"momentum": 2, "steps": 10, "warmup_steps": 10}, ("momentum: ", "warmup_steps 10")),
        ({"schedule": "staircase", "warmup_steps": 900}, ("staircase", "warmup_steps 900")),
        ({"lrr": 1, "for": {"cifar10": 3, "digits": {"flip": 1}}}, ("lrr: ", "for.cifar10: ", "for.digits.flip: ")),
        ({"title": 3, "expect": {"task": "digits"}, "lr": -1}, ("title: ", "expect.0.value: ", "lr: ")),
        ({"sweep": {"lr": 0.1}, "swep": {"lr": [1]}}, ("sweep.lr: ", "did you mean 'sweep'?")),
    ],
)
def test_two_faults_of_different_kinds_are_both_told(data, told):
    with pytest.raises(RecipeError) as caught:
        recipes.parse(data, "mine")
    for part in told:
        assert part in str(caught.value), part


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"for": 3, "lr": -1}, ("for: a table, not 3", "lr: ")),
        ({"size": [1], "sweep": "lr"}, ("size: a table, not [1]", "sweep: a table, not 'lr'")),
        ({"for": {"digits": 3, "cifar10": {"lr": -2}}}, ("for.digits: ", "for.cifar10.lr: ")),
        ({"expect": 3, "lr": -1}, ("expect.0: ", "lr: ")),
        ({"source": 3, "method": {"linear": {"lr": -1}}}, ("source: ", "method.linear.lr: ")),
        ({"size": {"9": 3, "8": {"lr": -1}}, "pixels": {"7": 3}}, ("size.9: ", "size.8.lr: ", "pixels.7: ")),
        ({"method": {"bias": 3, "full": {"lr": -1}}, "sweep": {"lr": 3}}, ("method.bias: ", "method.full.lr: ")),
        ({"method": {"bias": {"sweep": 3}}, "pixels": 3}, ("method.bias.sweep: a table, not 3", "pixels: a table")),
    ],
)  # fmt: skip
def test_what_is_no_table_does_not_hide_what_else_is_wrong(data, told):
    with pytest.raises(RecipeError) as caught:
        recipes.parse(data, "mine")
    for part in told:
        assert part in str(caught.value), (part, str(caught.value))
    assert not any(f"for_{table}" in str(caught.value) for table in ("task", "method", "size", "pixels"))


def test_the_method_is_a_word_or_the_table_of_what_each_varies():
    said = {"lr": 0.1, "method": "linear"}
    assert recipes.parse(said, "mine").resolve().method == "linear" and said == {"lr": 0.1, "method": "linear"}
    tables = {"full": {"lr": 0.2, "sweep": {"lr": [0.2, 0.4]}}, "bias": {"lr": 0.3}}
    own = {"lr": 0.1, "default_method": "bias", "method": tables, "sweep": {"steps": [5, 6]},
           "for": {"dtd": {"method": "full"}, "svhn": {"sweep": {"lr": [0.7, 0.8]}, "momentum": 0.5}}}  # fmt: skip
    recipe = recipes.parse(own, "mine")
    assert (recipe.resolve().method, recipe.resolve().lr) == ("bias", 0.3)
    assert recipes.parse({"method": tables}, "mine").resolve().method == "full"
    full, svhn = recipe.resolve("dtd"), recipe.resolve("svhn", {"method": "full"})
    assert (full.method, full.lr) == ("full", 0.2) and (svhn.lr, svhn.momentum) == (0.2, 0.5)
    assert recipe.sweep_for("dtd", full, {}) == {"steps": [5, 6], "lr": [0.2, 0.4]}
    assert recipe.sweep_for("svhn", recipe.resolve("svhn"), {"steps": 7}) == {"lr": [0.7, 0.8]}
    assert recipe.sweep_for("svhn", svhn, {}) == {"steps": [5, 6], "lr": [0.2, 0.4]}  # the method's comes last
    assert recipe.faults("dtd", {}) == [] and recipe.faults("dtd", {"lr": -1.0})[0].startswith("lr: ")
    # how many examples there will be is not known there
    few = recipes.parse({"crop": "random", "resolution": 32, "size": {"2": {"crop_from": 40}}}, "mine")
    assert few.faults("dtd", {"resolution": 64}) == [] and few.faults("dtd", {"resolution": 64, "crop_from": 40})


@pytest.mark.parametrize(
    ("key", "legal", "not_legal"),
    [("value", (0, 1, 0.5), (-0.01, 1.01)), ("tolerance", (0.001, 1), (0, 1.01)), ("n", (1, 7), (0,))],
)
def test_what_a_recipe_expects_is_a_share_within_shares_of_some_images(key, legal, not_legal):
    usual = {"task": "dtd", "value": 0.5, "tolerance": 0.1, "source": "s"}
    for value in legal:
        (found,) = recipes.parse({"expect": usual | {key: value}}, "mine").expect
        assert getattr(found, key) == value
    for value in not_legal:
        with pytest.raises(RecipeError, match=rf"expect\.0\.{key}: "):
            recipes.parse({"expect": [usual | {key: value}]}, "mine")
    (found,) = recipes.parse({"expect": usual}, "mine").expect
    assert (found.model, found.metric, found.device, found.n, found.protocol, found.split_digest) == (
        "", "top1", "", None, "", "",
    )  # fmt: skip


def test_a_recipes_digest_is_of_what_decides_a_number_and_as_versions_before_had_it():
    own = {"lr": 0.1, "sweep": {"lr": [0.1, 0.2]}, "for": {"dtd": {"lr": 0.3}}, "size": {"9": {"steps": 5}}}
    document = {
        "name": "mine", "settings": {"lr": 0.1}, "sweep": {"lr": [0.1, 0.2]}, "for_task": {"dtd": {"lr": 0.3}},
        "for_method": {}, "for_size": {"9": {"steps": 5}}, "overrides": {"steps": 3},
    }  # fmt: skip
    pixels = {"9": {"flip": False}}

    def eight(document: dict[str, object]) -> str:
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]

    said = {"title": "t", "source": "s", "expect": {"task": "dtd", "value": 0, "tolerance": 1, "source": "s"}}
    for more in ({}, said):
        assert recipes.parse(own | more, "mine", "# text").digest({"steps": 3}) == eight(document)
    assert recipes.parse(own | {"pixels": pixels}, "mine").digest({"steps": 3}) == eight(
        document | {"for_pixels": pixels}
    )
    assert recipes.digest({"b": 1, "a": 2}) == recipes.digest({"a": 2, "b": 1}) == eight({"a": 2, "b": 1})
    assert recipes.digest(Settings()) == eight(Settings().model_dump(mode="json"))


def test_a_toml_file_is_a_path_with_or_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("lr = 0.7\n")
    (tmp_path / "plain").write_text("lr = 0.8\n")
    monkeypatch.chdir(tmp_path)
    assert [recipes.load(name).resolve().lr for name in ("own.toml", "./own.toml", "./plain")] == [0.7, 0.7, 0.8]
    assert (recipes.load("own.toml").name, recipes.load("own.toml").text) == ("own", "lr = 0.7\n")
    assert recipes.load().name == "quick"
    with pytest.raises(UnknownName):
        recipes.load("plain")


def test_what_decides_a_number_is_never_changed_afterwards():
    expected = {"task": "dtd", "value": 0.5, "tolerance": 0.1, "source": "s"}
    recipe = recipes.parse({"expect": expected}, "mine")
    for thing, key in ((recipe, "name"), (recipe.expect[0], "value"), (recipe.resolve(), "lr")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, key, getattr(thing, key))
    for data in ({"expect": {**expected, "valu": 1}}, {"expect": [{"task": "dtd"}]}):
        with pytest.raises(RecipeError, match=r"expect\.0\.val"):
            recipes.parse(data, "mine")
