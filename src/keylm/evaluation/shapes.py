"""What pages and cards rely on in the files of an evaluation and of a run, which may be damaged or another program's.

A file of another shape is named with the entry at fault; what is in it beyond the shape is left alone.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from keylm.base.shapes import json_object as _object
from keylm.base.shapes import list_of as _list

Amount = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e18, le=1e18)]
Text, Count, Value, Values = str | None, Amount | None, Finite | None, list[Finite | None] | None


def _by_name(kind: Any) -> Any:
    return dict[str, kind]


def _as_long_as_rates(curve: Any) -> Any:
    lists = (curve.values_, curve.spread_, curve.retention_)
    if any(part is not None and len(part) != len(curve.rates_) for part in lists):
        raise ValueError("as many values, spread and retention as rates")
    return curve


_METRIC = _object("value stderr", value=float, stderr=float | None)
_OUTCOME = Finite | Annotated[list[Finite], Field(min_length=1)]
BENCHMARK = _object(
    "metrics n",
    metrics=Annotated[_by_name(_METRIC), Field(min_length=1)],
    n=Amount,
    items=_by_name(_list(_OUTCOME)),
    **{"harness": Text, "command": Text},
    **{"settings": dict[str, Any], "versions": dict[str, Any] | None, "task_hashes": dict[str, Any] | None},
)
"""benchmarks/NAME.json."""
_MEASURE = _object(
    "measure set system value",
    **{"measure": str, "set": str, "system": str, "unit": str, "n": Amount},
    **{"value": Value, "low": Value, "high": Value, "stderr": Value},
)
MEASURES = _object(
    rows=_list(_MEASURE),
    protocol=Text,
    sets=_by_name(_object(items=Count, hash=Text, licence=Text)),
    latency=dict[str, Finite | str] | None,
    skipped=dict[str, str],
)
"""typing.json and instructions.json."""
_ANSWER = _object("group prompt answer ended", group=str, prompt=str, answer=str, ended=bool)
EVERYDAY = _object(protocol=Text, chat=bool | None, answers=_list(_ANSWER))
"""everyday.json."""
_CURVE = _object(
    "benchmark rates values spread retention",
    **{"benchmark": str, "metric": Text, "floor": Value, "reason": Text},
    **{"rates": list[Finite], "values": Values, "spread": Values, "retention": Values},
)
ROBUSTNESS = _object(
    points=_list(_object("benchmark metric rate value", benchmark=str, metric=str, rate=Finite, value=Finite)),
    curves=_list(Annotated[_CURVE, AfterValidator(_as_long_as_rates)]),
    **{"area": Value, "area_low": Value, "area_high": Value, "reason": Text},
)
"""robustness.json."""
_ITEMS = _object("benchmark", benchmark=str, items=Count, before=Count, after=Count)
CONTAMINATION = _object(statement=str, rows=_list(_ITEMS))
"""contamination.json."""
ROWS = _list(_object(command=Text))
"""evaluation.json."""
_ARTEFACT: dict[str, Any] = {
    **{"artefact": str, "passed": bool, "bytes": Amount, "tokenizer_mismatches": Amount, "tokenizer_strings": Amount},
    **dict.fromkeys(("logit", "kl", "top1", "perplexity", "reference_perplexity"), float),
}
PARITY = _object(artefacts=_list(_object(" ".join(_ARTEFACT), **_ARTEFACT)))
"""parity.json of an export."""
_SOURCE = _object(hub=Text, path=Text, register=Text, licence=Text, loss=Text, typos_of=list[str])
_STAGE = _object(
    "tokens",
    tokens=Amount,
    weights=dict[str, Annotated[float, Field(ge=0, le=1e6)]],
    **dict.fromkeys(("peak", "final", "decay"), Finite),
)
RECIPE = _object(
    name=str,
    description=str,
    sources=_by_name(_SOURCE),
    stages=_by_name(_STAGE),
    training=dict[str, Any],
)
"""recipe.toml of a run, of any version of keylm."""
_SPLIT = _object(**dict.fromkeys(("windows", "tokens", "documents", "trained_tokens", "bytes"), Count))
_BUILT = _object(train=_SPLIT, validation=_SPLIT, faults=dict[str, Amount])
MANIFEST = _object(hash=Text, context=Count, sources=_by_name(_BUILT))
"""shards/manifest.json, of any format."""
_TURNS = _list(_object("role content", role=str, content=str))
SAMPLES = _list(_object(stage=Text, prompt=Text, text=Text, messages=_TURNS | None))
"""samples.json."""
SUMMARY = _object(
    **dict.fromkeys(("parameters", "world_size"), Count),
    **dict.fromkeys(("device", "device_name", "date", "keylm", "command"), Text),
)
"""summary.json, as far as pages show it."""
STAGES = _by_name(_object("seconds", seconds=Annotated[float, Field(ge=0, le=1e12)]))
"""stages.json."""
