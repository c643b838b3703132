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
from pydantic import Field, ValidationError, model_validator

from keylm.base.errors import KeylmError
from keylm.base.files import DEEPEST, TOO_DEEP, check_depth, within_depth
from keylm.base.shapes import explain, near
from keylm.recipe.fields import LanguageName, Name, PathText, Section
from keylm.recipe.marks import FREE, IsPath, Location, map_texts, marked
from keylm.recipe.schema import (
    EMBEDDED,
    MINHASH,
    UNSTATED,
    Checkpoints,
    Curation,
    Data,
    Evaluation,
    Model,
    Optimizer,
    Source,
    Tokenizer,
    Training,
    Typos,
)
from keylm.recipe.stage import Stage

CORPUS_FOLDER = Path(__file__).parents[1] / "corpus"


class Recipe(Section):
    """A whole model: shape, tokenizer, sources, stages, optimizer, checkpoints, evaluation, seed."""

    name: Annotated[Name, FREE]
    """what the run and its folder are called: letters, digits, _ and -"""
    description: Annotated[str, FREE] = ""
    """a sentence for the report"""
    language: tuple[LanguageName, ...] = Field(default=("en",), min_length=1)
    """languages of the model, as codes or code/layout ("de/german"): their keyboards decide typos and suggestions"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """of the first weights, the data's order, the noise and the samples"""
    model: Model
    tokenizer: Tokenizer = Tokenizer()
    paths: Annotated[dict[Name, PathText], IsPath("folder"), FREE] = Field(default_factory=dict)
    """folders that other paths may begin with, as `{name}/…`"""
    licences: Annotated[Literal["all", "open"], FREE] = "all"
    """"open": sources whose `licence` is "unstated" get no weight, the others keep their proportions"""
    data: Data = Data()
    typos: Typos = Typos()
    curation: Curation | None = None
    sources: dict[Name, Source]
    stages: dict[Name, Stage]
    training: Training
    optimizer: Optimizer = Optimizer()
    checkpoints: Annotated[Checkpoints, FREE] = Checkpoints()
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
                if self.sources[source].typos_of:
                    raise ValueError(f"sources.{source_name}.typos_of names {source!r}, which is a typo source itself")
                if self.language_of(source) != self.language_of(origin.typos_of[0]):
                    raise ValueError(
                        f"sources.{source_name}.typos_of names sources of {self.language_of(origin.typos_of[0])!r} and "
                        f"{self.language_of(source)!r}; accepted: of one language, whose keyboard mistypes them"
                    )
        if self.training.context > self.model.max_position_embeddings:
            raise ValueError(
                f"training.context = {self.training.context} is over "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}"
            )
        return self

    def language_of(self, source: str) -> str:
        """Return the language of a source's text; of a typo source, that of what it is made from."""
        origin = self.sources[source]
        return self.language_of(origin.typos_of[0]) if origin.typos_of else origin.language or self.language[0]

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

    @property
    def read_sources(self) -> dict[str, Source]:
        """The sources that are read: those used, and those that a used typo source is made from."""
        read = {name for used, source in self.used_sources.items() for name in source.typos_of or (used,)}
        return {name: source for name, source in self.sources.items() if name in read}

    @property
    def given_tokenizer(self) -> str | None:
        """The folder of a finished tokenizer: the recipe's own, else the initial model's; None where one is trained."""
        return self.tokenizer.path or self.training.initial_model

    def to_data(self) -> dict[str, Any]:
        """Return the resolved recipe as plain values (every default written out, None left out)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML."""
        return tomli_w.dumps(self.to_data())


PATHS = marked(Recipe, IsPath)
"""The fields that hold paths."""


def _paths_to(*kinds: str) -> list[Location]:
    return [location for location, mark in PATHS.items() if mark.to in kinds]


