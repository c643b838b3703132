"""The build: every source's documents to shards, and the manifest that names them all.

Invariants: the manifest depends on the documents, the tokenizer and the recipe's data settings alone, not on
when, where or how often the build was interrupted; a source that is built and unchanged is not built again.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from keylm.console import Status, say
from keylm.data.documents import Document, Fault
from keylm.data.shards import ShardWriter, manifest_hash, split_entry
from keylm.data.sources import content_hash, document_bytes, is_held_out, read_source, source_inputs
from keylm.errors import KeylmError
from keylm.files import atomic_path, read_table, sha256_file, sha256_json, sweep, write_json
from keylm.recipe import Recipe
from keylm.recipe_sections import Source
from keylm.tokenizer import END_OF_TEXT, DocumentTokenizer, Mask, Tokens

BATCH_BYTES = 1 << 20
"""Text that is tokenized in one go."""


def build_shards(recipe: Recipe, tokenizer_folder: Path, folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Build the shards of all used sources in `folder` and return the manifest.

    Raises KeylmError where a source cannot be read or gives no window to train on.
    """
    tokenizer = DocumentTokenizer(tokenizer_folder)
    tokenizer_hash = sha256_file(tokenizer_folder / "tokenizer.json")
    entries = {}
    for name, source in recipe.used_sources.items():
        builder = SourceBuilder(recipe, name, source, tokenizer, tokenizer_hash, folder / name)
        entries[name] = builder.build(quiet=quiet)
    manifest: dict[str, Any] = {
        "format": 1,
        "context": recipe.training.context,
        "holdout": recipe.evaluation.holdout,
        "tokenizer_sha256": tokenizer_hash,
        "sources": entries,
    }
    manifest["hash"] = manifest_hash(manifest)
    write_json(folder / "manifest.json", manifest)
    return manifest


