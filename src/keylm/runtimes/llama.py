"""llama.cpp itself, by its C interface: the logits of every position of one text or several, and its tokenizer.

The library is the one inside xllamacpp's prebuilt wheel (which exports the whole of llama.h), or llama-cpp-python's;
their own interfaces have no logits of all positions. Of the two structs of parameters only the first four fields are
touched (n_ctx, n_batch, n_ubatch, n_seq_max, first since 2024); the rest is passed back unchanged. What was set is read
back and checked, so another layout is an error and no wrong figure.
"""

import ctypes
import importlib.util
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from keylm.base.errors import KeylmError, how_to_install

Logits = npt.NDArray[np.float32]
MISSING = f"running GGUF files needs llama.cpp; accepted: {how_to_install('export')} (xllamacpp), or llama-cpp-python"
ROOM = 2048
"""Bytes kept for a struct of parameters: several times what any version has needed."""
BATCH = 512
"""Tokens handed to llama.cpp at once, at most."""

_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def _say_nothing(level: int, text: bytes, data: int) -> None:
    """Take what llama.cpp logs."""


_silence = _Log(_say_nothing)  # kept here, as llama.cpp keeps calling it


class _Parameters(ctypes.Structure):
    """llama_model_params or llama_context_params, unread but for its beginning."""

    _fields_ = (("first", ctypes.c_uint32 * 4), ("rest", ctypes.c_uint8 * (ROOM - 16)))


class _LlamaBatch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_C_TYPES: dict[str, Any] = {
    **{"nothing": None, "pointer": ctypes.c_void_p, "text": ctypes.c_char_p, "bool": ctypes.c_bool},
    **{"int32": ctypes.c_int32, "int64": ctypes.c_int64, "uint32": ctypes.c_uint32, "size": ctypes.c_size_t},
    **{"int32s": ctypes.POINTER(ctypes.c_int32), "floats": ctypes.POINTER(ctypes.c_float)},
    **{"parameters": _Parameters, "batch": _LlamaBatch, "log": _Log},
}


def library_file() -> Path:
    """Return the library that has llama.cpp's C interface. Raises KeylmError where none is installed."""
    for package in ("xllamacpp", "llama_cpp"):
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or []) if found else []:
            patterns = (
                ("xllamacpp*.so", "xllamacpp*.pyd") if package == "xllamacpp" else ("lib/libllama.*", "lib/llama.dll")
            )
            for pattern in patterns:
                if found_files := sorted(Path(place).glob(pattern)):
                    return found_files[0]
    raise KeylmError(MISSING)


@cache
def _library() -> Any:
    """Return the loaded library with its types set, and quiet."""
    file = library_file()
    try:
        library = ctypes.CDLL(str(file))
        _declare(library)
    except (OSError, AttributeError) as error:
        raise KeylmError(f"{file}: llama.cpp's C interface is unusable: {error}; accepted: another version") from None
    library.llama_log_set(_silence, None)
    library.llama_backend_init()
    return library


def _declare(library: Any) -> None:
    """Set the types of the functions in llama_functions.toml."""
    table = (files("keylm.runtimes") / "llama_functions.toml").read_text(encoding="utf-8")
    for name, kinds in tomllib.loads(table).items():
        function = getattr(library, name)
        function.restype, *function.argtypes = (_C_TYPES[kind] for kind in kinds.split())


@dataclass(frozen=True)
class Place:
    """A token in its text."""

    row: int
    """Which text."""
    place: int
    """Tokens before it."""
    token: int
    wanted: bool
    """Whether the logits after it are requested."""


