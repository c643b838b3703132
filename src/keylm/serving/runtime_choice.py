"""Which runtime computes the logits, and the file that it needs.

`auto` takes PyTorch on a GPU for a model folder. On a CPU it takes llama.cpp, several times faster there for one user,
where it is installed and the model can be a GGUF file; else PyTorch, and says why. A model folder is converted once and
compared with PyTorch as `keylm export` does; the file is cached under the hash of the model's files, in KEYLM_CACHE,
else in keylm in XDG_CACHE_HOME or ~/.cache.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

import keylm
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_folder, sha256_file
from keylm.model.folder import DecoderConfig, check_model_folder, model_fingerprint, read_config
from keylm.runtimes.cached_decoder import CPU, CachedDecoder, Precision, Weights, load_weights, with_tensors
from keylm.serving.slots import LlamaSlots, Slots, TorchSlots

Runtime = Literal["auto", "torch", "llama.cpp"]
PRECISIONS = {
    "llama.cpp": ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "bf16", "f32"),
    "torch": ("fp32", "int8", "bf16"),
}
"""Of each runtime; the first is the default, of PyTorch on a GPU bf16."""
Tell = Callable[[str], None]


class ModelSource:
    """What is to be served: a model folder, or a GGUF file that keylm wrote."""

    def __init__(self, place: Path, scratch: Path) -> None:
        """Open it; a file's configuration and tokenizer go into `scratch`. Raises KeylmError where it is neither."""
        self.place, self.gguf = place, place.suffix == ".gguf"
        self.folder = place
        if self.gguf:
            from keylm.runtimes.gguf_read import GgufFile

            if not place.is_file():
                raise KeylmError(f"{place}: no such file; accepted: a model folder, or a GGUF file that keylm wrote")
            self.folder, self._file = scratch, GgufFile(place)
            self._file.unpack(scratch)
        else:
            check_model_folder(place)
        self.facts: DecoderConfig = read_config(self.folder)

    @cached_property
    def weights(self) -> Weights:
        """In fp32, loaded when first needed."""
        if not self.gguf:
            return load_weights(self.folder)
        tensors = {name: torch.from_numpy(value) for name, value in self._file.weights().items()}
        return with_tensors(self.facts, tensors, self.place)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of its files."""
        return sha256_file(self.place) if self.gguf else model_fingerprint(self.place)

    @property
    def kind(self) -> str | None:
        """How a GGUF file is quantised; None of a folder."""
        return self._file.kind if self.gguf else None


@contextlib.contextmanager
def opened(place: Path) -> Iterator[ModelSource]:
    """Open the model to serve; its folder exists until the block ends."""
    with tempfile.TemporaryDirectory(prefix="keylm-serve-") as scratch:
        yield ModelSource(place, Path(scratch))


@dataclass(frozen=True)
class EngineOptions:
    """The requested engine."""

    runtime: Runtime = "auto"
    precision: str | None = None
    rows: int = 16
    threads: int | None = None

    def check(self) -> None:
        """Raise KeylmError where the two do not go together."""
        of = [name for name, kinds in PRECISIONS.items() if self.runtime in ("auto", name) for name in kinds]
        if self.precision is not None and self.precision not in of:
            raise KeylmError(f"--precision {self.precision} with --engine {self.runtime}; accepted: {', '.join(of)}")


def make_slots(source: ModelSource, wanted: EngineOptions, tell: Tell) -> tuple[Slots, str]:
    """Return the engine's rows, and their precision. Raises KeylmError if the request cannot be met."""
    wanted.check()
    on_gpu = torch.cuda.is_available() and not source.gguf and wanted.precision in (None, "bf16")
    alone = {*PRECISIONS["torch"]} - {*PRECISIONS["llama.cpp"]}
    if wanted.runtime == "torch" or wanted.precision in alone or (wanted.runtime == "auto" and on_gpu):
        return _torch(source, wanted)
    try:
        return _llama(source, wanted, tell)
    except KeylmError as error:
        if wanted.runtime == "llama.cpp" or wanted.precision:
            raise
        tell(f"PyTorch serves, as llama.cpp does not: {error}")
        return _torch(source, wanted)


def _torch(source: ModelSource, wanted: EngineOptions) -> tuple[Slots, str]:
    precision, device = computed_in(wanted.precision, gpu=torch.cuda.is_available())
    return TorchSlots(CachedDecoder(source.weights, precision, device), wanted.rows), precision


def computed_in(precision: str | None, *, gpu: bool) -> tuple[Precision, torch.device]:
    """Return the precision and the device that PyTorch computes in. Raises KeylmError for bf16 on a CPU."""
    if gpu and precision != "int8":
        return "fp32" if precision == "fp32" else "bf16", torch.device("cuda")
    if precision == "bf16":
        raise KeylmError("--precision bf16 with --engine torch: there is no GPU here; accepted: fp32, int8")
    return "int8" if precision == "int8" else "fp32", CPU


def _llama(source: ModelSource, wanted: EngineOptions, tell: Tell) -> tuple[Slots, str]:
    from keylm.runtimes.llama import library_file

    library_file()  # fails before a minute of conversion
    if source.kind and wanted.precision not in (None, source.kind):
        raise KeylmError(
            f"--precision: got {wanted.precision}, but {source.place} is {source.kind}; accepted: that, or the folder"
        )
    kind = source.kind or wanted.precision or PRECISIONS["llama.cpp"][0]
    threads = wanted.threads or torch.get_num_threads()
    file = source.place if source.gguf else converted(source, kind, threads, tell)
    return LlamaSlots(file, source.facts, wanted.rows, threads), kind


PROBE = 0.1
"""Share of an export's comparison that is run before serving, as the user is waiting."""


def cache_folder() -> Path:
    """Return the cache folder, for files that can be rebuilt."""
    if place := os.environ.get("KEYLM_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keylm"


def converted(source: ModelSource, kind: str, threads: int, tell: Tell) -> Path:
    """Return a folder's GGUF file; written and compared with PyTorch if that has not been done. Raises KeylmError."""
    from keylm.export.exporter import Exporter, ExportOptions, ParityFailed

    place = cache_folder() / "gguf" / f"{source.fingerprint[:16]}-{keylm.__version__}"
    file = place / kind / "gguf" / f"model-{kind.upper()}.gguf"
    if file.is_file():
        return file
    tell(f"converting to GGUF ({kind}) and comparing it with PyTorch, this once  …")
    try:
        with atomic_folder(place / kind) as temporary:
            options = ExportOptions(("gguf",), gguf=(kind,), name="model", threads=threads, probe=PROBE)
            exporter = Exporter(source.folder, temporary, options, quiet=True)
            exporter.run()
    except ParityFailed:
        faults = "; ".join(exporter.rows[0].faults)
        raise KeylmError(f"{source.place}: as GGUF ({kind}) it is not the same model: {faults}") from None
    except OSError as error:
        raise KeylmError(f"{place}: {error.strerror or error}; accepted: a writable folder, by KEYLM_CACHE") from None
    return file
