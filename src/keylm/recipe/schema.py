"""The tables of a recipe, each a frozen type that says what it accepts."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from keylm.recipe.benchmark_table import TRAINING
from keylm.recipe.fields import (
    Beta,
    Decay,
    Dimension,
    LanguageName,
    PathText,
    PositiveFloat,
    PositiveInt,
    Rate,
    Section,
    Share,
    Weight,
)
from keylm.recipe.marks import FREE, IsPath

EMBEDDED = "embedded:"
PIECE_BYTES = 1 << 20
"""Longest document, in UTF-8 bytes; longer texts are cut."""

MINHASH = {"minhash_words": 5, "minhash_buckets": 14, "minhash_hashes": 8}
"""Words in an n-gram, buckets, and hashes in each: near-duplicates are alike above about (1 / 14) ** (1 / 8) = 0.72."""

UNSTATED = "unstated"
"""The licence of a source that states none."""

MOST_WINDOWS = 1 << 16
"""Windows in a batch, at most; the largest published runs use a few thousand."""

Register = Literal["formal", "casual", "conversational", "structured", "synthetic"]
Form = Literal["masked", "correction", "pair"]
"""How a typo source shows noise: see data/contrast.py."""


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
    path: Annotated[PathText | None, IsPath("tokenizer")] = None
    """folder of a finished tokenizer, which is taken instead"""


class Source(Section):
    """One body of text: files (`path`), a data set on the hub (`hub`), or other sources with typos (`typos_of`)."""

    path: Annotated[PathText | None, IsPath()] = None
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
    forms: dict[Form, Weight] = Field(default={"masked": 1.0})
    """of a typo source: how noise is shown, and weights (docs/data.md)"""
    passes: Annotated[int, Field(ge=1, le=100)] = 1
    """of a typo source: how often it goes over the others' documents, each time with other noise"""
    text_register: Register = Field(alias="register", default="formal")
    """manner of the text: decides which filters curate it, and groups figures in reports"""
    language: LanguageName | None = None
    """of its text; without one, the recipe's first"""
    licence: str = UNSTATED
    """named in reports and the model card; the recipe's `licences` may leave out those that state none"""
    loss: Literal["all", "assistant"] = "all"
    """which tokens carry loss: all, or only those of the assistant's turns"""
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
        if self.typos_of and self.language:
            raise ValueError(f"language = {self.language!r}: a typo source has that of the sources it is made from")
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
    repack: bool = False
    """pack a shard's documents in another order in each epoch after the first, so that windows differ (docs/data.md)"""
    stream: Annotated[bool, FREE] = False
    """begin training while later shards are being built"""
    shards: Annotated[PathText | None, IsPath("build"), FREE] = None
    """a published build, a folder or address, whose shards are fetched instead of built"""
    cache_bytes: Annotated[PositiveInt, FREE] = 20_000_000_000
    """fetched shards that are kept on disk"""

    @model_validator(mode="after")
    def _one_supply(self) -> Self:
        if self.stream and self.shards is not None:
            raise ValueError("give stream = true or shards, not both: fetched shards need no build")
        return self


class Typos(Section):
    """The noise in sources with `typos_of`; see typos/model.py."""

    highest_rate: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """share of a document's words that are mistyped, at most; each document draws its own"""
    word_lists: Annotated[tuple[PathText, ...], IsPath()] = ()
    """files of known misspellings, which are used beside the fitted noise"""


QualityFilter = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]
"""datatrove's quality filters; see curate/filters.py."""
DEFAULT_FILTERS: dict[Register, tuple[QualityFilter, ...]] = {
    "formal": ("gopher_quality", "gopher_repetition", "c4", "fineweb"),
    "casual": ("gopher_repetition",),
    "conversational": (),
    "structured": ("gopher_quality",),
    "synthetic": ("gopher_quality", "gopher_repetition", "fineweb"),
}
"""The reasons are in docs/curation.md."""


