"""Exact labels of Python source as character spans, from `tokenize` and `ast`, the same on Python 3.11 to 3.13.

Imports only the standard library, so that any Python on the machine can check it.
"""

import ast
import io
import tokenize
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

Span = tuple[int, int]  # characters, half open
Spans = dict[str, list[Span]]
Lexeme = tuple[int, str, int, int]  # kind, text, first character, one past the last

KEYWORDS = {
    "control keyword": "assert async await break case continue elif else except finally for if match pass raise return "
    "try while with yield",
    "definition keyword": "class def del global lambda nonlocal type",
    "import keyword": "as from import",
    "constant": "False None True",
    "operator keyword": "and in is not or",
}
CONTEXT = ("docstring", "comment", "string", "bracket", "depth 1", "depth 2+", "depth 3+", "call bracket", "def name")
CONTEXT += ("class name", "argument", "decorator", "import line", "indent 1", "indent 2", "indent 3+")
IDENTITY = frozenset({*KEYWORDS, "keyword", "operator", "number"})  # an embedding look-up solves these: never evidence
LABELS = (*CONTEXT, *sorted(IDENTITY))

_KEYWORD = -1  # kind of a lexeme that is a keyword, which `tokenize` calls a NAME
_KEYWORD_LABEL = {word: label for label, words in KEYWORDS.items() for word in words.split()}
_SOFT = {"match", "case", "type"}
_BLANK = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
_STRING_OPENS = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")}  # since 3.12, 3.14
_STRING_CLOSES = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")}
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_EXPRESSION_ENDS = {tokenize.NAME, tokenize.NUMBER, tokenize.STRING}
_EXPRESSION_END_WORDS = {*_CLOSING, "...", *KEYWORDS["constant"].split()}
_DELIMITERS = {*_OPENING, *_CLOSING, ",", ":", ";", ".", "...", "->"}


def python_spans(source: str) -> Spans:
    """Label -> character spans of a whole Python source; every name in `LABELS` is there.

    - docstring, comment, string: exclude one another; a literal counts with its prefix and quotes. A docstring is the
      first `Expr(Constant(str))` of a module, class or function. An f-string is one string: nothing inside it counts.
    - bracket (depth 1 and more), depth 1 (exactly), depth 2+, depth 3+, call bracket (in the arguments of any call):
      what is open *after* reading a character, so an opening bracket is inside and a closing one is outside.
    - def name, class name, argument: the names that a `def`, a `class`, and a def's or lambda's parameters declare.
    - decorator: from `@` to the end of its line. import line: a whole import statement.
    - indent 1, indent 2, indent 3+: block depth of each line with its newline; of a comment line, by its column.
    - keyword, its five kinds (`KEYWORDS`), operator, number: what the token is (`IDENTITY`).

    Offsets count characters of the string as given: a BOM, CRLF or form feed needs no preparation.
    Raises SyntaxError when this Python cannot parse the source.
    """
    clean, given = _normalised(source)
    begins = [0, *accumulate(len(line) + 1 for line in clean.split("\n"))]  # first character of each line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like in other people's code
            syntax = _read_syntax(ast.parse(clean), _locator(clean, begins))
        lexemes = list(_lexemes(clean, begins, syntax))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise SyntaxError(f"no labels: this Python cannot parse the source ({error})") from error
    spans: Spans = {name: [] for name in LABELS}
    spans["import line"] = syntax.imports
    _words(lexemes, syntax.docstrings, spans)
    heads = _heads(lexemes)
    _brackets(lexemes, heads, spans)
    _arguments(lexemes, heads, spans)
    _lines(lexemes, clean, spans)
    return spans if given is None else {name: [(given[a], given[b]) for a, b in found] for name, found in spans.items()}


def _normalised(source: str) -> tuple[str, list[int] | None]:
    """The source without BOM and with bare newlines, and where each of its characters was (None: unmoved)."""
    bom = source.startswith("\ufeff")
    if not bom and "\r" not in source:
        return source, None
    given = [i for i in range(bom, len(source)) if source[i] != "\n" or source[i - 1 : i] != "\r"]
    return "".join(source[i].replace("\r", "\n") for i in given), [*given, len(source)]


