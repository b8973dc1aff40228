"""VARIANTS.md: every variant and training strategy of the survey, with its preset, its tests and its notebooks.

    python -m tests.variants        # writes it anew

Nothing in the table is typed: what a variant is comes from its docstring, its tests from the tests' own sources, its
notebooks from a search for its name. `tests/test_variants.py` regenerates it, and fails where something is missing.
"""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat

import saekit as sk
from saekit import evals, presets

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "VARIANTS.md"
SHARED = 10  # a test that holds for so many presets is named once, above the table


class Row(NamedTuple):
    """One line of the table. `words`: what a test or a notebook writes when it uses it, a regular expression."""

    name: str
    call: str
    about: Callable
    words: str
    origin: Callable | None = None  # whose docstring names the paper, where it is another one's


def public_presets() -> dict[str, Callable]:
    """name -> function, in the order of the page."""
    functions = vars(presets).items()
    return {n: f for n, f in functions if inspect.isfunction(f) and f.__module__ == presets.__name__ and n[0] != "_"}


PRESETS = [
    Row(name, f"presets.{name}", f, rf"\bpresets\.{name}\b|[\"'`]{name}(?: \w+)?[\"'`(]")
    for name, f in public_presets().items()
]

# What the survey lists beside its variants: terms, options and sources that go with them.
STRATEGIES = [
    Row("AuxK", "+ 1/32 * sk.auxk()", sk.auxk, r"\bauxk\b|\bAuxK\b"),
    Row("aux-zipf", "+ 1/32 * sk.aux_zipf(k)", sk.aux_zipf, r"\baux_zipf\b|\baux-zipf\b"),
    Row("resampling", "+ sk.resample()", sk.resample, r"\bresample\b|\b[Rr]esampling\b"),
    Row("ghost gradients", "+ sk.ghost()", sk.ghost, r"\bghost\(|\b[Gg]host gradients\b"),
    Row("pre-activation loss", "+ 3e-6 * sk.pre_act()", sk.pre_act, r"\bpre_act\b|\bpre-activation loss\b"),
    Row("Multi-TopK", "+ 1/8 * sk.multi_topk(4 * k)", sk.multi_topk, r"\bmulti_topk\b|\bMulti-TopK\b"),
    Row(
        "JumpReLU, target L0",
        "presets.jumprelu(l0=)",
        sk.target_l0,
        r'\btarget_l0\b|presets\.jumprelu\(|"jumprelu"',
        presets.jumprelu,
    ),
    Row(
        "JumpReLU, L0 penalty",
        "presets.jumprelu(step=)",
        sk.l0,
        r"\bsk\.l0\(|\bjumprelu\([^)]*step=|\bjumprelu step\b",
        presets.jumprelu,
    ),
    Row("JumpReLU, tanh", "presets.jumprelu(saturating=)", sk.tanh, r"\bsk\.tanh\(|saturating=|\bjumprelu tanh\b"),
    Row("p-annealing schedule", "sk.lp(sk.anneal(1, 0.2))", sk.lp, r"\blp\("),
    Row("downstream terms", "presets.end_to_end(downstream=)", sk.downstream, r"\bdownstream(?:=|\()"),
    Row("tilted loss", "sk.tilted(t)", sk.tilted, r"\btilted\b"),
    Row("retrieval of a domain", "sk.retrieve(model, corpus, seeds)", sk.retrieve, r"\bretrieve\b"),
    Row("layer groups", "sk.layer_groups(model, corpus, n)", sk.layer_groups, r"\blayer_groups\b"),
    Row("two models", "sk.SideBySide(models, site, corpus)", sk.SideBySide, r"\bSideBySide\b"),
    Row("relative decoder norms", "evals.relative_norms(coder, acts)", evals.relative_norms, r"\brelative_norms\b"),
    Row("causal term", "sk.causal()", sk.causal, r"\bcausal\(\)"),
    Row("alignment of coders", "sk.align()", sk.align, r"\balign\(\)|\bfeature_aligned\b"),
]


# -- what a docstring says


def described(f: Callable) -> tuple[str, str, str]:
    """(what it does, its paper, the source it wants) of a docstring."""
    text = " ".join(inspect.getdoc(f).split())
    cited = re.compile(r" ?\(([^()]*(?:arXiv \d|\b20\d\d\b)[^()]*)\)")
    paper = cited.search(text) or re.search(r"([A-Z]\w+ et al\. 20\d\d)", text)
    first = re.split(r"(?<=[^.])\.(?: |$)", cited.sub("", text))[0]
    source = re.search(r"Source(?: of each)?: (.+?)(?:;|(?<=[^.])\.(?: |$))", text)
    return first, paper[1] if paper else "", source[1] if source else ""


# -- tests


