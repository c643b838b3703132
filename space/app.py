"""A Gradio app for the Hugging Face hub: completion, chat, typo fixing, a keyboard's suggestions, by keylm's code.

Invariant: whatever is sent, the app answers with text or with one sentence that says what is accepted; inputs and
answers are bounded, one text is written at a time, and a text that nobody waits for any more ends at its next word.

    KEYLM_MODEL=runs/nano/model python space/app.py      # a folder, or a model's name on the hub
"""

import itertools
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from keylm.base.errors import KeylmError
from keylm.cli.chat import Chat
from keylm.instructions.everyday import FIX_REQUESTS
from keylm.keyboard.suggest import Keyboards
from keylm.languages.language import language_of
from keylm.model.folder import model_languages
from keylm.runtimes.cached_decoder import CachedDecoder, load_weights
from keylm.runtimes.generation import Generator, Message, Sampling

DEFAULT_MODEL = "keylm/keylm-75m-instruct"
LONGEST_TEXT, LONGEST_FIX, LONGEST_SYSTEM = 4_000, 400, 1_000
"""Characters."""
NEW_TOKENS = 256
TURNS = 40
"""Messages of a conversation that are looked at; the context holds fewer of any length."""
WAITING = 16
"""Requests that may wait; more are refused."""
SUGGESTED = 3
LOOP_GUARD = 8
FIX_REQUEST = FIX_REQUESTS[0]

Write = Callable[[Callable[[str], None]], object]


class Demo:
    """One model and what the tabs ask of it."""

    def __init__(self, folder: Path) -> None:
        """Load a model folder. Raises KeylmError where there is no model in it."""
        self._generator = Generator(folder)
        self._writing, self._typing = threading.Lock(), threading.Lock()
        self._keyboards, self._why_no_keyboard = _keyboards(folder, self._generator)

    def complete(self, text: str, tokens: int, temperature: float) -> Iterator[str]:
        """Yield `text` and, growing, what the model writes behind it."""
        _check(text, LONGEST_TEXT)
        sampling = Sampling(_tokens(tokens), max(0.0, float(temperature)))
        for written in self._stream(lambda emit: self._generator.complete(text, sampling, emit)):
            yield text + written

    def chat(self, text: str, history: list[dict[str, Any]], system: str, temperature: float) -> Iterator[str]:
        """Yield, growing, the answer to `text` behind Gradio's `history`."""
        _check(text, LONGEST_TEXT)
        if system:
            _check(system, LONGEST_SYSTEM, "the system prompt")
        sampling = Sampling(NEW_TOKENS, max(0.0, float(temperature)), loop_guard=LOOP_GUARD)
        conversation = Chat(self._generator, sampling, system or None)
        conversation.messages += _messages(history)
        yield from self._stream(lambda emit: conversation.say(text, emit))

    def fix(self, text: str) -> Iterator[str]:
        """Yield, growing, `text` without its typos: the instruction data's request, answered greedily."""
        _check(text, LONGEST_FIX)
        turn: list[Message] = [{"role": "user", "content": FIX_REQUEST.format(text=text.strip())}]
        greedy = Sampling(NEW_TOKENS, temperature=0, repetition_penalty=1.0)
        yield from self._stream(lambda emit: self._generator.answer(turn, greedy, emit))

    def suggest(self, text: str) -> dict[str, Any]:
        """Return {"suggestions": words, "correction": word or None, "partial": what is typed of the last word}."""
        _check(text, LONGEST_TEXT, empty=True)
        if self._keyboards is None:
            raise gr.Error(f"no suggestions with this model: {self._why_no_keyboard}", print_exception=False)
        with self._typing:  # the search keeps a cache that one thread may use
            answer = self._keyboards.answer(text, SUGGESTED)
        words = [suggestion.word for suggestion in answer.suggestions]
        return {"suggestions": words, "correction": answer.correction, "partial": answer.partial}

    def _stream(self, write: Write) -> Iterator[str]:
        """Yield the growing text that `write` emits in a thread; closing this ends it at its next piece."""
        pieces: queue.Queue[str | Exception | None] = queue.Queue()
        unwanted = threading.Event()

        def emit(piece: str) -> None:
            if unwanted.is_set():
                raise KeyboardInterrupt  # as Ctrl-C in `keylm chat`
            pieces.put(piece)

        def work() -> None:
            try:
                with self._writing:
                    if not unwanted.is_set():
                        write(emit)
            except KeyboardInterrupt:
                pass
            except Exception as error:
                pieces.put(error)
            finally:
                pieces.put(None)

        threading.Thread(target=work, daemon=True).start()
        written = ""
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, KeylmError):
                    raise gr.Error(str(piece), print_exception=False)
                if isinstance(piece, Exception):
                    raise piece
                written += piece
                yield written
            if not written.strip():
                raise gr.Error("the model ended its answer without a word; try other words", print_exception=False)
        finally:
            unwanted.set()


