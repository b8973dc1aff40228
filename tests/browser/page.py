"""What the tests of widgets look at: notebooks with one cell per widget, a plain page, and what to ask of a page."""

from pathlib import Path

import nbformat

from saekit.viz.html import style

HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"'`&<>]]></textarea></style><b>",
    "a\u202eb\u200fc\u2066d",
    "w" * 10_000,
    "\x00\x1b[31m\r\v\x7f",
)

START = """import saekit as sk
from saekit import explain, presets, widgets
model = sk.load_model()
corpus = sk.load_corpus(model, split="held_out", files=6)"""

CODE = '''def area(width, height):
    """Return the area of a rectangle in square metres."""
    # both sides are lengths, so neither may be negative
    sides = [width, (height, "metres")]
    return width * height
'''

WIDGETS = {
    "start": f"""{START}
coder = sk.load("tiny-python/resid.2/batch_topk")
features = sk.Features.collect(model, coder, corpus, progress=False)
table = features.table
latent = int(table[table.label == "docstring"].f1.idxmax())
code = {CODE!r}""",
    "status": """facts = {"model": "tiny-python", "coder": "batch_topk", "memory": "1.9 GB"}
widgets.StatusBar(facts, warnings=("memory",))""",
    "strip": "widgets.TokenStrip(model, coder, code, latent, features=features)",
    "guess": "widgets.TokenStrip(model, coder, code, latent, guess=True)",
    "card": "widgets.FeatureCard(features, latent)",
    "browser": "widgets.FeatureBrowser(features)",
    "steer": 'widgets.SteerSlider(model, coder, latent, "def area(width, ", maximum=features[latent].max)',
    "microscope": """words = code.replace('    # both', '    # Both').replace('metres', 'feet')
widgets.PromptMicroscope(model, coder, code, words, features=features, top=10)""",
    "alone microscope": "widgets.PromptMicroscope(model, coder, 'x = [1, (2, 3)]\\n')",
    "game": """def absent(prompt):
    raise ConnectionError("no answer from http://127.0.0.1:9 within 5 s")
absent.name = "a model elsewhere"
widgets.JudgeGame(features, latent, judges=[explain.Rules(), explain.Constant(1), absent])""",
    "quiz": 'widgets.Quiz("Which is a latent?", ["a unit of the SAE", "a property of the data"], 0, "It is a unit.")',
    "prediction": 'widgets.Quiz("Will it be on?", ["yes", "no"])',
    "pareto": """import pandas as pd
rows = [("topk-16", "topk", 16.0, 0.2), ("topk-32", "topk", 32.0, 0.1)]
rows += [("relu-32", "relu", 33.0, 0.15), ("pca-32", "pca", 32.0, 0.3)]
frontier = pd.DataFrame(rows, columns=["name", "variant", "l0", "fvu"]).assign(control=lambda t: t.variant == "pca")
widgets.ParetoPlot(frontier)""",
    "geometry": "widgets.ToyGeometry(5, 0.05)",
    "attention": """from saekit.attribute import patterns
back = patterns(model, code).diagonal(-1, -2, -1).mean(-1)
widgets.AttentionView(model, code, scores=back, scored="looks one back")""",
    "heads": "widgets.HeadView(model, coder, latent, code, features=features)",
    "patching": """pair = [model.to_tokens(f"result = call(items{bracket}start") for bracket in "[("]
gap = sk.logit_diff("]", ")").on(model)
told = dict(zip(("clean", "corrupt"), (float(gap(model(ids))) for ids in pair)))
names = dict(zip(("tokens", "corrupt_tokens"), (model.to_str_tokens(ids[0]) for ids in pair)))
patched = widgets.PatchingMap(sk.patching(model, *pair, gap), **names, **told)
patched""",
    "hooks": "widgets.HookMap(model, code)",
    "circuit": """transcoders = sk.load("tiny-python/mlp/transcoders")
graph = sk.trace(model, transcoders, "def area(width, height):\\n    return width *")
widgets.CircuitView(graph, model)""",
    "files": """from pathlib import Path
shown = {"card": widgets.FeatureCard(features, latent), "browser": widgets.FeatureBrowser(features)}
shown["strip"] = widgets.TokenStrip(model, coder, code, latent)
shown["attention"], shown["patching"] = widgets.AttentionView(model, code), patched
shown["heads"] = widgets.HeadView(model, coder, latent, code, why=True)
shown["circuit"] = widgets.CircuitView(graph)
shown["microscope"] = widgets.PromptMicroscope(model, coder, code, code.upper(), features=features)
for name, widget in shown.items():
    Path(name + ".html").write_text(widget.to_html(), "utf-8")""",
    "hostile": f"""hostile = {HOSTILE!r}
strings = sk.load_corpus(model, [f"value = 1  # {{text[:200]}}" for text in hostile])
index = sk.Features.collect(model, coder, strings, progress=False)
widgets.StatusBar(dict(zip(hostile, reversed(hostile))), warnings=hostile)""",
    "hostile strip": r'widgets.TokenStrip(model, coder, "\n".join(text[:200] for text in hostile))',
    "hostile card": "widgets.FeatureCard(index, int(index.table.density.idxmax()), text=hostile[0] + hostile[1])",
    "hostile browser": "widgets.FeatureBrowser(index)",
    "hostile microscope": """scope = widgets.PromptMicroscope(
    model, coder, " ".join(hostile[:4]), hostile[1] + hostile[0], features=features)
scope.act("at", [1.0, 1.0])
scope""",
    "hostile game": """said = explain.Explanation(hostile[0] + hostile[1] + " `x`")
widgets.JudgeGame(features, latent, explanation=said, game="fuzzing")""",
    "hostile steer": 'widgets.SteerSlider(model, coder, latent, " ".join(hostile[:4]), maximum=9.0, strength=1.0)',
    "hostile attention": """rude = " ".join(text[:60] for text in hostile)
widgets.AttentionView(model, rude, scores=[[0.0] * 8] * 4, scored=hostile[1])""",
    "hostile heads": "widgets.HeadView(model, coder, latent, rude, features=index, why=True)",
    "hostile patching": """values = [[0.0, 0.5, 1.0]]
widgets.PatchingMap(values, hostile[:3], corrupt_tokens=hostile[3:], clean=1, corrupt=0, metric=hostile[0])""",
    "hostile circuit": """from dataclasses import replace
from itertools import cycle
words = cycle(text[:200] for text in hostile)
said = [next(words) if kind in ("token", "latent", "logit") else kind for kind in graph.nodes["kind"]]
tokens = tuple(next(words) for _ in graph.tokens)
circuit = widgets.CircuitView(replace(graph, nodes=graph.nodes.assign(label=said), tokens=tokens))
circuit.act("suggest", "")
circuit.act("pin", "g0")
circuit.act("rename", hostile[0] + hostile[1])
circuit""",
    "hostile quiz": "widgets.Quiz(hostile[0] + hostile[4], hostile, 0, hostile[1])",
    "plain": """from saekit import viz
viz.show(widgets.FeatureBrowser(features).static(widgets.FeatureBrowser(features).compute()))""",
}

