"""What the task files of prompt_noise.py name: the installed harness's own task, its prompts mistyped."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.task import ConfigurableTask

from keylm.base.errors import KeylmError
from keylm.evaluation.prompt_noise import Noise
from keylm.recipe.benchmark_table import MISTYPED

_STRUCTURE = ("class", "typos", "tag", "group", "include", "task_list")
"""Keys of a task file that are not fields of a task."""


class TypoTask(ConfigurableTask):  # type: ignore[misc]
    """A clean task of the harness with a `Noise` over its prompts, few-shot examples included."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config=mistyped_config(config or {}))


class Processing:
    """The harness's processing of a benchmark's items, then the noise; results record its `repr`.

    Not a dataclass: lm_eval would write its fields into the results, with the functions' memory addresses.
    """

    def __init__(self, first: Callable[[Any], Any] | None, noise: Noise) -> None:
        self.first, self.noise = first, noise

    def __call__(self, docs: Any) -> Any:
        """Return a datasets.Dataset processed and mistyped."""
        return self.noise(self.first(docs) if self.first else docs)

    def __repr__(self) -> str:
        first = f"{self.first.__module__}.{self.first.__qualname__}, then " if self.first else ""
        return f"{first}{self.noise!r}"


def mistyped_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the harness's config of a task under `config`, with the noise of its `typos`. Raises KeylmError."""
    given = config.get("typos")
    if not isinstance(given, Mapping) or set(given) != {"benchmark", "rate", "seed"}:
        raise KeylmError(f"task {config.get('task')}: typos = {given!r}; accepted: benchmark, rate and seed")
    noise = Noise(**given)
    own = {key: value for key, value in config.items() if key not in _STRUCTURE}
    whole = {**official_config(noise.benchmark), **own}
    metadata = [part.get("metadata") or {} for part in (official_config(noise.benchmark), config)]
    whole["metadata"] = {**metadata[0], **metadata[1], "typos": noise.facts()}
    whole["process_docs"] = Processing(whole.get("process_docs"), noise)
    return whole


def official_config(benchmark: str) -> dict[str, Any]:
    """Return the installed harness's config of a benchmark, its functions imported."""
    file = Path(lm_eval.__file__).parent / "tasks" / MISTYPED[benchmark].harness

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Imports what `!function` names from the folder of the harness's file."""

    Loader.add_constructor("!function", partial(_function, f"lm_eval.tasks.{file.parent.name}"))
    config: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)
    return {key: value for key, value in config.items() if key not in _STRUCTURE}


def _function(package: str, loader: Any, node: Any) -> Any:
    module, _, name = loader.construct_scalar(node).rpartition(".")
    return getattr(importlib.import_module(f"{package}.{module}"), name)
