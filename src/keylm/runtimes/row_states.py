"""What a batch of texts that are being written has on the device, row by row of the cache, and how a token changes it.

Nothing here waits for the device: the host looks at `flags` when it likes. The last row is a spare one: batches are
filled up with it, and what it is given counts for nothing.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from keylm.runtimes.sampling import Chosen, RowSettings, Sampling


class RowText(NamedTuple):
    """A finished text."""

    ids: list[int]
    """Its tokens, that which ended it included."""
    log_probabilities: list[float]
    broken: bool


class RowStates:
    """Texts in `rows` rows of at most `room` new tokens, and a spare row."""

    def __init__(self, rows: int, room: int, vocab_size: int, ends: Iterable[int], device: torch.device) -> None:
        self.rows, self.room, self._device = rows, room, device
        whole = rows + 1

        def zeros(dtype: torch.dtype, *size: int) -> Tensor:
            return torch.zeros(size or (whole,), dtype=dtype, device=device)

        self.token, self.length, self.written, self.limit = (zeros(torch.int64) for _ in range(4))
        """The token that is not in the cache yet; tokens in the cache; tokens drawn; the most that are to be."""
        self.done = torch.ones(whole, dtype=torch.bool, device=device)
        self.broken = zeros(torch.bool)
        self.settings = RowSettings(
            temperature=zeros(torch.float32),
            top_k=zeros(torch.int32),
            top_p=zeros(torch.float32),
            min_p=zeros(torch.float32),
            penalty=torch.ones(whole, device=device),
            seed=zeros(torch.int64),
        )
        self.seen = zeros(torch.bool, whole, vocab_size)
        self.ids = zeros(torch.int64, whole, room)
        self.log_probabilities = zeros(torch.float32, whole, room)
        self._ends = zeros(torch.bool, vocab_size)
        self.set_ends(ends)

    @torch.inference_mode()
    def set_ends(self, ends: Iterable[int]) -> None:
        """Choose the tokens that end a text."""
        self._ends.zero_()
        self._ends[torch.tensor(sorted(ends), dtype=torch.int64, device=self._device)] = True

    @torch.inference_mode()
    def begin(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]], limits: Sequence[int], seeds: Sequence[int]
    ) -> None:
        """Take new texts, of at most `limits` new tokens each, whose prompts are being read into the cache."""
        table = torch.tensor([rows, [len(ids) for ids in prompts], limits, seeds]).to(self._device)
        at, lengths, most, bits = table
        self.length[at], self.limit[at], self.settings.seed[at] = lengths, most, bits
        self.written[at] = 0
        self.done[at] = self.broken[at] = False

    @torch.inference_mode()
    def set_sampling(self, sampling: Sampling) -> None:
        """Sample all texts by these settings."""
        self.settings.temperature.fill_(0.0 if sampling.greedy else sampling.temperature)
        self.settings.top_k.fill_(sampling.top_k)
        self.settings.top_p.fill_(sampling.top_p)
        self.settings.min_p.fill_(sampling.min_p)
        self.settings.penalty.fill_(sampling.repetition_penalty)

    @torch.inference_mode()
    def mark_seen(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Record the tokens of prompts, for the repetition penalty."""
        at = torch.tensor(rows).to(self._device)
        self.seen[at] = False
        owners = torch.repeat_interleave(torch.tensor(rows), torch.tensor([len(ids) for ids in prompts]))
        tokens = torch.tensor([token for ids in prompts for token in ids])
        self.seen[tuple(torch.stack((owners, tokens)).to(self._device))] = True

    @torch.inference_mode()
    def count_read(self, rows: Tensor) -> None:
        """Count the newest token of `rows` as cached."""
        self.length[rows] += (~self.done[rows]).long()

    @torch.inference_mode()
    def advance(self, rows: Tensor, chosen: Chosen) -> None:
        """Add a token to each of `rows` that is not done."""
        alive, tokens = ~self.done[rows], chosen.ids
        at = self.written[rows].clamp(max=self.room - 1)  # a done row may be full
        self.ids[rows, at] = torch.where(alive, tokens, self.ids[rows, at])
        self.log_probabilities[rows, at] = torch.where(
            alive, chosen.log_probabilities, self.log_probabilities[rows, at]
        )
        self.seen[rows, tokens] = self.seen[rows, tokens] | alive
        written = self.written[rows] + alive.long()
        self.written[rows], self.token[rows] = written, tokens
        broken = alive & chosen.broken
        self.broken[rows] = self.broken[rows] | broken
        self.done[rows] = ~alive | broken | self._ends[tokens] | (written >= self.limit[rows])

    @torch.inference_mode()
    def stop(self, rows: Sequence[int]) -> None:
        """End texts where they are."""
        self.done[torch.tensor(rows, dtype=torch.int64).to(self._device)] = True

    @torch.inference_mode()
    def flags(self, rows: Sequence[int]) -> tuple[list[bool], list[int]]:
        """Return whether each text is done, and how many tokens it has; waits for the device."""
        at = torch.tensor(rows).to(self._device)
        done, written = torch.stack((self.done[at].long(), self.written[at])).tolist()
        return [bool(each) for each in done], written

    @torch.inference_mode()
    def texts(self, rows: Sequence[int], written: Sequence[int]) -> list[RowText]:
        """Return the tokens of texts that have `written` each; waits for the device."""
        at, most = torch.tensor(rows).to(self._device), max(written)
        ids, scores = self.ids[at, :most].tolist(), self.log_probabilities[at, :most].tolist()
        return [
            RowText(tokens[:count], values[:count], broken)
            for tokens, values, count, broken in zip(ids, scores, written, self.broken[at].tolist(), strict=True)
        ]
