"""One model folder to every artefact, each proved to be the same model before it gets its name.

    OUT/hf/                     sharded bf16 safetensors, tokenizer, card
    OUT/gguf/NAME-F16.gguf …    and a Modelfile for Ollama
    OUT/onnx/                   config.json, tokenizer.json, onnx/model.onnx …
    OUT/web/                    the page, models/NAME/ as OUT/onnx without fp32, models.json: for any static host
    OUT/parity.json             what was compared, the limits, the verdicts

Invariant: a file that did not pass is never under its own name: while it is checked its name ends in `.unchecked`, and
when it fails in `.failed`. parity.json is written either way.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keylm
from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, sweep_ended, write_json
from keylm.export.parity import Parity, Reference, Subject, compare, make_probe
from keylm.export.reference import FileTokenizer, TorchModel
from keylm.export.web import find_library, write_page
from keylm.languages.language import language_of
from keylm.model.config_files import read_config_file
from keylm.model.folder import check_model_folder, model_fingerprint, model_languages, read_config
from keylm.model.opening import check_vocabulary, export_folder
from keylm.report.card import CardDetails, card_text
from keylm.runtimes import gguf_write as gguf_file
from keylm.runtimes import llama, onnx_files

FORMATS = ("hf", "gguf", "onnx", "web")
GGUF_DEFAULT = ("f16", "bf16", "q8_0", "q4_0")
ONNX_DEFAULT = ("fp32", "int8", "q4")
WEB = ("int8", "q4")
"""What a browser loads: int8 in wasm, 4-bit on WebGPU."""
PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "xllamacpp", "llama_cpp_python", "onnx", "onnxruntime")
"""What artefacts are written and run with."""


class ParityFailed(KeylmError):
    """An exported file is not the same model."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export."""

    formats: tuple[str, ...] = ("hf", "gguf", "onnx")
    gguf: tuple[str, ...] = GGUF_DEFAULT
    onnx: tuple[str, ...] = ONNX_DEFAULT
    name: str | None = None
    threads: int = 1
    transformers_js: Path | None = None
    """A folder of the npm package, to be copied into the web folder; None: the page takes it from a CDN."""
    probe: float = 1.0
    """Share of the prompts and texts that are compared; less is faster."""

    def check(self) -> None:
        """Raise KeylmError if a requested format or type cannot be written."""
        for option, values, accepted in (
            ("--to", self.formats, FORMATS),
            ("--gguf-types", self.gguf, gguf_file.ALL_TYPES),
            ("--onnx-types", self.onnx, tuple(onnx_files.FILES)),
        ):
            unknown = [value for value in values if value not in accepted]
            if unknown or not values:
                raise KeylmError(f"{option}: got {', '.join(unknown) or 'nothing'}; accepted: {', '.join(accepted)}")
        if self.transformers_js and "web" not in self.formats:
            raise KeylmError(f"--transformers-js is for --to web, got --to {','.join(self.formats)}")


