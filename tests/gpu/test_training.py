"""On a GPU: the fast path computes what the plain one does, and a killed run goes on with the same bits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.gpu_settings import SETTINGS, STEPS
from support.recipes import tiny_recipe

from keylm.base.json_lines import read_rows
from keylm.model.attention import NEWEST_SIZES, TORCH, attend, document_mask, newest_kernel
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer
from keylm.training.objective import loss_and_grad
from keylm.training.prefetch import cumulative_lengths

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
FAST = ["training.precision=bf16", "training.compile=true"]
PLAIN = ["training.precision=fp32", "training.attention=masked"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose shards are built."""
    folder = tmp_path_factory.mktemp("gpu")
    run(tiny_recipe(folder, SETTINGS), folder / "run", until="shards", quiet=True)
    return folder


def trainer(prepared: Path, name: str, *settings: str, resumed: bool = False) -> Trainer:
    recipe: Recipe = tiny_recipe(prepared, [*SETTINGS, *settings])
    if not resumed:
        shutil.copytree(prepared / "run", prepared / name)
    return Trainer(recipe, RunFolder(prepared / name), Ranks(0, 1, torch.device("cuda", 0)), quiet=True)


def losses(prepared: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_rows(prepared / name / "metrics.jsonl", "train")]


def test_the_fast_path_follows_the_fp32_reference_over_50_steps(prepared: Path):
    trainer(prepared, "plain", *PLAIN).run()
    trainer(prepared, "fast", *FAST).run()
    plain, fast = losses(prepared, "plain"), losses(prepared, "fast")
    assert len(plain) == len(fast) == STEPS
    assert plain[-1] < 0.8 * plain[0]
    assert fast == pytest.approx(plain, rel=0.02)
    assert np.mean(fast) == pytest.approx(np.mean(plain), rel=0.003)
    ours, theirs = (read_rows(prepared / name / "metrics.jsonl", "validation")[-1] for name in ("fast", "plain"))
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], rel=0.02)


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_a_stopped_run_goes_on_bit_for_bit_in_deterministic_mode(prepared: Path, compiled: str):
    settings = ("training.precision=bf16", f"training.compile={compiled}", "training.deterministic=true")
    names = [f"{kind}-{compiled}" for kind in ("undisturbed", "disturbed")]
    trainer(prepared, names[0], *settings).run()
    first = trainer(prepared, names[1], *settings)
    for _ in range(20):
        first._record(first.train_step()[0], 1.0, NoStatus())
    first._save()
    first._writer.wait()
    for _ in range(7):  # what a kill throws away
        first._record(first.train_step()[0], 1.0, NoStatus())
    trainer(prepared, names[1], *settings, resumed=True).run()
    one, two = (checkpoint_paths(prepared / name / "checkpoints")[-1] for name in names)
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert losses(prepared, names[0]) == losses(prepared, names[1])
    torch.use_deterministic_algorithms(False)


class NoStatus:
    """A progress line that shows nothing."""

    def update(self, step: int, text: str) -> None:
        pass


DOCUMENTS = np.sort(np.random.default_rng(0).integers(0, 9, (3, 512)), axis=1).astype(np.int32)


@pytest.mark.parametrize("name", ["torch", "newest"])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_variable_length_kernels_give_what_the_mask_gives(name: str, head_dim: int):
    device = torch.device("cuda", 0)
    kernel = TORCH if name == "torch" else newest_kernel(device)
    if kernel is None or (name == "newest" and head_dim not in NEWEST_SIZES):
        pytest.skip("flash-attn-4 is not installed, or not for this GPU or size")
    numbers = torch.from_numpy(DOCUMENTS).to(device)
    cu_seqlens = torch.from_numpy(cumulative_lengths(DOCUMENTS)).to(device)
    shapes = [(3, 512, heads, head_dim) for heads in (8, 2, 2)]
    drawn = [torch.randn(shape, device=device) for shape in shapes]
    grad = torch.randn(shapes[0], device=device)
    leaves = [tensor.double().requires_grad_() for tensor in drawn]
    expected = attend(*leaves, None, document_mask(numbers))
    expected.backward(grad.double())
    q, k, v, grad = (tensor.bfloat16().flatten(0, 1) for tensor in (*drawn, grad))
    out, lse = kernel.forward(q, k, v, cu_seqlens, 512)
    gradients = kernel.backward(grad, q, k, v, out, lse, cu_seqlens, 512)
    exact = [expected.detach(), *[leaf.grad for leaf in leaves]]
    for wanted, found in zip(exact, [out, *gradients], strict=True):
        assert (found.double().view_as(wanted) - wanted).norm() / wanted.norm() < 0.01


@pytest.mark.parametrize("columns", [1000, 1024])
def test_compiled_slopes_are_the_gradients_of_the_plain_loss(columns: int):
    generator = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn(64, columns, device="cuda", generator=generator)
    labels = torch.randint(0, 1000, (64,), device="cuda", generator=generator)
    labels[::5] = -100
    exact = logits[:, :1000].double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(exact, labels, ignore_index=-100, reduction="sum")
    squares = (exact.logsumexp(-1) * (labels >= 0)).square().sum()
    (loss + 0.01 * squares).backward()
    found, found_squares, grad = torch.compile(loss_and_grad, dynamic=False)(logits, labels, 0.01, 1000)
    torch.testing.assert_close(found.sum().double(), loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found_squares.double(), squares.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(grad[:, :1000].double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert not grad[:, 1000:].any()
