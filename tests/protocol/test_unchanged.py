"""Whether a run's data are those that it was begun with, and what a process keeps of them between units."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.layouts import refused
from tests.protocol.test_protocol import draw
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.split import Opened
from vitft.errors import DataError
from vitft.protocol import unchanged, warm


@pytest.mark.parametrize(
    ("result", "action"),
    [
        (None, ""),
        ("units/e/final/result.json", ""),  # of another task
        ("units/d/final/result.json", "Start anew with --overwrite, or delete '{}/units/d' to run this task alone"),
        ("result.json", "Start anew with --overwrite, or choose another folder with --output."),
    ],
)
def test_data_that_changed_are_gone_on_with_until_something_is_finished(tmp_path, result, action):
    folder, notes = tmp_path / "run", list[str]()
    data, own = draw(tmp_path / "d", per_class=1), folder / "units" / "d"
    own.mkdir(parents=True)
    seen, kept = own / "seen-train", own / "kept"

    def held() -> dict[str, list[Any]]:
        unchanged.hold(folder, ImageFolder(data, "d"), notes.append)
        return json.loads((own / "data.json").read_text())

    begun = held()
    assert begun
    for file in (seen, kept):
        file.touch()
    if result is not None:
        (folder / result).parent.mkdir(parents=True, exist_ok=True)
        (folder / result).write_text("{}")
    (own / "data.json").write_text(json.dumps(begun, indent=3))  # the same in other words: it is not written anew
    assert held() == begun and seen.exists() and (own / "data.json").read_text() == json.dumps(begun, indent=3)
    (data / "train" / "a" / "more.png").write_bytes(next((data / "train" / "b").iterdir()).read_bytes())
    if action:
        words = ("The data of 'd' changed since this run: ", f"the data that '{folder}' was run on.")
        refused(held, *words, action.format(folder), kind=DataError)
        assert json.loads((own / "data.json").read_text()) == begun and seen.exists()
    else:
        assert held() != begun and not seen.exists()
    assert kept.exists() and not notes


def test_a_source_is_opened_anew_for_other_data_alone(monkeypatch):
    made: list[Any] = []
    monkeypatch.setattr(warm, "source_of", lambda job: made.append(job) or SimpleNamespace())
    asked = {"task": "d", "data_dir": "/d", "shots": "1k"}
    kept = warm.Warm()
    first: Any = SimpleNamespace(**asked)
    source = kept.open(first)
    assert isinstance(source, Opened) and kept.open(SimpleNamespace(**asked)) is source and made == [first]  # type: ignore[arg-type]
    for key in asked:
        other: Any = SimpleNamespace(**{**asked, key: "other"})
        again = kept.open(other)
        assert again is not source and isinstance(again, Opened) and made[-1] is other
        assert kept.open(other) is again
        source = again
    assert len(made) == 1 + len(asked)
    # One that is given is that of the first job, opened or not.
    plain: Any = SimpleNamespace()
    for given in (plain, Opened(plain)):
        kept = warm.Warm(source=given)
        source = kept.open(first)
        assert isinstance(source, Opened) and source.source is plain and kept.open(first) is source
        assert (source is given) == isinstance(given, Opened)
    assert len(made) == 1 + len(asked)
