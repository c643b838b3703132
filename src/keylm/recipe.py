"""The typed, frozen recipe: one TOML file is one model, whole.

Invariant: what runs is exactly what the resolved recipe says; it is saved in the run folder and can be run
again from there. Every error names the file, the field, the value and what is accepted.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keylm.errors import KeylmError
from keylm.recipe_errors import explain, near

EMBEDDED = "embedded:"
CORPUS_FOLDER = Path(__file__).parent / "corpus"
PATTERN_WINDOWS = 1000
"""The mixture is exact in every run of this many consecutive windows (see data/curriculum.py)."""

MOST_WINDOWS = 1 << 16
"""Windows in a batch, at most; the largest published runs use a few thousand."""

PositiveInt = Annotated[int, Field(gt=0, lt=2**53)]
Dimension = Annotated[int, Field(gt=0, le=1 << 20)]
PositiveFloat = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=1e3)]
Decay = Annotated[float, Field(ge=0, le=1e3)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
PathText = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=80)]


class Section(BaseModel):
    """A table of the recipe: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    """The decoder's shape, in the names of Hugging Face's Qwen3Config."""

    hidden_size: Dimension
    num_hidden_layers: Dimension
    num_attention_heads: Dimension
    num_key_value_heads: Dimension
    head_dim: Dimension
    intermediate_size: Dimension
    max_position_embeddings: Dimension
    rope_theta: PositiveFloat = 10_000.0
    rms_norm_eps: PositiveFloat = 1e-6

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads = {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} must be even: rotary embedding turns pairs")
        return self


class Tokenizer(Section):
    """A ByteLevel BPE to be trained on the sources of the first stage, or a finished one."""

    vocab_size: Annotated[int, Field(ge=276, le=65_536)] = 12_020
    sample_bytes: PositiveInt = 70_000_000
    path: PathText | None = None


class Source(Section):
    """One body of text: files (`path`), a data set on the hub (`hub`), or typos made from other sources."""

    path: PathText | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    typos_of: tuple[str, ...] = ()
    text_register: Literal["formal", "casual", "conversational", "structured", "synthetic"] = Field(
        alias="register", default="formal"
    )
    licence: str = "unstated"
    loss: Literal["all", "assistant"] = "all"
    max_bytes: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [key for key in ("path", "hub", "typos_of") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub, typos_of; got {' and '.join(given) or 'none'}")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether the text comes inside the package."""
        return self.path is not None and self.path.startswith(EMBEDDED)


class Stage(Section):
    """A stretch of training with its own mixture and learning-rate course.

    The rate climbs over the first `warmup` share of the stage's steps to `peak` times the optimizer's rates,
    stays, and falls linearly to `final` times `peak` over the last `decay` share.
    """

    tokens: PositiveInt
    weights: dict[str, Weight]
    peak: Rate = 1.0
    final: Share = 0.0
    warmup: Share = 0.0
    decay: Share = 0.0

    @model_validator(mode="after")
    def _sound(self) -> Self:
        total = sum(self.weights.values())
        if total <= 0:
            raise ValueError("weights sum to 0; at least one source needs a positive weight")
        for name, weight in self.weights.items():
            if 0 < weight < total / PATTERN_WINDOWS:
                raise ValueError(
                    f"weights.{name} = {weight} is under 1/{PATTERN_WINDOWS} of the stage; "
                    f"give it at least {total / PATTERN_WINDOWS:g} or 0"
                )
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g}; together at most 1")
        return self


