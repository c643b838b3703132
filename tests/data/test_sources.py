"""Sources give the same records from any state on, keep to their limits, and say what is missing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.recipes import chat, tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.data import sources as module
from keylm.data.documents import Document, Fault, Record, document_bytes
from keylm.data.provenance import source_origin, source_stamps
from keylm.data.readers import source_files
from keylm.data.sources import Records, check_sources, open_records, parse, read_source, source_adapter
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.schema import Source

TYPOS = "sources.typed={typos_of=['notes', 'chat'], passes=2}"
LIMITS = ["sources.notes.max_bytes=2000", "sources.chat.max_bytes=500"]
ONLY_TYPOS = ["stages={all={tokens=1024, weights={typed=1}}}"]


def with_states(records: Records) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yield each record and the state after it, as it would be saved."""
    for record in records:
        yield record, json.loads(json.dumps(records.state()))


def go_on_everywhere(sources: dict[str, Source], name: str) -> list[Record]:
    """Return a source's records, having resumed from the state after each of them."""
    whole = list(with_states(open_records(sources, name)))
    expected = [record for record, _ in whole]
    for number, (_, state) in enumerate(whole, 1):
        rest = list(with_states(open_records(sources, name, state)))
        assert [record for record, _ in rest] == expected[number:], state
        assert rest == whole[number:], state
    return expected


def within(sources: dict[str, Source], name: str) -> list[Document]:
    """Return the documents of a source up to its limit."""
    kept, taken = [], 0
    for document in read_source(name, sources[name].model_copy(update={"max_bytes": None})):
        assert isinstance(document, Document)
        taken += document_bytes(document)
        if taken > (sources[name].max_bytes or taken):
            break
        kept.append(document)
    return kept


def test_a_typo_source_keeps_to_the_limits_of_its_origins_in_every_pass(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [TYPOS, *LIMITS])
    records = list(open_records(recipe.sources, "typed"))
    for name in ("notes", "chat"):
        expected = [(f"{name}.jsonl", document.line) for document in within(recipe.sources, name)]
        assert 3 < len(expected) < 60
        for epoch in (0, 1):
            given = [record for record in records if (record.source, record.epoch) == (name, epoch)]
            assert [(record.file, record.line) for record in given] == [
                (f"{name}/{file}", line) for file, line in expected
            ]


def test_a_record_of_several_documents_goes_beyond_the_limit_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keylm.data.documents.PIECE_BYTES", 100)
    texts = [{"text": "word " * 10}, {"text": "word " * 60}, {"text": "word"}]
    origin = Source(path=str(write_jsonl(tmp_path / "a.jsonl", texts)), max_bytes=260)
    sources = {"a": origin, "typed": Source(typos_of=("a",))}
    assert [record.line for record in open_records(sources, "typed")] == [1]
    sources["a"] = origin.model_copy(update={"max_bytes": 350})
    assert [record.line for record in open_records(sources, "typed")] == [1, 2]


@pytest.mark.parametrize("overrides", [[], LIMITS, ["sources.notes.max_bytes=1"]])
def test_a_typo_source_goes_on_exactly_behind_every_record(overrides: list[str], tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [TYPOS.replace("passes=2", "passes=3"), *overrides])
    for name in ("notes", "chat"):
        file = Path(recipe.sources[name].path or "")
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[: 9 if name == "notes" else 14]))
    records = go_on_everywhere(recipe.sources, "typed")
    assert {record.epoch for record in records} == {0, 1, 2}
    assert {record.source for record in records} == ({"chat"} if "=1" in str(overrides) else {"notes", "chat"})


class MovingHub:
    """A data set whose main is another commit each time that it is looked up."""

    looked_up = 0

    def __init__(self, _name: str, source: Source, state: dict[str, Any] | None = None) -> None:
        pinned = source.revision or (state and state["revision"])
        if pinned is None:
            MovingHub.looked_up += 1
        self.revision = str(pinned or MovingHub.looked_up)
        self._rows = state["rows"] if state else 0

    def __iter__(self) -> Iterator[tuple[str, int, dict[str, str]]]:
        while self._rows < 3:
            self._rows += 1
            yield "our/web", self._rows, {"text": f"row {self._rows} at {self.revision}"}

    def state(self) -> dict[str, Any]:
        return {"revision": self.revision, "rows": self._rows}


def test_every_pass_over_a_hub_source_is_at_the_revision_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HubRows", MovingHub)
    monkeypatch.setattr(MovingHub, "looked_up", 0)
    more = write_jsonl(tmp_path / "more.jsonl", [{"text": f"more {n}"} for n in range(5)])
    sources = {
        "web": Source(hub="our/web"),
        "more": Source(path=str(more)),
        "typed": Source(typos_of=("web", "more"), passes=3),
    }
    texts = [str(record.content) for record in go_on_everywhere(sources, "typed") if record.source == "web"]
    assert len(texts) == 9
    assert MovingHub.looked_up == 1
    assert all("at 1'" in text for text in texts)