class SourceBuilder:
    """Builds one source's shards in its own folder."""

    _log: IO[str]

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        source: Source,
        tokenizer: DocumentTokenizer,
        tokenizer_hash: str,
        folder: Path,
    ) -> None:
        self._name, self._source, self._tokenizer, self._folder = name, source, tokenizer, folder
        self._context, self._holdout = recipe.training.context, recipe.evaluation.holdout
        self._settings = {
            "context": self._context,
            "holdout": self._holdout,
            "tokenizer_sha256": tokenizer_hash,
            "loss": source.loss,
            "max_bytes": source.max_bytes,
        }

    def build(self, *, quiet: bool) -> dict[str, Any]:
        """Return the source's manifest entry, building its shards unless they stand there already."""
        fingerprint = sha256_json([self._settings, str(self._source.path), source_inputs(self._name, self._source)])
        done = self._folder / "source.json"
        finished = read_table(done)
        if finished.get("fingerprint") == fingerprint and self._all_there(finished["entry"]):
            return dict(finished["entry"])
        done.unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep(self._folder)
        for stale in self._folder.glob("*.safetensors"):
            stale.unlink()
        entry = self._build(quiet=quiet)
        write_json(done, {"fingerprint": fingerprint, "entry": entry})
        return entry

    def _all_there(self, entry: dict[str, Any]) -> bool:
        records = entry["train"]["shards"] + entry["validation"]["shards"]
        return all((self._folder / record["file"]).is_file() for record in records)

    def _build(self, *, quiet: bool) -> dict[str, Any]:
        lengths = self._tokenizer.byte_lengths()
        self._writers = {
            split: ShardWriter(self._folder, split, self._context, lengths) for split in ("train", "validation")
        }
        self._files: dict[str, int] = {}
        self._faults: Counter[str] = Counter()
        read = documents = 0
        with atomic_path(self._folder / "faults.jsonl") as path, path.open("w", encoding="utf-8") as log:
            self._log = log
            with Status(f"shards  {self._name}", quiet=quiet) as status:
                for batch, size in self._batches():
                    self._add(batch)
                    read += size
                    documents += len(batch)
                    status.update(0, f"{documents:,} documents, {read / 1e6:,.1f} MB")
        splits = {split: split_entry(writer.close()) for split, writer in self._writers.items()}
        if not splits["train"]["trained_tokens"]:
            why = "gives no answer to train on" if splits["train"]["tokens"] else "gives no document to train on"
            raise KeylmError(
                f"sources.{self._name}: {why} with loss = {self._source.loss!r} "
                f"(faults: {dict(self._faults) or 'none'}); see {self._folder / 'faults.jsonl'}"
            )
        self._tell(splits, quiet=quiet)
        return {**splits, "files": list(self._files), "faults": dict(sorted(self._faults.items()))}

    def _tell(self, splits: dict[str, Any], *, quiet: bool) -> None:
        train = splits["train"]
        faults = f", {sum(self._faults.values())} faults {dict(self._faults)}" if self._faults else ""
        say(
            f"shards  {self._name}: {train['documents']:,} documents, {train['tokens']:,} tokens"
            f" ({train['bytes'] / max(1, train['tokens']):.2f} bytes each),"
            f" {splits['validation']['tokens']:,} held out{faults}",
            quiet=quiet,
        )

    def _batches(self) -> Iterator[tuple[list[Document], int]]:
        """Yield the source's documents in batches of about BATCH_BYTES and their bytes, counting faults."""
        batch: list[Document] = []
        size = 0
        for item in read_source(self._name, self._source):
            if isinstance(item, Fault):
                self._count(item)
                continue
            batch.append(item)
            size += document_bytes(item)
            if size >= BATCH_BYTES:
                yield batch, size
                batch, size = [], 0
        if batch:
            yield batch, size

    def _count(self, fault: Fault) -> None:
        self._faults[fault.kind] += 1
        line = {"file": fault.file, "line": fault.line, "kind": fault.kind, "detail": fault.detail}
        self._log.write(json.dumps(line) + "\n")  # ASCII: a file name need not be valid Unicode

    def _add(self, batch: list[Document]) -> None:
        texts = iter(self._tokenizer.encode_texts([item.text for item in batch if item.text is not None]))
        for document in batch:
            content = content_hash(document)
            encoded = self._conversation(document) if document.messages else self._text(next(texts), content)
            if encoded is None:
                continue
            split = "validation" if is_held_out(content, self._holdout) else "train"
            file = self._files.setdefault(document.file, len(self._files))
            self._writers[split].add(*encoded, file, document.line, whole=bool(document.messages))

    def _text(self, tokens: Tokens, content: int) -> tuple[Tokens, Mask]:
        """Return a text that ends in `<|endoftext|>`; every other one, by its hash, begins with it too.

        So the model knows both a prompt that starts with it (as evaluation harnesses give to an empty context)
        and one that does not (as everybody else does).
        """
        opening = [END_OF_TEXT] * (content >> 40 & 1)
        tokens = np.concatenate([opening, tokens, [END_OF_TEXT]]).astype(np.uint16)
        return tokens, np.ones(len(tokens), dtype=np.bool_)

    def _conversation(self, document: Document) -> tuple[Tokens, Mask] | None:
        """Return a conversation that fits into one window, cut after an answer where it was longer."""
        tokens, answers, ends = self._tokenizer.encode_chat(document.messages)
        trained = answers if self._source.loss == "assistant" else np.ones(len(tokens), dtype=np.bool_)
        if len(tokens) <= self._context:
            return tokens, trained
        fitting = [
            end
            for end, turn in zip(ends, document.messages, strict=True)
            if end <= self._context and turn["role"] == "assistant"
        ]
        kind = "conversation_cut" if fitting else "conversation_too_long"
        self._count(Fault(document.file, document.line, kind, f"{len(tokens)} tokens"))
        return (tokens[: fitting[-1]], trained[: fitting[-1]]) if fitting else None
