"""Text from the folder of any causal language model, token by token, through transformers.

Invariant: special tokens spelled out in prompts and messages are plain characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from keylm.base.errors import KeylmError
from keylm.data.turns import is_unicode
from keylm.model.opening import chat_ids, open_pair, text_ids

Message = dict[str, str]
GREEDY_BELOW = 0.01
"""Temperatures under this overflow the logits and mean the likeliest token anyway."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled; the defaults suit a small model."""

    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    seed: int | None = None
    loop_guard: int = 0
    """Tokens in a row that an answer may not say twice; 0: no matter. See NoLoops."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of transformers' generate; temperature 0 is greedy."""
        if self.temperature < GREEDY_BELOW:
            return {"do_sample": False, "repetition_penalty": self.repetition_penalty}
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        return {**drawn, "repetition_penalty": self.repetition_penalty}


MOST_ROWS = 1024
"""Texts that a GPU writes at once; a step takes about as long for one as for so many of a small model."""


def rows_at_once(config: Any, device: torch.device, tokens: int) -> int:
    """Return how many texts of `tokens` tokens to write at once: 16, or what half of the GPU's free memory caches."""
    if device.type != "cuda":
        return 16
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    text_bytes: int = 2 * config.num_hidden_layers * heads * width * 2 * tokens
    return max(1, min(MOST_ROWS, int(torch.cuda.mem_get_info(device)[0]) // 2 // (2 * text_bytes)))


class Generator:
    """A loaded model and its tokenizer."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        """Load a model folder. Raises KeylmError where there is no model in it."""
        model, self.tokenizer = open_pair(folder)
        self.device = device or torch.device("cpu")
        # A CPU computes fp32 faster than bf16, and the weights are small.
        self.model = model.to(self.device, torch.float32 if self.device.type == "cpu" else torch.bfloat16).eval()
        self.context: int = model.config.max_position_embeddings

    def complete(self, prompt: str, sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return what the model writes after `prompt`; `emit` gets it piece by piece as it comes."""
        check_unicode(prompt)
        return self._generate(torch.tensor([self._prompt_ids(prompt)]), sampling, emit)

    def answer(self, messages: list[Message], sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return the assistant's next turn. Raises KeylmError where the model has no chat template."""
        check_unicode(messages[-1]["content"])
        return self._generate(self._chat_ids(messages), sampling, emit)

    def completions(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Return the continuation of each prompt, sampled as one batch. The loop guard is not used."""
        for prompt in prompts:
            check_unicode(prompt)
        ids = [torch.tensor(self._prompt_ids(prompt)) for prompt in prompts]
        return self._drawn(ids, [sampling.max_new_tokens] * len(ids), sampling.seed, sampling.arguments())

    def answers(self, conversations: Sequence[list[Message]], sampling: Sampling) -> list[str]:
        """Return the assistant's next turn in each conversation, sampled as one batch; "" if there is no room.

        The loop guard is not used: it checks one answer at a time.
        """
        ids = [self._chat_ids(messages)[0] for messages in conversations]
        return self._drawn(ids, [sampling.max_new_tokens] * len(ids), sampling.seed, sampling.arguments())

    def sampled(self, conversations: Sequence[list[Message]], limits: Sequence[int], **arguments: Any) -> list[str]:
        """Return as `answers` does, each of at most its limit's tokens; `arguments` are those of generate."""
        return self._drawn([self._chat_ids(messages)[0] for messages in conversations], limits, None, arguments)

    def _drawn(
        self, prompts: Sequence[torch.Tensor], limits: Sequence[int], seed: int | None, arguments: dict[str, Any]
    ) -> list[str]:
        """Return what follows each of `prompts` (token ids [T]), padded on the left to one batch."""
        from transformers import LogitsProcessorList

        room = [min(limit, self.context - len(ids)) for limit, ids in zip(limits, prompts, strict=True)]
        texts = [""] * len(prompts)
        fitting = [number for number, tokens in enumerate(room) if tokens > 0]
        if not fitting:
            return texts
        if seed is not None:
            torch.manual_seed(seed)
        longest = max(len(prompts[number]) for number in fitting)
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        ids = torch.full((len(fitting), longest), pad)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(fitting):
            ids[row, longest - len(prompts[number]) :] = prompts[number]
            mask[row, longest - len(prompts[number]) :] = 1
        drawn = self.model.generate(
            ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=min(max(room[number] for number in fitting), self.context - longest),
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([FiniteLogits()]),
            **arguments,
        )
        for row, number in enumerate(fitting):
            texts[number] = self.tokenizer.decode(
                drawn[row, longest : longest + room[number]], skip_special_tokens=True
            )
        return texts

    def chat_tokens(self, messages: list[Message]) -> int:
        """Return how many tokens a conversation takes, the head of the answer included."""
        return self._chat_ids(messages).shape[1]

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return a prompt's tokens; of an empty one the end of text, after which a text begins."""
        return text_ids(self.tokenizer, prompt) or [self.tokenizer.eos_token_id]

    def _chat_ids(self, messages: list[Message]) -> torch.Tensor:
        if not self.tokenizer.chat_template:
            raise KeylmError("this model has no chat template; accepted: a model that was tuned to chat")
        return torch.tensor([chat_ids(self.tokenizer, messages, add_generation_prompt=True)])

    def _generate(self, ids: torch.Tensor, sampling: Sampling, emit: Callable[[str], None] | None) -> str:
        from transformers import LogitsProcessorList, TextStreamer

        room = self.context - ids.shape[1]
        if room < 1:
            length = ids.shape[1]
            raise KeylmError(f"the prompt has {length} tokens; accepted: fewer than the context of {self.context}")
        pieces: list[str] = []

        class Collector(TextStreamer):  # type: ignore[misc]  # transformers is untyped
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                pieces.append(text)
                if emit:
                    emit(text)

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        ids = ids.to(self.device)
        guard = [NoLoops(ids.shape[1], sampling.loop_guard)] if sampling.loop_guard > 1 else []
        self.model.generate(
            ids,
            logits_processor=LogitsProcessorList([FiniteLogits(), *guard]),
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(sampling.max_new_tokens, room),
            streamer=Collector(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
            **sampling.arguments(),
        )
        return "".join(pieces)


class FiniteLogits:
    """Stops where a damaged model's logits are no numbers, of which nothing can be sampled."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores` [rows, V] as they are; tokens may be barred (-inf). Raises KeylmError for others."""
        if bool((scores.isnan() | scores.isposinf()).any()):
            raise KeylmError("the model's logits are not finite; accepted: weights that were not damaged")
        return scores


class NoLoops:
    """Bars every token that would complete a run of `size` tokens already in the answer.

    Unlike transformers' no_repeat_ngram_size it checks the answer alone, so that the prompt may be repeated on
    request. One row at a time; a step costs the same however long the answer is.
    """

    def __init__(self, prompt: int, size: int) -> None:
        """Guard an answer that follows `prompt` tokens."""
        self._seen, self._size = prompt, size
        self._prompt = prompt
        self._followers: dict[tuple[int, ...], set[int]] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores` [1, V] with the barred tokens at -inf. input_ids: int64 [1, tokens so far]."""
        answer, head = input_ids[0, self._prompt :].tolist(), self._size - 1
        for end in range(max(head, self._seen - self._prompt), len(answer)):
            self._followers.setdefault(tuple(answer[end - head : end]), set()).add(answer[end])
        self._seen = self._prompt + len(answer)
        barred = self._followers.get(tuple(answer[len(answer) - head :]), ()) if len(answer) >= head else ()
        if barred:
            scores = scores.clone()
            scores[0, list(barred)] = -torch.inf
        return scores


def check_unicode(text: str) -> None:
    """Raise KeylmError where `text` came from bytes that are not valid UTF-8."""
    if not is_unicode(text):
        raise KeylmError(f"the prompt {text[:40]!a} is not valid UTF-8; accepted: Unicode text")
