"""Run All in JupyterLab, in a real browser, offline. SAEKIT_SHOTS=folder keeps a picture of each notebook."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import lab

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


# Module scope: while playwright runs it owns this thread's event loop, and nbval, whose turn is next, needs one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with lab.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("lab")
    root = shutil.copytree(NOTEBOOKS, home / "notebooks")  # Lab saves what it runs
    with lab.server(root, home) as address:
        yield address


@pytest.mark.parametrize("name", [*NAMES[:1], *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[1:])])
def test_run_all(browser: Browser, address: str, name: str):
    notebook = lab.Notebook(browser, address, name)
    try:
        outputs = notebook.run_all(timeout=300)
        assert [output for output in outputs if output["output_type"] == "error"] == []
        assert notebook.errors() == []
        if any(makes_a_picture(output) for output in outputs):
            assert notebook.painted() > 0
        if shots := os.environ.get("SAEKIT_SHOTS"):
            notebook.photograph(Path(shots), name.removesuffix(".ipynb"))
        assert notebook.outside == []
    finally:
        notebook.close()


def makes_a_picture(output: dict) -> bool:
    data = output.get("data", {})
    widget = "FigureWidget" in "".join(data.get("text/plain", ""))
    return widget or bool(data.keys() & {"application/vnd.plotly.v1+json", "image/png", "image/svg+xml"})
