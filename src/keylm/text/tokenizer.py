"""ByteLevel BPE: training, special tokens, chat template, and documents to tokens.

Invariants: decode(encode(text)) == text for every Unicode string without lone surrogates; text never turns into
a special token (`<|im_end|>` typed by a user is plain characters); a conversation's tokens equal what the
chat template renders. The layout is 20 special tokens (id 0 is `<|endoftext|>`), 256 bytes, then merges.
Pre-tokenization is plain ByteLevel with its regular expression, which llama.cpp knows as `gpt-2`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, atomic_write, write_json
from keylm.text.pretokens import WordTable

END_OF_TEXT, IM_START, IM_END, PAD, TYPO, FIX = range(6)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
    "<|typo|>",
    "<|fix|>",
    *(f"<|reserved_{n}|>" for n in range(14)),
)
_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] or [] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ raise_exception('this model reads text alone') }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' }}"
)
"""A message's content: a text, parts of text as OpenAI's clients send them, or nothing."""
_TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}CONTENT{% endgeneration %}"
    "{% else %}CONTENT{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_TEMPLATE = _TURNS.replace("CONTENT", _CONTENT)
"""ChatML. The generation marks let `apply_chat_template(return_assistant_tokens_mask=True)` find the answers."""
CHAT_TEMPLATES = (CHAT_TEMPLATE, _TURNS.replace("CONTENT", "{{ message['content'] + '<|im_end|>' }}"))
"""What folders have that keylm wrote: today's, and that of its first releases, which renders texts alike."""

PROBE = "".join(map(chr, range(256))) + "\n\n  日本 👋"
"""What a sound tokenizer gives back: a damaged one loses bytes, line ends or spaces."""

Tokens = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


def train_tokenizer(texts: Iterator[str], vocab_size: int, folder: Path, context: int) -> None:
    """Train on `texts` and save the tokenizer in `folder`, whole or not at all. Raises KeylmError for too few texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise KeylmError(
            f"tokenizer.vocab_size: got {vocab_size}, but the sample of text yields only "
            f"{tokenizer.get_vocab_size()} entries; give that or fewer, more text, or a larger tokenizer.sample_bytes"
        )
    _save(tokenizer, folder, context)


def _save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    with atomic_folder(folder) as temporary:
        atomic_write(temporary / "tokenizer.json", tokenizer.to_str(pretty=True))
        write_json(temporary / "tokenizer_config.json", tokenizer_config(context))


def tokenizer_config(context: int) -> dict[str, Any]:
    """Return tokenizer_config.json, which `AutoTokenizer` reads with tokenizer.json; `context` in tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": None,
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "pad_token": SPECIAL_TOKENS[PAD],
        "unk_token": None,
        "padding_side": "left",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def open_tokenizer_file(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder's tokenizer.json. Raises KeylmError where there is none, or it is damaged."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise KeylmError(f"{folder}: no tokenizer.json in it; accepted: a folder that `keylm run` wrote")
    try:
        return Tokenizer.from_file(str(file))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises no narrower class, and its panics are not even Exceptions
        raise KeylmError(f"{file}: is damaged: {error}; delete the folder to rebuild it") from None


class DocumentTokenizer:
    """Turns documents into token ids and trained-token masks."""

    def __init__(self, folder: Path) -> None:
        """Open the tokenizer saved in `folder`. Raises KeylmError where its special tokens are not ours."""
        file = folder / "tokenizer.json"
        self._tokenizer = open_tokenizer_file(folder)
        self._tokenizer.encode_special_tokens = True  # what looks special in a text is plain characters
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        for index, token in enumerate(SPECIAL_TOKENS):
            if self._tokenizer.token_to_id(token) != index:
                raise KeylmError(f"{file}: token {token} is not id {index}; accepted: a tokenizer made by keylm")
        if self.decode(self._tokenizer.encode(PROBE, add_special_tokens=False).ids) != PROBE:
            raise KeylmError(f"{file}: does not give a text's characters back; accepted: a tokenizer made by keylm")
        self._table = WordTable(self._tokenizer)
        self._newline = self._tokenizer.encode("\n").ids

    def save(self, folder: Path, context: int) -> None:
        """Write the tokenizer into `folder`, whole or not at all; `context` in tokens."""
        _save(self._tokenizer, folder, context)

    def encode_texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's ids (uint16 [tokens]), without special tokens."""
        return self._table.encode(texts)

    def encode_words(self, text: str) -> tuple[Tokens, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return a text's ids (uint16), and where each word of it ends, int64 [words], in characters and in tokens."""
        return self._table.encode_words(text)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[Tokens, Mask, list[int]]:
        """Return a conversation as the chat template renders it.

        Gives ids (uint16 [tokens]), the assistant mask (bool [tokens]: answers and their `<|im_end|>`), and the
        number of tokens after each message.
        """
        ids: list[int] = []
        answer: list[bool] = []
        ends: list[int] = []
        for message in messages:
            body, header = self._turn(message["role"], message["content"])
            trained = message["role"] == "assistant"
            ids += [IM_START, *body, IM_END, *self._newline]
            answer += [False] * (1 + header) + [trained] * (len(body) - header + 1) + [False] * len(self._newline)
            ends.append(len(ids))
        return np.array(ids, dtype=np.uint16), np.array(answer, dtype=np.bool_), ends

    def _turn(self, role: str, content: str) -> tuple[list[int], int]:
        """Return the ids of `role`, a newline and `content`, and how many of them are the header's."""
        header = f"{role}\n"
        if not content[:1].isspace():  # then no word, and so no token, straddles header and content
            first, rest = self._table.encode([header, content])
            return [*first.tolist(), *rest.tolist()], len(first)
        encoding = self._tokenizer.encode(header + content, add_special_tokens=False)
        # A token that straddles header and content (a newline and what follows) counts as content.
        return encoding.ids, sum(end <= len(header) for _, end in encoding.offsets)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, special tokens spelled out; incomplete UTF-8 becomes U+FFFD."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))

    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """Return the length of each id in UTF-8 bytes (int64 [vocab]); 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items():
            # In ByteLevel every character of a token's spelling is one byte.
            lengths[index] = 0 if index < len(SPECIAL_TOKENS) else len(token)
        return lengths
