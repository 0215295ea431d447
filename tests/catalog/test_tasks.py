"""The table of tasks: official counts, split rules, names."""

import json
from pathlib import Path

import pytest

from vitft.catalog import tasks
from vitft.catalog.tasks import GROUPS, TASKS, VTAB, Slice, Task
from vitft.errors import UnknownName


@pytest.fixture(scope="module")
def facts(shared: Path) -> list[dict]:
    return json.loads((shared / "facts" / "vtab_tasks.json").read_text())["tasks"]


def _count(task: Task, split: str) -> int:
    return sum(piece.stop - piece.start for piece in task.splits[split])


def test_official_counts() -> None:
    assert len(VTAB) == 19
    assert sum(_count(task, "test") for task in VTAB) == 387_904
    for task in VTAB:
        assert (
            _count(task, "train800"),
            _count(task, "val200"),
            _count(task, "train800val200"),
        ) == (800, 200, 1000)
    assert [len(tasks.group(group)) for group in GROUPS] == [7, 4, 8]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_slices_lie_inside_their_raw_split_and_never_share_an_example_with_test(
    task: Task,
) -> None:
    for pieces in task.splits.values():
        for piece in pieces:
            assert 0 <= piece.start < piece.stop <= task.sizes[piece.raw_split]
    for name in set(task.splits) - {"test"}:
        for a in task.splits[name]:
            for b in task.splits["test"]:
                assert a.raw_split != b.raw_split or a.stop <= b.start or b.stop <= a.start, (
                    name,
                    a,
                    b,
                )


def test_every_task_agrees_with_the_facts(facts: list[dict]) -> None:
    assert {fact["id"] for fact in facts} == {task.name for task in VTAB}
    for fact in facts:
        task = tasks.get(fact["id"])
        assert task.num_classes == fact["num_classes"]
        assert task.group == fact["group"]
        assert (task.crop, task.flip) == (
            fact["scenic_aug"]["crop"],
            fact["scenic_aug"]["flip"],
        ), task.name
        assert task.sizes == fact["tfds_sizes"]
        for split, pieces in task.splits.items():
            assert pieces == tuple(Slice(p["tfds_split"], p["start"], p["stop"]) for p in fact["splits"][split])
        for field in ("noah_folder", "bit_name", "clip_benchmark", "hf_wds", "tfds"):
            known_to_two = fact["tfds"] in ("clevr", "dsprites", "smallnorb") and field == "tfds"
            if fact[field] and not known_to_two:
                assert tasks.get(fact[field]) is task, fact[field]
        assert bool(task.non_reference) == (fact["id"] == "caltech101")


def test_names_are_found_whatever_their_spelling_and_unknown_ones_name_the_nearest() -> None:
    assert tasks.get("CIFAR-100").name == tasks.get("cifar").name == "cifar100"
    assert tasks.get("dSpr-Ori").name == "dsprites_orientation"
    assert tasks.get("diabetic_retinopathy_detection/btgraham-300").name == "diabetic_retinopathy"
    assert tasks.canonical("clevr") is None  # two tasks are built from it
    with pytest.raises(UnknownName, match="Did you mean 'dtd'") as caught:
        tasks.get("dtdd")
    assert caught.value.exit_code == 2