def interface(demo: Demo, name: str) -> gr.Blocks:
    """Return the page with its four tabs."""
    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "writing"}
    with gr.Blocks(title=f"keylm: {name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\nA small language model with keyboards in mind. It makes mistakes.")
        with gr.Tab("Completion"):
            text = gr.Textbox(label="Text", value="Once upon a time", lines=6, max_length=LONGEST_TEXT)
            with gr.Row():
                tokens = gr.Slider(1, NEW_TOKENS, value=100, step=1, label="Most new tokens")
                temperature = _temperature()
            with gr.Row():
                go, stop = gr.Button("Go on", variant="primary"), gr.Button("Stop")
            writing = go.click(demo.complete, [text, tokens, temperature], text, api_name="complete", **one_at_a_time)
            stop.click(None, cancels=[writing], api_visibility="private")
        with gr.Tab("Chat"):
            system = gr.Textbox(label="System prompt", max_length=LONGEST_SYSTEM)
            talking = gr.ChatInterface(
                demo.chat, additional_inputs=[system, _temperature()], api_name="chat", concurrency_limit=1
            )
            talking.textbox.max_length = LONGEST_TEXT
        with gr.Tab("Typos"):
            typed = gr.Textbox(label="With typos", value="I recieved yuor leter yesterdy.", max_length=LONGEST_FIX)
            with gr.Row():
                go, stop = gr.Button("Fix", variant="primary"), gr.Button("Stop")
            fixed = gr.Textbox(label="Without", interactive=False)
            fixing = go.click(demo.fix, typed, fixed, api_name="fix", **one_at_a_time)
            stop.click(None, cancels=[fixing], api_visibility="private")
        with gr.Tab("Keyboard"):
            _keyboard(demo)
    return page.queue(max_size=WAITING)


def _temperature() -> gr.Slider:
    return gr.Slider(0, 1.5, value=0.7, step=0.05, label="Temperature", info="0: always the likeliest")


def _keyboard(demo: Demo) -> None:
    """Lay out the keyboard's tab: a text, a correction and words to tap."""
    text = gr.Textbox(label="Type here", lines=4, max_length=LONGEST_TEXT)
    partial = gr.State("")
    with gr.Row():
        words = [gr.Button("") for _ in range(SUGGESTED)]
    correction = gr.Button("", variant="primary", visible=False)

    def show(typed: str) -> list[Any]:
        """Return the suggested words, a correction, and what is typed of a word."""
        found = demo.suggest(typed)
        words = (found["suggestions"] + [""] * SUGGESTED)[:SUGGESTED]
        return [*words, gr.Button(found["correction"] or "", visible=bool(found["correction"])), found["partial"]]

    def take(typed: str, word: str, begun: str) -> list[Any]:
        """Put a word in the place of what is typed of it."""
        text = typed.removesuffix(begun) + word + " " if word else typed
        return [text, *show(text)]

    shown = [*words, correction, partial]
    quick: dict[str, Any] = {
        "concurrency_limit": 1,
        "concurrency_id": "typing",
        "show_progress": "hidden",
        "api_visibility": "undocumented",
    }
    text.input(show, text, shown, api_name="keys", trigger_mode="always_last", **quick)
    for button in (*words, correction):
        button.click(take, [text, button, partial], [text, *shown], api_name="tap", **quick)
    gr.api(demo.suggest, api_name="suggest", concurrency_limit=1, concurrency_id="typing")


def _keyboards(folder: Path, generator: Generator) -> tuple[Keyboards | None, str]:
    """Return the suggester, or None and why there is none."""
    try:
        weights = load_weights(folder)
        try:
            decoder = CachedDecoder(weights, "int8")
        except KeylmError:  # this torch cannot
            decoder = CachedDecoder(weights)
        language = language_of(model_languages(folder)[0])
        return Keyboards(decoder, generator.tokenizer, language=language), ""
    except KeylmError as error:
        return None, str(error)


def _check(text: str, most: int, what: str = "the text", *, empty: bool = False) -> None:
    """Raise gr.Error where a text is empty, or longer than `most` characters."""
    if len(text) > most:
        raise gr.Error(f"{what} has {len(text):,} characters; accepted: at most {most:,}", print_exception=False)
    if not empty and not text.strip():
        raise gr.Error(f"{what} is empty; accepted: 1 to {most:,} characters", print_exception=False)


def _tokens(asked: float) -> int:
    if not 1 <= asked <= NEW_TOKENS:
        raise gr.Error(f"{asked:g} new tokens; accepted: 1 to {NEW_TOKENS}", print_exception=False)
    return int(asked)


def _messages(history: list[dict[str, Any]]) -> list[Message]:
    """Return whole exchanges of Gradio's history as keylm's messages, without the empty ones."""
    turns: list[Message] = []
    for turn in history[-TURNS:]:
        content = turn["content"]
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        turns.append({"role": turn["role"], "content": content[:LONGEST_TEXT]})
    pairs = itertools.pairwise(turns)
    whole = [pair for pair in pairs if [turn["role"] for turn in pair] == ["user", "assistant"]]
    return [turn for pair in whole if all(turn["content"].strip() for turn in pair) for turn in pair]


def model_folder(model: str) -> Path:
    """Return a model's folder: `model`, or a copy of what the hub has under that name. Raises KeylmError."""
    if Path(model).is_dir():
        return Path(model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise KeylmError(f"KEYLM_MODEL: got {model!r}; accepted: a model folder, or OWNER/NAME on the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except Exception as error:  # the hub's errors and the network's have no common kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise KeylmError(
            f"KEYLM_MODEL: {model} is no folder here and cannot be had from the hub ({reason}); accepted: a folder, "
            "or a model's name on the hub (with HF_TOKEN, where it is private)"
        ) from None


def main() -> None:
    """Load the model that KEYLM_MODEL names and serve the page."""
    model = os.environ.get("KEYLM_MODEL") or DEFAULT_MODEL
    try:
        folder = model_folder(model)
        demo = Demo(folder)
    except KeylmError as error:
        sys.exit(f"error: {error}")
    name = folder.resolve().parent.name if folder.name == "model" else model.split("/")[-1]
    interface(demo, name).launch(ssr_mode=False)


if __name__ == "__main__":
    main()
