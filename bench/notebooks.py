"""Every notebook in a fresh kernel: wall time, peak memory, and what its training and fidelity cells say."""

from typing import Any

from bench.measure import report
from tests import tour

SHOWN = ("sk.train(", 'nb.check("3.3"', "evals.fidelity(")  # cells whose output is a result


def main() -> None:
    rows, results = [], {}
    for path in sorted((tour.ROOT / "notebooks").glob("*.ipynb")):
        run = tour.execute(path)
        rows.append(
            {"notebook": path.stem, "seconds": run.seconds, "peak GB": run.peak_gb, "error": run.error or "none"}
        )
        results[path.stem] = {cell.source.splitlines()[0]: said(cell) for cell in run.notebook.cells if is_result(cell)}
    report("notebooks", "Notebooks, each in a fresh kernel", rows, "seconds", {"results": results})


def is_result(cell: Any) -> bool:
    return cell.cell_type == "code" and any(call in cell.source for call in SHOWN)


def said(cell: Any) -> str:
    """The last text a cell put out."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    plain = [text for text in texts if text and "training:" not in text and "HBox" not in text]
    return " ".join(plain[-1].split()) if plain else ""


if __name__ == "__main__":
    main()