@cache
def tests() -> dict[str, str]:
    """ "file::test" -> its source, with the keys of the tables it runs over and the fixtures it takes from them."""
    tables = {f"zoo.{name}": keys for name, keys in _tables(Path(__file__).parent / "zoo.py").items()}
    tables["zoo.WITHOUT_MODEL"] = " ".join(
        f'"{key}"' for key in _keys(tables["zoo.PRESETS"]) if key not in ("end_to_end", "formal")
    )
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name == "test_variants.py":
            continue
        own = tables | _tables(path)
        functions = list(_functions(path))
        fixtures = {f.name: _with(own, source) for f, source in functions if not f.name.startswith("test_")}
        for f, source in functions:
            if f.name.startswith("test_"):
                taken = [fixtures[a.arg] for a in f.args.args if a.arg in fixtures]
                found[f"{path.stem}::{f.name}"] = " ".join([_with(own, source), *taken])
    return found


def _functions(path: Path) -> Iterator[tuple[ast.FunctionDef, str]]:
    text = path.read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            decorators = [ast.get_source_segment(text, d) or "" for d in node.decorator_list]
            yield node, "\n".join([*decorators, ast.get_source_segment(text, node) or ""])


def _tables(path: Path) -> dict[str, str]:
    """Module-level dicts: name -> their keys, quoted."""
    assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    return {
        node.targets[0].id: " ".join(f'"{key.value}"' for key in node.value.keys if isinstance(key, ast.Constant))
        for node in assigned
        if isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name)
    }


def _keys(quoted: str) -> list[str]:
    return re.findall(r'"([^"]*)"', quoted)


def _with(tables: dict[str, str], source: str) -> str:
    """The source, and the keys of every table that a decorator of it names."""
    head = source.partition("def ")[0]
    return source + " ".join(
        keys for name, keys in tables.items() if re.search(rf"(?<![\w.]){re.escape(name)}\b", head)
    )


def tests_of(row: Row) -> list[str]:
    return [name for name, source in tests().items() if re.search(row.words, source)]


def shared() -> dict[str, int]:
    """Tests that hold for many presets, and for how many of them."""
    held = defaultdict(int)
    for row in PRESETS:
        for name in tests_of(row):
            held[name] += 1
    return {name: n for name, n in held.items() if n >= SHARED}


# -- notebooks


@cache
def notebooks() -> dict[str, str]:
    """File name -> all its cells, and the modules of its lesson."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        lessons = sorted((ROOT / "saekit" / "lesson").glob(f"nb{path.name[:2]}*.py"))
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
        found[path.name] = "\n".join([*cells, *(lesson.read_text() for lesson in lessons)])
    return found


def notebooks_of(row: Row) -> list[str]:
    return [name for name, text in notebooks().items() if re.search(row.words, text)]


# -- the table


def lacking() -> dict[str, list[str]]:
    """ "test" and "notebook": the names that lack one."""
    rows = [*PRESETS, *STRATEGIES]
    return {
        "test": [row.name for row in rows if not tests_of(row)],
        "notebook": [row.name for row in rows if not notebooks_of(row)],
    }


def page() -> str:
    """The whole of VARIANTS.md."""
    common = shared()
    lines = [
        "# Variants and strategies",
        "",
        "Every sparse autoencoder variant and training strategy of the survey (arXiv 2503.05613), as saekit has it.",
        "This page is written by `python -m tests.variants` from docstrings, tests and notebooks; a test compares it.",
        "",
        f"Of the {len(PRESETS)} presets, so many have these tests in common, `n shared` below:",
        "",
        *(f"- `{name}`: {n}" for name, n in sorted(common.items())),
        "",
        "## Presets",
        "",
        "| preset | what it is | paper | source | tests | notebooks |",
        "|---|---|---|---|---|---|",
        *(_line(row, common, [f"`{row.call}`"], with_source=True) for row in PRESETS),
        "",
        "## Terms, options and sources that go with them",
        "",
        "| strategy | in code | what it is | paper | tests | notebooks |",
        "|---|---|---|---|---|---|",
        *(_line(row, common, [row.name, f"`{row.call}`"]) for row in STRATEGIES),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, common: dict[str, int], first: list[str], with_source: bool = False) -> str:
    what, paper, source = described(row.about)
    paper = described(row.origin)[1] if row.origin else paper
    own = [name for name in tests_of(row) if name not in common]
    n = len(tests_of(row)) - len(own)
    said = ", ".join([*(f"`{name}`" for name in own[:3]), *([f"{len(own) - 3} more"] if len(own) > 3 else [])])
    said = ", ".join(filter(None, [said, f"{n} shared" if n else ""]))
    where = ", ".join(f"[{name[:2]}](notebooks/{name})" for name in notebooks_of(row))
    cells = [*first, what, paper, *([source] if with_source else []), said, where]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    TABLE.write_text(page())
    print(
        f"{TABLE.name}: " + "; ".join(f"no {kind}: {', '.join(names) or 'none'}" for kind, names in lacking().items())
    )
