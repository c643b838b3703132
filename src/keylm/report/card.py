"""A model card from what the run left on disk: huggingface_hub's ModelCard, the figures as its eval results.

Invariant: every figure comes from a file of the run or of the model. What no file says is left out, or is said to be
not measured or not known; nothing is filled in. The sections are in card_sections.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.base.errors import KeylmError
from keylm.base.files import parse_json, read_object
from keylm.base.shapes import check
from keylm.evaluation.contamination import contamination_record
from keylm.evaluation.following import following
from keylm.evaluation.shapes import PARITY, ROWS
from keylm.model.config_files import read_config_file
from keylm.model.folder import model_languages
from keylm.model.tensors import stored_tensors
from keylm.report.card_sections import CardFacts
from keylm.report.evaluation import (
    MEASURED,
    EvaluationSection,
    evaluation_folder,
    figures_of,
    read_benchmarks,
    read_evaluation,
    read_instructions,
)
from keylm.report.run_record import Reader, Run, read_run, refuse_damaged

TASK = "text-generation"


@dataclass(frozen=True)
class CardDetails:
    """What a card says that is in no file of the model."""

    name: str | None = None
    """The model's name; by default that of its run or folder."""
    repo: str | None = None
    """OWNER/NAME on the hub."""
    licence: str | None = None
    """The model's own."""
    watts: float | None = None
    """What a processor drew in training, for the energy estimate."""
    parity: Path | None = None
    """An export's parity.json."""


def card_text(place: Path, details: CardDetails | None = None) -> str:
    """Return the card (README.md) of a model folder or of a run. Raises KeylmError where `place` is neither."""
    from huggingface_hub import ModelCard

    from keylm.report.card_sections import body

    facts = gather(place, details or CardDetails())
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body(facts)}"))


def gather(place: Path, details: CardDetails) -> CardFacts:
    """Read what there is to say of a model folder or a run. Raises KeylmError where `place` is neither."""
    model, run_folder = _folders(place)
    measured = evaluation_folder(run_folder or model)
    read = Reader(measured)
    records, rows = read_benchmarks(measured, read.missing), read("evaluation.json", parse_json, list, ROWS)
    typing, robustness = (read(name, parse_json, dict, shape) for name, shape in MEASURED.items())
    instructions = read_instructions(read)
    evaluation = read_evaluation(run_folder) if run_folder else None
    run = read_run(run_folder) if run_folder else None
    refuse_damaged(measured, read.missing)
    if run_folder and run and evaluation:
        refuse_damaged(run_folder, {**run.missing, **evaluation.missing})
    parity = read_object(details.parity) if details.parity else {}
    check(PARITY, parity, str(details.parity))
    return CardFacts(
        name=details.name or (details.repo.split("/")[-1] if details.repo else (run_folder or model).resolve().name),
        config=read_config_file(model / "config.json"),
        has_chat=_has_chat(model, run),
        parameters=_parameters(model),
        run=run,
        part=measured.name if measured.name != "evaluation" else "",
        figures=tuple(figures_of(records)),
        harness=", ".join(sorted({str(record.get("harness")) for record in records.values() if record.get("harness")})),
        commands=tuple(dict.fromkeys(str(row["command"]) for row in rows if row.get("command"))),
        robustness=robustness,
        typing=typing,
        instructions=instructions,
        following=tuple(following(records, instructions.get("rows") or ())) if instructions else (),
        contamination=_contamination(run_folder, evaluation),
        parity=parity,
        languages=tuple(dict.fromkeys(name.partition("/")[0] for name in model_languages(model))),
        licence=details.licence,
        repo=details.repo,
        watts=details.watts,
    )


def _contamination(run: Path | None, evaluation: EvaluationSection | None) -> Mapping[str, Any]:
    """Return what is known of benchmark items in the training texts: measured, or recorded by curation."""
    if not run or (evaluation and evaluation.contamination):
        return evaluation.contamination if evaluation else {}
    try:
        return contamination_record(run)
    except KeylmError:
        return {}


def _folders(place: Path) -> tuple[Path, Path | None]:
    """Return the model folder and, where it is a run's final model, that run."""
    if (place / "config.json").is_file():
        folder = place.resolve()
        of_run = folder.name == "model" and (folder.parent / "recipe.toml").is_file()
        return place, folder.parent if of_run else None
    if (place / "recipe.toml").is_file():
        if not (place / "model" / "config.json").is_file():
            raise KeylmError(f"{place}: the run has no model yet; accepted: a finished run, or a model folder")
        return place / "model", place
    raise KeylmError(f"{place}: no config.json or recipe.toml in it; accepted: a model folder or a run folder")


def _has_chat(model: Path, run: Run | None) -> bool:
    """Return whether the model was trained to chat: by its recipe, or without one by its chat template."""
    if run and run.recipe:
        sources = run.recipe.get("sources", {})
        return any(
            weight > 0 and sources.get(name, {}).get("register") == "conversational"
            for stage in run.recipe.get("stages", {}).values()
            for name, weight in stage.get("weights", {}).items()
        )
    return bool(_settings(model).get("chat_template")) or (model / "chat_template.jinja").is_file()


def _settings(model: Path) -> Mapping[str, Any]:
    file = model / "tokenizer_config.json"
    return read_config_file(file) if file.is_file() else {}


def _parameters(model: Path) -> int | None:
    """Count the values in a folder's weights from the files' headers; None if there are none."""
    there = list(model.glob("*.safetensors"))  # a light clone has but their index
    return sum(math.prod(tensor.shape) for tensor in stored_tensors(model).values()) if there else None


def _metadata(facts: CardFacts) -> Any:
    """Return the card's metadata: what the hub shows and searches by."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=name,
            dataset_name=name,
            metric_type=metric,
            metric_value=round(100 * figure.value if figure.is_share else figure.value, 2),
            metric_name=f"{metric} (zero-shot, {'per cent, ' if figure.is_share else ''}n = {figure.n})",
        )
        for figure in facts.figures
        if len(figure.line.parts) == 1
        for name, metric in figure.line.parts
    ]
    sources = facts.run.recipe.get("sources", {}) if facts.run else {}
    datasets = list(dict.fromkeys(source["hub"] for source in sources.values() if source.get("hub")))
    tags = ["keylm", *(["conversational"] if facts.has_chat else [])]
    return ModelCardData(
        language=facts.languages[0] if len(facts.languages) == 1 else list(facts.languages),
        license=facts.licence,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags,
        datasets=datasets or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
