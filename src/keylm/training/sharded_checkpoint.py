"""The files of a sharded checkpoint: each rank writes its rows, anyone reads them, whole or in part.

The files are safetensors with the place of each shard in their metadata, by torch.distributed.checkpoint
(`HuggingFaceStorageWriter`, `HuggingFaceStorageReader`), which is imported only where it is used.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from keylm.base.errors import KeylmError
from keylm.training.distributed import Ranks, leave


def write_shards(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Write this rank's part of `tensors` (plain ones are written by one rank) to a file in `folder`.

    Called by every rank of `ranks`, on a file system that all of them see. Raises KeylmError on rank 0 and
    FailedElsewhere on the others where any of them fails.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with _failures(folder, ranks):
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(tensors, storage_writer=writer, process_group=ranks.group)


@contextlib.contextmanager
def _failures(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Raise what failed on some rank as one message."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        if not ranks.leads:
            leave(str(cause))
        raise KeylmError(f"{folder.parent}: cannot be written by process {rank}: {cause}") from None


def names_in(files: list[Path]) -> list[str]:
    """Return the names of the tensors in safetensors files, each once."""
    found: dict[str, None] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found.update(dict.fromkeys(opened.keys()))
    return list(found)


def read_into(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill `tensors` by name from the files in `folder`: sharded ones with this rank's rows alone. No rank waits."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():  # that this is one process of one is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Return all tensors in `folder`, each put together from its shards, on the CPU."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    entries = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    read_into(folder, tensors)
    return tensors
