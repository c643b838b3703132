"""Muon against its definition, the optimizer's state round trip, the schedule."""

import copy
import itertools

import pytest
import torch
from pydantic import ValidationError
from support.shapes import SHAPE

from keylm.base.errors import KeylmError
from keylm.model.decoder import Decoder, initialise
from keylm.recipe.schema import Optimizer
from keylm.recipe.stage import Stage
from keylm.training.optimizer import NEWTON_SCHULZ, Muon, Optimizers, orthogonalise
from keylm.training.schedule import averaging_rate, multiplier


@pytest.mark.parametrize("shape", [(4, 24, 24), (3, 16, 40), (3, 40, 16)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3
    assert (values > 0.3).float().mean() > 0.95
    torch.testing.assert_close(
        u.mT @ result @ v.mT, torch.diag_embed(torch.diagonal(u.mT @ result @ v.mT, 0, 1, 2)), atol=1e-3, rtol=0
    )


def test_muon_equals_a_plain_loop_over_matrices():
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 8), (8, 8), (24, 8), (8, 24)]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    expected = [parameter.detach().clone() for parameter in parameters]
    momenta = [torch.zeros(shape) for shape in shapes]
    muon = Muon(parameters, lr=0.02, weight_decay=0.1)
    for step in range(3):
        muon.param_groups[0]["momentum"] = beta = 0.85 + step / 20
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for weight, momentum, parameter in zip(expected, momenta, parameters, strict=True):
            momentum.mul_(beta).add_(parameter.grad, alpha=1 - beta)
            update = newton_schulz(parameter.grad * (1 - beta) + momentum * beta)
            weight.mul_(1 - 0.02 * 0.1).sub_(0.02 * max(1, weight.shape[0] / weight.shape[1]) ** 0.5 * update)
        muon.step()
    for weight, parameter in zip(expected, parameters, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "along"), [((24, 8), 1), ((8, 24), 0), ((8, 8), 1)])
def test_normalised_neurons_get_updates_of_one_length_in_the_same_directions(shape, along):
    """Also one whose gradient is a thousandth of the others'; one without any stays where it is."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    neurons = gradient if along else gradient.mT
    neurons[1] *= 1e-3
    neurons[2] = 0
    plain, equal = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    for parameter, normalise in ((plain, False), (equal, True)):
        parameter.grad = gradient.clone()
        Muon([parameter], lr=1.0, weight_decay=0.0, normalise_neurons=normalise).step()
    # The parameter after one step from zero is the update, times the matrix's factor.
    update = (equal if along else equal.mT).detach() / max(1.0, shape[0] / shape[1]) ** 0.5
    lengths = update.norm(dim=1)
    assert lengths[2] == 0
    torch.testing.assert_close(lengths[lengths > 0], torch.full((len(lengths) - 1,), (8 / max(shape)) ** 0.5))
    cosines = torch.nn.functional.cosine_similarity(equal.detach(), plain.detach(), dim=along)
    assert (cosines.sort().values[1:] > 0.999).all()  # but that of the one that has none
    assert (plain if along else plain.mT).detach()[1].norm() < 0.5 * lengths[1] or shape[0] == shape[1]


def test_a_neuron_of_little_gradient_outlives_the_decay_where_they_are_normalised():
    """The same steps wear it down without."""
    lengths = []
    for normalise in (False, True):
        generator = torch.Generator().manual_seed(3)
        parameter = torch.nn.Parameter(torch.randn((24, 8), generator=generator))
        muon = Muon([parameter], lr=0.1, weight_decay=0.5, normalise_neurons=normalise)
        for _ in range(200):
            parameter.grad = torch.randn((24, 8), generator=generator)
            parameter.grad[5] *= 1e-4
            muon.step()
        lengths.append(parameter.detach().norm(dim=1)[5] / parameter.detach().norm(dim=1).median())
    assert lengths[0] < 0.01
    assert 0.5 < lengths[1] < 2


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """One matrix at a time, as published."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def stepped(model: Decoder, optimizers: Optimizers, steps: range) -> None:
    for step in steps:
        tokens = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(step))
        torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizers.step(step, 0.5)


def test_state_goes_out_and_in_without_a_trace():
    model = Decoder(SHAPE, 50)
    initialise(model, 0)
    optimizers = Optimizers(model, Optimizer())
    stepped(model, optimizers, range(3))
    copied = copy.deepcopy(model)
    taken = Optimizers(copied, Optimizer())
    taken.load_state_tensors({name: value.clone() for name, value in optimizers.state_tensors().items()})
    stepped(model, optimizers, range(3, 6))
    stepped(copied, taken, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))


def test_every_parameter_is_in_exactly_one_optimizer():
    model = Decoder(SHAPE, 50)
    optimizers = Optimizers(model, Optimizer())
    held = [p for o in (optimizers.muon, optimizers.adamw) for group in o.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    assert all(p.ndim == 2 and p.shape[0] != 50 for group in optimizers.muon.param_groups for p in group["params"])


def test_foreign_state_is_refused():
    with pytest.raises(KeylmError, match="does not belong to this model"):
        Optimizers(Decoder(SHAPE, 50), Optimizer()).load_state_tensors({"muon/momentum/other": torch.zeros(1)})


def test_schedule_climbs_stays_and_falls():
    stage = Stage(tokens=1, weights={"a": 1}, peak=0.5, final=0.1, warmup=0.1, decay=0.4)
    course = [multiplier(stage, step, 100) for step in range(100)]
    assert course[0] == pytest.approx(0.05)
    assert course[9:60] == [0.5] * 51
    assert all(a > b for a, b in itertools.pairwise(course[60:]))
    assert 0.05 < course[99] < 0.07
    assert multiplier(Stage(tokens=1, weights={"a": 1}), 0, 1) == 1.0


def test_weights_are_averaged_only_while_the_rate_decays():
    stage = Stage(tokens=1, weights={"a": 1}, decay=0.4, average=0.25)
    assert [averaging_rate(stage, step, 100) for step in (0, 59, 60, 99)] == [None, None, 0.1, 0.1]
    assert averaging_rate(stage.model_copy(update={"average": 0.0}), 99, 100) is None
    assert averaging_rate(stage.model_copy(update={"average": 0.001}), 99, 100) == 1.0
    with pytest.raises(ValidationError, match="without a decay"):
        Stage(tokens=1, weights={"a": 1}, average=0.5)


def test_the_mean_becomes_the_weights_at_the_end_and_survives_a_checkpoint():
    model = Decoder(SHAPE, 50)
    initialise(model, 0)
    optimizers, weight = Optimizers(model, Optimizer()), model.model.norm.weight
    optimizers.average(None, ends=False)
    assert not optimizers.state_tensors()
    expected = None
    for step in range(4):
        with torch.no_grad():
            weight.fill_(float(step))
        if step == 2:  # resumed
            state = optimizers.state_tensors()
            assert set(state) == {f"average/mean/{name}" for name, _ in model.named_parameters()}
            optimizers = Optimizers(model, Optimizer())
            optimizers.load_state_tensors(state)
        optimizers.average(0.25, ends=step == 3)
        expected = float(step) if expected is None else expected + 0.25 * (step - expected)
    assert weight.tolist() == pytest.approx([expected] * len(weight))
    assert not optimizers.state_tensors()
