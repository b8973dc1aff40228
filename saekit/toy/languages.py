"""Formal languages, seeded, with exact labels of every token: Dyck-2, prefix expressions, a small English grammar.

They are those of Menon et al. 2024, *Analyzing (In)Abilities of SAEs via Formal Languages* (arXiv 2410.11767). What a
label says is true by construction, and each language can tell whether a string belongs to it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..corpus import Text
from . import brackets, expressions, sentences
from .marked import Marked

BOS = "<bos>"
UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Language:
    """Strings over `words`, joined by `separator`; labels are in the texts' spans."""

    name: str
    words: tuple[str, ...]
    separator: str
    make: Callable[[random.Random], list[Marked]]  # one item: a balanced string, an expression, a sentence
    recognises: Callable[[list[str]], bool]  # a sequence of items

    def texts(self, n: int, *, length: int = 60, seed: int = 0) -> list[Text]:
        """n texts of at most `length` tokens, each a sequence of whole items; `load_corpus(model, texts)` takes them.

        Keep `length` below the model's context: a text that is cut has labels that point before the cut.
        Raises ValueError where no item is that short.
        """
        if length < 16:
            raise ValueError(f"length={length}: give at least 16 tokens, room for one item")
        rng = random.Random(f"{self.name} {seed}")
        return [self._text(rng, length, f"{self.name} {seed}.{i}") for i in range(n)]

    def accepts(self, text: str) -> bool:
        """Whether a text is a sequence of whole items of the language."""
        words = text.split(self.separator) if self.separator else list(text)
        return bool(words) and all(word in self.words for word in words) and self.recognises(words)

    def tokenizer(self) -> Any:
        """A fast tokenizer with one token for each word, and a BOS."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocab = {word: i for i, word in enumerate([BOS, UNKNOWN, *self.words])}
        whole_words = Tokenizer(models.WordLevel(vocab, UNKNOWN))
        if self.separator:
            whole_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        else:
            whole_words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
            whole_words.decoder = decoders.Fuse()
        return PreTrainedTokenizerFast(tokenizer_object=whole_words, bos_token=BOS, eos_token=BOS)

    def _text(self, rng: random.Random, length: int, name: str) -> Text:
        """Items until the next one would be too much."""
        found: list[Marked] = []
        while True:
            item = self.make(rng)
            if len(found) + len(item) <= length:
                found += item
            elif found:
                return _joined(found, self.separator, name)


def _joined(found: list[Marked], separator: str, name: str) -> Text:
    spans: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for word, labels in found:
        for label in labels:
            spans.setdefault(label, []).append((start, start + len(word)))
        start += len(word) + len(separator)
    return Text(separator.join(word for word, _ in found), name, spans)


DYCK = Language("dyck", brackets.WORDS, "", brackets.make, brackets.recognises)
EXPRESSIONS = Language("expressions", expressions.WORDS, " ", expressions.make, expressions.recognises)
SENTENCES = Language("sentences", sentences.WORDS, " ", sentences.make, sentences.recognises)
LANGUAGES = {language.name: language for language in (DYCK, EXPRESSIONS, SENTENCES)}
