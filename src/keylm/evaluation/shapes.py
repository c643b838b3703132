"""What pages and cards rely on in the files of an evaluation and of a run, which may be damaged or another program's.

A file of another shape is named with the entry at fault; what is in it beyond the shape is left alone.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Number = Annotated[float, Field(ge=-1e18, le=1e18)]
Amount = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e18, le=1e18)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Metric(_Shape):
    value: float
    stderr: float | None


class BenchmarkShape(_Shape):
    """benchmarks/NAME.json."""

    metrics: Annotated[dict[str, _Metric], Field(min_length=1)]
    n: Amount
    items: dict[str, list[Finite | Annotated[list[Finite], Field(min_length=1)]]] = {}
    harness: str | None = None
    command: str | None = None
    settings: dict[str, Any] = {}
    versions: dict[str, Any] | None = None
    task_hashes: dict[str, Any] | None = None


class _Measure(_Shape):
    measure: str
    set: str
    system: str
    value: Finite | None
    unit: str = ""
    low: Finite | None = None
    high: Finite | None = None
    n: Amount = 0


class _TestSet(_Shape):
    items: Amount | None = None
    hash: str | None = None
    licence: str | None = None


class MeasuresShape(_Shape):
    """typing.json and instructions.json."""

    rows: list[_Measure] = []
    protocol: str | None = None
    sets: dict[str, _TestSet] = {}
    latency: dict[str, Finite | str] | None = None
    skipped: dict[str, str] = {}


class _Curve(_Shape):
    benchmark: str
    metric: str | None = None
    floor: Finite | None = None
    rates: list[Finite]
    values: list[Finite | None] | None
    spread: list[Finite | None] | None
    retention: list[Finite | None] | None
    reason: str | None = None

    @model_validator(mode="after")
    def _alike(self) -> Self:
        lists = (self.values, self.spread, self.retention)
        if any(part is not None and len(part) != len(self.rates) for part in lists):
            raise ValueError("as many values, spread and retention as rates")
        return self


class _Point(_Shape):
    benchmark: str
    metric: str
    rate: Finite
    value: Finite


class RobustnessShape(_Shape):
    """robustness.json."""

    points: list[_Point] = []
    curves: list[_Curve] = []
    area: Finite | None = None
    area_low: Finite | None = None
    area_high: Finite | None = None
    reason: str | None = None


class _Items(_Shape):
    benchmark: str
    items: Amount | None = None
    before: Amount | None = None
    after: Amount | None = None


class ContaminationShape(_Shape):
    """contamination.json."""

    statement: str = ""
    rows: list[_Items] = []


class RowShape(_Shape):
    """A row of evaluation.json."""

    command: str | None = None


class _Artefact(_Shape):
    artefact: str
    passed: bool
    bytes: Amount
    logit: float
    kl: float
    top1: float
    perplexity: float
    reference_perplexity: float
    tokenizer_mismatches: Amount
    tokenizer_strings: Amount


class ParityShape(_Shape):
    """parity.json of an export."""

    artefacts: list[_Artefact] = []


class _Source(_Shape):
    hub: str | None = None
    path: str | None = None
    register_: str | None = Field(None, alias="register")
    licence: str | None = None
    loss: str | None = None
    typos_of: list[str] = []


class _Stage(_Shape):
    tokens: Amount
    weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = {}
    peak: Finite = 1.0
    final: Finite = 0.0
    decay: Finite = 0.0


class RecipeShape(_Shape):
    """recipe.toml of a run, of any version of keylm."""

    name: str = ""
    description: str = ""
    sources: dict[str, _Source] = {}
    stages: dict[str, _Stage] = {}
    training: dict[str, Any] = {}


class _Split(_Shape):
    windows: Amount | None = None
    tokens: Amount | None = None
    documents: Amount | None = None
    trained_tokens: Amount | None = None
    bytes: Amount | None = None


class _Built(_Shape):
    train: _Split = _Split()
    validation: _Split = _Split()
    faults: dict[str, Amount] = {}


class ManifestShape(_Shape):
    """shards/manifest.json, of any format."""

    hash: str | None = None
    context: Amount | None = None
    sources: dict[str, _Built] = {}


class _Message(_Shape):
    role: str
    content: str


class SampleShape(_Shape):
    """An entry of samples.json."""

    stage: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: list[_Message] | None = None


class SummaryShape(_Shape):
    """summary.json, as far as pages show it."""

    parameters: Amount | None = None
    world_size: Amount | None = None
    device: str | None = None
    device_name: str | None = None
    date: str | None = None
    keylm: str | None = None
    command: str | None = None


class StageShape(_Shape):
    """An entry of stages.json."""

    seconds: Annotated[float, Field(ge=0, le=1e12)]