def paths_in(recipe: Recipe, kind: str) -> list[tuple[str, str]]:
    """Return (field, path) of each path to a `kind` of thing (see `IsPath`) that the recipe names."""
    found: list[tuple[str, str]] = []
    map_texts(recipe.to_data(), _paths_to(kind), lambda text, field: found.append((field, text)))
    return found


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Read a TOML file or packaged recipe, apply `dotted.key=value`, validate and resolve. Raises KeylmError."""
    file = find_recipe(path)
    return resolve_recipe(read_toml(file), file, overrides)


def resolve_recipe(data: dict[str, Any], file: Path, overrides: list[str] | None = None) -> Recipe:
    """Override, validate and resolve plain values (changed in place); paths count from `file`. Raises KeylmError."""
    for override in overrides or []:
        _apply(data, override)
    return _resolve_paths(_licensed(parse_recipe(data, str(file)), str(file)), file)


def parse_recipe(data: Mapping[str, Any], where: str) -> Recipe:
    """Validate plain values; `where` is named in errors. Raises KeylmError."""
    try:
        check_depth(data)
        # JSON mode: TOML arrays become tuples, and no string becomes a number. A date, which JSON has not and no
        # field takes, goes in as a list, so that it is refused.
        current = _with_languages(_without_retired(data))
        return Recipe.model_validate_json(json.dumps(current, default=lambda value: [str(value)]), strict=True)
    except ValidationError as error:
        lines = [explain(problem, Recipe) for problem in error.errors()]
        raise KeylmError("\n".join(f"{where}: {line}" for line in lines)) from None
    except ValueError as error:
        raise KeylmError(f"{where}: {str(error)[:200]}; accepted: valid Unicode and numbers of usual size") from None


def _without_retired(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop fields that resolved recipes of earlier runs spell out: fixed by now, or of no effect with Muon."""
    curation, optimizer = data.get("curation"), data.get("optimizer")
    if isinstance(curation, dict):
        data = {**data, "curation": {key: value for key, value in curation.items() if MINHASH.get(key) != value}}
    if isinstance(optimizer, dict) and optimizer.get("matrices") == "muon":
        unused = {"matrices", "matrix_learning_rate", "matrix_betas", "matrix_weight_decay"}
        data = {**data, "optimizer": {key: value for key, value in optimizer.items() if key not in unused}}
    return data


