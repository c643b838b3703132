"""What lies where in a run folder, and which stages are done with which inputs."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.errors import KeylmError
from keylm.files import read_json, write_json
from keylm.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; each stage reads only what the stages before it left here."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe (TOML)."""
        return self.path / "recipe.toml"

    @property
    def tokenizer(self) -> Path:
        """Folder: tokenizer.json, tokenizer_config.json."""
        return self.path / "tokenizer"

    @property
    def shards(self) -> Path:
        """Folder: manifest.json, and a folder of shards per source."""
        return self.path / "shards"

    @property
    def checkpoints(self) -> Path:
        """Folder: one folder per checkpoint, step-00000123."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """JSON lines, a pure function of recipe and data (on one kind of machine)."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """JSON lines: wall-clock seconds and tokens per second of each step."""
        return self.path / "timing.jsonl"

    @property
    def model(self) -> Path:
        """The finished model in stock Qwen3 layout."""
        return self.path / "model"

    def stage_model(self, stage: str) -> Path:
        """The model as it stood at the end of a stage that is not the last."""
        return self.path / f"model-{stage}"

    @property
    def samples(self) -> Path:
        """What the model says to the recipe's prompts."""
        return self.path / "samples.json"

    @property
    def summary(self) -> Path:
        """Versions, machine, command, seconds per stage."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page that shows all of it."""
        return self.path / "report.html"

    def saved_recipe(self) -> Recipe:
        """Return the recipe that the run was begun with. Raises KeylmError where this is no run folder."""
        if not self.recipe.is_file():
            raise KeylmError(f"{self.path}: no recipe.toml in it; accepted: a run folder such as runs/nano")
        return parse_recipe(tomllib.loads(self.recipe.read_text(encoding="utf-8")), str(self.recipe))

    def done(self) -> dict[str, Any]:
        """Return, for each finished stage, the hash of its inputs and the seconds it took."""
        path = self.path / "stages.json"
        return dict(read_json(path)) if path.is_file() else {}

    def is_done(self, stage: str, inputs: str) -> bool:
        """Return whether `stage` was finished with exactly these inputs."""
        return bool(self.done().get(stage, {}).get("inputs") == inputs)

    def mark_done(self, stage: str, inputs: str, seconds: float) -> None:
        """Record that `stage` is finished."""
        entry = {"inputs": inputs, "seconds": round(seconds, 2)}
        write_json(self.path / "stages.json", {**self.done(), stage: entry})