class Curation(Section):
    """What is filtered, masked and de-duplicated before documents become shards; see curate/pipeline.py.

    `filters` names the quality filters of each register; a register that is left out has the default ones.
    Near-duplicates are found by MinHash over 5-grams of words, in 14 buckets of 8 hashes: documents count as the same
    above a similarity of about (1 / 14) ** (1 / 8) = 0.72.
    Texts come to the filters in pieces of PIECE_BYTES, so that a higher `maximum_characters` would never act.
    """

    languages: tuple[Annotated[str, Field(min_length=2, max_length=3)], ...] = ("en",)
    """languages that stay, in two or three letters; without them, the recipe's `language`"""
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
    """drop documents that occurred before, in any source"""
    near_duplicates: bool = True
    """drop documents that resemble an earlier one, by MinHash"""
    decontaminate: Annotated[tuple[PathText, ...], IsPath()] = ()
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


class Training(Section):
    """The loop: where the weights start, how many tokens a step has and how they are computed.

    `initial_model` is a model folder whose weights training begins with, and whose tokenizer is taken unless
    `tokenizer.path` names another; without one the weights are initialised from the seed.

    `parallel` says what several processes (torchrun) share: with "ddp" each has the whole model and optimizer, with
    "fsdp" its rows of every parameter and of the optimizer's state, for models that do not fit otherwise. One process
    is the same with either.
    """

    batch_tokens: PositiveInt
    """tokens in an optimizer step, on all processes together; a multiple of context"""
    context: Dimension
    """tokens in a window; at most model.max_position_embeddings"""
    initial_model: Annotated[PathText | None, IsPath("tokenizer")] = None
    """a model folder to begin with"""
    micro_batch_windows: Annotated[Dimension, FREE] = 8
    """windows that are computed at once; decides memory and speed, not the result"""
    clip_norm: PositiveFloat = 1.0
    """largest norm of the gradient"""
    z_loss: Decay = 1e-4
    """weight of the squared log-normaliser, which keeps logits small"""
    pair_weight: Decay = 0.5
    """weight of the loss between clean and noisy twins, in typo sources of the form `pair`"""
    document_masks: bool = True
    """whether packed documents are hidden from each other"""
    attention: Annotated[Literal["auto", "masked"], FREE] = "auto"
    """auto: variable-length kernels on a GPU in 16 bits; masked: the plain way everywhere"""
    deterministic: Annotated[bool, FREE] = False
    """same bits in every run on a GPU too, somewhat slower"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """what is computed in; auto: bf16 on an NVIDIA GPU, else fp32. Weights and optimizer stay fp32"""
    compile: Annotated[bool, FREE] = False
    """through torch.compile: faster on a GPU, half a minute to start"""
    parallel: Annotated[Literal["ddp", "fsdp"], FREE] = "ddp"
    """what several processes share: see above"""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], FREE] = "auto"
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
    """

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
    muon_normalise_neurons: bool = False
    """whether the neurons of a matrix get updates of one length, so that none is worn down by the decay"""
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


if TYPE_CHECKING:
    Benchmark = str
else:
    Benchmark = Literal[tuple(TRAINING)]
    """What can be measured during training; see training/benchmarks_in_training.py."""


class Evaluation(Section):
    """Validation and benchmarks during training, and the prompts whose continuations the report shows.

    The same `benchmark_items` of each of `benchmarks` are scored every time: at the end of each stage and, unless
    it is 0, every `benchmarks_every_steps` steps.
    """

    every_steps: PositiveInt = 100
    """validation after so many steps"""
    windows_per_source: PositiveInt = 32
    """held-out windows that are measured of each source"""
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    """share of the documents that are held out, chosen by their content"""
    benchmarks: Annotated[tuple[Benchmark, ...], FREE] = ()
    """benchmarks to measure in training, with the extra `eval`"""
    benchmark_items: Annotated[PositiveInt, FREE] = 200
    """items of each"""
    benchmarks_every_steps: Annotated[int, Field(ge=0, lt=2**53), FREE] = 0
    """0: at stage ends only"""
    prompts: Annotated[tuple[str, ...], FREE] = ("Once upon a time",)
    """texts that the report continues"""
    chats: Annotated[tuple[str, ...], FREE] = ()
    """questions that the report has answered"""
    sample_tokens: Annotated[PositiveInt, FREE] = 80
    """tokens of each of these, at most"""

    @model_validator(mode="after")
    def _each_benchmark_once(self) -> Self:
        twice = [name for number, name in enumerate(self.benchmarks) if name in self.benchmarks[:number]]
        if twice:
            raise ValueError(f"benchmarks names {twice[0]!r} twice; accepted: each benchmark once")
        return self
