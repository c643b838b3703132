"""`keylm data plan`: how many tokens and epochs each source gives in each stage, before anything is trained.

Invariant: where shards are built, and would be built the same again, the figures are exact; where they are not, sizes
are estimated from a sample of the source, and marked as such.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from rich.table import Table

from keylm.base.console import console, say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_path, read_table
from keylm.data.build import changed_sources, windows_taken
from keylm.data.curated import curated_recipe, curated_sources, curation_facts
from keylm.data.documents import Document, document_bytes
from keylm.data.manifest import read_manifest
from keylm.data.provenance import BYTES_PER_TOKEN, DataProvenance, bytes_read, source_stamps
from keylm.data.sources import read_source
from keylm.recipe.load import Recipe, stage_steps
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.recipe.schema import Source
from keylm.text.tokenizer import DocumentTokenizer

MOST_EPOCHS = 4.0
"""Beyond about four epochs repeated text is worth less and less (Muennighoff et al., arXiv 2305.16264)."""
SAMPLE_BYTES = 1_000_000


@dataclass(frozen=True)
class Share:
    """What one source gives."""

    source: str
    register: str
    stages: dict[str, int]
    """tokens in each stage"""
    size: int | None
    """training tokens that it has, None where nobody knows"""
    exact: bool
    """whether `size` is counted, not estimated"""

    @property
    def tokens(self) -> int:
        """Tokens in all stages."""
        return sum(self.stages.values())

    @property
    def epochs(self) -> float | None:
        """How often it is gone through."""
        return self.tokens / self.size if self.size else None


def plan(recipe: Recipe, folder: RunFolder) -> list[Share]:
    """Return what each used source gives; sizes from the shards in `folder` where they are built."""
    taken = _tokens_taken(recipe)
    tokenizer = _tokenizer(recipe, folder)
    counted = _counted(recipe, folder)
    estimates = _on_hub(recipe, counted)
    shares = []
    for name, source in recipe.used_sources.items():
        exact = name in counted
        size = counted[name] if exact else _estimate(recipe, name, tokenizer, estimates)
        shares.append(Share(name, source.text_register, taken[name], size, exact))
    return shares


def show_plan(recipe: Recipe, folder: RunFolder, plot: Path | None) -> None:
    """Print the plan as a table, draw it where `plot` names a file, and warn of sources repeated too often."""
    shares = plan(recipe, folder)
    total = sum(share.tokens for share in shares)
    columns = _columns(recipe, shares, total)
    left_out = _left_out(columns, console.width)
    title = f"plan: {recipe.name}, {total:,} tokens"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    kept = {head: cells for head, cells in columns.items() if head not in left_out}
    for head in kept:
        table.add_column(head, justify="left" if head in ("source", "register") else "right", no_wrap=True)
    for cells in zip(*kept.values(), strict=True):
        table.add_row(*cells)
    console.print(table)
    if left_out:
        say(f"not shown in {console.width} columns: {', '.join(left_out)}; a wider window, or COLUMNS=160, has room")
    registers = {share.register: 0 for share in shares}
    for share in shares:
        registers[share.register] += share.tokens
    say("registers: " + ", ".join(f"{name} {tokens / total:.1%}" for name, tokens in registers.items()))
    if any(not share.exact for share in shares):
        say("≈ estimated from a sample; `keylm data build` counts")
    for share in shares:
        if share.epochs is not None and share.epochs > MOST_EPOCHS:
            often = f"{share.source} is gone through {share.epochs:.1f} times"
            say(f"warning: {often}; more than {MOST_EPOCHS:g} teach little")
    if plot is not None:
        draw_plan(recipe, shares, plot)
        say(f"plot: {plot}")


def _columns(recipe: Recipe, shares: list[Share], total: int) -> dict[str, list[str]]:
    """Return the cells of each column of the table, by its head."""
    columns = {"source": [share.source for share in shares], "register": [share.register for share in shares]}
    columns |= {stage: [_short(share.stages[stage]) for share in shares] for stage in recipe.stages}
    sizes = ["unknown" if s.size is None else f"{'' if s.exact else '≈ '}{_short(s.size)}" for s in shares]
    return columns | {
        "all": [_short(share.tokens) for share in shares],
        "share": [f"{share.tokens / total:.1%}" for share in shares],
        "has": sizes,
        "epochs": ["?" if share.epochs is None else f"{share.epochs:.2f}" for share in shares],
    }


def _left_out(columns: dict[str, list[str]], width: int) -> list[str]:
    """Return which columns to leave out so that no cell is cut: the register, then the stages from the first on."""
    needed = sum(max(map(len, (head, *cells))) + 2 for head, cells in columns.items())
    left_out = []
    for head in list(columns)[1:-4]:
        if needed <= width:
            break
        needed -= max(map(len, (head, *columns[head]))) + 2
        left_out.append(head)
    return left_out


def draw_plan(recipe: Recipe, shares: list[Share], path: Path) -> None:
    """Draw tokens per stage and epochs of each source to an .svg, .png or .pdf. Raises KeylmError for others."""
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise KeylmError(f"--plot: got {path}; accepted: a name that ends in .svg, .png or .pdf")
    names = [share.source for share in shares][::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 1.2 + 0.32 * len(shares)), sharey=True, gridspec_kw={"width_ratios": [3, 2]}
    )
    start = [0.0] * len(shares)
    for stage in recipe.stages:
        amounts = [share.stages[stage] / 1e6 for share in shares][::-1]
        left.barh(names, amounts, left=start, label=stage)
        start = [before + amount for before, amount in zip(start, amounts, strict=True)]
    left.set_xlabel("million tokens")
    left.legend()
    epochs = [share.epochs or 0.0 for share in shares][::-1]
    right.barh(names, epochs, color=["#c0504d" if value > MOST_EPOCHS else "#4f81bd" for value in epochs])
    right.axvline(MOST_EPOCHS, color="#888888", linewidth=1)
    right.set_xlabel("epochs")
    figure.suptitle(f"{recipe.name}: what each source gives")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
    plt.close(figure)


def _tokens_taken(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return the tokens that each stage takes of each source, by the pattern's exact arithmetic."""
    taken: dict[str, dict[str, int]] = {name: {} for name in recipe.used_sources}
    for stage in recipe.stages:
        alone = recipe.model_copy(update={"stages": {stage: recipe.stages[stage]}})
        windows = windows_taken(alone)
        for name in taken:
            taken[name][stage] = windows.get(name, 0) * recipe.training.context
    assert sum(sum(row.values()) for row in taken.values()) == sum(stage_steps(recipe).values()) * (
        recipe.training.batch_tokens
    )
    return taken


