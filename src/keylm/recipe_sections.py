"""The tables of a recipe, each a frozen type that says what it accepts."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from keylm.data.documents import PIECE_BYTES

EMBEDDED = "embedded:"
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


Register = Literal["formal", "casual", "conversational", "structured", "synthetic"]
Form = Literal["masked", "correction", "continuation", "pair"]
"""How a typo source shows noise: see data/contrast.py."""


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


def _masked_only() -> dict[Form, float]:
    return {"masked": 1.0}


class Source(Section):
    """One body of text: files (`path`), a data set on the hub (`hub`), or typos made from other sources."""

    path: PathText | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    adapter: str | None = None
    typos_of: tuple[str, ...] = ()
    forms: dict[Form, Weight] = Field(default_factory=_masked_only)
    passes: Annotated[int, Field(ge=1, le=100)] = 1
    text_register: Register = Field(alias="register", default="formal")
    licence: str = "unstated"
    loss: Literal["all", "assistant"] = "all"
    max_bytes: PositiveInt | None = None
    curate: bool = True

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [key for key in ("path", "hub", "typos_of") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub, typos_of; got {' and '.join(given) or 'none'}")
        if sum(self.forms.values()) <= 0:
            raise ValueError("forms sum to 0; at least one form needs a positive weight")
        twice = [name for number, name in enumerate(self.typos_of) if name in self.typos_of[:number]]
        if twice:
            raise ValueError(f"typos_of names {twice[0]!r} twice; accepted: each source once (passes repeats them)")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether the text comes inside the package."""
        return self.path is not None and self.path.startswith(EMBEDDED)


class Data(Section):
    """How documents become shards, and where shards come from.

    With `stream` training begins while later shards are still being built; with `shards` (a path or URL of a
    published build: manifest.json, tokenizer/, shards) they are fetched as they are needed, and as many kept as
    `cache_bytes` allow.
    """

    shard_tokens: Annotated[int, Field(ge=1, le=1 << 28)] = 1 << 24
    stream: bool = False
    shards: PathText | None = None
    cache_bytes: PositiveInt = 20_000_000_000

    @model_validator(mode="after")
    def _one_supply(self) -> Self:
        if self.stream and self.shards is not None:
            raise ValueError("give stream = true or shards, not both: fetched shards need no build")
        return self


class Typos(Section):
    """The noise in sources with `typos_of`; see data/typos.py."""

    highest_rate: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    word_lists: tuple[PathText, ...] = ()


QualityFilter = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]
"""datatrove's quality filters; see data/curate/filters.py."""
DEFAULT_FILTERS: dict[Register, tuple[QualityFilter, ...]] = {
    "formal": ("gopher_quality", "gopher_repetition", "c4", "fineweb"),
    "casual": ("gopher_repetition",),
    "conversational": (),
    "structured": ("gopher_quality",),
    "synthetic": ("gopher_quality", "gopher_repetition", "fineweb"),
}
"""The reasons stand in docs/curation.md."""


