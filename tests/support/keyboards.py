"""Both engines of the keyboard, and a stand-in for a model that expects given words."""

import base64
import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keylm.export.web import write_page
from keylm.keyboard.suggest import Keyboards, TreeContinuations
from keylm.languages.language import ENGLISH, Language
from keylm.text.byte_level import byte_table

WORDS = """
the that was were have in on an and am now note want can does did would should it is its we he she so ill id shed well
hell shell wed lets cant wont don this these who there what how why you they I not no to of ever fever out tea ten let
won dost haunt door Today There What You In It Its The how's some someone sometimes hers nest he's hes
"""
ENDINGS = {"'t": 0.3, "'s": 0.25, "'m": 0.2, "'re": 0.2, "'ve": 0.2, "'ll": 0.2, "'d": 0.2}
BEHIND = """
import { createInterface } from "node:readline";
import { Channel } from "./channel.js";
import { NearWords } from "./correct.js";
import { LANGUAGE } from "./language.js";
import { answer } from "./suggest.js";
import { WordTokens } from "./words.js";
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => JSON.parse((await lines.next()).value ?? "null");
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\\n`);
const ask = async (what) => (say(what), next());
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const tokens = new WordTokens(await next(), LANGUAGE);
const model = {
  tokens,
  near: new NearWords(tokens, LANGUAGE, new Channel(LANGUAGE.mistakes)),
  encode: (text) => ask({ encode: text }),
  read: async (text) => (await ask({ read: text }), async (paths) => (await ask({ paths })).map(floats)),
};
for (let text; (text = await next()) !== null;) say({ answer: await answer(text, LANGUAGE, model) });
"""


class Shown(NamedTuple):
    """What an engine shows after a text."""

    partial: str
    words: list[str]
    correction: str | None


class StandIn:
    """In a decoder's and its tokenizer's place: the same expectations after any text."""

    bos_token_id = 0
    context = 256

    def __init__(self) -> None:
        letters = [chr(c) for c in range(33, 127)] + list("’ʼ‘“”—\n ")
        whole = WORDS.split()
        spelled = dict.fromkeys([*(f" {w}" for w in whole), *whole, *letters, *(f" {c}" for c in letters[32:90])])
        self.tokens = ["<start>", *dict.fromkeys([*spelled, *ENDINGS])]
        self.vocab_size = len(self.tokens)
        self._ids = {text: number for number, text in enumerate(self.tokens)}
        self.expects()

    def expects(self, *words: str, hardly: Iterable[str] = ()) -> None:
        """Expect `words` above all, ends of words and contractions' too, and `hardly` least."""
        weights = {" ": 0.5, ".": 0.5, **ENDINGS}
        weights |= {f" {word}": 0.01 for word in WORDS.split()} | {f" {word}": 1.0 for word in words}
        weights |= {f" {word}": 1e-7 for word in hardly}
        row = torch.tensor([weights.get(token, 1e-7) for token in self.tokens])
        self._row = (row / row.sum()).log()

    def __len__(self) -> int:
        return self.vocab_size

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[number] for number in ids]

    def __call__(
        self, text: Any, add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> dict[str, Any]:
        return {"input_ids": self._encoded(text) if isinstance(text, str) else [self._encoded(one) for one in text]}

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            length = next((n for n in range(12, 0, -1) if text[:n] in self._ids), 0)
            ids, text = [*ids, self._ids.get(text[:length], 0)], text[max(1, length) :]
        return ids

    def cache(self, *_: Any) -> None: ...

    def prefill(self, cache: Any, row: int, same: int, ids: Sequence[int]) -> Tensor:
        return torch.zeros(len(ids), 1)

    def read_at(self, cache: Any, row: int, tokens: Sequence[int], *_: Any) -> Tensor:
        return torch.zeros(len(tokens), 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._row.expand(len(hidden), -1)


class ByteLevelStandIn(StandIn):
    """The same with the byte-level vocabulary of given words, whole, after a space and without; some tokens are cut."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [*words]
        characters = {byte: character for character, byte in byte_table().items()}
        whole = [f"{space}{word}".encode() for word in self._words for space in (" ", "")]
        cut = [word[: at + 1] for word in whole for at in range(1, len(word)) if word[at] >= 0xC0]
        found = [*dict.fromkeys([*(bytes([byte]) for byte in range(256)), *cut, *whole])]
        self.tokens = ["<start>", *("".join(characters[byte] for byte in token) for token in found)]
        self.vocab_size = len(self.tokens)
        self._numbers = {token: number for number, token in enumerate(found, 1)}
        self.expects()

    def expects(self, *words: str, hardly: Iterable[str] = ()) -> None:
        weights = {f"{space}{word}".encode(): 0.01 for word in self._words for space in (" ", "")}
        weights |= {f"{space}{word}".encode(): 1.0 for word in words for space in (" ", "")}
        weights |= {b" ": 0.5, b".": 0.5}
        row = torch.tensor([1e-7, *(weights.get(token, 1e-7) for token in self._numbers)])
        self._row = (row / row.sum()).log()

    def _encoded(self, text: str) -> list[int]:
        left, ids = text.encode(), []
        while left:
            length = next(n for n in range(min(40, len(left)), 0, -1) if left[:n] in self._numbers)
            ids, left = [*ids, self._numbers[left[:length]]], left[length:]
        return ids


class ServersEngine:
    """The engine in Python."""

    def __init__(self, decoder: Any, tokenizer: Any, language: Language = ENGLISH) -> None:
        self._decoder, self._tokenizer, self._language = decoder, tokenizer, language

    def shown(self, text: str) -> Shown:
        found = Keyboards(self._decoder, self._tokenizer, number=1, language=self._language).answer(text)
        return Shown(found.partial, [each.word for each in found.suggestions], found.correction)


class BrowsersEngine:
    """The engine in JavaScript, in Node.js, on the same model."""

    def __init__(self, decoder: Any, tokenizer: Any, node: subprocess.Popen[str]) -> None:
        self._decoder, self._tokenizer, self._node = decoder, tokenizer, node
        vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._say([[token, number] for number, token in enumerate(vocabulary)])

    def shown(self, text: str) -> Shown:
        read = TreeContinuations(self._decoder)
        self._say(text)
        while True:
            assert self._node.stdout
            asked = json.loads(self._node.stdout.readline())
            if answer := asked.get("answer"):
                return Shown(answer["partial"], [word for word, _ in answer["words"]], answer["correction"])
            if (text := asked.get("encode")) is not None:
                self._say(self._ids(text))
            elif (text := asked.get("read")) is not None:
                start = self._tokenizer.bos_token_id or 0
                read.move([start, *self._ids(text)])
                self._say(0)
            else:
                rows = read.after([tuple(path) for path in asked["paths"]])
                self._say([base64.b64encode(row.numpy().tobytes()).decode() for row in rows])

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _say(self, what: Any) -> None:
        assert self._node.stdin
        self._node.stdin.write(json.dumps(what) + "\n")
        self._node.stdin.flush()


@contextmanager
def browsers_engine(
    folder: Path, decoder: Any, tokenizer: Any, language: Language = ENGLISH
) -> Iterator[BrowsersEngine]:
    """Run the page's engine; `folder` takes the page's files."""
    write_page(folder, None, language)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "program.js").write_text(BEHIND)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["node", "program.js"], cwd=folder, text=True, encoding="utf-8", **pipes) as node:
        try:
            yield BrowsersEngine(decoder, tokenizer, node)
        finally:
            node.kill()