def _with_languages(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Spell out what `language` means: a list of one, and the languages that curation keeps where it names none."""
    given, curation = data.get("language"), data.get("curation")
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list):
        return data
    data = {**data, "language": given}
    if not isinstance(curation, dict) or "languages" in curation:
        return data
    codes = list(dict.fromkeys(str(name).partition("/")[0] for name in given))
    return {**data, "curation": {**curation, "languages": codes}}


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
    here = Path(__file__).parents[1]
    for folder in (here / "recipes", here.parent.parent / "recipes"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return {}


def read_toml(file: Path) -> dict[str, Any]:
    """Return a TOML file's content. Raises KeylmError where it cannot be read or is none."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KeylmError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise KeylmError(f"{file}: cannot be read: {error.strerror}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text. Raises ValueError where it is none, or is nested too deeply to be read."""
    return dict(within_depth(tomllib.loads, text))


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in `data`; the value is read as TOML, or as a plain string."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > DEEPEST:
        raise KeylmError(f"--set {override[:200]!r}: accepted is dotted.key=value, such as training.batch_tokens=65536")
    try:
        parsed = parse_toml(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except ValueError as error:
        if str(error) == TOO_DEEP:
            raise KeylmError(f"--set {override[:60]!r} …: {TOO_DEEP}; accepted: dotted.key=value") from None
        value = text
    table: Any = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise KeylmError(f"--set {override!r}: {part!r} is a value, not a table")
    table[parts[-1]] = map_texts(value, PATHS, _from_here, tuple(parts))


def _from_here(path: str, _: str) -> str:
    """Return a path of the command line as the user means it: from the working folder, not from the recipe's."""
    if not path or path.startswith((EMBEDDED, "{")) or "://" in path:
        return path
    try:
        return str(Path.cwd() / Path(path).expanduser())
    except RuntimeError as error:  # ~ of nobody
        raise KeylmError(f"--set: got the path {path!r}: {error}") from None


def _licensed(recipe: Recipe, where: str) -> Recipe:
    """Return the recipe without sources of no stated licence where `licences` says so. Raises KeylmError."""
    if recipe.licences == "all":
        return recipe
    data = recipe.to_data()
    closed = {name for name, source in recipe.sources.items() if source.licence == UNSTATED}
    for name, source in recipe.sources.items():
        if source.typos_of:
            origins = [origin for origin in source.typos_of if origin not in closed]
            data["sources"][name]["typos_of"] = origins or list(source.typos_of)
            closed |= set() if origins else {name}
    for stage_name, stage in data["stages"].items():
        left = {name: weight for name, weight in stage["weights"].items() if name not in closed}
        if not sum(left.values()) > 0:
            raise KeylmError(
                f'{where}: licences = "open" leaves stages.{stage_name} without a source; accepted: sources with a '
                f'licence other than "{UNSTATED}"'
            )
        stage["weights"] = left
    return parse_recipe(data, where)


def _resolve_paths(recipe: Recipe, file: Path) -> Recipe:
    """Return the recipe with paths made absolute (relative ones count from the recipe's folder)."""
    data = recipe.to_data()
    folders = {name: _absolute(path, file, f"paths.{name}") for name, path in recipe.paths.items()}

    def absolute(text: str, field: str) -> str:
        return _absolute(_fill(text, folders, f"{file}: {field}"), file, field)

    def local(text: str, field: str) -> str:
        return text if "://" in text else absolute(text, field)

    data = map_texts(data, _paths_to("text", "tokenizer"), absolute)
    data = map_texts(data, _paths_to("build"), local)
    return parse_recipe({**data, "paths": folders}, str(file))


def _fill(text: str, folders: Mapping[str, str], where: str) -> str:
    """Return `text` with a leading `{name}` replaced by that folder of the recipe's `paths`."""
    name, closed, rest = text.removeprefix("{").partition("}")
    if not (text.startswith("{") and closed):
        return text
    if name not in folders:
        raise KeylmError(f"{where}: got {text!r}; [paths] has: {', '.join(folders) or 'nothing'}")
    return folders[name] + rest


def _absolute(text: str, recipe_file: Path, field: str) -> str:
    """Return the path that `text` means; `embedded:` names stay as they are, so that recipes stay portable.

    Whether anything exists there is checked when it is read (data/sources.py): a trained model needs no sources.
    """
    if text.startswith(EMBEDDED):
        if not (CORPUS_FOLDER / text.removeprefix(EMBEDDED)).is_file():
            names = sorted(file.name for file in CORPUS_FOLDER.glob("*.jsonl.zst"))
            raise KeylmError(f"{recipe_file}: {field}: got {text!r}; embedded files are: {', '.join(names)}")
        return text
    try:
        return str((recipe_file.parent / Path(text).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, ~ of nobody, a NUL
        raise KeylmError(f"{recipe_file}: {field}: got {text!r}: {error}; accepted: a file or folder") from None


def missing_path(path: str, *, a_tokenizer: bool = False) -> str | None:
    """Return what is wrong if a resolved recipe's `path` does not exist (or is not a tokenizer), else None."""
    if path.startswith(EMBEDDED):
        return None  # comes with the package
    try:
        Path(path).stat()
        if a_tokenizer and not (Path(path) / "tokenizer.json").is_file():
            return f"{path} has no tokenizer.json; accepted: a tokenizer's folder"
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return f"{path} {why}; accepted: a file or folder"
    return None


def stage_steps(recipe: Recipe) -> dict[str, int]:
    """Return each stage's number of optimizer steps: its tokens over a batch's, rounded up."""
    return {name: math.ceil(stage.tokens / recipe.training.batch_tokens) for name, stage in recipe.stages.items()}
