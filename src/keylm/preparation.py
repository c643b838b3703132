"""What training reads, made before it: curated sources, tokenizer, shards.

Invariant: once training on them has begun they stay as they are, whatever becomes of the sources.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keylm.data.build import build_shards, check_published
from keylm.data.curated import Executor, curated_recipe
from keylm.data.sources import source_inputs, token_shares, tokenizer_sample
from keylm.data.streaming import BackgroundBuild, background_build, fetch_manifest
from keylm.errors import KeylmError
from keylm.files import atomic_write, sha256_file, sha256_json, sweep, write_json
from keylm.identity import differences
from keylm.recipe import Recipe
from keylm.run_folder import RunFolder
from keylm.tokenizer import DocumentTokenizer, tokenizer_config, train_tokenizer
from keylm.training.checkpoint import checkpoint_paths

CHAT_MARKS = 8
"""Tokens that the chat template puts around one question, about."""
STAGES = ("tokenizer", "shards", "train", "export", "samples", "report")


@dataclass(frozen=True)
class Manner:
    """How a run goes about its work; nothing of it changes the result."""

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


@contextlib.contextmanager
def prepare(recipe: Recipe, folder: RunFolder, manner: Manner) -> Iterator[BackgroundBuild | None]:
    """Make curated sources, tokenizer and shards, as far as `manner` goes; yield the build that goes on, if any."""
    sweep(folder.path)
    _claim(recipe, folder)
    built = folder.is_done("tokenizer") and folder.is_done("shards")
    if built and checkpoint_paths(folder.checkpoints):
        yield None
        return
    if recipe.data.shards is not None:
        manifest = fetch_manifest(recipe.data.shards, folder.shards, folder.tokenizer)
        check_published(recipe, manifest)
        _check_vocabulary(recipe, DocumentTokenizer(folder.tokenizer), recipe.data.shards)
        write_json(folder.tokenizer / "tokenizer_config.json", tokenizer_config(recipe.model.max_position_embeddings))
        _check_prompts(recipe, folder)
        yield None
        return
    data, curation = _curated(recipe, folder, manner)
    inputs = _tokenizer_inputs(data)
    folder.stage("tokenizer", inputs, [folder.tokenizer], lambda: _make_tokenizer(data, folder), quiet=manner.quiet)
    _check_prompts(recipe, folder)
    if "shards" not in manner.stages:
        yield None
    elif recipe.data.stream and "train" in manner.stages and not built:
        with background_build(data, folder.tokenizer, folder.shards, manner.workers, curation) as build:
            yield build
    else:
        started = time.monotonic()
        manifest = build_shards(
            data, folder.tokenizer, folder.shards, workers=manner.workers, curation=curation, quiet=manner.quiet
        )
        if not folder.is_done("shards", manifest["hash"]):
            folder.mark_done("shards", manifest["hash"], [folder.shards / "manifest.json"], time.monotonic() - started)
        yield None


def _curated(recipe: Recipe, folder: RunFolder, manner: Manner) -> tuple[Recipe, str | None]:
    """Return the recipe with curated sources, and the curation's hash; the recipe itself where it asks for none."""
    if recipe.curation is None:
        return recipe, None
    from keylm.data.curate.pipeline import curate  # needs an extra
    from keylm.data.curate.report import curation_hash

    workers = manner.workers or os.cpu_count() or 1
    curate(recipe, folder.curated, workers=workers, executor=manner.executor, quiet=manner.quiet)
    return curated_recipe(recipe, folder.curated), curation_hash(folder.curated)


def _claim(recipe: Recipe, folder: RunFolder) -> None:
    """Save the resolved recipe in the run folder. Raises KeylmError where the run was begun with another one."""
    if folder.recipe.is_file():
        changed = differences(folder.saved_recipe(), recipe)
        if changed:
            raise KeylmError(
                f"{folder.path}: was begun with another recipe: {'; '.join(changed[:5])}; accepted: the same recipe, "
                "another --run-dir, or --fresh, which puts the old run aside"
            )
        if folder.recipe.read_text(encoding="utf-8") == recipe.to_toml():
            return
    atomic_write(folder.recipe, recipe.to_toml())


def _check_prompts(recipe: Recipe, folder: RunFolder) -> None:
    """Raise KeylmError where a prompt will not fit into the context, before anything is trained."""
    tokenizer, context = DocumentTokenizer(folder.tokenizer), recipe.model.max_position_embeddings
    for field, texts in (("prompts", recipe.evaluation.prompts), ("chats", recipe.evaluation.chats)):
        for text, tokens in zip(texts, tokenizer.encode_texts(texts), strict=True):
            if len(tokens) + CHAT_MARKS >= context:
                raise KeylmError(
                    f"evaluation.{field}: {text[:40]!r}… has {len(tokens)} tokens; accepted: fewer than the context "
                    f"of {context} less {CHAT_MARKS}"
                )


def _tokenizer_inputs(recipe: Recipe) -> str:
    if recipe.tokenizer.path is not None:
        return sha256_file(Path(recipe.tokenizer.path) / "tokenizer.json")
    sources = {name: [str(source.path), source_inputs(name, source)] for name, source in recipe.used_sources.items()}
    return sha256_json([recipe.tokenizer.model_dump(), sources, token_shares(recipe), recipe.evaluation.holdout])


def _make_tokenizer(recipe: Recipe, folder: RunFolder) -> None:
    context = recipe.model.max_position_embeddings
    if recipe.tokenizer.path is None:
        train_tokenizer(
            tokenizer_sample(recipe, recipe.sources), recipe.tokenizer.vocab_size, folder.tokenizer, context
        )
        return
    given = DocumentTokenizer(Path(recipe.tokenizer.path))
    _check_vocabulary(recipe, given, recipe.tokenizer.path)
    given.save(folder.tokenizer, context)


def _check_vocabulary(recipe: Recipe, tokenizer: DocumentTokenizer, where: str) -> None:
    if tokenizer.vocab_size != recipe.tokenizer.vocab_size:
        raise KeylmError(
            f"tokenizer.vocab_size: got {recipe.tokenizer.vocab_size}, but {where} has "
            f"{tokenizer.vocab_size} entries; accepted: that number"
        )
