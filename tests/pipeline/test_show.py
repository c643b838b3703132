"""`keylm data show` says of each window where its documents come from, in repacked shards too."""

import json
import re
from pathlib import Path

import pytest
from support.recipes import tiny_recipe

from keylm.base.errors import KeylmError
from keylm.data.curriculum import Curriculum
from keylm.data.store import finished_store
from keylm.pipeline.run import run
from keylm.pipeline.show import show_batch
from keylm.recipe.load import Recipe
from keylm.recipe.run_folder import RunFolder

SETTINGS = [
    *("data.repack=true", "data.shard_tokens=512", "sources.notes.max_bytes=2000", "sources.chat.max_bytes=1000"),
    *("stages.pretrain.weights={notes=1, chat=1}", "stages.pretrain.tokens=6144"),
]
DOCUMENT = re.compile(r"\[notes.jsonl:(\d+)\] tokens \d+–\d+, \d+ carry loss\n    (.+)\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    folder = tmp_path_factory.mktemp("show")
    recipe = tiny_recipe(folder, SETTINGS)
    return recipe, run(recipe, folder / "run", until="shards", quiet=True)


def shown(built: tuple[Recipe, RunFolder], source: str, epoch: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is shown of the first step with a window of this epoch of a source."""
    curriculum = Curriculum(built[0], finished_store(built[1].shards).layout)
    steps = range(curriculum.total_steps)
    step = next(n for n in steps if any((p.source, p.epoch) == (source, epoch) for p in curriculum.picks(n)))
    show_batch(built[1].path, step, 8, 500)
    return capsys.readouterr().out


def test_a_repacked_window_is_called_so_and_names_the_lines_of_its_documents(
    built: tuple[Recipe, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "repacked" not in shown(built, "notes", 0, capsys)
    chat = shown(built, "chat", 1, capsys)
    assert re.search(r"chat, epoch 1, shard \d+, window \d+", chat), "conversations stay whole"
    text = shown(built, "notes", 1, capsys)
    assert re.search(r"notes, epoch 1, shard \d+ \(repacked\), window \d+", text)
    lines = [json.loads(line)["text"] for line in Path(built[0].sources["notes"].path or "").read_text().splitlines()]
    repacked = "".join(part for part in re.split(r"(?=window \d+: )", text) if "(repacked)" in part)
    documents = DOCUMENT.findall(repacked)
    assert documents
    for line, said in documents:
        assert said.strip("'").replace("<|endoftext|>", "") in lines[int(line) - 1]


def test_shards_that_were_built_for_another_packing_are_refused(built: tuple[Recipe, RunFolder]) -> None:
    _, folder = built
    text = folder.recipe.read_text()
    folder.recipe.write_text(text.replace("repack = true", "repack = false"))
    with pytest.raises(KeylmError, match=r"order: the shards were built with .*'repack': True"):
        show_batch(folder.path, 0, 1, 0)
    folder.recipe.write_text(text)
