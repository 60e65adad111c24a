"""No class is too long to be kept in mind."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "auditrelay"
MOST_LINES = 350


def test_no_class_is_too_long() -> None:
    lengths = {
        f"{path.relative_to(SOURCE)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert len(lengths) > 100
    too_long = [f"{name} ({length})" for name, length in lengths.items() if length > MOST_LINES]
    assert not too_long, (
        f"longer than {MOST_LINES} lines: {', '.join(sorted(too_long))}; "
        "give an idea of its own a class of its own"
    )
