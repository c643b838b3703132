"""PyTorch's own answers, with which every artefact is compared: the model in fp32, through transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from keylm.model.opening import open_model
from keylm.text.tokenizer import open_tokenizer_file

Array = npt.NDArray[np.float32]


class TorchModel:
    """A model folder in fp32 on the CPU, with a key-value cache."""

    def __init__(self, folder: Path) -> None:
        """Load a folder. Raises KeylmError if it is not a model."""
        model = open_model(folder)
        self.dtype: torch.dtype = model.dtype
        self.model = model.float().eval()
        self.reset()

    def reset(self) -> None:
        """Forget the tokens read so far."""
        self._cache: Any = None

    def read(self, ids: Sequence[int]) -> Array:
        """Read `ids` after those read before; return the logits of each [tokens, vocab]."""
        with torch.inference_mode():
            found = self.model(torch.tensor([list(ids)]), past_key_values=self._cache, use_cache=True)
        self._cache = found.past_key_values
        logits: Array = found.logits[0].numpy()
        return logits

    def weights(self) -> dict[str, Array]:
        """Return the fp32 parameters by name."""
        return {name: value.detach().numpy() for name, value in self.model.state_dict().items()}


class FileTokenizer:
    """A tokenizer.json, with special tokens read or as plain characters."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = open_tokenizer_file(folder)
        self.get_vocab = self._tokenizer.get_vocab

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of `text`; with `special`, what is spelled like a special token is one."""
        self._tokenizer.encode_special_tokens = not special
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