ROWS = [
    {"message_id": f"{tree}{part}", "message_tree_id": tree, "text": f"text {tree}{part}", "lang": "en", "rank": 0}
    | ({"role": "prompter", "parent_id": None} if part == "p" else {"role": "assistant", "parent_id": f"{tree}p"})
    for tree in "abc"
    for part in "pr"
]


def oasst_folder(folder: Path) -> Source:
    """Return a source of three trees with faulty lines in all places, and a broken file."""
    lines = [json.dumps(row) for row in ROWS]
    content = ["not json", lines[0], '["a list"]', lines[1], *lines[2:4], '{"cut off', *lines[4:], ""]
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("\n".join(content) + "\n")
    (folder / "b.parquet").write_bytes(b"no parquet file")
    (folder / "c.txt").write_text("A plain text.\n")
    return Source(path=str(folder), adapter="oasst2")


def test_what_is_no_row_of_a_grouped_source_is_a_fault_with_its_place(tmp_path: Path) -> None:
    items = list(read_source("trees", oasst_folder(tmp_path / "trees")))
    faults = [(item.file, item.line, item.kind) for item in items if isinstance(item, Fault)]
    assert faults == [
        ("a.jsonl", 1, "malformed_json"),
        ("a.jsonl", 3, "not_a_record"),
        ("a.jsonl", 7, "malformed_json"),
        ("a.jsonl", 10, "empty"),
        ("b.parquet", 0, "unreadable_file"),
    ]
    documents = [item for item in items if isinstance(item, Document)]
    # The last tree is whole only where the last file ends.
    found = [(d.line, d.messages[1]["content"] if d.messages else d.text) for d in documents]
    assert found == [(1, "text ar"), (2, "text br"), (1, "A plain text.\n"), (3, "text cr")]


def test_a_grouped_source_goes_on_exactly_behind_every_record(tmp_path: Path) -> None:
    records = go_on_everywhere({"trees": oasst_folder(tmp_path / "trees")}, "trees")
    assert len(records) == 9


def missing(recipe: Recipe) -> str:
    with pytest.raises(KeylmError) as caught:
        check_sources(recipe)
    return str(caught.value)


GONE = {
    "sources.tales.path": "sources.tales.path='gone.jsonl'",
    "typos.word_lists": "typos.word_lists=['gone.jsonl']",
    "curation.decontaminate": "curation={decontaminate=['gone.jsonl']}",
    "tokenizer.path": "tokenizer.path=gone.jsonl",
}


@pytest.mark.parametrize("field", GONE)
def test_a_missing_path_is_no_matter_of_loading_but_of_reading(field: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, [GONE[field]])
    assert missing(recipe) == f"{field}: {tmp_path.resolve()}/gone.jsonl does not exist; accepted: a file or folder"


def test_a_missing_path_is_told_by_whoever_reads_it(tmp_path: Path) -> None:
    source = Source(path=str(tmp_path / "gone"))
    told = r"gone does not exist; accepted: a file or folder"
    for read in (
        lambda: source_stamps("tales", source),
        lambda: source_origin("tales", source),
        lambda: list(read_source("tales", source)),
        lambda: source_files(tmp_path / "gone"),
    ):
        with pytest.raises(KeylmError, match=told):
            read()


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    recipe = tiny_recipe(tmp_path, ["tokenizer.path=empty"])
    assert "tokenizer.path: " in missing(recipe)
    assert "has no tokenizer.json; accepted: a tokenizer's folder" in missing(recipe)


def test_only_what_is_read_is_looked_after_the_origins_of_typo_sources_included(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    (tmp_path / "tales.jsonl").unlink()
    recipe = load_recipe(tmp_path / "recipe.toml", [TYPOS, *ONLY_TYPOS])
    check_sources(recipe)
    (tmp_path / "chat.jsonl").unlink()
    assert missing(recipe).startswith("sources.chat.path: ")


def test_files_of_other_kinds_are_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_jsonl(folder / "z.jsonl", [{"text": "one"}])
    recipe = tiny_recipe(tmp_path, ["sources.tales.path=mixed", "tokenizer.sample_bytes=1000"])
    check_sources(recipe)
    assert capsys.readouterr().out == ""
    (folder / "notes.JSON").write_text("{}")
    check_sources(recipe)
    told = "sources.tales: 1 file is of a kind that is not read (.json), such as notes.JSON\n"
    assert capsys.readouterr().out == told
    (folder / "deep").mkdir()
    for name in ("LICENSE", "more.jsonl.xz", "deep/a.json"):
        (folder / name).write_text("")
    check_sources(recipe)
    told = "sources.tales: 4 files are of kinds that are not read (.json, .xz, no ending), such as LICENSE\n"
    assert capsys.readouterr().out == told
    check_sources(recipe, quiet=True)
    assert capsys.readouterr().out == ""


def test_a_conversation_counts_by_its_turns(tmp_path: Path) -> None:
    source = Source(path=str(write_jsonl(tmp_path / "a.jsonl", [chat("Hi", "Hé!")])))
    [record] = open_records({"a": source}, "a")
    [document] = parse(record, source_adapter(source))
    assert isinstance(document, Document)
    assert document_bytes(document) == 6
