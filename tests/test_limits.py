"""How large a file, a function and a room may grow (CONTRIBUTING, Habits); ruff holds parameters and branches."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vitft"
FILE, FUNCTION = 350, 60


def test_files_and_functions_stay_small() -> None:
    """Outside cli/, where the signature of a verb holds its options."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(PACKAGE))
        found[name] = (len(text.splitlines()), FILE)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not name.startswith("cli/"):
                found[f"{name}:{node.name}"] = ((node.end_lineno or 0) - node.lineno + 1, FUNCTION)
    assert len(found) > 1000
    assert not {name: lines for name, (lines, most) in found.items() if lines > most}


def test_no_room_holds_more_than_a_quarter_of_the_code() -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in PACKAGE.rglob("*.py")}
    rooms = {room.name: sum(n for file, n in lines.items() if room in file.parents) for room in PACKAGE.iterdir()}
    assert max(rooms.values()) < sum(lines.values()) / 4, rooms


def test_what_is_legal_is_introduced_in_one_place() -> None:
    """The second line of an error begins with "Legal: " by its class; typed by hand, it would stand there twice."""
    typed = [file for file in PACKAGE.rglob("*.py") if re.search("[\"']Legal: ", file.read_text(encoding="utf-8"))]
    assert typed == [PACKAGE / "errors.py"]
