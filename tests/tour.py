"""`make tour`: runs every notebook without a browser and writes gallery/, pages that open from disk with no network."""

import contextlib
import copy
import dataclasses
import html
import inspect
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import plotly.io
import plotly.offline
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from tests.browser.lab import chromium, find_chromium

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass
class Run:
    """One notebook after it ran: its cells with their outputs, what it cost, and the first error if there was one."""

    notebook: nbformat.NotebookNode
    widgets: dict[str, str]  # model id -> HTML
    seconds: float
    peak_gb: float | None  # None: the kernel died
    error: str | None


def main(paths: list[Path], out: Path, pictures: bool = True) -> int:
    """Writes one page per notebook, an index and timings.json to `out`. Returns 1 if a notebook failed, else 0."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "plotly.min.js").write_text(plotly.offline.get_plotlyjs(), encoding="utf-8")
    runs = {}
    for path in paths:
        run = runs[path.stem] = execute(path)
        (out / f"{path.stem}.html").write_text(page(run), encoding="utf-8")
        print(f"{path.stem}: {run.seconds:.0f} s, {run.peak_gb} GB" + (f", FAILED: {run.error}" if run.error else ""))
    timings = {name: {"seconds": round(run.seconds, 1), "peak_gb": run.peak_gb} for name, run in runs.items()}
    (out / "timings.json").write_text(json.dumps(timings, indent=2) + "\n")
    thumbs = thumbnails(out, list(runs)) if pictures else set()
    (out / "index.html").write_text(index(runs, thumbs), encoding="utf-8")
    return int(any(run.error for run in runs.values()))


# -- running


def execute(path: Path) -> Run:
    """Runs one notebook in a kernel and a folder of its own, to its first error. Time includes the kernel's start."""
    notebook = nbformat.read(path, as_version=4)
    report = nbformat.v4.new_code_cell(f"{inspect.getsource(_show)}\n{inspect.getsource(_report)}\n_report()")
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False)
    error, start = None, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, client.setup_kernel(cwd=folder):
        try:
            for number, cell in enumerate(list(notebook.cells)):
                client.execute_cell(cell, number)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
            error = str(problem).strip().splitlines()[-1]
        seconds = time.perf_counter() - start
        notebook.cells.append(report)  # nbclient only runs cells of its notebook
        with contextlib.suppress(CellTimeoutError, DeadKernelError):
            client.execute_cell(report, len(notebook.cells) - 1)
        notebook.cells.pop()
    printed = "".join(output.text for output in report.outputs if output.get("name") == "stdout")  # it comes in pieces
    found = json.loads(printed.splitlines()[-1]) if printed else {"peak_gb": None, "widgets": {}}
    return Run(notebook, found["widgets"], seconds, found["peak_gb"], error)


def _report():
    """Runs in the notebook's kernel, after its last cell: its peak memory, and every widget as it stands."""
    import json
    import sys
    from pathlib import Path

    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: on Linux a child starts from its parent's peak
        peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module = sys.modules.get("ipywidgets.widgets.widget")
    widgets = {model: _show(widget) for model, widget in module._instances.items()} if module else {}
    print(json.dumps({"peak_gb": round(peak / 1e9, 2), "widgets": widgets}))


def _show(widget):
    """A widget as static HTML. Asked in the kernel, because only there does a figure know its last state."""
    import html

    kind = type(widget).__name__
    if kind == "FigureWidget":
        import plotly.io

        return plotly.io.to_html(widget, include_plotlyjs=False, full_html=False)
    if hasattr(widget, "to_html"):
        text = widget.to_html()
        tall = "this.style.height = this.contentDocument.documentElement.scrollHeight + 8 + 'px'"
        framed = f'<iframe srcdoc="{html.escape(text)}" onload="{tall}"></iframe>'
        return framed if "<html" in text[:200].lower() else text
    if hasattr(widget, "children"):
        return f'<div class="{kind.lower()}">{"".join(map(_show, widget.children))}</div>'
    if hasattr(widget, "outputs"):
        texts = (o.get("data", {}).get("text/html") or html.escape(o.get("text", "")) for o in widget.outputs)
        return "".join(f"<div>{text}</div>" for text in texts)
    if kind == "HTML":
        return widget.value
    if kind.endswith("Progress"):
        return ""  # tqdm says the same in words beside it
    parts = (str(getattr(widget, name, None) or "") for name in ("description", "value"))
    return f"<span>{html.escape(': '.join(filter(None, parts)))}</span>"


