"""What training reads: curated sources, tokenizer, shards; once training has begun they stay as they are."""

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from keylm.base.console import say
from keylm.base.errors import KeylmError
from keylm.base.files import atomic_write, read_json, sweep, write_json
from keylm.data.background_build import PendingBuild, fetch_manifest
from keylm.data.build import changed_sources, check_published
from keylm.data.curated import Executor, curated_recipe, curated_sources, curation_facts
from keylm.data.provenance import CurationFacts, DataProvenance, source_origin
from keylm.data.sources import check_sources
from keylm.data.store import finished_store
from keylm.data.tokenizer_sample import tokenizer_sample
from keylm.languages.language import ENGLISH, SHIPPED, language_of, missing
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import REFUSED, RunFolder, checkpoint_paths
from keylm.recipe.run_identity import differences
from keylm.text.tokenizer import DocumentTokenizer, tokenizer_config, train_tokenizer
from keylm.training.initial_model import claim_initial

CHAT_MARKS = 8
"""Tokens that the chat template puts around one question, about."""
STAGES = ("tokenizer", "shards", "train", "export", "samples", "report")


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it changes the result."""

    until: str = STAGES[-1]
    workers: int | None = None
    """processes that read and encode documents; by default one a core"""
    executor: Executor = "local"
    """what runs the curation's tasks"""
    quiet: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages up to the last one wanted."""
        return STAGES[: STAGES.index(self.until) + 1]


def prepare(recipe: Recipe, folder: RunFolder, options: RunOptions) -> PendingBuild | None:
    """Make curated sources, tokenizer and shards; return a build that goes on during training. Raises KeylmError."""
    sweep(folder.path)
    _check_languages(recipe, quiet=options.quiet)
    begun = bool(checkpoint_paths(folder.checkpoints) or list(folder.checkpoints.glob(f"{REFUSED}*")))
    _claim(recipe, folder, begun=begun, quiet=options.quiet)
    claim_initial(recipe, folder, begun=begun)
    built = folder.is_done("tokenizer") and folder.is_done("shards")
    if built and begun and not _needs_repair(recipe, folder, options):
        return None
    if recipe.data.shards is not None:
        _fetch(recipe, folder, recipe.data.shards, keep=begun)
        return None
    check_sources(recipe, quiet=options.quiet)
    if begun:
        _check_curated(recipe, folder)
    data, curation = _curated(recipe, folder, options)
    provenance = DataProvenance.of(data, curation)
    _prepare_tokenizer(data, folder, provenance, begun=begun, quiet=options.quiet)
    if "shards" not in options.stages:
        return None
    pending = PendingBuild(data, provenance, folder.tokenizer, folder.shards, options.workers)
    if recipe.data.stream and "train" in options.stages and not built:
        pending.clear()
        return pending
    _build(pending, folder, quiet=options.quiet)
    return None


def _check_languages(recipe: Recipe, *, quiet: bool) -> None:
    """Say what the recipe's languages lack. Raises KeylmError for one that there is not."""
    for name in dict.fromkeys([*recipe.language, *map(recipe.language_of, recipe.sources)]):
        language = language_of(name)
        for sentence in missing(SHIPPED / language.code) if language is not ENGLISH else ():
            say(f"warning: {sentence}", quiet=quiet)


def _prepare_tokenizer(
    data: Recipe, folder: RunFolder, provenance: DataProvenance, *, begun: bool, quiet: bool
) -> None:
    inputs = provenance.tokenizer_inputs(data)
    if begun:
        _check_inputs(data, folder, provenance, inputs)
    make = functools.partial(_make_tokenizer, data, folder, quiet)
    folder.run_unless_done("tokenizer", inputs, [folder.tokenizer], make, quiet=quiet)
    _check_prompts(data, folder)


def _build(pending: PendingBuild, folder: RunFolder, *, quiet: bool) -> None:
    started = time.monotonic()
    manifest = pending.run(quiet=quiet)
    if not folder.is_done("shards", manifest.hash):
        folder.mark_done("shards", manifest.hash, [folder.shards / "manifest.json"], time.monotonic() - started)


def _fetch(recipe: Recipe, folder: RunFolder, shards: str, *, keep: bool) -> None:
    """Fetch the manifest and the tokenizer of a published build, and check that they fit the recipe."""
    manifest = fetch_manifest(shards, folder.shards, folder.tokenizer, keep=keep)
    check_published(recipe, manifest)
    _check_vocabulary(recipe, DocumentTokenizer(folder.tokenizer), shards)
    _check_same_tokenizer(recipe, folder)
    write_json(folder.tokenizer / "tokenizer_config.json", tokenizer_config(recipe.model.max_position_embeddings))
    _check_prompts(recipe, folder)


def _needs_repair(recipe: Recipe, folder: RunFolder, options: RunOptions) -> bool:
    """Return whether a build is requested and one of its shards is lost or altered: then it is built again."""
    if options.until != "shards" or recipe.data.shards is not None:
        return False
    try:
        finished_store(folder.shards, verify="all")
    except KeylmError:
        return True
    return False


