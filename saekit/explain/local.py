"""A judge that is a language model in this process: it answers by the probabilities of the answers there can be."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..hooks import model_record
from .questions import Question

WRITTEN = 32  # tokens of an answer in free words


class LocalModel:
    """Any TransformerLens bridge as a judge.

    Where a question says what the answers can be, each number of the list is the choice of largest log p given the
    prompt and the numbers so far, or the mean of the choices under p where any number is an answer (simulation).
    Another prompt is answered "yes" or "no" with `choices`, or continued greedily to the end of a line.
    Raises ValueError for a prompt that, with its answer, is longer than the model's context.
    """

    def __init__(self, model: Any, choices: tuple[str, ...] = ()) -> None:
        self.model, self.choices = model, choices
        record = model_record(model)
        self.name = f"{record['name']} ({record['processing']}{', ' + '/'.join(choices) if choices else ''})"

    @torch.no_grad()
    def __call__(self, prompt: str) -> str:
        if not isinstance(prompt, Question):
            return self._chosen(prompt) if self.choices else self._continued(str(prompt))
        said = str(prompt) + " ["
        numbers: list[str] = []
        for _ in range(prompt.slots):
            head = said + ", ".join(numbers) + (", " if numbers else "")
            p = self.log_probs(head, prompt.choices).softmax(0)
            mean = float(p @ torch.tensor([float(c) for c in prompt.choices], dtype=p.dtype))
            numbers.append(prompt.choices[int(p.argmax())] if prompt.exact else f"{mean:.4f}")
        return "[" + ", ".join(numbers) + "]"

    def log_probs(self, head: str, choices: tuple[str, ...]) -> Float[Tensor, " choices"]:
        """`log p(choice | head)`, summed over the tokens of each choice."""
        start, ends = self._ids(head), [self._ids(choice) for choice in choices]
        longest = max(map(len, ends))
        lead = self.model.tokenizer.bos_token_id
        start = start if lead is None else [lead, *start]
        self._check(len(start) + longest)
        ids = torch.tensor([start + end + [end[-1]] * (longest - len(end)) for end in ends])
        logits = self.model(ids, prepend_bos=False)[:, len(start) - 1 : -1].double().log_softmax(-1)
        found = logits.gather(2, ids[:, len(start) :, None])[..., 0]
        inside = torch.arange(longest)[None] < torch.tensor([[len(end)] for end in ends])
        return (found * inside).sum(1)

    def _chosen(self, prompt: str) -> str:
        return self.choices[int(self.log_probs(str(prompt) + " ", self.choices).argmax())]

    def _continued(self, prompt: str) -> str:
        ids = self.model.to_tokens(prompt)
        self._check(ids.shape[1] + WRITTEN)
        start = ids.shape[1]
        for _ in range(WRITTEN):
            ids = torch.cat([ids, self.model(ids, prepend_bos=False)[:, -1:].argmax(-1)], 1)
        text = self.model.tokenizer.decode(ids[0, start:].tolist())
        return next((line.strip() for line in text.splitlines() if line.strip()), "")

    def _ids(self, text: str) -> list[int]:
        return self.model.tokenizer(text, add_special_tokens=False).input_ids

    def _check(self, n: int) -> None:
        if n > self.model.cfg.n_ctx:
            raise ValueError(
                f"a question and its answer are {n} tokens, but {self.name} reads {self.model.cfg.n_ctx}: give "
                "per_question=1, or a judge that reads more"
            )
