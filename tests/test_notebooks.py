"""The notebooks as files, and, in the long run, each one alone. `make test` runs their cells under nbval."""

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from tests import tour

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_names_are_numbered():
    assert not [path.name for path in NOTEBOOKS if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)]
    numbers = Counter(path.name[:2] for path in NOTEBOOKS)
    assert not [number for number, count in numbers.items() if count > 1]


@every_notebook
def test_is_valid_and_without_outputs(path: Path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None


@every_notebook
def test_cells_are_short(path: Path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        exercise = "exercise" in cell.metadata.get("tags", []) or "exercise" in lines[0].lower()
        assert 1 <= len(lines) <= (12 if exercise else 8), cell.source


@pytest.mark.long
@every_notebook
def test_runs_alone_within_its_budget(path: Path):
    done = tour.execute(path)
    assert done.error is None, done.error
    assert done.seconds < 120
    assert done.peak_gb < 1.2


# -- the gallery


SAMPLE = """
import plotly.graph_objects as go, ipywidgets as w
fig = go.Figure(go.Scatter(y=[1, 3, 2]), layout=dict(title="plain"))
live = go.FigureWidget(go.Heatmap(z=[[1, 2], [3, 4]]), layout=dict(title="live"))
display(fig, w.VBox([w.HTML("<b>card</b>"), live, w.IntSlider(description="k", value=7)]))
print("<script>alert(1)</script>")
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tour") / "00_sample.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# Sample & more\n\nA first paragraph."), nbformat.v4.new_code_cell(SAMPLE)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_gallery_is_offline_and_shows_figures_and_widgets(sample: Path):
    out = sample.parent / "gallery"
    assert tour.main([sample], out, pictures=False) == 0
    page = (out / "00_sample.html").read_text()
    assert "plain" in page
    assert "live" in page
    assert "<b>card</b>" in page
    assert "k: 7" in page
    assert "<script>alert" not in page
    assert "Sample &amp; more" in (out / "index.html").read_text()
    assert (out / "timings.json").exists()
    for html in out.glob("*.html"):
        assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", html.read_text())


def test_a_failing_notebook_is_reported(tmp_path: Path):
    path = tmp_path / "00_fails.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    assert tour.main([path], tmp_path / "gallery", pictures=False) == 1
    assert "ZeroDivisionError" in (tmp_path / "gallery/00_fails.html").read_text()
