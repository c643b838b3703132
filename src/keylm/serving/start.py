"""`keylm serve`: from a model folder or GGUF file to a server, whose port is bound before the model is loaded."""

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from keylm.base.console import say
from keylm.base.errors import KeylmError, how_to_install
from keylm.languages.language import language_of
from keylm.model.folder import check_model_folder, model_languages, silence_transformers
from keylm.runtimes.cached_decoder import CachedDecoder
from keylm.serving.runtime_choice import EngineOptions, ModelSource, Runtime, Tell, make_slots, opened
from keylm.serving.slots import Slots, TorchSlots

if TYPE_CHECKING:
    from keylm.serving.server import Served

GRACE = 3
"""Seconds for running answers at shutdown."""


@dataclass(frozen=True)
class ServeOptions:
    """The options of `keylm serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    api_key: str | None = None
    open: bool = False
    """Whether others than this machine are answered without a key."""
    slots: int = 16
    queue: int = 64
    engine: Runtime = "auto"
    precision: str | None = None
    """One of its runtime's; None: the runtime's default."""
    threads: int | None = None
    suggest: bool = True
    seconds: float = 300.0
    body_bytes: int = 4_000_000


def serve(model: Path, options: ServeOptions, *, quiet: bool = False) -> None:
    """Serve a model until Ctrl-C or SIGTERM. Raises KeylmError where it cannot."""
    try:
        import uvicorn
    except ImportError:
        raise KeylmError(f"keylm serve needs more packages; accepted: {how_to_install('serve')}") from None
    from keylm.serving.connections import limited_protocol, quieten_logs, room

    EngineOptions(options.engine, options.precision).check()
    check_access(options)
    if model.suffix != ".gguf":
        check_model_folder(model)
    listening = _listen(options)
    with contextlib.closing(listening):
        served = prepare(model, options, lambda text: say(text, quiet=quiet))
        from keylm.serving.server import application

        most, backlog = room()
        config = uvicorn.Config(
            application(served),
            http=limited_protocol(most),
            backlog=backlog,
            log_level="warning",
            timeout_graceful_shutdown=GRACE,
            server_header=False,
            lifespan="off",
        )
        host, port = listening.getsockname()[:2]
        address = f"http://{'[' + host + ']' if ':' in host else host}:{port}"
        say(f"{served.name} on {address}  ({served.runtime}; Ctrl-C ends it)", quiet=quiet)
        if served.keyboards and served.keyboards.why_no_corrections:
            say(f"suggestions without corrections: {served.keyboards.why_no_corrections}", quiet=quiet)

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: Any = None) -> None:
                served.engine.close()  # what is under way ends with an error, so that connections can close
                await super().shutdown(sockets)

        if options.api_key is None and not is_loopback(options.host):
            say("no key is asked for: whoever reaches this address may use the model and read /metrics", quiet=False)
        quieten_logs()
        with _quiet_end():
            Server(config).run(sockets=[listening])


def check_access(options: ServeOptions) -> None:
    """Raise KeylmError where a key could never match, or others than this machine would need none."""
    key = options.api_key
    if key is not None and not (key.isascii() and key.isprintable() and key and key == key.strip()):
        raise KeylmError("--api-key: no client could send it; accepted: printable ASCII without blanks at the ends")
    if key is None and not options.open and not is_loopback(options.host):
        raise KeylmError(
            f"--host {options.host}: others than this machine could use the model and read /metrics; accepted: "
            "--api-key KEY (or KEYLM_API_KEY), or --open for everyone"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def prepare(model: Path, options: ServeOptions, tell: Tell = lambda text: None) -> "Served":
    """Return a loaded model with its engine. Raises KeylmError where the model or a package does not serve."""
    try:
        from keylm.serving.server import Served
    except ImportError as error:
        raise KeylmError(f"keylm serve needs {error.name}; accepted: {how_to_install('serve')}") from None
    from keylm.keyboard.suggest import Keyboards
    from keylm.serving.engine import BatchingEngine
    from keylm.serving.guard import LOOPBACK, Guard
    from keylm.serving.texts import Prompts

    silence_transformers()
    if options.threads:
        torch.set_num_threads(options.threads)
    wanted = EngineOptions(options.engine, options.precision, options.slots, options.threads)
    with opened(model) as source:
        prompts = Prompts(source.folder, source.facts.vocab_size)
        slots, precision = make_slots(source, wanted, tell)
        language = language_of(model_languages(source.folder)[0])
        small = _small(source, slots, precision) if options.suggest else None
        keyboards = Keyboards(small, prompts.tokenizer, language=language) if small is not None else None
    engine = BatchingEngine(slots, prompts.vocabulary, waiting=options.queue)
    hosts = (*LOOPBACK, options.host) if is_loopback(options.host) else ()
    return Served(
        options.name or _name(model),
        engine,
        prompts,
        f"{source.fingerprint[:12]}-{engine.name}-{precision}",
        keyboards,
        Guard(options.api_key, hosts, options.body_bytes),
        options.slots + options.queue,
        options.seconds,
        f"{engine.name}, {precision}",
    )


def _small(source: ModelSource, slots: Slots, precision: str) -> CachedDecoder:
    """Return the decoder for suggestions: PyTorch's, in 8 bits where this torch can."""
    if isinstance(slots, TorchSlots) and precision == "int8":
        return slots.decoder
    try:
        return CachedDecoder(source.weights, "int8")
    except KeylmError:
        if isinstance(slots, TorchSlots) and slots.decoder.device.type == "cpu":
            return slots.decoder
        return CachedDecoder(source.weights)


def _name(folder: Path) -> str:
    """Return the model's name: that of its folder or file, or of its run."""
    resolved = folder.resolve()
    if resolved.suffix == ".gguf":
        return resolved.stem
    return resolved.parent.name if resolved.name == "model" and resolved.parent.name else resolved.name


def _listen(options: ServeOptions) -> socket.socket:
    """Return a listening socket. Raises KeylmError where the address is unavailable."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
        listening.listen()  # on some systems only this says that a port is in use
    except OSError as error:
        listening.close()
        raise KeylmError(
            f"{options.host}:{options.port}: {error.strerror or error}; accepted: a free --port (0 takes any), "
            "a --host of this machine"
        ) from None
    return listening


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the server without a traceback, with exit code 0."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