def _check_curated(recipe: Recipe, folder: RunFolder) -> None:
    """Raise KeylmError where curated sources are no longer those that training has begun with."""
    if recipe.curation is None or not (folder.curated / "report.json").is_file():
        return
    known = curation_facts(recipe, folder.curated).origins
    for name, source in curated_sources(recipe).items():
        if not source.hub and known[name].get("files") != source_origin(name, source).get("files"):
            raise _other_data(folder, f"sources.{name}: its files")


def _check_inputs(data: Recipe, folder: RunFolder, provenance: DataProvenance, tokenizer_inputs: str) -> None:
    """Raise KeylmError before tokenizer and shards are made from other data than training has begun with."""
    if (folder.tokenizer / "tokenizer.json").is_file():
        changed = changed_sources(data, provenance, folder.tokenizer, folder.shards)
        if changed:
            raise _other_data(folder, ", ".join(f"sources.{name}" for name in changed))
    record = folder.done().get("tokenizer")
    if record is not None and record.inputs != tokenizer_inputs:
        raise _other_data(folder, "what the tokenizer is made from")


def _other_data(folder: RunFolder, what: str) -> KeylmError:
    return KeylmError(
        f"{folder.path}: was trained with other data: changed since are {what}; put that back (files with their "
        "times too), or start anew with --fresh"
    )


def _curated(recipe: Recipe, folder: RunFolder, options: RunOptions) -> tuple[Recipe, CurationFacts | None]:
    """Return the recipe over the curated sources, and the curation's facts; `recipe` itself without [curation]."""
    if recipe.curation is None:
        idle = f"--executor {options.executor}: the recipe has no [curation], which is all that it runs; ignored"
        say(idle, quiet=options.quiet or options.executor == "local")
        return recipe, None
    from keylm.curate.pipeline import curate  # needs an extra

    workers = options.workers or os.cpu_count() or 1
    curate(recipe, folder.curated, workers=workers, executor=options.executor, quiet=options.quiet)
    return curated_recipe(recipe, folder.curated), curation_facts(recipe, folder.curated)


def _claim(recipe: Recipe, folder: RunFolder, *, begun: bool, quiet: bool) -> None:
    """Save the resolved recipe in the run folder. Raises KeylmError where training has `begun` with another."""
    if folder.recipe.is_file():
        changed = _changes(recipe, folder, begun=begun)
        if changed and not begun and not folder.model.exists():
            say(f"the recipe has changed since the last start: {'; '.join(changed[:5])}", quiet=quiet)
        elif changed:
            raise KeylmError(
                f"{folder.path}: was begun with another recipe: {'; '.join(changed[:5])}; accepted: the same recipe, "
                "another --run-dir, or --fresh, which puts the old run aside"
            )
        if folder.recipe.read_text(encoding="utf-8") == recipe.to_toml():
            return
    atomic_write(folder.recipe, recipe.to_toml())


def _changes(recipe: Recipe, folder: RunFolder, *, begun: bool) -> list[str]:
    """Return what differs from the saved recipe. Raises KeylmError where that is invalid and training has `begun`."""
    try:
        return differences(folder.saved_recipe(), recipe)
    except KeylmError:
        if begun:
            raise
        return ["the one before is of no use"]


def _check_prompts(recipe: Recipe, folder: RunFolder) -> None:
    """Raise KeylmError where a prompt does not fit into the context, before anything is trained."""
    tokenizer, context = DocumentTokenizer(folder.tokenizer), recipe.model.max_position_embeddings
    for field, texts in (("prompts", recipe.evaluation.prompts), ("chats", recipe.evaluation.chats)):
        for text, tokens in zip(texts, tokenizer.encode_texts(texts), strict=True):
            if len(tokens) + CHAT_MARKS >= context:
                raise KeylmError(
                    f"evaluation.{field}: {text[:40]!r}… has {len(tokens)} tokens; accepted: fewer than the context "
                    f"of {context} less {CHAT_MARKS}"
                )


def _make_tokenizer(recipe: Recipe, folder: RunFolder, quiet: bool) -> None:
    context = recipe.model.max_position_embeddings
    if recipe.given_tokenizer is None:
        sample = tokenizer_sample(recipe, recipe.sources, lambda text: say(text, quiet=quiet))
        train_tokenizer(sample, recipe.tokenizer.vocab_size, folder.tokenizer, context)
        return
    given = DocumentTokenizer(Path(recipe.given_tokenizer))
    _check_vocabulary(recipe, given, recipe.given_tokenizer)
    given.save(folder.tokenizer, context)


def _check_same_tokenizer(recipe: Recipe, folder: RunFolder) -> None:
    """Raise KeylmError where shards were made with another tokenizer than the one that the recipe names."""
    if recipe.given_tokenizer is None:
        return
    theirs, given = (read_json(place / "tokenizer.json") for place in (folder.tokenizer, Path(recipe.given_tokenizer)))
    if theirs["model"] != given["model"]:
        raise KeylmError(
            f"data.shards: {recipe.data.shards} has another tokenizer than {recipe.given_tokenizer}; "
            "accepted: shards of the same tokenizer"
        )


def _check_vocabulary(recipe: Recipe, tokenizer: DocumentTokenizer, where: str) -> None:
    if tokenizer.vocab_size != recipe.tokenizer.vocab_size:
        raise KeylmError(
            f"tokenizer.vocab_size: got {recipe.tokenizer.vocab_size}, but {where} has "
            f"{tokenizer.vocab_size} entries; accepted: that number"
        )