# -- pages

FRAME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<script src="plotly.min.js"></script>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 960px; margin: 24px auto; padding: 0 16px; font: 15px/1.5 system-ui, sans-serif;
  background: light-dark(#fff, #111); color: light-dark(#1b1f24, #f1f3f5); }}
a {{ color: inherit; }}
a.anchor-link, .prompt {{ display: none; }}
pre {{ overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; }}
.input_area pre {{ padding: 8px 12px; border-radius: 6px; background: light-dark(#f7f7f7, #191919); }}
.output_error pre, .output_stderr pre {{ color: light-dark(#b3261e, #ff9b93); white-space: pre-wrap; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 2px 12px 2px 0; text-align: right; border: 0; }}
iframe {{ width: 100%; height: 480px; border: 0; color-scheme: light dark; }}
.hbox {{ display: flex; gap: 16px; flex-wrap: wrap; }}
ul.gallery {{ list-style: none; padding: 0; display: grid; gap: 24px;
  grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); }}
ul.gallery img {{ width: 100%; border: 1px solid light-dark(#e1e2e3, #2e2e2f); }}
{style}
</style>
<body>
{body}
</body></html>
"""


def page(run: Run) -> str:
    """One notebook as HTML that asks the network for nothing: nbconvert's cells in our own frame."""
    notebook = copy.deepcopy(run.notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data = _offline(output.data, run.widgets)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    back = '<p><a href="index.html">All notebooks</a></p>'
    return FRAME.format(title=html.escape(title(run)), style=_pygments(), body=back + body)


def _offline(data: dict, widgets: dict[str, str]) -> dict:
    """The same output with figures and widgets as plain HTML."""
    if "application/vnd.plotly.v1+json" in data:
        figure = data["application/vnd.plotly.v1+json"]
        return {"text/html": plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, validate=False)}
    if "application/vnd.jupyter.widget-view+json" in data:
        shown = widgets.get(data["application/vnd.jupyter.widget-view+json"]["model_id"])
        return {"text/html": shown} if shown else {k: v for k, v in data.items() if k.startswith("text/")}
    return data


def _pygments() -> str:
    """Colours of the code for both themes."""
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    light = HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} .highlight {{ background: none; }} }}"


def title(run: Run) -> str:
    """The notebook's first heading."""
    prose = "\n".join(cell.source for cell in run.notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^#\s+(.+)$", prose, re.MULTILINE)
    return found[1] if found else "Untitled"


def index(runs: dict[str, Run], thumbs: set[str]) -> str:
    """The gallery's first page."""
    items = []
    for name, run in runs.items():
        picture = f'<img src="thumbs/{name}.png" alt="The top of {html.escape(title(run))}">' if name in thumbs else ""
        note = f"failed: {html.escape(run.error)}" if run.error else f"{run.seconds:.0f} s, {run.peak_gb} GB"
        items.append(f'<li><a href="{name}.html">{picture}{html.escape(title(run))}</a><br>{note}</li>')
    body = f'<h1>The tour</h1><ul class="gallery">{"".join(items)}</ul>'
    return FRAME.format(title="saekit: the tour", style="", body=body)


def thumbnails(out: Path, names: list[str]) -> set[str]:
    """Photographs each page's top, where there is a browser. Returns the names that have a picture."""
    if find_chromium() is None:
        return set()
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1000, "height": 700})
        for name in names:
            tab.goto((out / f"{name}.html").resolve().as_uri())
            tab.screenshot(path=out / "thumbs" / f"{name}.png")
    return set(names)


if __name__ == "__main__":
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    status = main(notebooks, ROOT / "gallery")
    print(f"{len(notebooks)} notebooks, see gallery/index.html")
    sys.exit(status)
