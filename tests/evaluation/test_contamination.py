"""What the texts before and after curation hold: planted items, counted by a scan and from curation's report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.recipes import tiny_recipe, write_jsonl

from keylm.base.errors import KeylmError
from keylm.base.files import read_json, write_json
from keylm.evaluation.contamination import contamination, scan, statement
from keylm.recipe.load import Recipe, parse_recipe

LONG = "Which of the seven lighthouses along the northern coast did the retired surveyor photograph first in 1921"
SHORT = "What do beavers mostly build across a narrow stream"
QUIZ = [{"question": LONG + "?", "answer": "the one at Holm"}, {"question": SHORT + "?", "answer": "a dam"}]
TRIVIA = [
    {"question": "Who carried the bronze lantern up to the observatory during the great storm?", "answer": "the cook"},
    {"question": "Who sang?", "answer": "Ruth"},
]
PLAIN = [
    "Every morning the baker opens his shop before dawn and sets warm loaves in the window for people passing by.",
    "The old mill beside our river has been quiet for years, though children still play near its broken wheel.",
    "After supper she wrote a long letter to her brother about the garden, the weather and the price of coal.",
]


def recipe_of(folder: Path, *, curate: bool = True, raw: bool = False) -> Recipe:
    """Return a recipe with two curated sources, and one that is trained on as it is; three texts hold items."""
    (folder / "items").mkdir()
    write_jsonl(folder / "items" / "quiz.jsonl", QUIZ)
    write_jsonl(folder / "items" / "trivia.jsonl", TRIVIA)
    texts = {
        "book": [PLAIN[0], f"{PLAIN[1]} {LONG}? Nobody knew.", f"I was asked: {LONG}? {PLAIN[2]}"],
        "talk": [PLAIN[1], f"{PLAIN[0]} Here is one for you. {SHORT}? A dam, of course."],
        **({"raw": [f"{PLAIN[2]} {TRIVIA[0]['question']} It was the cook."]} if raw else {}),
    }
    data = tiny_recipe(folder).to_data()
    data["sources"] = {
        name: {"path": str(write_jsonl(folder / f"{name}.jsonl", [{"text": text} for text in rows]))}
        for name, rows in texts.items()
    }
    if raw:
        data["sources"]["raw"]["curate"] = False
    data["stages"] = {"only": {"tokens": 1024, "weights": dict.fromkeys(texts, 1)}}
    quick = {"near_duplicates": False, "filters": {"formal": []}, "decontaminate": [str(folder / "items")]}
    if curate:
        data["curation"] = quick
    else:
        data.pop("curation", None)
    return parse_recipe(data, "test")


def curated(folder: Path, **more: bool) -> tuple[Recipe, Path]:
    pytest.importorskip("datatrove", reason="needs keylm[curate]")
    from keylm.curate.pipeline import curate

    recipe, run = recipe_of(folder, **more), folder / "run"
    curate(recipe, run / "curated", workers=1, quiet=True)
    (run / "recipe.toml").write_text(recipe.to_toml())
    return recipe, run


def columns(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = ("items", "matchable", "before", "before_13", "after", "after_13")
    return {row["benchmark"]: tuple(row[name] for name in names) for row in rows}


def test_a_scan_counts_items_before_and_after_curation(tmp_path: Path) -> None:
    recipe, run = curated(tmp_path)
    rows = scan(recipe, run, quiet=True)
    assert columns(rows) == {"quiz": (2, 2, 2, 1, 0, 0), "trivia": (2, 1, 0, 0, 0, 0)}
    assert [row["unknown"] for row in rows] == [[], []]
    assert contamination(run) == rows
    parts = read_json(run / "contamination.json")["sources"]["book"]
    assert [(part["documents"], part["hits"]) for part in (parts["before"], parts["after"])] == [(3, 2), (1, 0)]
    said = statement(rows)
    assert "searched for 4 items of 2 benchmarks" in said
    assert "Before curation the sources held 2 of them, 1 with 13 words in a row." in said
    assert "The texts that were trained on hold none of them." in said
    assert "quiz 2 before and 0 after, of 2" in said
    assert "1 items are too short" in said


def test_curations_report_tells_the_same_without_a_scan(tmp_path: Path) -> None:
    _, run = curated(tmp_path)
    rows = contamination(run)
    assert columns(rows) == {"quiz": (2, 2, 2, 1, 0, 0), "trivia": (2, 1, 0, 0, 0, 0)}
    assert [(row["documents_removed"], row["basis"]) for row in rows] == [(3, "curation"), (0, "curation")]
    assert "dropped were not searched" in statement(rows)


def test_a_source_that_was_not_curated_is_searched_or_unknown(tmp_path: Path) -> None:
    recipe, run = curated(tmp_path, raw=True)
    rows = contamination(run)
    assert columns(rows)["trivia"] == (2, 1, 0, 0, None, None)
    assert "left out of curation, so not searched: raw" in statement(rows)
    assert "The texts that were trained on hold an unknown number of them." in statement(rows)
    (run / "recipe.toml").unlink()
    assert columns(contamination(run))["quiz"][4:] == (None, None)
    rows = scan(recipe, run, quiet=True)
    assert columns(rows) == {"quiz": (2, 2, 2, 1, 0, 0), "trivia": (2, 1, 1, 1, 1, 1)}
    assert "The texts that were trained on hold 1 of them, 1 with 13 words in a row." in statement(rows)


def test_an_older_report_tells_of_documents_alone(tmp_path: Path) -> None:
    _, run = curated(tmp_path)
    report = read_json(run / "curated" / "report.json")
    del report["evaluation"]
    for entry in report["sources"].values():
        for step in entry["steps"]:
            step.pop("items", None)
    write_json(run / "curated" / "report.json", report)
    rows = contamination(run)
    assert columns(rows) == {"quiz": (None, None, None, None, 0, 0), "trivia": (None, None, None, None, 0, 0)}
    assert rows[0]["documents_removed"] == 3
    assert "Before curation the sources held an unknown number of them." in statement(rows)
    assert "not the items in them" in statement(rows)


def test_without_curation_the_sources_are_what_was_trained_on(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, curate=False)
    with pytest.raises(KeylmError, match="no items to look for; accepted"):
        scan(recipe, tmp_path / "run", quiet=True)
    rows = scan(recipe, tmp_path / "run", items=[tmp_path / "items"], quiet=True)
    assert columns(rows)["quiz"] == (2, 2, 2, 1, 2, 1)


def test_what_cannot_be_searched_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(tmp_path, curate=False)
    with (tmp_path / "book.jsonl").open("a") as book:
        book.write('{"text": 3}\n{"te')
    scan(recipe, tmp_path / "run", items=[tmp_path / "items"])
    assert (
        "book before: not read as documents, and so not searched: 1 no_text_or_messages, 1 malformed_json"
        in " ".join(capsys.readouterr().out.split())
    )


def test_sources_that_are_gone_or_changed_are_unknown(tmp_path: Path) -> None:
    recipe, run = curated(tmp_path)
    with (tmp_path / "book.jsonl").open("a") as file:
        file.write(json.dumps({"text": PLAIN[2]}) + "\n")
    (tmp_path / "talk.jsonl").unlink()
    rows = scan(recipe, run, quiet=True)
    assert columns(rows)["quiz"] == (2, 2, None, None, 0, 0)
    assert "book, before curation: its files are not those that were curated" in statement(rows)
    assert "talk, before curation: it cannot be read any more" in statement(rows)
    shutil.rmtree(run / "curated")
    rows = scan(recipe, run, quiet=True)
    assert columns(rows)["quiz"][4:] == (None, None)
    assert "no finished curation" in statement(rows)


def test_a_scan_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keylm.evaluation.contamination as module

    recipe, run = curated(tmp_path)
    search, labels = module._searched, list[str]()

    def dying(*arguments: Any, **more: Any) -> Any:
        if "talk" in arguments[1]:
            raise KeyboardInterrupt
        return search(*arguments, **more)

    monkeypatch.setattr(module, "_searched", dying)
    with pytest.raises(KeyboardInterrupt):
        scan(recipe, run, quiet=True)
    monkeypatch.setattr(module, "_searched", search)
    really = module._search

    def counted(searched: Any, documents: Any, status: Any) -> Any:
        labels.append(status._label)
        return really(searched, documents, status)

    monkeypatch.setattr(module, "_search", counted)
    rows = scan(recipe, run, quiet=True)
    assert labels == ["contamination  talk before", "contamination  talk after"]
    assert columns(rows)["quiz"] == (2, 2, 2, 1, 0, 0)
    write_jsonl(tmp_path / "items" / "quiz.jsonl", QUIZ[:1])
    assert columns(scan(recipe, run, quiet=True))["quiz"] == (1, 1, 1, 1, 0, 0)
    assert len(labels) == 6


def test_a_manifest_alone_tells_what_was_looked_for(tmp_path: Path) -> None:
    files = [
        ["items/quiz/test.jsonl", "0"],
        ["items/trivia.jsonl", "0"],
        ["items/LICENCE", "0"],
        ["items/test.jsonl", "0"],
    ]
    manifest = {"curation": {"settings": {"curation": {"decontaminate": [files]}}}, "sources": {}}
    write_json(tmp_path / "manifest.json", manifest)
    rows = contamination(tmp_path / "manifest.json")
    assert [row["benchmark"] for row in rows] == ["items", "quiz", "trivia"]
    assert columns(rows)["quiz"] == (None,) * 6
    said = statement(rows)
    assert said.startswith("Items of 3 benchmarks were looked for: items, quiz, trivia. Not known: the manifest names")
    write_json(tmp_path / "manifest.json", {"sources": {}, "hash": "0"})
    assert contamination(tmp_path / "manifest.json") == []
    assert "is not known" in statement([])


def test_a_place_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeylmError, match="accepted: a run folder"):
        contamination(tmp_path)
