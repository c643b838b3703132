"""The objective's losses and gradients are those of the plain formulas; pairs draw the noisy side to the clean one."""

import numpy as np
import pytest
import torch
from support.shapes import shape
from torch import nn
from torch.nn import functional as F

from keylm.model.attention import Packing
from keylm.model.decoder import Decoder, initialise
from keylm.training import objective
from keylm.training.objective import Losses, Objective, partner_loss

VOCABULARY, Z_LOSS, PAIR_WEIGHT = 40, 0.01, 0.5
HEAD = nn.Identity()
"""For the partner loss: what is given are logits already."""


@pytest.fixture
def decoder() -> Decoder:
    model = Decoder(shape(hidden_size=16, head_dim=8, intermediate_size=24, max_position_embeddings=12), VOCABULARY)
    initialise(model, 3)
    with torch.no_grad():
        for parameter in model.parameters():  # projections and head start at (about) zero
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, Packing]:
    """Tokens, labels and documents of 3 windows of 12; the last one trains nothing."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (3, 12), generator=generator)
    labels = torch.randint(0, VOCABULARY, (3, 12), generator=generator)
    labels[0, ::3] = labels[2] = -100
    return tokens, labels, Packing((torch.arange(12) // 5).int().expand(3, 12))


def plainly(decoder: Decoder, tokens, labels, packing, partners) -> Losses:
    """All logits at once, one formula after the other."""
    logits = decoder(tokens, packing).float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    z_loss = Z_LOSS * (logits.logsumexp(-1) * (labels >= 0)).square().sum()
    pair = PAIR_WEIGHT * sum(
        F.kl_div(logits[row, noisy].log_softmax(-1), logits[row, clean].detach().softmax(-1), reduction="sum")
        for row, noisy, clean in partners
    )
    others = torch.stack([z_loss, torch.as_tensor(pair, dtype=torch.float32)])
    return Losses(losses.sum() + others.sum(), losses.view_as(labels).sum(1), others)


def gradients(decoder: Decoder, total: torch.Tensor) -> dict[str, torch.Tensor]:
    decoder.zero_grad()
    (total / 7).backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}


@pytest.mark.parametrize("logits", [1, 5 * VOCABULARY, 10**9])
@pytest.mark.parametrize("pairs", [[], [(0, 9, 2), (1, 11, 0)]])
def test_losses_and_gradients_are_those_of_the_plain_formulas(decoder, batch, pairs, logits, monkeypatch) -> None:
    monkeypatch.setattr(objective, "CACHED_LOGITS", logits)
    partners = partners_at(*pairs, size=(3, 12)) if pairs else None
    expected = plainly(decoder, *batch, pairs)
    wanted = gradients(decoder, expected.total)
    found = Objective(decoder, Z_LOSS, PAIR_WEIGHT)(*batch, partners)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(decoder, found.total).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_keeps_the_losses_in_fp32_and_the_gradients_close(decoder, batch) -> None:
    wanted = gradients(decoder, plainly(decoder, *batch, []).total)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Objective(decoder, Z_LOSS, PAIR_WEIGHT)(*batch, None)
    assert {value.dtype for value in found} == {torch.float32}
    for name, gradient in gradients(decoder, found.total).items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, wanted[name], rtol=0.1, atol=0.03 * wanted[name].abs().max().item())


def some_logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(seed))


def partners_at(*pairs: tuple[int, int, int], size: tuple[int, int] = (2, 6)) -> torch.Tensor:
    """Return partners of (window, noisy position, clean position)."""
    partners = torch.full(size, -1, dtype=torch.int64)
    for window, noisy, clean in pairs:
        partners[window, noisy] = clean
    return partners


def test_the_partner_loss_is_zero_where_both_sides_say_the_same() -> None:
    logits = some_logits()
    logits[0, 4] = logits[0, 1] + 3.5  # the same distribution
    assert partner_loss(HEAD, logits, partners_at((0, 4, 1))).item() == pytest.approx(0, abs=1e-6)
    assert partner_loss(HEAD, logits, partners_at((0, 4, 2))).item() > 0.01


def test_the_partner_loss_is_the_divergence_worked_out_by_hand() -> None:
    pairs = [(0, 4, 1), (0, 5, 1), (1, 3, 0)]
    logits, total = some_logits(), 0.0
    for window, noisy, clean in pairs:
        p, q = (np.exp(logits[window, place].double().numpy()) for place in (clean, noisy))
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    assert partner_loss(HEAD, logits, partners_at(*pairs)).item() == pytest.approx(total, rel=1e-5)


def test_without_partners_there_is_no_partner_loss_and_no_nan() -> None:
    logits = some_logits().requires_grad_()
    loss = partner_loss(HEAD, logits, torch.full((2, 6), -1))
    assert loss.item() == 0
    (loss + logits.sum() * 0).backward()
    assert not logits.grad.any()


def test_the_gradient_flows_through_the_noisy_side_alone() -> None:
    logits = some_logits().requires_grad_()
    partner_loss(HEAD, logits, partners_at((0, 4, 1), (1, 3, 0))).backward()
    touched = logits.grad.abs().sum(dim=-1) > 0
    assert touched.nonzero().tolist() == [[0, 4], [1, 3]]
    stepped = logits.detach() - 0.5 * logits.grad
    after = partner_loss(HEAD, stepped, partners_at((0, 4, 1), (1, 3, 0)))
    assert after < partner_loss(HEAD, logits, partners_at((0, 4, 1), (1, 3, 0)))


def test_bf16_logits_are_compared_in_fp32() -> None:
    logits = some_logits().bfloat16()
    loss = partner_loss(HEAD, logits, partners_at((0, 4, 1)))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, partner_loss(HEAD, logits.float(), partners_at((0, 4, 1))))
