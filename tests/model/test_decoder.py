"""The decoder against transformers' Qwen3, parameter counts, document masks."""

import pytest
import torch
from support.shapes import shape
from torch import Tensor

from keylm.model.attention import Packing
from keylm.model.decoder import Decoder, count_parameters, initialise
from keylm.model.folder import qwen3_config
from keylm.recipe.schema import Model

SMALL = shape(
    **{"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 96, "max_position_embeddings": 64},
)
VOCAB = 200


@pytest.fixture(scope="module")
def models() -> tuple[Decoder, torch.nn.Module]:
    """Ours and transformers', with the same random weights (none of them zero or one)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    ours = Decoder(SMALL, VOCAB)
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, mean=0.1 if parameter.ndim == 1 else 0, std=0.2, generator=generator)
    theirs = Qwen3ForCausalLM(Qwen3Config(**qwen3_config(SMALL, VOCAB)))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs.eval()


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (2, 40), generator=torch.Generator().manual_seed(seed))


def test_logits_equal_transformers(models):
    ours, theirs = models
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=0)


def test_gradients_equal_transformers(models):
    ours, theirs = models
    for model in models:
        model.zero_grad()
        output = model(tokens())
        logits = output if isinstance(output, Tensor) else output.logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens(2).flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=0)


def test_the_75m_shape_has_exactly_75_251_200_parameters():
    shape = Model(
        hidden_size=512,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1280,
        max_position_embeddings=2048,
    )
    assert count_parameters(shape, 12_020) == 75_251_200


def test_changing_one_document_changes_no_logit_of_another(models):
    ours, _ = models
    documents = torch.tensor([[0] * 13 + [1] * 27, [0] * 30 + [1] * 10], dtype=torch.int32)
    before = tokens()
    changed = torch.where(documents == 0, (before + 7) % VOCAB, before)
    with torch.no_grad():
        one, two = ours(before, Packing(documents)), ours(changed, Packing(documents))
    assert torch.equal(one[documents == 1], two[documents == 1])
    assert not torch.equal(one[documents == 0], two[documents == 0])


def test_a_packed_document_has_the_logits_it_has_alone(models):
    ours, _ = models
    documents = torch.tensor([[0] * 13 + [1] * 27] * 2, dtype=torch.int32)
    with torch.no_grad():
        packed, alone = ours(tokens(), Packing(documents)), ours(tokens()[:, 13:])
    torch.testing.assert_close(packed[:, 13:], alone, atol=1e-5, rtol=0)


def test_no_token_sees_what_follows(models):
    ours, _ = models
    changed = tokens().clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB
    with torch.no_grad():
        assert torch.equal(ours(tokens())[:, :20], ours(changed)[:, :20])


def test_initial_weights_depend_on_seed_and_name_alone():
    one, two, other = (Decoder(SMALL, VOCAB) for _ in range(3))
    torch.manual_seed(3)
    initialise(one, seed=1)
    torch.manual_seed(4)
    initialise(two, seed=1)
    initialise(other, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert not one.model.layers[0].self_attn.o_proj.weight.any()
