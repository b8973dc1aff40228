"""All benchmarks, or those named: `python bench/run.py training harvest`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import attribute, features, graph, growth, harvest, notebooks, peers, training, widgets

BENCHMARKS = {
    "harvest": harvest.main,
    "features": features.main,
    "attribute": attribute.main,
    "training": training.main,
    "growth": growth.main,
    "peers_fvu": peers.fvu,
    "peers": peers.speed,
    "peers_quality": peers.quality,
    "graph": graph.main,
    "widgets": widgets.main,
    "notebooks": notebooks.main,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        BENCHMARKS[name]()
