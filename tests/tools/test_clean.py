"""The larger corpus is cleaned by the table's rules, shuffled, and never half written."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import zstandard

from keylm.base.errors import KeylmError
from keylm.base.files import read_json
from tools.corpus.clean import Cleaner, Rules, clean, clean_source, read_table
from tools.records import read_records


def write(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def cleaned(text: str, source: str = "", **rules) -> str | None:
    row = Cleaner("test", Rules(**rules)).clean({"text": text, "source": source})
    return row and row["text"]


def test_each_rule_does_what_it_says():
    assert cleaned("a formula_1 b", drop_documents=(("formula_", 2),)) == "a formula_1 b"
    assert cleaned("formula_1 formula_2", drop_documents=(("formula_", 2),)) is None
    assert cleaned("text", source="x/ring-lardner_y", drop_sources=("ring-lardner",)) is None
    assert cleaned("text", source="bed_1", keep_sources=("education_",)) is None
    assert cleaned("one\nEDIT: two\nthree", drop_lines=("^EDIT",)) == "one\nthree"
    assert cleaned("body\ntitle: again\nmore", cut_at=("^title: ",)) == "body"
    assert cleaned("It ( or ) is", replace=((r" ?\((?:\s|or)*\)", ""),)) == "It is"
    assert cleaned("short", minimum_characters=6) is None


def test_thinning_keeps_about_its_share_and_the_same_documents_every_time():
    def kept() -> list[int]:
        cleaner = Cleaner("test", Rules(thin=(("full_synth", 0.4),)))
        return [n for n in range(2000) if cleaner.clean({"text": "t", "source": f"full_synth/{n}"})]

    assert kept() == kept()
    assert 700 < len(kept()) < 900


def test_the_table_is_sound_and_an_unknown_rule_is_refused(tmp_path: Path):
    table = read_table()
    assert len(table) > 20
    wiki = table["encyclopaedia/wikipedia_core"]
    text = cleaned("Cyan ( or ) is a “colour” too -- it’s bright.\n" * 10 + "External links.\nhttp://x", **vars(wiki))
    assert text == "\n".join(['Cyan is a "colour" too—it\'s bright.'] * 10)
    (tmp_path / "table.toml").write_text('[rules]\n[a]\ndrop_line = ["x"]\n')
    with pytest.raises(KeylmError, match="'drop_line'; accepted: cut_at"):
        read_table(tmp_path / "table.toml")


def test_sources_are_shuffled_whole_and_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"text": f"document {n} " + "word " * 60, "source": str(n)} for n in range(50)]
    write(tmp_path / "corpus/talk/posts.jsonl.zst", rows)
    write(tmp_path / "corpus/chat/turns.jsonl.zst", [{"messages": [{"role": "user", "content": "hi"}]}])
    (tmp_path / "table.toml").write_text('[rules]\nminimum_characters = 20\n["talk/posts"]\n["chat/turns"]\n')
    monkeypatch.setattr("tools.corpus.clean.PART_BYTES", 4000)
    monkeypatch.setattr("tools.corpus.clean.TABLE", tmp_path / "table.toml")
    clean(Namespace(corpus=tmp_path / "corpus", out=tmp_path / "out", workers=1))
    files = sorted((tmp_path / "out/posts").glob("*.jsonl.zst"))
    found = [row for file in files for row in read_records(file)]
    assert len(files) > 2
    assert found != rows
    assert sorted(found, key=lambda row: int(row["source"])) == [{**row, "text": row["text"].strip()} for row in rows]
    assert read_json(tmp_path / "out/counts/turns.json")["kept"] == 1
    stamps = [file.stat().st_mtime_ns for file in files]
    clean(Namespace(corpus=tmp_path / "corpus", out=tmp_path / "out", workers=1))
    assert [file.stat().st_mtime_ns for file in files] == stamps
    with pytest.raises(KeylmError, match="is missing"):
        clean_source(tmp_path / "corpus", tmp_path / "out", "talk/none", Rules())
