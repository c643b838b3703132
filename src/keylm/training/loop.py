"""The loop: one for pretraining, annealing and chat; stages differ in data, loss mask and schedule alone.

Invariants: the loss is divided by the number of trained tokens of the whole global batch, never a mean of means,
so micro-batches and ranks change nothing; a step without a trained token leaves the weights as they are
and gives no NaN; the state after step K depends on recipe and data only, so killing and resuming leaves no trace;
a checkpoint is copied before anything that could fail after it, and written in the background while training continues;
whatever ends training waits for it.
"""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keylm.base.console import Status, errors, say
from keylm.base.errors import Interrupted, KeylmError, TrainingDiverged
from keylm.base.json_lines import JsonLines
from keylm.base.machine import compute_deterministically, free_memory
from keylm.data.background_build import BackgroundBuild, open_store
from keylm.data.curriculum import BatchLoader, Curriculum
from keylm.model.decoder import Decoder, count_parameters, initialise
from keylm.model.fused import can_fuse
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder, checkpoint_paths
from keylm.recipe.run_identity import TrainingProvenance
from keylm.text.tokenizer import DocumentTokenizer
from keylm.training.benchmarks_in_training import draw_items, measure, pack_items
from keylm.training.checkpoint import (
    Checkpoint,
    CheckpointState,
    latest_checkpoint,
    prune,
    save_checkpoint,
    save_sharded_checkpoint,
)
from keylm.training.distributed import Ranks, check_share
from keylm.training.initial_model import load_initial
from keylm.training.objective import Objective
from keylm.training.optimizer import Optimizers
from keylm.training.prefetch import Feed, MicroBatch, Prefetcher, feed, suited
from keylm.training.schedule import averaging_rate, multiplier
from keylm.training.sharding import check_even, clip_gradients, shard, synchronise
from keylm.training.signals import StopSignals
from keylm.training.validation import validate
from keylm.training.writer import BackgroundWriter, snapshot


