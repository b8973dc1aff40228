"""Labels of Python source: by hand, alike under every Python at hand, and against a walk through the characters."""

import ast
import json
import keyword
import shutil
import subprocess
import sys
import sysconfig
import tokenize
from pathlib import Path

import pytest

from saekit.corpus import labels
from saekit.corpus.labels import KEYWORDS, LABELS, python_spans


def pythons():
    """Every Python 3.11 to 3.13 on this machine, this one first. A pyenv shim may stand for none, so each is asked."""
    names = [f"python3.{minor}" for minor in (11, 12, 13)]
    installed = [
        path for name in names for path in Path("~/.pyenv/versions").expanduser().glob(f"{name[6:]}.*/bin/{name}")
    ]
    ask = "import os, sys; print(os.path.realpath(sys.executable))"
    for python in dict.fromkeys([sys.executable, *filter(None, map(shutil.which, names)), *map(str, installed)]):
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield answer.stdout.strip()


PYTHONS = list(dict.fromkeys(pythons()))

# source -> label -> the exact text of each of its spans
TRICKY = {
    "docstrings": (
        '"""Module é."""\nclass A:\n    r"""Raw \\d."""\n    async def f(self):\n        "a" \'b\'\n        "no"\n'
        '    def g(self): ("one" # in between\n   "two"); return "x"\n    def h(self):\n        f"no {self}"\n'
        '    def i(self):\n        b"no"\n    def j(self):\n        "no" % 1\nx = "no"\nif x:\n    "no"\n',
        {
            "docstring": ['"""Module é."""', 'r"""Raw \\d."""', '"a"', "'b'", '"one"', '"two"'],
            "string": ['"no"', '"x"', 'f"no {self}"', 'b"no"', '"no"', '"no"', '"no"'],
            "comment": ["# in between"],
            "class name": ["A"],
            "def name": ["f", "g", "h", "i", "j"],
            "argument": ["self"] * 5,
        },
    ),
    "f-strings": (
        "é = 'ü'; x = g(f'{h(a[1])!r:>{w}} {{}} \\N{BULLET}', rf\"\"\"\n{f'{k}'} é\n\"\"\" f'' 'tail', [1])\n",
        {
            "string": [
                "'ü'",
                "f'{h(a[1])!r:>{w}} {{}} \\N{BULLET}'",
                'rf"""\n{f\'{k}\'} é\n"""',
                "f''",
                "'tail'",
            ],
            "depth 2+": ["[1"],
            "number": ["1"],
            "operator": ["=", "="],
        },
    ),
    "wide characters": (
        'def 名(ключ="😀é", *args): return "😀", ключ  # 😀é\nimport os, sys as 系\nx = """é\n😀""" + f(é)\n',
        {
            "string": ['"😀é"', '"😀"', '"""é\n😀"""'],
            "import line": ["import os, sys as 系"],
            "def name": ["名"],
            "argument": ["ключ", "args"],
            "call bracket": ["(é"],
            "comment": ["# 😀é"],
        },
    ),
    "brackets": (
        "f(a)(b)[c](d); {1: (2, [3])}; (g)(); None(); print (x); not (y); m[0](z)\n"
        "class C(B): pass\nclass D: x = (1)\n",
        {
            "call bracket": ["(a", "(b", "(d", "(", "(", "(x", "(z"],
            "depth 2+": ["(2, [3]"],
            "depth 3+": ["[3"],
            "depth 1": ["(a", "(b", "[c", "(d", "{1: ", ")", "(g", "(", "(", "(x", "(y", "[0", "(z", "(B", "(1"],
            "class name": ["C", "D"],
        },
    ),
    "arguments": (
        "def f(a, /, b: int = 1 * q, *c: (d, e), g=lambda h, *i, j=(k, l): (h, m), **n) -> (o): pass\n"
        "sorted(p, key=lambda: 0); r(s, *t, u=v)\ndef w(\n    x,  # y\n    *,\n    z,\n): pass\n",
        {"argument": ["a", "b", "c", "g", "h", "i", "j", "n", "x", "z"], "def name": ["f", "w"]},
    ),
    "soft keywords": (
        "match = case = type = 1\nmatch (match):\n    case (1):\n        case = type(match)\n"
        "    case _ if match: pass\n"
        "case, x = 1, 2\ntype (x)\nmatch[0]\n",
        {
            "control keyword": ["match", "case", "case", "if", "pass"],
            "definition keyword": [],
            "call bracket": ["(match", "(x"],
        },
    ),
    "keywords": (
        "async def f():\n    global x; await x\n    return not None in [y for y in x if y is True]\n"
        "from a import b as c; e = a if b else (yield from d)\nif 0: import g\nraise e from f\n",
        {
            "control keyword": ["async", "await", "return", "for", "if", "if", "else", "yield", "if", "raise"],
            "definition keyword": ["def", "global"],
            "operator keyword": ["not", "in", "in", "is"],
            "constant": ["None", "True"],
            "import keyword": ["from", "import", "as", "from", "import", "from"],
            "import line": ["from a import b as c", "import g"],
        },
    ),
    "import over lines": (
        "from a import (\n    b,  # c\n    d as e,\n)\nfrom . import \\\n    f\nx = 1\n",
        {"import line": ["from a import (\n    b,  # c\n    d as e,\n)", "from . import \\\n    f"]},
    ),
    "decorators": (
        "@a\n@b.c(\n    1,\n)  # d\nclass E:\n    @(yield_ := f)\n    def g(self): return self @ h\n",
        {"decorator": ["@a", "@b.c(\n    1,\n)  # d", "@(yield_ := f)"]},
    ),
    "indentation": (
        "# 0\nclass A:\n    # 1a\n\n    def f(self):\n        # 2a\n        if self:\n\n"
        "            return [\n0]\n            # 3\n        # 2b\n# 0\n    # 1b\n    x = 1\n    # 1c\ny = 2\n# 0",
        {
            "indent 1": ["    # 1a\n\n    def f(self):\n", "    # 1b\n    x = 1\n    # 1c\n"],
            "indent 2": ["        # 2a\n        if self:\n\n", "        # 2b\n"],
            "indent 3+": ["            return [\n0]\n            # 3\n"],
        },
    ),
    "tabs and form feeds": (
        "\x0cdef f():\n\tif x:\n\t        return '\x0c'\n\x0c\n\x0c# c\n\tpass\n"
        "\x0cy = '\x0b\x1c\u2028é'; z = 'é'\nw = '!'\n",
        {
            "string": ["'\x0c'", "'\x0b\x1c\u2028é'", "'é'", "'!'"],
            "indent 1": ["\tif x:\n", "\tpass\n"],
            "indent 2": ["\t        return '\x0c'\n\x0c\n"],
            "def name": ["f"],
        },
    ),
    "CRLF, lone CR and BOM": (
        '\ufeff"""a\r\nb"""\r\ndef f(x):\r\n    # c\r\n    return "d"\r# e\r\n\r\nimport g\r\n',
        {
            "docstring": ['"""a\r\nb"""'],
            "comment": ["# c", "# e"],
            "string": ['"d"'],
            "import line": ["import g"],
            "indent 1": ['    # c\r\n    return "d"\r'],
        },
    ),
    "numbers": ("x = 1_0 + 0xFf - 1e-3j ** .5 // 2.\n", {"number": ["1_0", "0xFf", "1e-3j", ".5", "2."]}),
    "operators": (
        "x[a:b, ...] += ~y if (z := -x) != 2 else x.y -> 1\n".replace(" -> 1", ""),
        {"operator": ["+=", "~", ":=", "-", "!="]},
    ),
    "escapes that warn": ("x = '\\d' is 1\n", {"string": ["'\\d'"]}),
    "cookie": (
        "# -*- coding: latin-1 -*-\nx = 'é' # ü\n",
        {"string": ["'é'"], "comment": ["# -*- coding: latin-1 -*-", "# ü"]},
    ),
    "no last newline": ("def f(): return [1]", {"number": ["1"], "depth 1": ["(", "[1"]}),
    "empty": ("", {label: [] for label in LABELS}),
}
"""Sources that every Python from 3.11 on must label alike."""