class Training(Section):
    """The loop: how many tokens a step has and how they are computed."""

    batch_tokens: PositiveInt
    context: Dimension
    micro_batch_windows: Dimension = 8
    clip_norm: PositiveFloat = 1.0
    z_loss: Decay = 1e-4
    document_masks: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        if self.batch_tokens % self.context:
            below = self.batch_tokens // self.context * self.context
            accepted = " or ".join(str(n) for n in (below, below + self.context) if n)
            raise ValueError(
                f"batch_tokens = {self.batch_tokens} is no multiple of context = {self.context}; try {accepted}"
            )
        if self.batch_windows > MOST_WINDOWS:
            raise ValueError(
                f"batch_tokens = {self.batch_tokens} is {self.batch_windows} windows; accepted: at most {MOST_WINDOWS}"
            )
        return self

    @property
    def batch_windows(self) -> int:
        """Windows in one global batch."""
        return self.batch_tokens // self.context

    def computes_in_bf16(self, device: str) -> bool:
        """Whether the model computes in bf16 on a `device` of this type ("cpu", "cuda", "mps")."""
        return self.precision == "bf16" or (self.precision == "auto" and device == "cuda")


class Optimizer(Section):
    """Muon for the matrices of the blocks, AdamW for the rest.

    `muon_learning_rate` is in Keller Jordan's units (an orthogonalised update of spectral norm near 1, times
    sqrt(max(1, rows/columns))), where 0.02 is usual; not in the RMS-matched units of 1.5e-3 … 3e-3.
    """

    muon_learning_rate: Rate = 0.02
    muon_momentum: Beta = 0.95
    muon_momentum_start: Beta = 0.85
    muon_momentum_steps: Annotated[int, Field(ge=0)] = 300
    muon_weight_decay: Decay = 0.0
    embedding_learning_rate: Rate = 0.245
    head_learning_rate: Rate = 0.0049
    norm_learning_rate: Rate = 0.01
    adam_betas: tuple[Beta, Beta] = (0.8, 0.95)
    adam_eps: PositiveFloat = 1e-10


class Checkpoints(Section):
    """When a checkpoint is written and how many stay; stage ends always have one, and it stays."""

    every_steps: PositiveInt = 500
    every_minutes: PositiveFloat = 10.0
    keep_last: PositiveInt = 2


class Evaluation(Section):
    """Validation during training, and the prompts whose continuations the report shows."""

    every_steps: PositiveInt = 100
    windows_per_source: PositiveInt = 32
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    prompts: tuple[str, ...] = ("Once upon a time",)
    chats: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 80


class Recipe(Section):
    """A whole model: shape, tokenizer, sources, stages, optimizer, checkpoints, evaluation, seed."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: Model
    tokenizer: Tokenizer = Tokenizer()
    sources: dict[Name, Source]
    stages: dict[Name, Stage]
    training: Training
    optimizer: Optimizer = Optimizer()
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.stages:
            raise ValueError("stages is empty; give at least one [stages.NAME] table")
        for stage_name, stage in self.stages.items():
            for source in stage.weights:
                self._known(source, f"stages.{stage_name}.weights")
        for source_name, origin in self.sources.items():
            for source in origin.typos_of:
                self._known(source, f"sources.{source_name}.typos_of")
        if self.training.context > self.model.max_position_embeddings:
            raise ValueError(
                f"training.context = {self.training.context} is over "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}"
            )
        return self

    def _known(self, source: str, where: str) -> None:
        if source not in self.sources:
            raise ValueError(
                f"{where} names {source!r}; sources are: {', '.join(self.sources)}{near(source, self.sources)}"
            )

    @property
    def used_sources(self) -> dict[str, Source]:
        """The sources that some stage gives a positive weight, in the recipe's order."""
        used = {name for stage in self.stages.values() for name, weight in stage.weights.items() if weight > 0}
        return {name: source for name, source in self.sources.items() if name in used}

    def to_data(self) -> dict[str, Any]:
        """Return the resolved recipe as plain values (every default written out, None left out)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML."""
        return tomli_w.dumps(self.to_data())


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read, override, validate and resolve a recipe.

    `path` is a TOML file or the bare name of a recipe that comes with keylm; `overrides` are `dotted.key=value`.
    Raises KeylmError naming the field, the value and what is accepted.
    """
    file = find_recipe(path)
    data = read_toml(file)
    for override in overrides or []:
        _apply(data, override)
    recipe = parse_recipe(data, str(file))
    return _resolve_paths(recipe, file)


def parse_recipe(data: Mapping[str, Any], where: str) -> Recipe:
    """Validate plain values; `where` is named in errors. Raises KeylmError."""
    try:
        # JSON mode: TOML arrays become tuples, and no string becomes a number. A date, which JSON has not and no
        # field takes, goes in as a list, so that it is refused.
        return Recipe.model_validate_json(json.dumps(data, default=lambda value: [str(value)]), strict=True)
    except ValidationError as error:
        lines = [explain(problem, Recipe) for problem in error.errors()]
        raise KeylmError("\n".join(f"{where}: {line}" for line in lines)) from None
    except ValueError as error:
        raise KeylmError(f"{where}: {str(error)[:200]}; accepted: valid Unicode and numbers of usual size") from None


def find_recipe(path: Path | str) -> Path:
    """Return the recipe's file: `path` itself, or the packaged recipe of that bare name. Raises KeylmError."""
    path = Path(path)
    packaged = packaged_recipes()
    if path.is_file():
        return path
    if str(path) in packaged:
        return packaged[str(path)]
    if path.is_dir():
        raise KeylmError(f"recipe {path}: is a folder; accepted: a recipe's TOML file")
    raise KeylmError(f"recipe {path}: no such file; packaged recipes: {', '.join(sorted(packaged)) or 'none'}")


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with keylm, by name: of the installed package, or of the checkout."""
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parent.parent / "recipes"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return {}


def read_toml(file: Path) -> dict[str, Any]:
    """Return a TOML file's content. Raises KeylmError where it cannot be read or is none."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeylmError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise KeylmError(f"{file}: cannot be read: {error.strerror}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in `data`; the value is read as TOML, or as a plain string."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise KeylmError(f"--set {override!r}: accepted is dotted.key=value, such as training.batch_tokens=65536")
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except ValueError:
        value = text
    if isinstance(value, dict) and "path" in value:
        value["path"] = _from_here(value["path"])
    table: Any = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise KeylmError(f"--set {override!r}: {part!r} is a value, not a table")
    table[parts[-1]] = _from_here(value) if parts[-1] == "path" else value


