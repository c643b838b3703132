"""Text from the folder of any causal language model: many at once, or one token by token.

keylm's own decoder writes them where it computes the model (Qwen3's layout) and the settings are plain sampling;
transformers otherwise. Special tokens spelled out in prompts and messages are plain characters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from keylm.base.errors import KeylmError
from keylm.data.turns import is_unicode
from keylm.model.folder import read_config
from keylm.model.opening import chat_ids, open_pair, text_ids
from keylm.runtimes.batch_generation import BatchGenerator
from keylm.runtimes.cached_decoder import CachedDecoder, Weights
from keylm.runtimes.sampling import Sampling as Sampling
from keylm.runtimes.sampling import sampling_of

Message = dict[str, str]
MOST_ROWS = 1024
"""Texts that transformers writes at once on a GPU; a step of a small model takes about as long as for one."""
Done = Callable[[int], None]
"""Is told the number of each text that is finished."""


def rows_at_once(config: Any, device: torch.device, tokens: int) -> int:
    """Return how many texts of `tokens` tokens to write at once: 16, or what half of the GPU's free memory caches."""
    if device.type != "cuda":
        return 16
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    text_bytes: int = 2 * config.num_hidden_layers * heads * width * 2 * tokens
    return max(1, min(MOST_ROWS, int(torch.cuda.mem_get_info(device)[0]) // 2 // (2 * text_bytes)))


def writer_of(folder: Path, model: Any, device: torch.device) -> BatchGenerator | None:
    """Return keylm's decoder with the weights that `model`, opened from `folder`, has now; None for other layouts.

    bf16 on a GPU, fp32 on a CPU.
    """
    try:
        facts = read_config(folder)
    except KeylmError:
        return None
    weights = Weights(**vars(facts), tensors=model.state_dict())
    return BatchGenerator(CachedDecoder(weights, "fp32" if device.type == "cpu" else "bf16", device))


class DrawnText(NamedTuple):
    """A text that a model wrote, and whether the model ended it: else it met the limit, or there was no room."""

    text: str
    ended: bool


class Generator:
    """A loaded model and its tokenizer."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        """Load a model folder. Raises KeylmError where there is no model in it."""
        model, self.tokenizer = open_pair(folder)
        self._folder = folder
        self.device = device or torch.device("cpu")
        # A CPU computes fp32 faster than bf16, and the weights are small.
        self.model = model.to(self.device, torch.float32 if self.device.type == "cpu" else torch.bfloat16).eval()
        self.context: int = model.config.max_position_embeddings

    @cached_property
    def writer(self) -> BatchGenerator | None:
        """What writes many texts at once; None where that is transformers."""
        return writer_of(self._folder, self.model, self.device)

    def complete(self, prompt: str, sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return what the model writes after `prompt`; `emit` gets it piece by piece as it comes."""
        check_unicode(prompt)
        return self._streamed(self._prompt_ids(prompt), sampling, emit)

    def answer(self, messages: list[Message], sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return the assistant's next turn. Raises KeylmError where the model has no chat template."""
        check_unicode(messages[-1]["content"])
        return self._streamed(self._chat_ids(messages), sampling, emit)

    def completions(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """Return the continuation of each prompt, sampled as one batch. The loop guard is not used."""
        for prompt in prompts:
            check_unicode(prompt)
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        return self._texts(ids, [sampling.max_new_tokens] * len(ids), sampling.seed, sampling.arguments())

    def answers(self, conversations: Sequence[list[Message]], sampling: Sampling) -> list[str]:
        """Return the assistant's next turn in each conversation, sampled as one batch; "" if there is no room.

        The loop guard is not used: it checks one answer at a time.
        """
        ids = [self._chat_ids(messages) for messages in conversations]
        return self._texts(ids, [sampling.max_new_tokens] * len(ids), sampling.seed, sampling.arguments())

    def sampled(
        self,
        conversations: Sequence[list[Message]],
        limits: Sequence[int],
        *,
        done: Done = lambda number: None,
        **arguments: Any,
    ) -> list[str]:
        """Return as `answers` does, each of at most its limit's tokens; `arguments` are those of generate."""
        ids = [self._chat_ids(messages) for messages in conversations]
        return self._texts(ids, limits, None, arguments, done)

    def greedy(self, prompts: Sequence[str], most_tokens: int) -> list[DrawnText]:
        """Return the likeliest answer to each prompt as one batch, without any penalty.

        Where the model has no chat template it is the likeliest continuation.
        """
        for prompt in prompts:
            check_unicode(prompt)
        if self.tokenizer.chat_template:
            ids = [self._chat_ids([{"role": "user", "content": prompt}]) for prompt in prompts]
        else:
            ids = [self._prompt_ids(prompt) for prompt in prompts]
        return self._drawn(ids, [most_tokens] * len(ids), None, {"do_sample": False, "repetition_penalty": 1.0})

    def _texts(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seed: int | None,
        arguments: Mapping[str, Any],
        done: Done = lambda number: None,
    ) -> list[str]:
        return [drawn.text for drawn in self._drawn(prompts, limits, seed, arguments, done)]

    def _drawn(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seed: int | None,
        arguments: Mapping[str, Any],
        done: Done = lambda number: None,
    ) -> list[DrawnText]:
        """Return what follows each of `prompts` (token ids), "" where there is no room."""
        sampling = sampling_of(arguments, self.model.generation_config, seed)
        if sampling is not None and self.writer is not None:
            ends = self._end_ids()
            found = self.writer.generate(
                prompts, sampling, limits=limits, ends=ends, done=lambda number, _: done(number)
            )
            return [DrawnText(self._text(each.ids), each.ended) for each in found]
        if seed is not None:
            torch.manual_seed(seed)
        room = [min(limit, self.context - len(ids)) for limit, ids in zip(limits, prompts, strict=True)]
        texts = [DrawnText("", ended=False)] * len(prompts)
        fitting = sorted((number for number, tokens in enumerate(room) if tokens > 0), key=room.__getitem__)
        size = rows_at_once(self.model.config, self.device, self.context)
        for start in range(0, len(fitting), size):
            batch = fitting[start : start + size]
            written = self._by_transformers([prompts[n] for n in batch], [room[n] for n in batch], arguments)
            for number, text in zip(batch, written, strict=True):
                texts[number] = text
                done(number)
        return texts

    def _by_transformers(
        self, prompts: Sequence[Sequence[int]], room: Sequence[int], arguments: Mapping[str, Any]
    ) -> list[DrawnText]:
        """Return what transformers writes after `prompts`, padded on the left to one batch."""
        from transformers import LogitsProcessorList

        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        ids = torch.full((len(prompts), longest), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        drawn = self.model.generate(
            ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=min(max(room), self.context - longest),
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([FiniteLogits()]),
            **arguments,
        )
        written = [row[:most] for row, most in zip(drawn[:, longest:].tolist(), room, strict=True)]
        ends = self._end_ids()
        return [DrawnText(self._text(ids), not ends.isdisjoint(ids)) for ids in written]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _end_ids(self) -> frozenset[int]:
        """Return the tokens after which generate stops."""
        ends = self.model.generation_config.eos_token_id
        return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def chat_tokens(self, messages: list[Message]) -> int:
        """Return how many tokens a conversation takes, the head of the answer included."""
        return len(self._chat_ids(messages))

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return a prompt's tokens; of an empty one the end of text, after which a text begins."""
        return text_ids(self.tokenizer, prompt) or [self.tokenizer.eos_token_id]

    def _chat_ids(self, messages: list[Message]) -> list[int]:
        if not self.tokenizer.chat_template:
            raise KeylmError("this model has no chat template; accepted: a model that was tuned to chat")
        return chat_ids(self.tokenizer, messages, add_generation_prompt=True)

    def _streamed(self, prompt: list[int], sampling: Sampling, emit: Callable[[str], None] | None) -> str:
        from transformers import TextStreamer

        room = self.context - len(prompt)
        if room < 1:
            raise KeylmError(f"the prompt has {len(prompt)} tokens; accepted: fewer than the context of {self.context}")
        pieces: list[str] = []

        class Collector(TextStreamer):  # type: ignore[misc]  # transformers is untyped
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                pieces.append(text)
                if emit:
                    emit(text)

        streamer = Collector(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        settings = sampling_of(sampling.arguments(), self.model.generation_config, sampling.seed)
        guard = NoLoops(len(prompt), sampling.loop_guard) if sampling.loop_guard > 1 else None
        most = min(sampling.max_new_tokens, room)
        if settings is None or self.writer is None:
            self._generate(torch.tensor([prompt]), sampling, most, streamer, guard)
            return "".join(pieces)

        def guarded(written: list[int], logits: torch.Tensor) -> torch.Tensor:
            return guard(torch.tensor([prompt + written]), logits) if guard else logits

        streamer.put(torch.tensor([prompt]))
        for token in self.writer.stream(prompt, replace(settings, max_new_tokens=most), guarded):
            streamer.put(torch.tensor([token]))
        streamer.end()
        return "".join(pieces)

    def _generate(
        self, ids: torch.Tensor, sampling: Sampling, most: int, streamer: Any, guard: "NoLoops | None"
    ) -> None:
        """Let transformers write after `ids` (int64 [1, T]), to a streamer."""
        from transformers import LogitsProcessorList

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        ids = ids.to(self.device)
        self.model.generate(
            ids,
            logits_processor=LogitsProcessorList([FiniteLogits(), *([guard] if guard else [])]),
            attention_mask=torch.ones_like(ids),
            max_new_tokens=most,
            streamer=streamer,
            **sampling.arguments(),
        )


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