def _counted(recipe: Recipe, folder: RunFolder) -> dict[str, int]:
    """Return the training tokens of the sources whose shards are built to the end, and would be the same again."""
    if not (folder.shards / "manifest.json").is_file() or _is_outdated(recipe, folder):
        return {}
    return {
        name: source.train.tokens
        for name, source in read_manifest(folder.shards).sources.items()
        if name in recipe.used_sources and source.exhausted
    }


def _is_outdated(recipe: Recipe, folder: RunFolder) -> bool:
    """Return whether the next build would make other shards than those in `folder`.

    One changed source is enough: the tokenizer, and with it every count, comes of them all.
    """
    if recipe.data.shards is not None or checkpoint_paths(folder.checkpoints):
        return False  # those are trained on, whatever becomes of the sources
    if not (folder.tokenizer / "tokenizer.json").is_file():
        return False
    try:
        if recipe.curation is None:
            data, facts = recipe, None
        elif _needs_curation(recipe, folder):
            return True
        else:
            data, facts = curated_recipe(recipe, folder.curated), curation_facts(recipe, folder.curated)
        return bool(changed_sources(data, DataProvenance.of(data, facts), folder.tokenizer, folder.shards))
    except KeylmError:
        return False  # without its sources nothing else can be built


def _needs_curation(recipe: Recipe, folder: RunFolder) -> bool:
    """Return whether the next build would curate again: other settings, or a file newer than the report."""
    assert recipe.curation is not None
    report = read_table(folder.curated / "report.json")
    finished = (folder.curated / "report.json").stat().st_mtime_ns
    wanted = recipe.curation.model_dump(mode="json", exclude={"decontaminate"})
    known = report["settings"]["curation"]
    if any(known.get(key) != value for key, value in wanted.items()):
        return True
    for name, source in curated_sources(recipe).items():
        origin = report["sources"].get(name, {}).get("origin", {})
        inputs = source_stamps(name, source)
        if "files" in origin and [[file["name"], file["bytes"]] for file in origin["files"]] != [
            [file, size] for file, size, _ in inputs
        ]:
            return True
        if any(isinstance(stamp, int) and stamp > finished for _, _, stamp in inputs):
            return True
    return False


