"""A model card from what the run left on disk: huggingface_hub's ModelCard, with the figures as its eval results.

Invariant: every figure comes from a file of the run or of the model. What no file says is left out, or is said to be not
measured or not known; nothing is filled in. The sections are in card_sections.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keylm.errors import KeylmError
from keylm.evaluation.report_evaluation import Evaluation, figures_of, read_benchmarks, read_evaluation
from keylm.evaluation.results import EvaluationFolder, Figure
from keylm.evaluation.run_record import Run, read_run
from keylm.files import read_json, read_table

LANGUAGE = "en"
TASK = "text-generation"


@dataclass(frozen=True)
class Facts:
    """All that a card is made of; what is not there is None or empty."""

    name: str
    config: Mapping[str, Any]
    has_chat: bool
    parameters: int | None
    run: Run | None
    evaluation: Evaluation | None
    figures: tuple[Figure, ...]
    harness: str
    commands: tuple[str, ...]
    robustness: Mapping[str, Any]
    typing: Mapping[str, Any]
    parity: Mapping[str, Any]
    licence: str | None
    repo: str | None
    watts: float | None


def card_text(
    place: Path,
    *,
    licence: str | None = None,
    repo: str | None = None,
    watts: float | None = None,
    parity: Path | None = None,
) -> str:
    """Return the card (README.md) of a model folder or of a run.

    `licence` is the model's, which only its maker knows; `repo` its name on the hub; `watts` what a processor draws, for
    the energy estimate; `parity` the parity.json of an export. Raises KeylmError where `place` is neither.
    """
    from huggingface_hub import ModelCard

    from keylm.release.card_sections import body

    facts = gather(place, licence=licence, repo=repo, watts=watts, parity=parity)
    card = ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body(facts)}")
    return str(card)


def gather(
    place: Path,
    *,
    licence: str | None = None,
    repo: str | None = None,
    watts: float | None = None,
    parity: Path | None = None,
) -> Facts:
    """Read what there is to say of a model folder or a run. Raises KeylmError where `place` is neither."""
    model, run_folder = _folders(place)
    run = read_run(run_folder) if run_folder else None
    config = read_json(model / "config.json")
    place_of_figures = run_folder / "evaluation" if run_folder else model / "evaluation"
    evaluation = read_evaluation(run_folder) if run_folder else None
    if run_folder and evaluation:
        place_of_figures = run_folder / evaluation.place
    records = read_benchmarks(place_of_figures, {})
    files = EvaluationFolder(place_of_figures)
    rows = read_json(files.rows) if files.rows.is_file() else []
    return Facts(
        name=_name(model, run_folder, repo),
        config=config,
        has_chat=_has_chat(model, run),
        parameters=_parameters(model),
        run=run,
        evaluation=evaluation,
        figures=tuple(figure for figure in figures_of(records)),
        harness=", ".join(sorted({str(record.get("harness")) for record in records.values() if record.get("harness")})),
        commands=tuple(
            dict.fromkeys(str(row["command"]) for row in rows if isinstance(row, dict) and row.get("command"))
        ),
        robustness=read_table(files.robustness),
        typing=read_table(files.typing),
        parity=read_table(parity) if parity else {},
        licence=licence,
        repo=repo,
        watts=watts,
    )


def _folders(place: Path) -> tuple[Path, Path | None]:
    """Return the model folder and, where there is one, the run folder."""
    if (place / "config.json").is_file():
        above = place.resolve().parent
        return place, above if (above / "recipe.toml").is_file() else None
    if (place / "recipe.toml").is_file():
        if not (place / "model" / "config.json").is_file():
            raise KeylmError(f"{place}: the run has no model yet; accepted: a finished run, or a model folder")
        return place / "model", place
    raise KeylmError(f"{place}: no config.json or recipe.toml in it; accepted: a model folder or a run folder")


def _name(model: Path, run: Path | None, repo: str | None) -> str:
    if repo:
        return repo.split("/")[-1]
    folder = run if run and model.resolve().name == "model" else model.resolve()
    return folder.name


def _has_chat(model: Path, run: Run | None) -> bool:
    """Return whether the model learnt answers: by its recipe, or where none is known by its having a template."""
    if run and run.recipe:
        sources = run.recipe.get("sources", {})
        return any(
            weight > 0 and sources.get(name, {}).get("register") == "conversational"
            for stage in run.recipe.get("stages", {}).values()
            for name, weight in stage.get("weights", {}).items()
        )
    return (
        bool(read_table(model / "tokenizer_config.json").get("chat_template"))
        or (model / "chat_template.jinja").is_file()
    )


def _parameters(model: Path) -> int | None:
    """Count the values in a folder's weights from the files' headers; None where there are none."""
    from safetensors import safe_open

    total = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # the object is no mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total or None


def _metadata(facts: Facts) -> Any:
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
    more = {"model_name": facts.name, "eval_results": results} if results else {}
    return ModelCardData(
        language=LANGUAGE,
        license=facts.licence,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags,
        datasets=datasets or None,
        **more,
    )
