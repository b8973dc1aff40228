"""EXPLANATIONS.md: every method that explains a latent, with its paper, its tests and its notebooks.

    python -m tests.explanations        # writes it anew

Nothing in the table is typed: the methods are what `saekit.explain` exports, what they do comes from their docstrings,
their tests from the tests' own sources, their notebooks from a search for their names.
`tests/test_explanations.py` regenerates it, and fails where something is missing.
"""

import ast
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from saekit import explain
from tests import variants
from tests.variants import ROOT, Row, described, notebooks_of

TABLE = ROOT / "EXPLANATIONS.md"

# Modules of `saekit.explain` -> the part of the page that their methods belong to.
PARTS = {
    "From what it responds to": ("examples", "pruned", "n2g", "tokens", "rules"),
    "From what it does to the output": ("lens", "output", "mutual", "selection", "enrichment"),
    "In words": ("explainers",),
    "Scores of an explanation": ("scores",),
    "Judges": ("judges", "local", "endpoint", "embedders"),
}
NO_METHODS = ("export", "details", "explanation", "saekit.files")  # what they export writes files, or holds words
MEANT = {"Human": r"\bJudgeGame\b"}  # what also shows a method


def public() -> dict[str, Callable]:
    """name -> what `saekit.explain` exports, errors left out."""
    found = {name: thing for name, thing in vars(explain).items() if inspect.isroutine(thing) or inspect.isclass(thing)}
    return {name: f for name, f in found.items() if not (inspect.isclass(f) and issubclass(f, Exception))}


def module(thing: Callable) -> str:
    return thing.__module__.removeprefix("saekit.explain.")


def rows() -> dict[str, list[Row]]:
    """Part of the page -> its rows."""
    methods = public()
    return {
        part: [_row(name, f) for name, f in methods.items() if module(f) in modules] for part, modules in PARTS.items()
    }


def _row(name: str, f: Callable) -> Row:
    also = f"|{MEANT[name]}" if name in MEANT else ""
    return Row(name, f"explain.{name}", f, rf"\bexplain\.{name}\b{also}")


@cache
def tests() -> dict[str, str]:
    """ "file::test" -> its source, with the tuples of functions that it runs over."""
    tuples = {path.stem: _tuples(path) for path in Path(__file__).parent.glob("test_*.py")}
    found = {}
    for name, source in variants.tests().items():
        here, head = tuples[name.partition("::")[0]], source.partition("def ")[0]
        found[name] = " ".join([source, *(held for table, held in here.items() if re.search(rf"\b{table}\b", head))])
    return {name: source for name, source in found.items() if not name.startswith("test_explanations::")}


def _tuples(path: Path) -> dict[str, str]:
    """Module-level tuples: name -> source, with that of the tuples in it."""
    text, found = path.read_text(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Name):
            own = ast.get_source_segment(text, node.value)
            found[node.targets[0].id] = " ".join([own, *(s for name, s in found.items() if f"*{name}" in own)])
    return found


def tests_of(row: Row) -> list[str]:
    return [name for name, source in tests().items() if re.search(row.words, source)]


def lacking() -> dict[str, list[str]]:
    """ "test" and "notebook": the names that lack one."""
    all_rows = [row for part in rows().values() for row in part]
    return {
        "test": [row.name for row in all_rows if not tests_of(row)],
        "notebook": [row.name for row in all_rows if not notebooks_of(row)],
    }


def page() -> str:
    """The whole of EXPLANATIONS.md."""
    head = [
        "# Ways to explain a latent",
        "",
        "Every method of explanation of the survey (arXiv 2503.05613), and what scores one, as saekit has it.",
        "This page is written by `python -m tests.explanations` from docstrings, tests and notebooks; a test compares.",
    ]
    return "\n".join([*head, *(line for part, found in rows().items() for line in _part(part, found))]) + "\n"


def _part(title: str, found: list[Row]) -> list[str]:
    columns = [
        "",
        f"## {title}",
        "",
        "| function | what it gives | paper | tests | notebooks |",
        "|---|---|---|---|---|",
    ]
    return [*columns, *map(_line, found)]


def _line(row: Row) -> str:
    what, paper, _ = described(row.about)
    paper = paper.rstrip(".")
    own = tests_of(row)
    said = ", ".join([*(f"`{name}`" for name in own[:3]), *([f"{len(own) - 3} more"] if len(own) > 3 else [])])
    where = ", ".join(f"[{name[:2]}](notebooks/{name})" for name in notebooks_of(row))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in [f"`{row.call}`", what, paper, said, where]) + " |"


if __name__ == "__main__":
    TABLE.write_text(page())
    print(
        f"{TABLE.name}: " + "; ".join(f"no {kind}: {', '.join(names) or 'none'}" for kind, names in lacking().items())
    )