class Exporter:
    """Writes and checks the artefacts of one model folder."""

    def __init__(self, model: Path, out: Path, options: ExportOptions, *, quiet: bool = False) -> None:
        """Open the model. Raises KeylmError if there is none or the options cannot be met."""
        options.check()
        self.library = find_library(options.transformers_js) if options.transformers_js else None
        check_model_folder(model)
        if set(options.formats) - {"hf"}:
            read_config(model)  # gguf, onnx and web are written from this layout alone
        self.model, self.out, self.options, self.quiet = model, out, options, quiet
        self.name = options.name or model_name(model)
        self.rows: list[Parity] = []
        self.source = TorchModel(model)
        self.config = read_config_file(model / "config.json")
        self.context = min(int(self.config.get("max_position_embeddings", 2048)), 2048)
        tokenizer = FileTokenizer(model)
        check_vocabulary(tokenizer, len(self.source.model.get_input_embeddings().weight), model)
        self.encode = _encoder(tokenizer)
        self.reference = Reference(self.source, self.encode, make_probe(self.encode, self.context, options.probe))

    def run(self) -> list[Parity]:
        """Make and check everything; write parity.json. Raises ParityFailed at the end if something failed."""
        sweep_ended(self.out)
        writers: dict[str, Callable[[], None]] = {"hf": self._hf, "gguf": self._gguf, "web": self._web}
        writers["onnx"] = partial(self._onnx_into, self.out / "onnx", self.options.onnx, "onnx")
        for kind in self.options.formats:
            writers[kind]()
        self._record()
        if (self.out / "hf").is_dir() and "hf" in self.options.formats:  # now with the table of all formats
            card = card_text(self.model, CardDetails(self.name, parity=self.out / "parity.json"))
            atomic_write(self.out / "hf" / "README.md", card)
        if lines := [f"{row.artefact}: {'; '.join(row.faults)}" for row in self.rows if row.faults]:
            first, last = "not the same model, kept with .failed in the name:", f"see {self.out / 'parity.json'}"
            raise ParityFailed("\n".join([first, *lines, last]))
        return self.rows

    def _hf(self) -> None:
        def check(folder: Path) -> Subject:
            runtime = TorchModel(folder)
            exact = str(self.source.dtype) == "torch.bfloat16"
            encode = _encoder(FileTokenizer(folder))
            return Subject("hf", "exact" if exact else "bf16", _size(folder), runtime, encode)

        final = self.out / "hf"
        with self._checked(final, check) as folder:
            export_folder(self.model, folder, card_text(self.model, CardDetails(self.name)))

    def _gguf(self) -> None:
        made: list[str] = []
        for kind in self.options.gguf:
            final = self.out / "gguf" / f"{self.name}-{kind.upper()}.gguf"
            with self._checked(final, partial(self._open_gguf, kind=kind)) as file:
                self._write_gguf(file, kind)
            made += [final.name] if final.exists() else []
        best = next((name for name in made if "Q8_0" in name), made[0] if made else None)
        if best:
            gguf_file.write_modelfile(self.model, best, self.out / "gguf" / "Modelfile")

    def _write_gguf(self, file: Path, kind: str) -> None:
        if kind not in gguf_file.QUANTIZED_BY_LLAMA_CPP:
            gguf_file.write_gguf(self.model, self.source.weights(), file, kind, self.name)
            return
        plain = file.with_name(f".{self.name}-F32.gguf")
        try:
            gguf_file.write_gguf(self.model, self.source.weights(), plain, "f32", self.name)
            gguf_file.quantize_with_llama_cpp(plain, file, kind)
        finally:
            plain.unlink(missing_ok=True)

    def _open_gguf(self, file: Path, kind: str) -> Subject:
        runtime = llama.LlamaModel(file, self.context, self.options.threads)
        wanted = gguf_file.special_ids(self.model)
        notes = [] if not runtime.adds_bos else ["llama.cpp would put a token before every text"]
        if runtime.eos != wanted["eos"] or runtime.eot != wanted.get("eot", runtime.eot):
            notes.append(f"ends of text and turn are {runtime.eos} and {runtime.eot}, not {wanted}")
        ends = [wanted[key] for key in ("eos", "eot") if key in wanted]
        notes += [f"llama.cpp does not stop at token {token}" for token in ends if not runtime.ends(token)]
        error = gguf_file.weight_error(file, self.source.weights())
        subject = (f"gguf/{file.name.removesuffix('.unchecked')}", kind, file.stat().st_size, runtime)
        return Subject(*subject, lambda text, special: runtime.encode(text, special=special), error, tuple(notes))

    def _web(self) -> None:
        folder = self.out / "web" / "models" / self.name
        self._onnx_into(folder, WEB, f"web/models/{self.name}")
        files = {
            str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
        }
        listed = {
            "name": self.name,
            "fingerprint": f"{model_fingerprint(self.model)[:12]}-{keylm.__version__}",
            "dtypes": {"wasm": "q8", "webgpu": "q4"},
            "files": files,
        }
        write_json(self.out / "web" / "models.json", [listed])
        write_page(self.out / "web", self.library, language_of(model_languages(self.model)[0]))

    def _onnx_into(self, folder: Path, kinds: Sequence[str], label: str) -> None:
        onnx_files.write_beside(self.model, folder)
        encode = _encoder(FileTokenizer(folder))
        graph = onnx_files.build(self.model, self.source.weights())
        for kind in kinds:
            final = folder / "onnx" / onnx_files.FILES[kind]

            def check(file: Path, kind: str = kind, final: Path = final) -> Subject:
                runtime = onnx_files.OnnxModel(file, self.options.threads)
                error = onnx_files.embedding_error(file, self.source.weights())
                name = f"{label}/onnx/{final.name}"
                return Subject(name, kind, file.stat().st_size, runtime, encode, error)

            with self._checked(final, check) as file:
                onnx_files.write_onnx(graph, file, kind, self.reference.probe.text[0])

    @contextmanager
    def _checked(self, final: Path, check: Callable[[Path], Subject]) -> Iterator[Path]:
        """Yield the name to write under; then check what was written, and name it `final` or as failed."""
        say(f"{final.relative_to(self.out)}  …", quiet=self.quiet)
        final.parent.mkdir(parents=True, exist_ok=True)
        unchecked, failed = (final.with_name(f"{final.name}.{end}") for end in ("unchecked", "failed"))
        for old in (unchecked, failed, final):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        yield unchecked
        try:
            row = self._compare(check(unchecked))
        except KeylmError:  # a runtime refuses the file
            unchecked.rename(failed)
            self._record()
            raise
        self.rows.append(row)
        unchecked.rename(failed if row.faults else final)

    def _compare(self, subject: Subject) -> Parity:
        try:
            return compare(subject, self.reference)
        finally:
            close = getattr(subject.runtime, "close", None)
            if close:
                close()

    def _record(self) -> None:
        write_json(
            self.out / "parity.json",
            {
                "model": self.name,
                "fingerprint": model_fingerprint(self.model),
                "keylm": keylm.__version__,
                "runtimes": runtime_versions(),
                "prompts": len(self.reference.probe.prompts),
                "text_tokens": sum(map(len, self.reference.probe.text)),
                "logit_standard_deviation": self.reference.spread,
                "artefacts": [row.to_data() for row in self.rows],
            },
        )


def export(model: Path, out: Path, options: ExportOptions, *, quiet: bool = False) -> list[Parity]:
    """Write a model folder in all formats of `options`, each checked. Raises KeylmError; ParityFailed at the end."""
    return Exporter(model, out, options, quiet=quiet).run()


def model_name(model: Path) -> str:
    """Return what a model is called: its folder, or the run that a folder named model belongs to."""
    folder = model.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def runtime_versions() -> dict[str, str]:
    """Return the versions of PACKAGES, as far as installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _encoder(tokenizer: FileTokenizer) -> Callable[[str, bool], list[int]]:
    return lambda text, special: tokenizer.encode(text, special=special)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