class LlamaModel:
    """A GGUF file opened by llama.cpp, with a cache for `rows` texts; a context manager."""

    def __init__(self, file: Path, context: int, threads: int = 1, rows: int = 1) -> None:
        """Open `file` for texts of up to `context` tokens. Raises KeylmError where llama.cpp refuses it."""
        self._model = self._context = None
        self._library = library = _library()
        self._model = library.llama_model_load_from_file(str(file).encode(), library.llama_model_default_params())
        if not self._model:
            raise KeylmError(f"{file}: llama.cpp cannot load it; accepted: a GGUF file that is whole")
        parameters = library.llama_context_default_params()
        self.batch = max(min(BATCH, context), rows)
        """Tokens that one call of `decode` takes, at most."""
        parameters.first[:] = (context * rows, self.batch, self.batch, rows)
        self._context = library.llama_init_from_model(self._model, parameters)
        if not self._context or not self._as_requested(context, rows):
            self.close()
            raise KeylmError(f"{file}: llama.cpp takes other parameters than expected; accepted: another version")
        library.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self.vocab_size: int = library.llama_vocab_n_tokens(self._vocabulary)
        self._batch = library.llama_batch_init(self.batch, 0, 1)
        self._filled = 0

    def _as_requested(self, context: int, rows: int) -> bool:
        """Return whether llama.cpp understood its parameters."""
        library, opened = self._library, self._context
        found = (library.llama_n_batch(opened), library.llama_n_seq_max(opened))
        return found == (self.batch, rows) and library.llama_n_ctx_seq(opened) >= context

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the memory."""
        if self._context:
            if hasattr(self, "_batch"):
                self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._model = self._context = None

    @property
    def eos(self) -> int:
        """The end-of-sequence token's id."""
        return int(self._library.llama_vocab_eos(self._vocabulary))

    @property
    def eot(self) -> int:
        """The end-of-turn token's id; -1 where there is none."""
        return int(self._library.llama_vocab_eot(self._vocabulary))

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts a token before every text."""
        return bool(self._library.llama_vocab_get_add_bos(self._vocabulary))

    def ends(self, token: int) -> bool:
        """Return whether generation stops at `token`."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the file."""
        found = self._library.llama_model_chat_template(self._model, None)
        return None if found is None else str(found.decode())

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return llama.cpp's tokens of `text`; with `special`, what is spelled like a special token is one."""
        raw = text.encode()
        room = len(raw) + 8
        buffer = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, False, special)
        if count < 0:
            raise KeylmError(f"llama.cpp's tokenizer failed on {text[:40]!r}")
        return list(buffer[:count])

    def reset(self) -> None:
        """Forget the tokens read so far."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._filled = 0

    def read(self, ids: Sequence[int], *, every: bool = True) -> Logits:
        """Read `ids` after those read before; return the logits of each [tokens, vocab], or of the last [1, vocab]."""
        places = [Place(0, self._filled + n, token, every or n == len(ids) - 1) for n, token in enumerate(ids)]
        rows = []
        for start in range(0, len(ids), self.batch):
            part = places[start : start + self.batch]
            rows.append(self.decode(part))
            self._filled += len(part)
        return np.concatenate(rows)

    def decode(self, places: Sequence[Place]) -> Logits:
        """Read up to `batch` tokens of texts, each after its own; return logits [wanted, vocab]. Raises KeylmError."""
        for n, each in enumerate(places):
            self._batch.token[n], self._batch.pos[n] = each.token, each.place
            self._batch.n_seq_id[n], self._batch.seq_id[n][0] = 1, each.row
            self._batch.logits[n] = each.wanted
        self._batch.n_tokens = len(places)
        status = self._library.llama_decode(self._context, self._batch)
        if status:
            raise KeylmError(f"llama.cpp could not decode {len(places)} tokens after {places[0].place} ({status})")
        wanted = [n for n, each in enumerate(places) if each.wanted]
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        for row, n in zip(logits, wanted, strict=True):
            ctypes.memmove(row.ctypes.data, self._library.llama_get_logits_ith(self._context, n), row.nbytes)
        return logits

    def cut(self, row: int, length: int) -> None:
        """Forget a text's tokens from the `length`-th on."""
        memory = self._library.llama_get_memory(self._context)
        if not self._library.llama_memory_seq_rm(memory, row, length, -1):
            raise KeylmError(f"llama.cpp could not forget the tokens of text {row} from {length} on")

    def copy(self, source: int, target: int, length: int) -> None:
        """Give one text the first `length` tokens of another, replacing its own."""
        # Each text has its own part of the cache, and llama.cpp copies only whole parts.
        self._library.llama_memory_seq_cp(self._library.llama_get_memory(self._context), source, target, -1, -1)
        self.cut(target, length)


def quantize(values: npt.NDArray[np.float32], kind: int, row_bytes: int) -> npt.NDArray[np.uint8]:
    """Return a matrix [rows, columns] in ggml's type number `kind`, as uint8 [rows, row_bytes], quantized by llama.cpp.

    Raises KeylmError if llama.cpp is missing or writes another number of bytes.
    """
    source = np.ascontiguousarray(values, np.float32)
    rows, columns = source.shape
    target = np.empty((rows, row_bytes), np.uint8)
    made = _library().ggml_quantize_chunk(kind, source.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    if made != target.nbytes:
        raise KeylmError(f"llama.cpp wrote {made} bytes for a matrix, not {target.nbytes}; accepted: another version")
    return target


def version() -> str:
    """Return which package the library is of, and that package's version."""
    from importlib.metadata import version as version_of

    package = "xllamacpp" if "xllamacpp" in library_file().name else "llama_cpp_python"
    return f"{package} {version_of(package)}"
