"""`keylm export`, `card` and `push`: publish a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from keylm.base.console import console, say
from keylm.base.errors import KeylmError
from keylm.cli.options import ModelArgument, QuietOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keylm.export.parity import Parity

LicenceOption = Annotated[str | None, typer.Option(help="The model's licence, as the hub names it: apache-2.0 …")]


def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="Formats, with commas: hf, gguf, onnx, web.")] = "hf,gguf,onnx",
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("export"),
    gguf_types: Annotated[
        str,
        typer.Option(help="f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0; with llama-quantize also q3_k_m, q2_k."),
    ] = "f16,bf16,q8_0,q4_0",
    onnx_types: Annotated[str, typer.Option(help="fp32, int8, q4.")] = "fp32,int8,q4",
    name: Annotated[str | None, typer.Option(help="Name of the GGUF files; by default the run's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each runtime in the parity check.")] = 1,
    transformers_js: Annotated[
        Path | None, typer.Option(help="For web: a folder of the npm package, copied so that the page needs no CDN.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a model for other runtimes; each file is compared with PyTorch before it gets its name."""
    from keylm.export.exporter import Exporter, ExportOptions

    options = ExportOptions(_names(to), _names(gguf_types), _names(onnx_types), name, threads, transformers_js)
    exporter = Exporter(model, out, options, quiet=quiet)
    try:
        exporter.run()
    finally:
        if exporter.rows and not quiet:
            show_parity(exporter.rows)
    say(str(out / "parity.json"), quiet=quiet)


def card(
    place: Annotated[Path, typer.Argument(metavar="MODEL_OR_RUN", help="A model folder or a run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write, such as README.md; by default the card is printed.")
    ] = None,
    licence: LicenceOption = None,
    repo: Annotated[str | None, typer.Option(help="The model's name on the hub, OWNER/NAME.")] = None,
    watts: Annotated[float | None, typer.Option(min=1, help="Power of a processor, for the energy estimate.")] = None,
    parity: Annotated[Path | None, typer.Option(help="An export's parity.json, for the table of formats.")] = None,
) -> None:
    """Write a model card from what the run measured; what was not measured is marked as such."""
    from keylm.base.files import atomic_write
    from keylm.report.card import CardDetails, card_text

    if parity and not parity.is_file():
        raise KeylmError(f"--parity {parity}: no such file; accepted: the parity.json that `keylm export` wrote")
    text = card_text(place, CardDetails(None, repo, licence, watts, parity))
    if out is None:
        typer.echo(text)
    else:
        atomic_write(out, text)
        say(str(out))


def push(
    folder: Annotated[Path, typer.Argument(help="A folder with a model, such as export/hf.")],
    repo: Annotated[str, typer.Argument(help="The repository on the hub, OWNER/NAME.")],
    upload: Annotated[bool, typer.Option("--upload", help="Do it; without this the files are only listed.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public, not private.")] = False,
) -> None:
    """List what would go to the hub; with --upload, upload it. The token is HF_TOKEN's, or that of `hf auth login`."""
    from keylm.export.push import plan_upload
    from keylm.export.push import push as push_folder

    plan = plan_upload(folder, repo)
    for name, size in plan.files:
        say(f"{size:>14,}  {name}")
    for name in plan.left_out:
        say(f"      left out  {name}")
    say(f"{plan.bytes:>14,}  bytes in {len(plan.files)} files to {repo}")
    if not upload:
        say("nothing was uploaded; --upload does it")
        return
    say(push_folder(plan, private=not public))


def show_parity(rows: "Sequence[Parity]") -> None:
    """Print how each artefact compares."""
    heads = ["", "MB", "max Δ", "KL", "top-1 %", "perplexity", "greedy", "tokens", ""]
    shown = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(
            f"{row.artefact.split('/')[0]} {row.kind if row.kind != 'exact' else 'bf16'}",
            f"{row.bytes / 1e6:.1f}",
            f"{row.logit:.2g}",
            f"{row.kl:.1e}",
            f"{100 * row.top1:.1f}",
            f"{row.perplexity:.3f}",
            f"{row.greedy_equal}{f'+{row.greedy_ties}' if row.greedy_ties else ''}/{row.greedy_prompts}",
            f"{row.tokenizer_mismatches}/{row.tokenizer_strings}",
            "FAILED" if row.faults else "passed",
        )
    console.print(shown)
    if rows:
        say(f"PyTorch in fp32: perplexity {rows[0].reference_perplexity:.3f}")
        say("max Δ: of any logit. greedy: texts equal + equal up to a tie. tokens: strings split differently")


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
