"""The tables of a recipe, each a frozen type that says what it accepts."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from keylm.data.documents import PIECE_BYTES

EMBEDDED = "embedded:"
PATTERN_WINDOWS = 1000
"""The mixture is exact in every run of this many consecutive windows (see data/curriculum.py)."""

UNSTATED = "unstated"
"""The licence of a source that states none."""

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
    """width of the residual stream"""
    num_hidden_layers: Dimension
    """blocks"""
    num_attention_heads: Dimension
    """query heads"""
    num_key_value_heads: Dimension
    """key and value heads, each shared by as many query heads"""
    head_dim: Dimension
    """width of a head; even"""
    intermediate_size: Dimension
    """width inside the feed-forward part (SwiGLU)"""
    max_position_embeddings: Dimension
    """longest text the model may be used with, in tokens"""
    rope_theta: PositiveFloat = 10_000.0
    """base of the rotary embedding"""
    rms_norm_eps: PositiveFloat = 1e-6
    """added to the mean square in norms"""

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
    """A ByteLevel BPE to be trained on the sources, or a finished one."""

    vocab_size: Annotated[int, Field(ge=276, le=65_536)] = 12_020
    """tokens, special ones and bytes included"""
    sample_bytes: PositiveInt = 70_000_000
    """text that it is trained on, of each source its share of all tokens that the stages train on"""
    path: PathText | None = None
    """folder of a finished tokenizer, which is taken instead"""


def _masked_only() -> dict[Form, float]:
    return {"masked": 1.0}


class Source(Section):
    """One body of text: files (`path`), a data set on the hub (`hub`), or typos made from other sources."""

    path: PathText | None = None
    """a file or folder of .jsonl(.zst, .gz), .parquet or .txt; `embedded:NAME` comes with keylm"""
    hub: str | None = None
    """a data set's name, OWNER/NAME"""
    config: str | None = None
    """the data set's configuration, where it has several"""
    split: str = "train"
    """the data set's split"""
    revision: str | None = None
    """the data set's commit, tag or branch; without one, main as it is when it is first read"""
    adapter: str | None = None
    """what makes documents of records (docs/hub_datasets.md); without one, by the data set's name"""
    typos_of: tuple[str, ...] = ()
    """sources whose documents are shown with noise"""
    forms: dict[Form, Weight] = Field(default_factory=_masked_only)
    """of a typo source: how noise is shown, and weights (docs/data.md)"""
    passes: Annotated[int, Field(ge=1, le=100)] = 1
    """of a typo source: how often it goes over the others' documents, each time with other noise"""
    text_register: Register = Field(alias="register", default="formal")
    """manner of the text: decides which filters curate it, and groups figures in reports"""
    licence: str = UNSTATED
    """named in reports and the model card; the recipe's `licences` may leave out those that state none"""
    loss: Literal["all", "assistant"] = "all"
    """what is learnt: all tokens, or the assistant's turns alone"""
    max_bytes: PositiveInt | None = None
    """text that is read of it, at most: its beginning"""
    curate: bool = True
    """whether [curation] applies to it"""

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
    """tokens in a shard, within which windows are shuffled"""
    stream: bool = False
    """begin training while later shards are being built"""
    shards: PathText | None = None
    """a published build, a folder or address, whose shards are fetched instead of built"""
    pack_anew: bool = False
    """in later epochs cut windows anew from texts in another order; conversations stay packed as they are"""
    cache_bytes: PositiveInt = 20_000_000_000
    """fetched shards that are kept on disk"""

    @model_validator(mode="after")
    def _one_supply(self) -> Self:
        if self.stream and self.shards is not None:
            raise ValueError("give stream = true or shards, not both: fetched shards need no build")
        return self


