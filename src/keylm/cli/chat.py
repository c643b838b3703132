"""`keylm chat`: a conversation in a terminal, with commands.

Invariant: nothing ends the chat but /exit, the end of input, or Ctrl-C twice at the prompt: an answer that is stopped,
a turn that does not fit, a file that cannot be written cost that request and nothing else. The history always fits into
the context: the oldest exchanges are dropped first, with a notice.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from keylm.base.errors import KeylmError
from keylm.runtimes.generation import Generator, Message, Sampling, check_unicode

Tell = Callable[[str], None]
HELP = """\
/reset        forget the conversation (the system prompt stays)
/system TEXT  start over with this system prompt; without TEXT: with none
/save FILE    append the conversation to FILE as a line of JSON, as training reads it
/help         this
/exit         end (so do /quit and Ctrl-D)
Ctrl-C stops an answer."""


class Chat:
    """A conversation that forgets its oldest exchanges where the context is full."""

    def __init__(self, generator: Generator, sampling: Sampling, system: str | None = None) -> None:
        self._generator, self._sampling = generator, sampling
        self.forgotten = 0
        """Turns that were dropped to make room, since the last reset."""
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forget everything and take another system prompt, or none. Raises KeylmError where it is no Unicode."""
        if system:
            check_unicode(system)
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system's."""
        self.messages = list(self._start)
        self.forgotten = 0

    def say(self, text: str, emit: Tell | None = None) -> str:
        """Return the answer to `text` and remember both; `emit` gets it piece by piece.

        Ctrl-C stops the answer, and what there is of it is kept; if there is none the question is forgotten too.
        Raises KeylmError where the turn does not fit; it is forgotten then.
        """
        pieces: list[str] = []

        def collect(piece: str) -> None:
            pieces.append(piece)
            if emit:
                emit(piece)

        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            check_unicode(text)
            self._make_room()
            answer = self._generator.answer(self.messages, self._sampling, collect)
        except KeyboardInterrupt:
            answer = "".join(pieces)
        except KeylmError:
            self.messages = before  # a turn that cannot be answered is not remembered
            raise
        if answer.strip():
            self.messages.append({"role": "assistant", "content": answer})
        else:
            self.messages.pop()  # training, too, knows no empty turns
        return answer

    def save(self, file: Path) -> None:
        """Append the conversation to `file` as a line of JSON. Raises OSError, and KeylmError if there is none."""
        if len(self.messages) == len(self._start):
            raise KeylmError("nothing was said yet; accepted: /save after an answer")
        line = json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n"
        with file.expanduser().open("ab") as out:
            out.write(line.encode())  # in one piece: other lines stay whole whatever happens
            out.flush()
            os.fsync(out.fileno())

    def _make_room(self) -> None:
        """Drop the oldest exchanges until an answer has room: what it may take, at most a quarter of the context."""
        first, context = len(self._start), self._generator.context
        most = context - min(self._sampling.max_new_tokens, context // 4)
        while len(self.messages) > first + 1 and self._generator.chat_tokens(self.messages) > most:
            del self.messages[first : first + 2]
            self.forgotten += 2


def converse(chat: Chat, ask: Callable[[], str], emit: Tell, tell: Tell, warn: Tell) -> None:
    """Answer what `ask` returns until /exit, EOFError or two KeyboardInterrupts; `tell` gets notices, `warn` errors."""
    stopped = False
    while True:
        try:
            text = ask().strip()
            stopped = False
        except EOFError:
            return
        except KeyboardInterrupt:
            if stopped:
                return
            stopped = True
            tell("\nCtrl-C again, or /exit, ends the chat.")
            continue
        if text in ("/exit", "/quit"):
            return
        try:
            _take(chat, text, emit, tell)
        except KeylmError as error:
            warn(str(error))
        except OSError as error:
            warn(f"{error.filename}: {error.strerror}; the chat goes on")


def _take(chat: Chat, text: str, emit: Tell, tell: Tell) -> None:
    """Run one line: a command or a turn."""
    command, _, rest = text.partition(" ")
    rest = rest.strip()
    if command == "/reset":
        chat.reset()
        tell("The conversation is forgotten.")
    elif command == "/system":
        chat.begin(rest or None)
        tell("A new conversation, " + ("with that system prompt." if rest else "without a system prompt."))
    elif command == "/save":
        if not rest:
            raise KeylmError("/save: no file was named; accepted: /save FILE")
        chat.save(Path(rest))
        tell(f"saved to {rest}")
    elif command == "/help":
        tell(HELP)
    elif command.startswith("/") and command[1:].isalpha():
        raise KeylmError(f"{command}: no such command; accepted: /reset, /system, /save, /help, /exit")
    elif text:
        before = chat.forgotten
        try:
            chat.say(text, emit)
        finally:
            emit("\n")
        if chat.forgotten > before:
            dropped = (chat.forgotten - before) // 2
            tell(
                f"(the context was full: the oldest {dropped} exchange{'s' * (dropped > 1)} of this chat are forgotten)"
            )