def texts(source, spans):
    return {label: [source[start:end] for start, end in sorted(found)] for label, found in spans.items()}


@pytest.fixture(scope="module", params=PYTHONS)
def labelled(request):
    """The tricky sources as labelled by one of the Pythons on this machine; the module needs no third party."""
    program = "import sys, json, labels; json.dump([labels.python_spans(s) for s in json.load(sys.stdin)], sys.stdout)"
    run = subprocess.run(
        [request.param, "-W", "error", "-c", program],
        input=json.dumps([source for source, _ in TRICKY.values()]),
        env={"PYTHONPATH": str(Path(labels.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(TRICKY, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("name", TRICKY)
def test_tricky_source_on_every_python(labelled, name):
    source, expected = TRICKY[name]
    found = texts(source, labelled[name])
    assert tuple(found) == LABELS
    assert {label: found[label] for label in expected} == expected


def test_every_keyword_has_one_kind():
    words = [word for kind in KEYWORDS.values() for word in kind.split()]
    assert len(words) == len(set(words))
    assert set(words) == set(keyword.kwlist) | {"match", "case", "type"}


def test_type_statement_where_python_has_it():
    source = "type X = int; type = 3\ntype Y[T] = list[T]\ndef f[T: (int, str)](a: T): pass\nclass C[T](B): pass\n"
    if sys.version_info < (3, 12):
        with pytest.raises(SyntaxError, match="cannot parse"):
            python_spans(source)
        return
    found = texts(source, python_spans(source))
    assert found["definition keyword"] == ["type", "type", "def", "class"]
    assert found["argument"] == ["a"]
    assert found["call bracket"] == []


@pytest.mark.parametrize(
    "broken", ["def f(:\n", "x = (\n", "if x:\n\ty\n        z\n", "'''", "x = 1\0", "\x80€", "print 1"]
)
def test_what_does_not_parse_is_a_syntax_error(broken):
    with pytest.raises(SyntaxError, match="cannot parse"):
        python_spans(broken)


def library(share):
    """About one in `share` of the modules of the running library."""
    found = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for path in found[::share]:
        with tokenize.open(path) as file:
            yield file.read()


def outside_f_strings(tree):
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.JoinedStr)]


@pytest.mark.parametrize("share", [7])
def test_spans_agree_with_the_syntax_tree(share):
    for source in library(share):
        found = python_spans(source)
        nodes = list(outside_f_strings(ast.parse(source)))
        assert len(found["call bracket"]) == sum(isinstance(node, ast.Call | ast.MatchClass) for node in nodes)
        names = texts(source, found)
        assert sorted(names["argument"]) == sorted(node.arg for node in nodes if isinstance(node, ast.arg))
        defs = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert sorted(names["def name"]) == sorted(defs)
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = [ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, documented)]
        assert sum(map(len, docs_of(names))) == sum(len(doc) for doc in docs if doc is not None)


def docs_of(names):
    return [ast.literal_eval(literal) for literal in names["docstring"]]


def brute_force(source):
    """Label -> a set of characters, walking through the characters with one counter a label and no span."""
    marks = {label: set() for label in ("docstring or string", "comment", "bracket", "depth 1", "depth 2+", "depth 3+")}
    depth, quote, i = 0, "", 0
    while i < len(source):
        width = 1
        if quote:
            label = "docstring or string"
            if source[i] == "\\":
                width = 2
            elif source.startswith(quote, i):
                width, quote = len(quote), ""
            marks[label] |= set(range(i, i + width))
        elif source[i] == "#":
            width = (source + "\n").index("\n", i) - i
            marks["comment"] |= set(range(i, i + width))
        elif source[i] in "'\"":
            quote = source[i] * 3 if source[i : i + 3] == source[i] * 3 else source[i]
            width = len(quote)
            begin = i
            while begin and source[begin - 1] in "rRbBuUfF":  # the prefix
                begin -= 1
            if begin and (source[begin - 1].isalnum() or source[begin - 1] == "_"):
                begin = i
            marks["docstring or string"] |= set(range(begin, i + width))
        else:
            depth += (source[i] in "([{") - (source[i] in ")]}")
        for place in range(i, min(i + width, len(source))):
            for label, inside in (
                ("bracket", depth > 0),
                ("depth 1", depth == 1),
                ("depth 2+", depth > 1),
                ("depth 3+", depth > 2),
            ):
                if inside:
                    marks[label].add(place)
        i += width
    return marks


@pytest.mark.parametrize("name", [name for name in TRICKY if name not in ("f-strings", "CRLF, lone CR and BOM")])
def test_spans_agree_with_a_walk_through_the_characters(name):
    """Not those with nested quotes, which a plain walk cannot follow."""
    source = TRICKY[name][0]
    compare_with_walk(source)


def test_library_agrees_with_a_walk_through_the_characters():
    compared = [
        compare_with_walk(source)
        for source in library(11)
        if len(source) < 60_000 and "f'" not in source and 'f"' not in source
    ]
    assert sum(compared) > 50_000


def compare_with_walk(source):
    spans = python_spans(source)
    painted = {label: {place for start, end in found for place in range(start, end)} for label, found in spans.items()}
    painted["docstring or string"] = painted["docstring"] | painted["string"]
    for label, places in brute_force(source).items():
        assert painted[label] == places, label
    return len(source)