def _locator(source: str, begins: list[int]) -> Callable[[int, int], int]:
    """(line, column in UTF-8 bytes), as `ast` counts, -> character."""
    if source.isascii():
        return lambda line, column: begins[line - 1] + column

    def at(line: int, column: int) -> int:
        begin = begins[line - 1]
        return begin + len(source[begin : begin + column].encode()[:column].decode())

    return at


class _Syntax(NamedTuple):
    """What only `ast` knows."""

    docstrings: list[Span]  # sorted
    imports: list[Span]
    soft: set[int]  # where `match` and `type` statements begin
    plain: set[int]  # where all other statements begin


def _read_syntax(tree: ast.Module, at: Callable[[int, int], int]) -> _Syntax:
    syntax = _Syntax([], [], set(), set())
    for node in _statements(tree):
        if isinstance(node, ast.stmt):
            begins = syntax.soft if type(node).__name__ in ("Match", "TypeAlias") else syntax.plain
            begins.add(at(node.lineno, node.col_offset))
        if isinstance(node, ast.Import | ast.ImportFrom):
            syntax.imports.append(_span(node, at))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = getattr(node.body[0], "value", None)
            if isinstance(node.body[0], ast.Expr) and isinstance(getattr(first, "value", None), str):
                syntax.docstrings.append(_span(first, at))
    syntax.docstrings.sort()
    return syntax


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A module's statements and what holds statements; expressions, which are most of a tree, are not entered."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            waiting += getattr(node, field, ())


def _span(node: ast.AST, at: Callable[[int, int], int]) -> Span:
    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def _lexemes(source: str, begins: list[int], syntax: _Syntax) -> Iterator[Lexeme]:
    """`tokenize`, alike on all Pythons: offsets in characters, an f-string is one STRING, keywords are told apart."""
    fresh, nested, opened = True, 0, 0  # at the start of a logical line; open f-strings; where the outermost began
    for kind, text, (line, column), _, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        start = begins[line - 1] + column
        end = start + len(text)  # the end given is wrong for multi-line strings on 3.12.0 and 3.12.1
        if kind in _STRING_OPENS:
            opened = opened if nested else start
            nested += 1
        elif kind in _STRING_CLOSES:
            nested -= 1
            kind, text, start = tokenize.STRING, source[opened:end], opened
        if nested:
            continue
        if kind == tokenize.NAME and text in _KEYWORD_LABEL:
            case = text == "case" and fresh and start not in syntax.plain
            if case or text not in _SOFT or start in syntax.soft:
                kind = _KEYWORD
        yield kind, text, start, end
        fresh = kind == tokenize.NEWLINE or (fresh and kind in _BLANK)


def _words(lexemes: list[Lexeme], docstrings: list[Span], spans: Spans) -> None:
    """Labels that are whole lexemes."""
    defining = ""
    for kind, text, start, end in lexemes:
        here = (start, end)
        if kind == _KEYWORD:
            spans["keyword"].append(here)
            spans[_KEYWORD_LABEL[text]].append(here)
        elif kind == tokenize.NAME and defining in ("def", "class"):
            spans[f"{defining} name"].append(here)
        elif kind == tokenize.OP and text not in _DELIMITERS:
            spans["operator"].append(here)
        elif kind == tokenize.NUMBER:
            spans["number"].append(here)
        elif kind == tokenize.COMMENT:
            spans["comment"].append(here)
        elif kind == tokenize.STRING:
            before = bisect_right(docstrings, start, key=lambda span: span[0]) - 1
            spans["docstring" if before >= 0 and start < docstrings[before][1] else "string"].append(here)
        defining = text


