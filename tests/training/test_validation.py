"""Losses against slow and obvious computations; training on noisy sources, killed and gone on with."""

import math
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.programs import Program
from support.recipes import with_shards
from torch.nn import functional as F

from keylm.base.json_lines import read_rows
from keylm.data.curriculum import Batch
from keylm.model.attention import Packing
from keylm.pipeline.run import run
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.training.distributed import Ranks
from keylm.training.loop import Trainer
from keylm.training.prefetch import feed, label_bytes
from keylm.training.validation import token_losses, validate

CPU = Ranks(0, 1, torch.device("cpu"))


def test_token_losses_are_cross_entropy() -> None:
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 3, 0, 10, 2], [-100] * 6])
    losses = token_losses(logits, labels)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected)


def test_label_bytes_count_labels_alone() -> None:
    lengths = np.array([0, 1, 5, 2])
    assert label_bytes(np.array([[2, -100, 3, 0]]), lengths).tolist() == [[5, 0, 2, 0]]


NOISE = [
    *("model.max_position_embeddings=256", "training.context=256", "training.batch_tokens=1024"),
    'sources.noisy={typos_of=["tales", "chat"], forms={masked=1, correction=1, pair=3}}',
    "stages={noisy={tokens=12288, weights={noisy=3, tales=1}}}",
    *(
        "data.shard_tokens=4096",
        "training.micro_batch_windows=3",
        "checkpoints.every_steps=2",
        "training.pair_weight=2",
    ),
]
STEPS = 12


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe with all forms of typos, and a run whose shards are built."""
    return with_shards(tmp_path_factory.mktemp("noisy"), NOISE)


@pytest.fixture(scope="module")
def undisturbed(prepared: tuple[Recipe, Path]) -> RunFolder:
    folder = RunFolder(Path(shutil.copytree(prepared[1] / "run", prepared[1] / "undisturbed")))
    Trainer(prepared[0], folder, CPU, quiet=True).run()
    return folder


def trainer(prepared: tuple[Recipe, Path], name: str) -> Trainer:
    folder = RunFolder(Path(shutil.copytree(prepared[1] / "run", prepared[1] / name)))
    return Trainer(prepared[0], folder, CPU, quiet=True)


def paired_batch(some: Trainer) -> Batch:
    return next(b for b in map(some._loader.batch, range(STEPS)) if b.partners is not None and (b.partners >= 0).any())


def test_training_on_pairs_draws_them_together(undisturbed: RunFolder) -> None:
    rows = read_rows(undisturbed.metrics, "train")
    assert len(rows) == STEPS
    assert sum(row["pair_loss"] > 0 for row in rows) > STEPS / 2
    assert all(math.isfinite(row["pair_loss"]) and row["pair_loss"] >= 0 for row in rows)
    [last] = read_rows(undisturbed.metrics, "validation")[-1:]
    assert last["bits_per_byte"].keys() == {"tales", "noisy"}


def test_gradients_are_those_of_both_losses_over_all_trained_tokens(prepared: tuple[Recipe, Path]) -> None:
    some = trainer(prepared, "gradients")
    batch = paired_batch(some)
    share = feed(batch, some._settings, some._byte_lengths, CPU.device)
    sums = some._global_sums(share, *some._gradients(share))
    weight = some._bare_model.lm_head.weight
    found = weight.grad.clone()
    some._bare_model.zero_grad()
    logits = some._bare_model(torch.from_numpy(batch.tokens), Packing(torch.from_numpy(batch.documents)))
    labels = torch.from_numpy(batch.labels)
    trained = int((labels >= 0).sum())
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    z = some._settings.z_loss * logits.logsumexp(-1)[labels >= 0].square().mean()
    pairs = logits.new_zeros(())
    for window, noisy in np.argwhere(batch.partners >= 0):
        clean = logits[window, batch.partners[window, noisy]].detach()
        pairs = pairs + F.kl_div(
            logits[window, noisy].log_softmax(-1), clean.log_softmax(-1), reduction="sum", log_target=True
        )
    (loss + z + 2 * pairs / trained).backward()
    assert pairs > 0
    assert sums["pair_loss"] == pytest.approx(2 * pairs.item(), rel=1e-4)
    torch.testing.assert_close(found, weight.grad, atol=1e-6, rtol=1e-4)


def test_twins_do_not_see_each_other(prepared: tuple[Recipe, Path]) -> None:
    some = trainer(prepared, "twins")
    batch = paired_batch(some)
    window, noisy = np.argwhere(batch.partners >= 0)[0]
    tokens, documents = (torch.from_numpy(array[window : window + 1]) for array in (batch.tokens, batch.documents))
    packing = Packing(documents)
    before = some._bare_model(tokens, packing)[0, noisy]
    clean = int(batch.partners[window, noisy])
    altered = tokens.clone()
    altered[0, clean] = 300 if altered[0, clean] != 300 else 301
    torch.testing.assert_close(some._bare_model(altered, packing)[0, noisy], before, rtol=0, atol=0)
    assert not torch.equal(some._bare_model(altered, packing)[0, clean], before)


def test_a_killed_run_with_typos_goes_on_and_leaves_no_trace(
    prepared: tuple[Recipe, Path], undisturbed: RunFolder
) -> None:
    folder = RunFolder(Path(shutil.copytree(prepared[1] / "run", prepared[1] / "killed")))
    sets = [part for item in NOISE for part in ("--set", item)]
    recipe, target = str(prepared[1] / "recipe.toml"), str(folder.path)
    command = [sys.executable, "-m", "keylm", "run", recipe, "--run-dir", target, "--until", "train", *sets]
    process = Program(command)
    deadline = time.monotonic() + 120
    while not checkpoint_paths(folder.checkpoints) or len(read_rows(folder.metrics, "train")) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    run(prepared[0], folder.path, until="train", quiet=True)
    assert folder.metrics.read_bytes() == undisturbed.metrics.read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (checkpoint_paths(one.checkpoints)[-1] / name for one in (folder, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes()


def test_validation_is_the_mean_over_the_held_out_windows(prepared: tuple[Recipe, Path]) -> None:
    some = trainer(prepared, "validated")
    store, model = some._store, some._bare_model
    names = ["tales", "noisy"]
    losses = some._bare_objective.token_losses
    result = validate(losses, store, names, some._byte_lengths, 10**6, some._settings, CPU)
    for name in names:
        loss = tokens = text = size = 0.0
        for index in range(store.held_out(name)):
            window = store.window(name, 0, index, "validation")
            with torch.no_grad():
                logits = model(
                    torch.from_numpy(window.tokens[None].astype(np.int64)),
                    Packing(torch.tensor(window.documents[None])),
                )
            labels = torch.from_numpy(window.labels)
            losses = F.cross_entropy(logits[0], labels, ignore_index=-100, reduction="none")
            sizes = torch.from_numpy(label_bytes(window.labels, some._byte_lengths))
            loss, tokens = loss + losses.sum().item(), tokens + (labels >= 0).sum().item()
            text, size = text + losses[sizes > 0].sum().item(), size + sizes.sum().item()
        assert result["loss"][name] == pytest.approx(loss / tokens, rel=1e-5)
        assert result["bits_per_byte"][name] == pytest.approx(text / math.log(2) / size, rel=1e-5)
