"""All benchmarks, or those named: `python bench/run.py training harvest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import features, harvest, notebooks, training, widgets

BENCHMARKS = {
    "harvest": harvest.main,
    "features": features.main,
    "training": training.main,
    "widgets": widgets.main,
    "notebooks": notebooks.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        BENCHMARKS[name]()