class Typos(Section):
    """The noise in sources with `typos_of`; see data/typos.py."""

    highest_rate: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """share of a document's words that are mistyped, at most; each document draws its own"""
    word_lists: tuple[PathText, ...] = ()
    """files of known misspellings, which are used beside the fitted noise"""


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
    """languages that stay, in two or three letters"""
    language_threshold: Share = 0.3
    """how sure the language must be"""
    minimum_characters: Annotated[int, Field(ge=0)] = 20
    """shorter documents go"""
    maximum_characters: PositiveInt = PIECE_BYTES
    """longer documents go"""
    filters: dict[Register, tuple[QualityFilter, ...]] = Field(default_factory=dict, validate_default=True)
    """quality filters of each register (docs/curation.md has the defaults)"""
    mask_pii: bool = True
    """replace e-mail addresses, public IP addresses and phone numbers by examples"""
    exact_duplicates: bool = True
    """drop documents that stood before, in any source"""
    near_duplicates: bool = True
    """drop documents that are alike to one before, by MinHash"""
    minhash_words: Annotated[int, Field(ge=1, le=50)] = 5
    """words in an n-gram"""
    minhash_buckets: Annotated[int, Field(ge=1, le=200)] = 14
    """more find more that is less alike"""
    minhash_hashes: Annotated[int, Field(ge=1, le=50)] = 8
    """in a bucket; more find only what is more alike"""
    decontaminate: tuple[PathText, ...] = ()
    """files or folders of evaluation items; documents that hold one go (docs/decontamination.md)"""

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
    """how long it is; rounded up to whole steps"""
    weights: dict[str, Weight]
    """share of each source; they need not sum to 1, and each is 0 or at least a thousandth of the sum"""
    peak: Rate = 1.0
    """factor on the optimizer's learning rates"""
    final: Share = 0.0
    """share of the peak that is left at the end"""
    warmup: Share = 0.0
    """share of the steps in which the rate rises"""
    decay: Share = 0.0
    """share of the steps in which it falls"""

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
    """tokens in an optimizer step, on all processes together; a multiple of context"""
    context: Dimension
    """tokens in a window; at most model.max_position_embeddings"""
    initial_model: PathText | None = None
    """a model folder to begin with"""
    micro_batch_windows: Dimension = 8
    """windows that are computed at once; decides memory and speed, not the result"""
    clip_norm: PositiveFloat = 1.0
    """largest norm of the gradient"""
    z_loss: Decay = 1e-4
    """weight of the squared log-normaliser, which keeps logits small"""
    pair_weight: Decay = 0.5
    """weight of the loss between clean and noisy twins, in typo sources of the form `pair`"""
    future_weight: Decay = 0.0
    """weight of the loss of a second prediction, that of the token after the next; what makes it is no part of the model"""
    document_masks: bool = True
    """whether packed documents are hidden from each other"""
    attention: Literal["auto", "masked"] = "auto"
    """auto: variable-length kernels on a GPU in 16 bits; masked: the plain way everywhere"""
    deterministic: bool = False
    """same bits in every run on a GPU too, somewhat slower"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """what is computed in; auto: bf16 on an NVIDIA GPU, else fp32. Weights and optimizer stay fp32"""
    compile: bool = False
    """through torch.compile: faster on a GPU, half a minute to start"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """what several processes share: see above"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto: an NVIDIA GPU, else Apple's, else the CPU"""

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
    """what trains the blocks' matrices"""
    muon_learning_rate: Rate = 0.02
    """Muon's, at a stage's peak of 1"""
    muon_momentum: Beta = 0.95
    """Muon's, once it is warm"""
    muon_momentum_start: Beta = 0.85
    """Muon's at the first step"""
    muon_momentum_steps: Annotated[int, Field(ge=0)] = 300
    """steps until it is warm"""
    muon_weight_decay: Decay = 0.0
    """decoupled: a step takes rate times decay of a weight"""
    muon_cautious_decay: bool = False
    """whether only weights decay that the update makes smaller anyway"""
    muon_normalise_neurons: bool = False
    """whether the neurons of a matrix get updates of one length, so that none is worn down by the decay"""
    matrix_learning_rate: Rate = 3e-3
    """AdamW's for the matrices, where it trains them; likewise the next two"""
    matrix_betas: tuple[Beta, Beta] = (0.9, 0.95)
    """decay of the two moments"""
    matrix_weight_decay: Decay = 0.1
    """decoupled"""
    embedding_learning_rate: Rate = 0.245
    """AdamW's for the embedding"""
    head_learning_rate: Rate = 0.0049
    """AdamW's for the head"""
    norm_learning_rate: Rate = 0.01
    """AdamW's for the norms"""
    adam_betas: tuple[Beta, Beta] = (0.8, 0.95)
    """decay of the two moments, for embedding, head and norms"""
    adam_eps: PositiveFloat = 1e-10
    """AdamW's, in the denominator"""


class Checkpoints(Section):
    """When a checkpoint is written and how many stay; stage ends always have one, and it stays."""

    every_steps: PositiveInt = 500
    """a checkpoint after so many steps"""
    every_minutes: PositiveFloat = 10.0
    """and after so many minutes"""
    keep_last: PositiveInt = 2
    """how many stay, beside those of stage ends"""


Benchmark = Literal["hellaswag", "arc_easy", "piqa"]
"""What can be measured while training goes on; see evaluation/in_training.py."""


class Evaluation(Section):
    """Validation and benchmarks during training, and the prompts whose continuations the report shows.

    Of each of `benchmarks` the same `benchmark_items` are asked every time: at the end of each stage and, unless
    it is 0, every `benchmarks_every_steps` steps.
    """

    every_steps: PositiveInt = 100
    """validation after so many steps"""
    windows_per_source: PositiveInt = 32
    """held-out windows that are measured of each source"""
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    """share of the documents that are held out, chosen by their content"""
    benchmarks: tuple[Benchmark, ...] = ()
    """benchmarks to measure in training: pip install 'keylm[eval]'"""
    benchmark_items: PositiveInt = 200
    """items of each"""
    benchmarks_every_steps: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """0: at stage ends only"""
    prompts: tuple[str, ...] = ("Once upon a time",)
    """texts that the report continues"""
    chats: tuple[str, ...] = ()
    """questions that the report has answered"""
    sample_tokens: PositiveInt = 80
    """tokens of each of these, at most"""

    @model_validator(mode="after")
    def _each_benchmark_once(self) -> Self:
        twice = [name for number, name in enumerate(self.benchmarks) if name in self.benchmarks[:number]]
        if twice:
            raise ValueError(f"benchmarks names {twice[0]!r} twice; accepted: each benchmark once")
        return self