def _from_here(path: object) -> object:
    """Return a path of the command line as the user means it: from the working folder, not from the recipe's."""
    if not isinstance(path, str) or not path or path.startswith(EMBEDDED):
        return path
    return str(Path.cwd() / Path(path).expanduser())


def _resolve_paths(recipe: Recipe, file: Path) -> Recipe:
    """Return the recipe with paths made absolute (relative ones count from the recipe's folder)."""
    data = recipe.to_data()
    for name, source in data["sources"].items():
        if "path" in source:
            source["path"] = str(_existing(source["path"], file, f"sources.{name}.path"))
    if "path" in data["tokenizer"]:
        folder = Path(_existing(data["tokenizer"]["path"], file, "tokenizer.path"))
        if not (folder / "tokenizer.json").is_file():
            raise KeylmError(f"{file}: tokenizer.path: {folder} has no tokenizer.json; accepted: a tokenizer's folder")
        data["tokenizer"]["path"] = str(folder)
    return parse_recipe(data, str(file))


def _existing(text: str, recipe_file: Path, field: str) -> Path | str:
    """Return the path that `text` means; `embedded:` names stay as they are, so that recipes stay portable."""
    if text.startswith(EMBEDDED):
        if not (CORPUS_FOLDER / text.removeprefix(EMBEDDED)).is_file():
            names = sorted(file.name for file in CORPUS_FOLDER.glob("*.jsonl.zst"))
            raise KeylmError(f"{recipe_file}: {field}: got {text!r}; embedded files are: {', '.join(names)}")
        return text
    path = (recipe_file.parent / Path(text).expanduser()).resolve()
    if not path.exists():
        raise KeylmError(f"{recipe_file}: {field}: got {text!r}, but {path} does not exist; accepted: a file or folder")
    return path


def stage_steps(recipe: Recipe) -> dict[str, int]:
    """Return each stage's number of optimizer steps: its tokens over a batch's, rounded up."""
    return {name: math.ceil(stage.tokens / recipe.training.batch_tokens) for name, stage in recipe.stages.items()}