def _estimate(
    recipe: Recipe, name: str, tokenizer: DocumentTokenizer | None, known: dict[str, int | None]
) -> int | None:
    """Return about how many tokens a source has, None where its bytes are not known."""
    if name not in known:
        source = recipe.sources[name]
        if source.typos_of:
            parts = [_estimate(recipe, origin, tokenizer, known) for origin in source.typos_of]
            sizes = [part for part in parts if part is not None]
            total = source.passes * sum(sizes) if len(sizes) == len(parts) else None
            limit = None if source.max_bytes is None else int(source.max_bytes / BYTES_PER_TOKEN)
            known[name] = min(filter(None, (total, limit)), default=None)
        else:
            known[name] = _sampled(name, source, tokenizer) or None
    return known[name]


def _on_hub(recipe: Recipe, counted: Mapping[str, int]) -> dict[str, int | None]:
    """Return the estimates of sources on the hub, by what it says of their bytes; {} where all are counted."""
    wanted = {name: source for name, source in recipe.read_sources.items() if source.hub}
    if not wanted or set(recipe.used_sources) <= set(counted):
        return {}
    from keylm.data.hub_check import hub_sizes

    estimates: dict[str, int | None] = {}
    for name, size in hub_sizes(wanted).items():
        limits = [limit for limit in (size, wanted[name].max_bytes) if limit is not None]
        estimates[name] = int(min(limits) / BYTES_PER_TOKEN) if limits else None
    return estimates


def _sampled(name: str, source: Source, tokenizer: DocumentTokenizer | None) -> int | None:
    """Return a source's bytes, `max_bytes` at most, over the bytes of a token in its first megabyte."""
    available = bytes_read({name: source}, name) or 0
    if tokenizer is None:
        return int(available / BYTES_PER_TOKEN)
    sampled = source.model_copy(update={"max_bytes": min(SAMPLE_BYTES, source.max_bytes or SAMPLE_BYTES)})
    documents = [item for item in read_source(name, sampled) if isinstance(item, Document)]
    texts = [document.text or "\n".join(turn["content"] for turn in document.messages) for document in documents]
    tokens = sum(len(ids) for ids in tokenizer.encode_texts(texts))
    size_read = sum(map(document_bytes, documents))
    return int(available * tokens / size_read if size_read else available / BYTES_PER_TOKEN)


def _tokenizer(recipe: Recipe, folder: RunFolder) -> DocumentTokenizer | None:
    place = Path(recipe.given_tokenizer) if recipe.given_tokenizer else folder.tokenizer
    return DocumentTokenizer(place) if (place / "tokenizer.json").is_file() else None


def _short(tokens: int) -> str:
    """Return a number of tokens as a person reads it."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g} {unit}"
    return str(tokens)