def _heads(lexemes: list[Lexeme]) -> dict[int, str]:
    """Where the round bracket of each `def name[...](` or `class name[...](` opens, and which of the two it is."""
    heads, declaring, depth = {}, "", 0
    for kind, text, start, _ in lexemes:
        if kind == _KEYWORD and text in ("def", "class"):
            declaring, depth = text, 0
        elif declaring and kind == tokenize.OP:
            if depth == 0 and text == "(":
                heads[start] = declaring
            if depth == 0 and text in ("(", ":"):
                declaring = ""
            depth += (text in _OPENING) - (text in _CLOSING)
    return heads


def _brackets(lexemes: list[Lexeme], heads: dict[int, str], spans: Spans) -> None:
    opened: list[tuple[int, bool]] = []  # of each open bracket: where, and whether it is a call's
    since, callee = 0, False  # where depth 1 was last entered; whether the lexeme before ends an expression
    for kind, text, start, _ in lexemes:
        if kind == tokenize.OP and text in _OPENING:
            if len(opened) == 1:
                spans["depth 1"].append((since, start))
            since = start if not opened else since
            opened.append((start, text == "(" and callee and start not in heads))
        elif kind == tokenize.OP and text in _CLOSING:
            begin, call = opened.pop()
            if call:
                spans["call bracket"].append((begin, start))
            if len(opened) < 3:
                spans[("bracket", "depth 2+", "depth 3+")[len(opened)]].append((begin, start))
            if len(opened) == 0:
                spans["depth 1"].append((since, start))
            since = start if len(opened) == 1 else since
        if kind not in _BLANK:
            callee = kind in _EXPRESSION_ENDS or text in _EXPRESSION_END_WORDS


def _arguments(lexemes: list[Lexeme], heads: dict[int, str], spans: Spans) -> None:
    scopes: list[tuple[int, str]] = []  # bracket depth of each parameter list being read, and what closes it
    depth, expected = 0, False
    for kind, text, start, end in lexemes:
        if kind in _BLANK:
            continue
        if kind == tokenize.NAME and expected:
            spans["argument"].append((start, end))
        depth += kind == tokenize.OP and text in _OPENING
        if heads.get(start) == "def":
            scopes.append((depth, ")"))
        elif kind == _KEYWORD and text == "lambda":
            scopes.append((depth, ":"))
        here = bool(scopes) and scopes[-1][0] == depth
        expected = here and (text in ("(", "lambda", ",") or (expected and text in ("*", "**")))
        if here and text == scopes[-1][1]:
            scopes.pop()
        depth -= kind == tokenize.OP and text in _CLOSING


def _lines(lexemes: list[Lexeme], source: str, spans: Spans) -> None:
    """Decorators, and the depth of each line's block: those of the comments above a line once that line is known."""
    widths, before = [0], [0]  # columns of the blocks around this line, and around the line of code before it
    levels: list[tuple[int, int]] = []  # first character of a line, its depth
    comments: list[int] = []
    fresh, decorator = True, None
    for kind, text, start, _ in lexemes:
        if kind == tokenize.NEWLINE and decorator is not None:
            spans["decorator"].append((decorator, start))
            decorator = None
        if fresh and kind == tokenize.COMMENT:
            comments.append(start)
        elif fresh and kind == tokenize.INDENT:
            widths.append(_width(text))
        elif fresh and kind == tokenize.DEDENT:
            widths.pop()
        elif fresh and kind not in (tokenize.NL, tokenize.NEWLINE):
            for comment in comments:
                begin = source.rfind("\n", 0, comment) + 1
                width = _width(source[begin:comment])
                levels.append((begin, max(bisect_right(before, width), bisect_right(widths, width)) - 1))
            levels.append((source.rfind("\n", 0, start) + 1, len(widths) - 1))
            decorator = start if text == "@" else None
            before, comments = widths.copy(), []
        fresh = kind == tokenize.NEWLINE or (fresh and kind in _BLANK)
    changes = [here for before, here in pairwise([(0, 0), *levels]) if before[1] != here[1]]
    for (begin, level), (end, _) in pairwise([*changes, (len(source), 0)]):
        if level:
            spans[f"indent {level}" if level < 3 else "indent 3+"].append((begin, end))


def _width(blank: str) -> int:
    return len(blank.rpartition("\f")[2].expandtabs())
