"""The tokenizer of `tiny-python`: byte-level BPE inside pieces that never merge brackets, quotes or line starts.

python -m saekit.recipes.tokenizer [--out runs/tokenizer]
"""

import argparse
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .text import Source, training_text

BOS = "<|bos|>"
PIECES = r"""\"""|'''|\n *|[()\[\]{}]|["']| ?[A-Za-z]+| ?[0-9]{1,3}|_+| ?[^\sA-Za-z0-9()\[\]{}"'_]+|\s+"""


def train(texts: list[Source], vocab_size: int = 4096, characters: int = 30_000_000, seed: int = 0) -> Tokenizer:
    """Byte-pair merges counted on the library and a seeded sample of the rest, in all about `characters`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(texts, characters, seed), trainer)
    return tokenizer


def sample(texts: list[Source], characters: int, seed: int) -> list[str]:
    first = [s.text for s in texts if s.group == "library"]
    rest = [s.text for s in texts if s.group != "library"]
    random.Random(seed).shuffle(rest)
    chosen, total = [], 0
    for text in first + rest:
        if total >= characters:
            break
        chosen.append(text)
        total += len(text)
    return chosen


def save(tokenizer: Tokenizer, folder: str) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/tokenizer")
    out = parser.parse_args().out
    texts, held_out = training_text()
    save(train(texts), out)
    print(f"{len(texts)} files, {sum(len(s.text) for s in texts):,} characters; {len(held_out)} held out; wrote {out}")