TRAINING = {
    "start": f"""{START}
import time
acts = sk.Activations(model, sk.Site("blocks.2.hook_resid_post"), corpus, tokens=2_000_000)
coder, objective = presets.batch_topk(acts.d_in, 512, k=16)""",
    "train": """run = sk.train(coder, acts, objective, steps=4_000, batch_size=512, precision="float32", threads=1)
print("ended", time.time())""",
    "next": """x = acts.held_out(2_000).x
off = (x - run.coder(x)[0]).square().sum() / (x - x.mean(0)).square().sum()
print("stopped", run.stopped, "training", run.coder.training, "site", run.coder.site.name, "fvu", float(off) < 1)""",
    "alone": "widgets.TrainMonitor(acts)",
}


# Elements that reach beyond their frame and that nothing inside it scrolls or cuts.
WIDER = """root => [...root.querySelectorAll('.sk')].flatMap(frame => {
    const right = frame.getBoundingClientRect().right;
    const cut = node => node !== frame && (getComputedStyle(node).overflowX !== 'visible' || cut(node.parentElement));
    return [...frame.querySelectorAll('*')].filter(node => {
        const box = node.getBoundingClientRect();
        return box.width > 1 && box.right > right + 1 && !cut(node.parentElement);
    }).map(node => node.outerHTML.slice(0, 120));
})"""


def document(html: str) -> str:
    """A page of nothing but this, in our style and without motion."""
    still = "body { margin: 0 } * { animation: none !important; transition: none !important }"
    return f"<!doctype html><meta charset=utf-8><style>{style()}{still}</style><body>{html}</body>"


def write(path: Path, cells: dict[str, str]) -> None:
    """A notebook of these cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells.values()])
    # Without a kernel's name Lab asks for one.
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