class Curation(Section):
    """What is filtered, masked and de-duplicated before documents become shards; see data/curate/.

    `filters` names the quality filters of each register; a register that is left out has the default ones.
    Near-duplicates are found by MinHash: word n-grams of `minhash_words`, `minhash_buckets` times `minhash_hashes`
    hashes; documents count as the same above a similarity of about (1 / buckets) ** (1 / hashes), by default 0.72.
    Texts come to the filters in pieces of PIECE_BYTES, so that a higher `maximum_characters` would never act.
    """

    languages: tuple[Annotated[str, Field(min_length=2, max_length=3)], ...] = ("en",)
    language_threshold: Share = 0.3
    minimum_characters: Annotated[int, Field(ge=0)] = 20
    maximum_characters: PositiveInt = PIECE_BYTES
    filters: dict[Register, tuple[QualityFilter, ...]] = Field(default_factory=dict, validate_default=True)
    mask_pii: bool = True
    exact_duplicates: bool = True
    near_duplicates: bool = True
    minhash_words: Annotated[int, Field(ge=1, le=50)] = 5
    minhash_buckets: Annotated[int, Field(ge=1, le=200)] = 14
    minhash_hashes: Annotated[int, Field(ge=1, le=50)] = 8
    decontaminate: tuple[PathText, ...] = ()

    @field_validator("filters")
    @classmethod
    def _complete(cls, filters: dict[Register, tuple[QualityFilter, ...]]) -> dict[Register, tuple[QualityFilter, ...]]:
        return {**DEFAULT_FILTERS, **filters}

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.maximum_characters > PIECE_BYTES:
            raise ValueError(
                f"maximum_characters = {self.maximum_characters} would never act: longer texts are cut into pieces of "
                f"{PIECE_BYTES} bytes before they are filtered; accepted: at most {PIECE_BYTES}"
            )
        if self.minimum_characters > self.maximum_characters:
            raise ValueError(
                f"minimum_characters = {self.minimum_characters} is over maximum_characters = {self.maximum_characters}"
            )
        return self


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
    """The loop: where the weights start, how many tokens a step has and how they are computed.

    `initial_model` is a model folder whose weights training begins with, and whose tokenizer is taken unless
    `tokenizer.path` names another; without one the weights are drawn from the seed.

    `parallel` says what several processes (torchrun) share: with "ddp" each has the whole model and optimizer, with
    "fsdp" its rows of every parameter and of the optimizer's state, for models that do not fit otherwise. One process
    is the same with either.
    """

    batch_tokens: PositiveInt
    context: Dimension
    initial_model: PathText | None = None
    micro_batch_windows: Dimension = 8
    clip_norm: PositiveFloat = 1.0
    z_loss: Decay = 1e-4
    pair_weight: Decay = 0.5
    document_masks: bool = True
    attention: Literal["auto", "masked"] = "auto"
    """auto: variable-length kernels on a GPU in 16 bits; masked: the plain way everywhere"""
    deterministic: bool = False
    """same bits in every run on a GPU too, somewhat slower"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
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

    `matrices = "adamw"` gives the blocks' matrices to AdamW too, to compare with: then the `matrix_` fields hold for
    them (weight decay is decoupled: a step takes learning rate times decay of a weight), else the `muon_` ones.
    """

    matrices: Literal["muon", "adamw"] = "muon"
    muon_learning_rate: Rate = 0.02
    muon_momentum: Beta = 0.95
    muon_momentum_start: Beta = 0.85
    muon_momentum_steps: Annotated[int, Field(ge=0)] = 300
    muon_weight_decay: Decay = 0.0
    matrix_learning_rate: Rate = 3e-3
    matrix_betas: tuple[Beta, Beta] = (0.9, 0.95)
    matrix_weight_decay: Decay = 0.1
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


Benchmark = Literal["hellaswag", "arc_easy", "piqa"]
"""What can be measured while training goes on; see evaluation/in_training.py."""


class Evaluation(Section):
    """Validation and benchmarks during training, and the prompts whose continuations the report shows.

    Of each of `benchmarks` the same `benchmark_items` are asked every time: at the end of each stage and, unless
    it is 0, every `benchmarks_every_steps` steps.
    """

    every_steps: PositiveInt = 100
    windows_per_source: PositiveInt = 32
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    benchmarks: tuple[Benchmark, ...] = ()
    benchmark_items: PositiveInt = 200
    benchmarks_every_steps: Annotated[int, Field(ge=0, lt=2**53)] = 0
    prompts: tuple[str, ...] = ("Once upon a time",)
    chats: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 80

    @model_validator(mode="after")
    def _each_benchmark_once(self) -> Self:
        twice = [name for number, name in enumerate(self.benchmarks) if name in self.benchmarks[:number]]
        if twice:
            raise ValueError(f"benchmarks names {twice[0]!r} twice; accepted: each benchmark once")
        return self
