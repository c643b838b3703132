"""Text from a model folder: completion and chat, token by token, through transformers.

Works for any causal language model that transformers opens, not only for ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from keylm.errors import KeylmError
from keylm.release.huggingface import check_model_folder, silence_transformers

Message = dict[str, str]
GREEDY_BELOW = 0.01
"""Temperatures under this overflow the logits and mean the likeliest token anyway."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the defaults suit a small model."""

    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    seed: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of transformers' generate; temperature 0 is greedy."""
        if self.temperature < GREEDY_BELOW:
            return {"do_sample": False, "repetition_penalty": self.repetition_penalty}
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        return {**drawn, "repetition_penalty": self.repetition_penalty}


class Generator:
    """A loaded model and its tokenizer."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        """Load a model folder. Raises KeylmError where there is no model in it."""
        check_model_folder(folder)
        from transformers import AutoModelForCausalLM, AutoTokenizer

        silence_transformers()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise KeylmError(f"{folder}: transformers cannot open it: {error}") from None
        self.device = device or torch.device("cpu")
        # A CPU computes fp32 faster than bf16, and the weights are small.
        self.model = model.to(self.device, torch.float32 if self.device.type == "cpu" else torch.bfloat16).eval()
        self.context: int = model.config.max_position_embeddings

    def complete(self, prompt: str, sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return what the model writes after `prompt`; `emit` gets it piece by piece as it comes."""
        check_unicode(prompt)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if not ids.shape[1]:
            ids = torch.tensor([[self.tokenizer.eos_token_id]])
        return self._generate(ids, sampling, emit)

    def answer(self, messages: list[Message], sampling: Sampling, emit: Callable[[str], None] | None = None) -> str:
        """Return the assistant's next turn. Raises KeylmError where the model has no chat template."""
        check_unicode(messages[-1]["content"])
        if not self.tokenizer.chat_template:
            raise KeylmError("this model has no chat template; accepted: a model that was tuned to chat")
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        return self._generate(ids, sampling, emit)

    def _generate(self, ids: torch.Tensor, sampling: Sampling, emit: Callable[[str], None] | None) -> str:
        from transformers import TextStreamer

        room = self.context - ids.shape[1]
        if room < 1:
            raise KeylmError(
                f"the prompt has {ids.shape[1]} tokens; accepted: fewer than the context of {self.context}"
            )
        pieces: list[str] = []

        class Collector(TextStreamer):  # type: ignore[misc]  # transformers is untyped
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                pieces.append(text)
                if emit:
                    emit(text)

        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        ids = ids.to(self.device)
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(sampling.max_new_tokens, room),
            streamer=Collector(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
            **sampling.arguments(),
        )
        return "".join(pieces)


class Chat:
    """A conversation that forgets its oldest exchanges where the context is full."""

    def __init__(self, generator: Generator, sampling: Sampling, system: str | None = None) -> None:
        self._generator, self._sampling = generator, sampling
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system's."""
        self.messages = list(self._start)

    def say(self, text: str, emit: Callable[[str], None] | None = None) -> str:
        """Return the answer to `text` and remember both."""
        self.messages.append({"role": "user", "content": text})
        self._make_room()
        try:
            answer = self._generator.answer(self.messages, self._sampling, emit)
        except KeylmError:
            self.messages.pop()  # a turn that cannot be answered is not remembered
            raise
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def _make_room(self) -> None:
        """Drop the oldest exchanges until a quarter of the context is free."""
        first = len(self._start)
        while len(self.messages) > first + 1 and self._length() > self._generator.context * 3 // 4:
            del self.messages[first : first + 2]

    def _length(self) -> int:
        ids = self._generator.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, return_dict=True)
        return len(ids["input_ids"])


def check_unicode(text: str) -> None:
    """Raise KeylmError where `text` came from bytes that are not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise KeylmError(f"the prompt {text[:40]!a} is not valid UTF-8; accepted: Unicode text") from None
