"""What the tree promises: who imports whom, what is pinned, what never appears."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "saekit"

# A module imports only from modules to its left.
ORDER = (
    "files codes hooks corpus nonlinearity coder activations toy losses presets io train features steer attribute "
    "circuits explain viz evals widgets lesson recipes"
).split()


def tracked() -> list[Path]:
    """What git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:  # no checkout: everything but the environment and what is made
        made = {".venv", "gallery", "runs", "build", ".git"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not made & {*p.relative_to(ROOT).parts}]
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


# -- imports


def imported(tree: ast.AST, here: list[str]) -> set[tuple[str, ast.AST]]:
    """(top module, node) for every import of saekit; "" is the package as a whole. `here`: the importing package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "saekit":
                top = target[1] if len(target) > 1 else ""
                found.add((top if top in ORDER else "", node))
    return found


def violations(source: str, path: Path) -> list[str]:
    """Imports in `source`, a module at `path` below saekit/, that its row does not allow."""
    module = path.parts[0].removesuffix(".py")
    tree = ast.parse(source)
    in_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    bad = []
    for target, node in imported(tree, ["saekit", *path.parts[:-1]]):
        monitor = module == "train" and target == "widgets" and node in in_functions
        below = ORDER.index(target) <= ORDER.index(module) if target else module == "recipes"
        if not (below or monitor):
            bad.append(f"saekit/{path}:{node.lineno} imports {target or 'saekit itself'}")
    return bad


def test_no_upward_import():
    bad = []
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE)
        if path != Path("__init__.py"):
            bad += violations(file.read_text(), path)
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("train.py", "from saekit.coder import SparseCoder", True),
        ("train.py", "from . import coder", True),
        ("train.py", "from .widgets import TrainMonitor", False),
        ("train.py", "def f():\n    from saekit.widgets import TrainMonitor", True),
        ("losses.py", "def f():\n    from saekit.widgets import TrainMonitor", False),
        ("coder.py", "import saekit.train", False),
        ("coder.py", "import saekit as sk", False),
        ("io/own.py", "from ..coder import SparseCoder", True),
        ("io/own.py", "from ..train import train", False),
        ("io/own.py", "from . import safe", True),
        ("recipes/model.py", "import saekit as sk", True),
    ],
)
def test_the_import_rule_itself(path: str, source: str, allowed: bool):
    assert (violations(source, Path(path)) == []) is allowed


def test_every_module_is_in_the_plan():
    tops = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    assert tops - {"__init__"} <= set(ORDER)
    vague = {"utils", "common", "base", "config", "manager"}
    assert not [file for file in PACKAGE.rglob("*.py") if file.stem in vague]


def test_import_is_light():
    """`import saekit` loads neither the model library nor anything that draws."""
    code = "import sys, json, saekit; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"transformer_lens", "transformers", "datasets", "plotly", "ipywidgets", "anywidget", "sklearn"}
    assert not heavy & set(json.loads(out))


# -- pins


def lock() -> list[str]:
    return [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_the_lock_pins_everything_declared():
    assert [line for line in lock() if "==" not in line or "+" in line] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["test"]
    assert {distribution(line) for line in declared} <= {distribution(line) for line in lock()}


@pytest.mark.parametrize("name", ["environment.yml", "binder/environment.yml"])
def test_environment_files_carry_the_lock(name: str):
    *conda, pip = yaml.safe_load((ROOT / name).read_text())["dependencies"]
    assert conda == ["python=3.11", "pip"]
    index, *pins = [line for line in pip["pip"] if line != "-e ."]
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert [line.replace("+cpu", "") for line in pins] == lock()
    assert [line for line in pins if "+cpu" in line] == [line + "+cpu" for line in lock() if line.startswith("torch==")]


# -- what never appears


def test_shell_scripts_parse():
    scripts = [*(ROOT / ".ci").iterdir(), ROOT / "binder/postBuild", ROOT / "binder/start"]
    for script in scripts:
        shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
        checked = subprocess.run([shell, "-n", script], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert script.stat().st_mode & 0o111, f"{script} is not executable"


def test_no_pickle_is_loaded():
    loads = re.compile(r"\bpickle\.load|\bweights_only\s*=\s*False|\ballow_pickle\s*=\s*True|\bjoblib\.load")
    code = [path for path in tracked() if path.suffix in {".py", ".ipynb"} and path != Path(__file__)]
    assert not [str(path) for path in code if loads.search(path.read_text())]


def test_nothing_is_fetched_from_a_network():
    """Pages, styles and scripts name no other host. One index is named, where torch is installed."""
    cdn = re.compile(
        r"unpkg\.com|jsdelivr|cdnjs|cdn\.plot\.ly|(?:src|href)=[\"']https?://[^\"']+\.(?:js|css)\b|@import"
    )
    drawn = [path for path in tracked() if path.suffix in {".py", ".js", ".css", ".html", ".ipynb"}]
    assert not [str(path) for path in drawn if path != Path(__file__) and cdn.search(path.read_text())]
    allowed = {"environment.yml", "binder/environment.yml", "Makefile", ".ci/venv", ".ci/lock", "tests/test_layout.py"}
    texts = [path for path in tracked() if path.suffix != ".safetensors"]
    naming = {str(path.relative_to(ROOT)) for path in texts if b"download.pytorch.org" in path.read_bytes()}
    assert naming <= allowed


def test_the_tree_stays_small():
    sizes = {path: path.stat().st_size for path in tracked()}
    assert sum(sizes.values()) <= 60e6
    assert sum(size for path, size in sizes.items() if PACKAGE / "assets" in path.parents) <= 48e6


def test_lint_and_format():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
