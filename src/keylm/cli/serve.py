"""The verb that serves a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from keylm.cli.options import MODEL_HELP, QuietOption, settings_of
from keylm.model.released import DEFAULT, find_model


def serve(
    model: Annotated[
        Path, typer.Argument(callback=find_model, help=f"{MODEL_HELP}, or a GGUF file of keylm's.")
    ] = Path(DEFAULT),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of them (needs a key).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model; by default its folder's or run's.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="KEYLM_API_KEY", help="Answer only requests with this key.", show_envvar=True)
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Answer other machines without a key.")] = False,
    slots: Annotated[int, typer.Option(min=1, max=256, help="Texts generated at the same time.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="Texts that may wait; more get a 429.")] = 64,
    engine: Annotated[
        Literal["auto", "torch", "llama.cpp"],
        typer.Option(
            help="auto: torch on a GPU, else llama.cpp where it is installed and the model can be a GGUF file."
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="llama.cpp: f16 (its own choice), q8_0 (faster, differs a little), q4_k_m …; "
            "torch: fp32 or int8, bf16 on a GPU."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine; by default torch's.")] = None,
    suggest: Annotated[bool, typer.Option("--suggest/--no-suggest", help="Offer /v1/suggest for keyboards.")] = True,
    request_seconds: Annotated[float, typer.Option(min=0.1, help="Longest time of an answer, in seconds.")] = 300.0,
    body_bytes: Annotated[int, typer.Option(min=1000, help="Largest request body, in bytes.")] = 4_000_000,
    quiet: QuietOption = False,
) -> None:
    """Serve a model over HTTP: OpenAI's completions and chat, suggestions for keyboards, a page to try them."""
    from keylm.serving.start import ServeOptions
    from keylm.serving.start import serve as serve_model

    given = {**locals(), "seconds": request_seconds}
    serve_model(model, settings_of(ServeOptions, given), quiet=quiet)