class Trainer:
    """A run's training, from its last checkpoint or from the start."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        ranks: Ranks,
        *,
        build: BackgroundBuild | None = None,
        quiet: bool = False,
    ) -> None:
        """Open the data (those that `build` is still making too), build the model, take up the newest sound checkpoint.

        Raises KeylmError where data, tokenizer or checkpoint do not belong to this recipe.
        """
        self._recipe, self._folder, self._ranks = recipe, folder, ranks
        self._quiet = quiet or not ranks.leads
        self._settings = suited(recipe.training, recipe.model.head_dim, ranks.device)
        self._sharded = ranks.world_size > 1 and self._settings.parallel == "fsdp"
        self._provenance = TrainingProvenance.of(recipe, folder)
        self._signals = StopSignals()
        self._may_prune = False
        compute_deterministically(self._settings.deterministic)
        items = ranks.lead(lambda: draw_items(recipe, quiet=self._quiet))  # first of all, as it may fail
        self._open_data(build)
        self._benchmarks = pack_items(items, folder.tokenizer, recipe.training.context)
        self._bare_model = self._build_model()
        self._bare_objective = Objective(self._bare_model, self._settings.z_loss, self._settings.pair_weight)
        if self._settings.compile:
            self._bare_objective.compile_parts(apart=self._sharded)  # shards are gathered layer by layer
        self._objective = self._spread(self._bare_objective)
        self._optimizers = Optimizers(self._bare_model, recipe.optimizer)
        self._writer, self._writers = BackgroundWriter(ranks.device), ranks.aside() if self._sharded else ranks
        self._step = 0
        self._open_logs(self._resume())

    def run(self) -> None:
        """Train to the end of the last stage. Raises TrainingDiverged, Interrupted."""
        self._saved_at = time.monotonic()
        total, evaluate_every = self._curriculum.total_steps, self._recipe.evaluation.every_steps
        stage_ends = set(self._curriculum.stage_ends().values())
        with self._signals, self._writer, Status("train", total, start=self._step, quiet=self._quiet) as status:
            while self._step < total:
                if self._step % evaluate_every == 0 or self._step in stage_ends:
                    self._validate()
                if self._benchmarks_due():
                    self._measure_benchmarks()
                started = time.perf_counter()
                row, stop = self.train_step()
                self._record(row, time.perf_counter() - started, status)
                if stop or self._step in stage_ends or self._checkpoint_due():
                    self._save()
                if stop:
                    self._writer.wait()
                    self._ranks.wait()  # nobody leaves while the checkpoint is being written
                    raise Interrupted(
                        f"stopped after step {self._step} of {total}; the same command goes on from there"
                    )
            self._validate()
            self._measure_benchmarks()
            self._writer.wait()
            self._may_prune = True  # also of what a run that was killed at this place left
            self._prune()

    def _build_model(self) -> Decoder:
        """Return the model with its initial weights. Raises KeylmError where it cannot fit into memory."""
        shape, vocab_size = self._recipe.model, self._recipe.tokenizer.vocab_size
        # fp32 weights, gradients and at least one moment; checked first, because a system may promise what it lacks.
        needed, free = 12 * count_parameters(shape, vocab_size), free_memory(self._ranks.device)
        needed //= self._ranks.world_size if self._sharded else 1
        if free is not None and needed > free:
            raise KeylmError(
                f"model: needs at least {needed / 1e9:.1f} GB to train, {free / 1e9:.1f} GB are free; accepted: a "
                "smaller shape"
            )
        with torch.device("meta"):
            model = Decoder(shape, vocab_size)
        model.to_empty(device="cpu")  # no random values that `initialise` would replace
        if self._recipe.training.initial_model is None or checkpoint_paths(self._folder.checkpoints):
            initialise(model, self._recipe.seed)
        else:
            load_initial(model, self._recipe, self._folder)
        device = self._ranks.device
        if self._settings.computes_in_bf16(device.type) and can_fuse(device, shape.head_dim):
            model.fuse()
        return model if self._sharded else model.to(self._ranks.device)  # a shard goes there on its own

    def _spread(self, objective: Objective) -> nn.Module:
        """Return the objective as all ranks train it together."""
        if not self._sharded:
            return self._ranks.wrap(objective)
        bf16 = self._settings.computes_in_bf16(self._ranks.device.type)
        shard(objective, self._bare_model, self._ranks, bf16=bf16)
        return objective

    def _open_data(self, build: BackgroundBuild | None) -> None:
        recipe, folder = self._recipe, self._folder
        # One process a machine reads all shards through; the others rely on it.
        self._store = open_store(
            recipe, folder.shards, folder.tokenizer, reads_all=self._ranks.local_rank == 0, build=build
        )
        self._curriculum = Curriculum(recipe, self._store.layout)
        check_share(recipe.training.batch_windows, self._ranks.world_size)
        if self._sharded:
            check_even(recipe.training.batch_windows, self._ranks.world_size, recipe.training.micro_batch_windows)
        self._loader = BatchLoader(self._curriculum, self._store)
        self._byte_lengths = DocumentTokenizer(folder.tokenizer).byte_lengths()
        self._ahead = Prefetcher(self._load, self._curriculum.total_steps)

    def _load(self, step: int) -> Feed:
        """Return this rank's share of a step's batch; runs in a thread, a step ahead."""
        self._store.expect(step)
        batch = self._loader.batch(step, self._ranks.rank, self._ranks.world_size)
        return feed(batch, self._settings, self._byte_lengths, self._ranks.device)

    def _resume(self) -> CheckpointState | None:
        """Take up the newest sound checkpoint, if there is one, and return its state."""
        checkpoint = self._ranks.lead(self._find_checkpoint)
        if checkpoint is None:
            return None
        if self._sharded:
            moments = self._optimizers.blank_state(checkpoint.optimizer_names())
            checkpoint.read_into("model", self._bare_model.state_dict())
            checkpoint.read_into("optimizer", moments)
            self._optimizers.load_state_tensors(moments)
        else:
            self._bare_model.load_state_dict(checkpoint.model())
            self._optimizers.load_state_tensors(checkpoint.optimizer())
        self._step = checkpoint.step
        say(f"train  going on from step {self._step} of {self._curriculum.total_steps}", quiet=self._quiet)
        return checkpoint.state

    def _find_checkpoint(self) -> Checkpoint | None:
        """Return the newest sound checkpoint. Raises KeylmError where it is of another recipe or other data."""
        checkpoint = latest_checkpoint(self._folder.checkpoints, lambda text: errors.print(text))
        if checkpoint is None:
            return None
        for what, ours in self._belongs_to(checkpoint.step).items():
            theirs = getattr(checkpoint.state, what)
            if theirs != ours:
                raise KeylmError(
                    f"{checkpoint.folder}: was trained with other data or another recipe ({what}: SHA-256 "
                    f"{str(theirs)[:16]}…, here {ours[:16]}…); put that back, or start over with --fresh"
                )
        return checkpoint

    def _belongs_to(self, step: int) -> dict[str, str]:
        """Return the hashes that a checkpoint at `step` carries: of recipe, shards so far and initial model."""
        shards = self._store.prefix_hash(self._curriculum.shards_begun(step))
        return self._provenance.of_checkpoint(shards)

    def _open_logs(self, state: CheckpointState | None) -> None:
        if self._ranks.leads:
            self._metrics = JsonLines(self._folder.metrics, state.metrics_bytes if state else 0)
            if state and state.metrics_sha256 not in (None, self._metrics.sha256()):
                errors.print(
                    f"{self._folder.metrics}: was altered since the checkpoint at step {state.step}: training goes on "
                    "as if it had not been, but the file and the report show what is left of those steps"
                )
            self._timing = JsonLines(self._folder.timing, state.timing_bytes if state else 0)

    def train_step(self) -> tuple[dict[str, Any], bool]:
        """Do one update and return its metrics row, and whether any rank wants to stop."""
        name, within, steps = self._curriculum.place(self._step)
        share = self._ahead.take(self._step)
        losses = self._gradients(share)
        self._ahead.prepare(self._step + 1)
        # Requested before the losses are read: the device computes it meanwhile.
        clipped = clip_gradients(self._bare_model.parameters(), self._settings.clip_norm)
        sums = self._global_sums(share, *losses)
        norm = clipped.item()
        row = self._row(name, sums, norm)
        if not (math.isfinite(row["loss"]) and math.isfinite(norm)):
            raise TrainingDiverged(
                f"step {self._step} ({name}): loss {row['loss']}, gradient norm {norm}: training stopped; the "
                f"checkpoints in {self._folder.checkpoints} are untouched. Lower the learning rates or raise warmup. "
                "If it stops here again, delete the newest checkpoint to resume from the previous one"
            )
        self._prune()
        stage = self._recipe.stages[name]
        row["learning_rate_scale"] = multiplier(stage, within, steps)
        if sum(sums["tokens"]):
            self._optimizers.step(self._step, row["learning_rate_scale"])
        else:
            self._optimizers.skip()
        self._optimizers.average(averaging_rate(stage, within, steps), ends=within + 1 == steps)
        self._step += 1
        return row, bool(sums["stop"])

    def _gradients(self, share: Feed) -> tuple[Tensor, Tensor]:
        """Accumulate the gradients; return this rank's cross-entropies, fp32 [windows], and other losses, fp32 [2]."""
        ranks = self._ranks
        trained = torch.tensor([share.trained.sum()], dtype=torch.int64)
        # DistributedDataParallel averages over ranks; the loss is a sum over all of them.
        scale = ranks.world_size / max(1, int(ranks.sum(trained).item()))
        window_losses, other_losses = [], []
        for number, part in enumerate(share.parts, start=1):
            with self._synchronised(last=number == len(share.parts)):
                with self._autocast():
                    losses = self._objective(*part.to(ranks.device))
                (losses.total * scale).backward()
            window_losses.append(losses.windows)
            other_losses.append(losses.others)
        return torch.cat(window_losses), torch.stack(other_losses).sum(dim=0)

    def _global_sums(self, share: Feed, window_losses: Tensor, others: Tensor) -> dict[str, Any]:
        """Return the step's sums over all ranks; one reduction for all of them. others: [z-loss, pair loss]."""
        count = len(self._curriculum.sources)
        # Added up on the CPU in fp64: the order is fixed there, and Apple's GPUs have no fp64.
        packed = torch.zeros(4 + 2 * count, dtype=torch.float64)
        packed[:2] = others.cpu().double()
        packed[2], packed[3] = share.text_bytes, float(self._signals.received)
        of_window = torch.from_numpy(share.sources)
        packed[4 : 4 + count].index_add_(0, of_window, window_losses.cpu().double())
        packed[4 + count :].index_add_(0, of_window, torch.from_numpy(share.trained).double())
        values = self._ranks.sum(packed).tolist()
        return {
            "z_loss": values[0],
            "pair_loss": values[1],
            "bytes": values[2],
            "stop": values[3],
            "loss": values[4 : 4 + count],
            "tokens": values[4 + count :],
        }

    def _row(self, stage: str, sums: dict[str, Any], norm: float) -> dict[str, Any]:
        tokens = max(1.0, sum(sums["tokens"]))
        loss = sum(sums["loss"])
        per_source = zip(self._curriculum.sources, sums["loss"], sums["tokens"], strict=True)
        return {
            "kind": "train",
            "step": self._step,
            "stage": stage,
            "tokens": (self._step + 1) * self._settings.batch_tokens,
            "loss": loss / tokens,
            "z_loss": sums["z_loss"] / tokens,
            "pair_loss": sums["pair_loss"] / tokens,
            "bits_per_byte": loss / math.log(2) / max(1.0, sums["bytes"]),
            "gradient_norm": norm,
            "source_loss": {name: value / number for name, value, number in per_source if number},
        }

    def _record(self, row: dict[str, Any], elapsed: float, status: Status) -> None:
        if not self._ranks.leads:
            return
        speed = self._settings.batch_tokens / elapsed
        self._metrics.write(row)
        self._timing.write({"step": row["step"], "seconds": round(elapsed, 4), "tokens_per_second": round(speed, 1)})
        status.update(
            self._step,
            f"{row['stage']} step {self._step}/{self._curriculum.total_steps}  loss {row['loss']:.3f}  "
            f"{row['bits_per_byte']:.3f} bits/byte  {speed:,.0f} tokens/s",
        )

    def _token_losses(self, part: MicroBatch) -> Tensor:
        with self._autocast():
            return self._bare_objective.token_losses(part)

    def _validate(self) -> None:
        result = validate(
            self._token_losses,
            self._store,
            self._curriculum.sources,
            self._byte_lengths,
            self._recipe.evaluation.windows_per_source,
            self._settings,
            self._ranks,
        )
        figures = "  ".join(f"{name} {value:.3f}" for name, value in result["bits_per_byte"].items())
        self._tell("validation", result, f"valid  step {self._step}: bits/byte  {figures}")

    def _benchmarks_due(self) -> bool:
        every = self._recipe.evaluation.benchmarks_every_steps
        return self._step in self._curriculum.stage_ends().values() or (every > 0 and self._step % every == 0)

    def _measure_benchmarks(self) -> None:
        if not self._benchmarks.items:
            return
        results = measure(self._token_losses, self._benchmarks, self._settings, self._ranks)
        figures = "  ".join(f"{name} {one['acc']:.3f}/{one['acc_norm']:.3f}" for name, one in results.items())
        self._tell("benchmark", {"results": results}, f"bench  step {self._step}: acc/acc_norm  {figures}")

    def _tell(self, kind: str, figures: dict[str, Any], line: str) -> None:
        """Write a row of what was measured between two steps, and print a line of it."""
        if self._ranks.leads:
            stage = self._curriculum.place(max(0, self._step - 1))[0]
            tokens = self._step * self._settings.batch_tokens
            self._metrics.write({"kind": kind, "step": self._step, "stage": stage, "tokens": tokens, **figures})
            say(line, quiet=self._quiet)

    def _checkpoint_due(self) -> bool:
        settings = self._recipe.checkpoints
        waited = time.monotonic() - self._saved_at
        due = self._step % settings.every_steps == 0 or waited >= 60 * settings.every_minutes
        return self._ranks.agree(due) if self._sharded else due

    def _save(self) -> None:
        """Copy the current state and write it in the background, on every rank that holds some of it."""
        if not (self._ranks.leads or self._sharded):
            return
        self._writer.wait()  # before a second copy is made
        facts: dict[str, str | int] = {"step": self._step, "recipe": "", "shards": ""}
        if self._ranks.leads:
            written = {"metrics_bytes": self._metrics.length(), "timing_bytes": self._timing.length()}
            facts |= {**self._belongs_to(self._step), **written, "metrics_sha256": self._metrics.sha256()}
        state = CheckpointState.model_validate(facts)
        save = functools.partial(save_sharded_checkpoint, ranks=self._writers) if self._sharded else save_checkpoint
        tensors = snapshot(self._bare_model.state_dict()), snapshot(self._optimizers.state_tensors())
        self._writer.start(functools.partial(save, self._folder.checkpoints, state, *tensors))
        self._saved_at, self._may_prune = time.monotonic(), True

    def _prune(self) -> None:
        """Remove old checkpoints once the newest is written and a step after it has shown that it did not diverge."""
        if self._may_prune and self._writer.idle():
            if self._ranks.leads:
                stage_ends = set(self._curriculum.stage_ends().values())
                prune(self._folder.checkpoints, self._recipe.checkpoints.keep_last, stage_ends)
            self._may_prune = False

    def _autocast(self) -> torch.autocast:
        """Return the context in which the model computes: bf16 where the recipe or the device wants it."""
        device = self._ranks.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self._settings.computes_in_bf16(device))

    @contextlib.contextmanager
    def _synchronised(self, *, last: bool) -> Iterator[None]:
        """Exchange gradients between ranks in the last micro-batch only."""
        if self._sharded:
            synchronise(self._objective, last)
        if last or not isinstance(self._objective, DistributedDataParallel):
            yield
        else:
            with self._objective.no_sync():
                yield
