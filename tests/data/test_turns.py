"""Conversations in the forms of the hub's data sets: what they say is used, and what has no use is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.recipes import tiny_recipe, write_jsonl

from keylm.data.documents import Document, Fault, Record
from keylm.data.encode import Encoder
from keylm.data.sources import read_source
from keylm.recipe.schema import Source

PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SYSTEM = {"role": "system", "content": "Be brief."}
BEFORE = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
NAMED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
WITH_CONTEXT = [{"role": "user", "content": "Hi\n\nThere."}, PLAIN[1]]
SAME: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "developer": ({"messages": [{"role": "developer", "content": "Be brief."}, *PLAIN]}, [SYSTEM, *PLAIN]),
    "from and value in messages": ({"messages": NAMED}, PLAIN),
    "parts": ({"messages": [PLAIN[0], {"role": "assistant", "content": PARTS}]}, PLAIN),
    "pairs": ({"conversation": [["One?", "Two."], ["Hi", "Hello."]]}, [*BEFORE, *PLAIN]),
    "roles in pairs": ({"conversation": [["user", "Hi"], ["assistant", "Hello."]]}, PLAIN),
    "pairs by name": ({"conversation": [{"human": "Hi", "assistant": "Hello."}]}, PLAIN),
    "system": ({"system": "Be brief.", "messages": PLAIN}, [SYSTEM, *PLAIN]),
    "the same system twice": ({"system": "Be brief.", "messages": [SYSTEM, *PLAIN]}, [SYSTEM, *PLAIN]),
    "system_prompt": ({"system_prompt": "Be brief.", "question": "Hi", "response": "Hello."}, [SYSTEM, *PLAIN]),
    "no system": ({"system": "", "system_prompt": None, "history": [], "tools": "[]", "messages": PLAIN}, PLAIN),
    "history of pairs": (
        {"instruction": "Hi", "input": "", "output": "Hello.", "system": "Be brief.", "history": [["One?", "Two."]]},
        [SYSTEM, *BEFORE, *PLAIN],
    ),
    "history of messages": ({"history": BEFORE, "messages": [SYSTEM, *PLAIN]}, [SYSTEM, *BEFORE, *PLAIN]),
    "history that the messages begin with": ({"history": BEFORE, "messages": BEFORE + PLAIN}, BEFORE + PLAIN),
    "prompt and completion": ({"prompt": PLAIN[:1], "completion": PLAIN[1:]}, PLAIN),
    "a completion of one message": ({"prompt": "Hi", "completion": PLAIN[1]}, PLAIN),
    "a completion with its prompt": ({"prompt": PLAIN[:1], "completion": PLAIN}, PLAIN),
    "a context": ({"instruction": "Hi", "context": "There.", "response": "Hello."}, WITH_CONTEXT),
}


def read(row: dict[str, Any], folder: Path, **source: Any) -> tuple[list[Document], list[tuple[str, str]]]:
    items = list(read_source("s", Source(path=str(write_jsonl(folder / "a.jsonl", [row])), **source)))
    faults = [(item.kind, item.detail) for item in items if isinstance(item, Fault)]
    return [item for item in items if isinstance(item, Document)], faults


@pytest.mark.parametrize("form", SAME)
def test_every_form_gives_the_same_messages(form: str, tmp_path: Path) -> None:
    row, expected = SAME[form]
    [document], faults = read(row, tmp_path)
    assert (list(document.messages), faults) == (expected, [])


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"messages": PLAIN, "tools": [{"name": "search"}]}, "tools_not_used", "tools: "),
        ({"prompt": "Hi", "response": "Hello.", "functions": '[{"name": "f"}]'}, "tools_not_used", "functions: "),
        ({"messages": [SYSTEM, *PLAIN], "system": "Be long."}, "system_not_used", "another system turn"),
        ({"messages": PLAIN, "system": 7}, "system_not_used", "got int"),
        ({"messages": PLAIN, "history": "said before"}, "history_not_used", "turns are str"),
        ({"messages": PLAIN, "history": [["a", None]]}, "history_not_used", "history: "),
        ({"messages": [PLAIN[0], {**PLAIN[1], "weight": 0.5}]}, "weight_not_used", "accepted: 0 or 1; got ['0.5']"),
    ],
)
def test_what_has_no_use_is_told_and_the_rest_is_read(
    row: dict[str, Any], kind: str, says: str, tmp_path: Path
) -> None:
    [document], [(found, detail)] = read(row, tmp_path)
    assert list(document.messages[-2:]) == PLAIN
    assert found == kind
    assert says in detail


def test_an_adapter_by_name_uses_the_columns_beside_its_own(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "messages": PLAIN, "history": [["One?", "Two."]]}
    [document], _ = read(row, tmp_path, adapter="ultrachat")
    pq.write_table(pa.table({key: [value] for key, value in row.items()}), tmp_path / "a.parquet")
    [same] = read_source("s", Source(path=str(tmp_path / "a.parquet"), adapter="ultrachat"))
    assert isinstance(same, Document)
    assert list(document.messages) == list(same.messages) == [SYSTEM, *BEFORE, *PLAIN]


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"trainable": 0}, {"loss_mask": 0.0}, {"weight": "0"}]
)
@pytest.mark.parametrize("kind", ["assistant", "all", "typos"])
def test_a_turn_without_weight_carries_no_loss(
    mark: dict[str, Any], kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    turns = [{**turn, "content": "the red fox"} for turn in [*PLAIN, *PLAIN]]
    stages = "stages={all={tokens=1024, weights={typed=1, chat=1}}}"
    loss = f"sources.chat.loss='{'all' if kind == 'all' else 'assistant'}'"
    sizes = ["training.context=128", "model.max_position_embeddings=128"]
    recipe = tiny_recipe(tmp_path, ["sources.typed={typos_of=['chat']}", stages, loss, *sizes])

    def trained(messages: list[dict[str, Any]]) -> tuple[Any, Any]:
        record = Record("f", 1, json.dumps({"messages": messages}).encode(), "chat" if kind == "typos" else "")
        [(_, piece)] = Encoder(recipe, "typed" if kind == "typos" else "chat", tokenizer).encode([record]).split()
        return piece.tokens, piece.trained.copy()

    (tokens, whole), (same, marked) = trained(turns), trained([turns[0], {**turns[1], **mark}, *turns[2:]])
    np.testing.assert_array_equal(tokens, same)
    starts = np.flatnonzero(tokens == 1)  # <|im_start|>
    assert len(starts) == 4
    assert whole[starts[1] : starts[2]].any()
    assert not marked[starts[1] : starts[2]].any()
    marked[starts[1] : starts[2]] = whole[starts[1] : starts[2]]
    np.testing.assert_array_equal(marked, whole)
