"""Instruction data: every answer keeps what was asked, nothing held out is trained, and no IFEval prompt is in it."""

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from conftest import write_jsonl

from keylm.base.errors import KeylmError
from keylm.curate.decontamination import Decontaminator
from keylm.data.documents import read_record
from keylm.instructions.checks import CHECKS, HELD_OUT, TRAINED, keeps, violations
from keylm.instructions.document_tasks import SourceText
from keylm.instructions.files import InstructionPlan, write_instructions
from keylm.instructions.files import _without_items as without_items
from keylm.instructions.generator import PairGenerator, Settings
from keylm.instructions.makers import MAKERS
from keylm.instructions.measures import MEASURES
from keylm.instructions.minimal_violations import break_answer
from keylm.instructions.tables import phrase_tables
from keylm.instructions.wordings import describe
from keylm.text.sentences import fewest_sentences, listed, most_sentences, occurrences

SHARED = Path(__file__).parents[2].parent / "shared"
IFEVAL = SHARED / "eval" / "data" / "ifeval" / "train.jsonl"
CORPUS = SHARED / "corpus"

ARTICLE = """{name}
{name} is a small town on the river Alm. It was founded long ago. The old harbour lies in the middle. Visitors like it.
The market of {name} takes place twice a week. Farmers sell bread and cheese there. Children like the stall with honey.
A narrow bridge leads to the other bank, where the mill stands. The mill was rebuilt after a fire.
The winters are cold and windy. Snow falls from December on, and the river often freezes.
"""
TALE = """The {name} and the Well
Once there was a {name} who lived beside a well. Every morning it looked down and saw another one just like it.
"Who are you?" it asked, but nobody answered. So it brought a flower and let it fall. The flower came up again.
The {name} was happy and brought a flower every day. In the end there was a garden beside the well.
"""
NEWS = """{name} opens new library
The town of {name} opened a new library on Friday. It has forty thousand books and a room for children.
The mayor said that the building had taken three years. Readers waited in a long line before the doors opened.
"""

GOOD_AND_BAD = [
    ({"type": "words", "relation": "at_least", "count": 4}, "One two three four.", "One two three."),
    ({"type": "words", "relation": "at_most", "count": 4}, "One two don't.", "A well-known man came here."),
    ({"type": "words", "relation": "between", "count": 2, "most": 3}, "One two three.", "One."),
    ({"type": "sentences", "relation": "exactly", "count": 2}, "It rains. We stay.", "It rains and we stay."),
    ({"type": "sentences", "relation": "at_most", "count": 1}, "It rains", "It rains. We stay."),
    ({"type": "sentences", "relation": "at_least", "count": 2}, "It rains. We stay.", "Mr. Fox left at 3 p.m. today."),
    ({"type": "paragraphs", "count": 2}, "One.\n\nTwo.", "One.\nTwo."),
    ({"type": "divided_paragraphs", "count": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ({"type": "paragraph_start", "count": 2, "paragraph": 2, "word": "Two"}, "One.\n\nTwo, yes.", "One.\n\nThe two."),
    ({"type": "bullets", "count": 2}, "List:\n* a\n* b", "* a\n* b\n* c"),
    ({"type": "numbered_list", "count": 2}, "1. a\n2. b", "1. a\n3. b"),
    ({"type": "sections", "word": "Part", "count": 2}, "Part 1\nA.\n\nPart 2\nB.", "Part 1\nA."),
    ({"type": "json"}, '```json\n{"a": 1}\n```', '{"a": 1'),
    ({"type": "json", "keys": ["a"]}, '{"a": 1}', '{"b": 1}'),
    ({"type": "choice", "options": ["Yes.", "No."]}, "Yes.", "Yes, it does."),
    ({"type": "two_answers"}, "One.\n******\nTwo.", "One.\n***\nTwo."),
    ({"type": "keywords", "words": ["cat"]}, "A Cat.", "Concatenate."),
    ({"type": "forbidden", "words": ["cat"]}, "Concatenate.", "A cat."),
    ({"type": "keyword_count", "word": "cat", "relation": "at_least", "count": 2}, "Cat, cat.", "Cat, cats."),
    ({"type": "keyword_count", "word": "cat", "relation": "at_most", "count": 1}, "Cat.", "Cat, cats."),
    ({"type": "letter_count", "letter": "a", "relation": "at_most", "count": 1}, "An egg.", "A banana."),
    ({"type": "capital_words", "relation": "at_least", "count": 1}, "It is BIG.", "I am big."),
    ({"type": "capital_words", "relation": "at_most", "count": 1}, "I am big.", "I am BIG."),
    ({"type": "lower_case"}, "small, 2.", "Small."),
    ({"type": "upper_case"}, "BIG, 2.", "BIg."),
    ({"type": "no_comma"}, "a b", "a, b"),
    ({"type": "title"}, "<<A title>>\n\nText.", "<< >> Text."),
    ({"type": "highlights", "count": 2}, "*One* and **two parts**.", "* One\n* Two"),
    ({"type": "placeholders", "count": 1}, "Dear [name],", "Dear [],"),
    ({"type": "postscript", "marker": "P.S."}, "Text.\n\nP.S. More.", "Text. P.S. More."),
    ({"type": "quotation"}, '"All of it."', '"All" of it.'),
    ({"type": "end_phrase", "phrase": "The end."}, "Text. The end.", "The end. Text."),
    ({"type": "start_phrase", "phrase": "Well,"}, "Well, text.", "Text. Well,"),
    ({"type": "first_word", "word": "Rain"}, '"Rain" falls.', "The rain falls."),
    ({"type": "last_word", "word": "rain"}, "It is rain.", "It rains."),
    ({"type": "repeat_request", "text": "Say it."}, "Say it.\n\nIt.", "It. Say it."),
    ({"type": "english"}, "A café is a place where people sit and drink their coffee.", "Это не английский."),
    ({"type": "no_digits"}, "two", "2"),
    ({"type": "line_letter", "letter": "s", "count": 2}, "Sun.\nSnow.", "Sun.\nRain."),
    ({"type": "alphabetical_bullets", "count": 2}, "* ant\n* Bee", "* bee\n* ant"),
    ({"type": "question_marks", "count": 1}, "Why?", "Why? How?"),
    ({"type": "short_sentences", "count": 3, "sentences": 2}, "It rains. We stay.", "It rains on us all. We stay."),
    ({"type": "ends_with_question"}, "It rains. Why?", "Why? It rains."),
    ({"type": "roman_list", "count": 2}, "I. Sun\nII. Rain", "1. Sun\n2. Rain"),
    ({"type": "short_words", "count": 4, "words": 2}, "It is cold.", "It is raining."),
    ({"type": "distinct_starts", "count": 2}, "It rains. We stay.", "It rains. It snows."),
]  # fmt: skip


def documents() -> dict[str, list[SourceText]]:
    towns = listed("Almar Bergen Corvin Delmo Estrin Fandor Gilmar Holten")
    animals = listed("Fox Hen Frog Goat Duck Bear Hare Mole")
    return {
        "wikipedia": [SourceText("wikipedia", ARTICLE.format(name=name)) for name in towns],
        "children": [SourceText("children", TALE.format(name=name)) for name in animals],
        "wikinews": [SourceText("wikinews", NEWS.format(name=name)) for name in towns],
    }


@pytest.fixture(scope="module")
def generator() -> PairGenerator:
    return PairGenerator(documents(), Settings(seed=1))


@pytest.mark.parametrize(("constraint", "good", "bad"), GOOD_AND_BAD)
def test_a_check_takes_what_keeps_and_refuses_what_breaks(constraint, good, bad):
    assert keeps(good, constraint)
    assert not keeps(bad, constraint)
    assert not keeps(" ", constraint)
    assert json.loads(json.dumps(constraint)) == constraint
    assert describe(constraint, random.Random(0)).strip()


def test_every_type_has_an_example_and_a_maker_or_measure():
    assert {constraint["type"] for constraint, _, _ in GOOD_AND_BAD} == set(CHECKS)
    assert not set(TRAINED) & set(HELD_OUT)
    assert len(HELD_OUT) >= 6
    assert set(phrase_tables().constraints.weights) - {"repeat_request"} <= {*MAKERS, *MEASURES}


def test_an_unknown_type_is_refused():
    with pytest.raises(KeylmError, match="unknown type"):
        violations("text", [{"type": "rhyme"}])


def test_every_pair_keeps_its_constraints_and_has_none_that_is_held_out(generator):
    types: set[str] = set()
    for index in range(400):
        pair = generator.verifiable(index)
        assert 1 <= len(pair.constraints) <= 4
        assert violations(pair.messages[-1]["content"], pair.constraints) == []
        types |= {constraint["type"] for constraint in pair.constraints}
        [document] = read_record(json.loads(json.dumps(pair.record())), "f", 1)
        assert [turn["role"] for turn in document.messages][-2:] == ["user", "assistant"]
    assert types <= set(TRAINED)
    assert set(TRAINED) - types <= {"choice", "english", "no_digits", "first_word", "last_word", "start_phrase"}


def test_pairs_are_a_function_of_seed_and_index(generator):
    again = PairGenerator(documents(), Settings(seed=1))
    other = PairGenerator(documents(), Settings(seed=2))
    assert [again.verifiable(index) for index in (5, 3)] == [generator.verifiable(5), generator.verifiable(3)]
    assert again.everyday(4) == generator.everyday(4)
    assert other.verifiable(3) != generator.verifiable(3)


def test_a_rejected_answer_breaks_what_the_chosen_one_keeps(generator):
    for index in range(60):
        pair = generator.preference(index)
        assert violations(pair["chosen"], pair["constraints"]) == []
        assert violations(pair["rejected"], pair["constraints"])
        assert pair["prompt"][-1]["role"] == "user"


@pytest.mark.parametrize(("constraint", "good"), [row[:2] for row in GOOD_AND_BAD if row[0]["type"] in TRAINED])
def test_every_trained_type_can_be_broken(constraint, good):
    broken = break_answer(good, [constraint], random.Random(0))
    assert broken is not None
    assert violations(broken[0], [constraint]) == [constraint]


def test_everyday_conversations_fix_typos_and_name_the_assistant():
    generator = PairGenerator(documents(), Settings(seed=0, name="Pip"))
    pairs = [generator.everyday(index) for index in range(500)]
    fixes = [pair for pair in pairs if pair.kind == "typo_fix"]
    assert len(fixes) > 50
    text = "\n".join(text.text for texts in documents().values() for text in texts)
    for pair in fixes:
        assert any(m["content"] in text for m in pair.messages if m["role"] == "assistant")
    said = " ".join(m["content"] for pair in pairs if pair.kind == "identity" for m in pair.messages)
    assert "Pip" in said
    assert "@NAME" not in said


def test_counting_frames_what_splitters_find():
    text = "Dr. Lee came at 5 p.m. on Monday. She left! Did he? No."
    assert fewest_sentences(text) <= 4 <= most_sentences(text)
    assert occurrences("art", "Art is part of art-work.") == 2


def test_the_verb_writes_files_once_and_the_same_for_any_number_of_workers(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, texts in documents().items():
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    plan = InstructionPlan(
        corpus, count=60, everyday=0.5, preferences=5, rejected=True, evaluation=4, settings=Settings(seed=3)
    )
    first = write_instructions(tmp_path / "one", plan, workers=1, quiet=True)
    second = write_instructions(tmp_path / "two", plan, workers=2, quiet=True)
    assert first == second
    assert first["files"]["verifiable.jsonl.zst"]["records"] == 30
    assert {source["licence"] for source in first["sources"]} == {"unstated"}
    assert not list(tmp_path.glob(".tmp-*"))
    with pytest.raises(KeylmError, match="none of the files"):
        write_instructions(tmp_path / "three", InstructionPlan(corpus, open_only=True))
    with pytest.raises(KeylmError, match="holds something else"):
        write_instructions(corpus, plan)


def lines(file: Path) -> list[dict]:
    with zstandard.open(file, "rt", encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def test_records_that_hold_a_benchmark_item_are_left_out(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, texts in documents().items():
        write_jsonl(corpus / f"{name}.jsonl", [{"text": text.text} for text in texts])
    plain = InstructionPlan(corpus, count=60, everyday=0.5, evaluation=4, settings=Settings(seed=3))
    write_instructions(tmp_path / "plain", plain, quiet=True)
    answers = [row["messages"][-1]["content"] for row in lines(tmp_path / "plain/verifiable.jsonl.zst")]
    leaked = next(answer for answer in answers if len(answer.split()) >= 25)
    items = tmp_path / "items"
    items.mkdir()
    item = {"goal": " ".join(leaked.split()[:20]), "sol1": " ".join(leaked.split()[20:]), "sol2": "No.", "label": 0}
    split = {
        "goal": "Why does ink dry on paper?",
        "sol1": "Its water sinks in and leaves the dark dye behind.",
        "sol2": "No.",
    }
    write_jsonl(items / "piqa.jsonl", [item, {**split, "label": 0}])
    manifest = write_instructions(tmp_path / "clean", replace(plain, decontaminate=(items,)), quiet=True)
    kept = [row["messages"][-1]["content"] for row in lines(tmp_path / "clean/verifiable.jsonl.zst")]
    assert leaked not in kept
    assert manifest["files"]["verifiable.jsonl.zst"]["with_benchmark_items"] >= 1
    assert len(kept) == 30
    searched = Decontaminator.from_paths([items])
    turns = [{"role": "user", "content": split["goal"]}, {"role": "assistant", "content": split["sol1"]}]
    fair = {"prompt": turns[:1], "chosen": "It depends on the paper.", "constraints": []}
    asked = [{"messages": turns}, {**fair, "chosen": split["sol1"]}, {**fair, "rejected": split["sol1"]}, fair]
    assert without_items(asked, searched) == [fair], "an item's question and answer are two turns"
    with pytest.raises(KeylmError):
        write_instructions(tmp_path / "none", replace(plain, decontaminate=(tmp_path / "nothing",)), quiet=True)


ALLOWED: set[str] = set()
"""8-grams of IFEval prompts that may occur because anybody would write them; none is needed so far."""


def grams(text: str, size: int = 8) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[place : place + size]) for place in range(len(words) - size + 1)}


@pytest.mark.skipif(not IFEVAL.is_file(), reason="IFEval's items are not here")
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here")
def test_no_eight_words_of_an_ifeval_prompt_are_in_generated_prompts():
    asked: set[str] = set()
    for line in IFEVAL.read_text(encoding="utf-8").splitlines():
        asked |= grams(json.loads(line)["prompt"])
    assert len(asked) > 5000
    from keylm.instructions.files import Origin, read_documents

    names = ("children", "wordnet", "medquad")
    origins = [Origin(name, next(CORPUS.rglob(f"{name}.jsonl.zst")), "", "") for name in names]
    kept, _ = read_documents(origins)
    generator = PairGenerator({**documents(), **kept}, Settings(seed=0))
    found = set()
    for index in range(3000):
        pair = generator.verifiable(index) if index % 2 else generator.everyday(index)
        for message in pair.messages:
            found |= grams(message["content"]) & asked
    for kind in CHECKS:  # every phrasing, also the rare ones
        examples = [constraint for constraint, _, _ in GOOD_AND_BAD if constraint["type"] == kind]
        for seed in range(200):
            found |= grams(describe(examples[seed % len(examples)], random.Random(seed))) & asked
    assert found <= ALLOWED


@pytest.mark.skipif(not (SHARED / "eval" / "nltk_data").is_dir(), reason="nltk's data are not here")
def test_what_passes_here_passes_ifeval_s_own_checkers(generator, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setitem(os.environ, "NLTK_DATA", str(SHARED / "eval" / "nltk_data"))
    try:
        from lm_eval.tasks.ifeval import instructions_registry as registry
    except Exception as error:  # its import fetches data where it has none
        pytest.skip(f"lm_eval's ifeval cannot be opened: {error}")
    wrong = []
    for index in range(300):
        pair = generator.verifiable(index)
        for constraint in pair.constraints:
            for name, arguments in as_ifeval(constraint):
                checker = registry.INSTRUCTION_DICT[name](name)
                checker.build_description(**arguments)
                if not checker.check_following(pair.messages[-1]["content"]):
                    wrong.append((constraint, pair.messages[-1]["content"]))
    assert wrong == []


def as_ifeval(constraint):
    """Return IFEval's names and arguments of what a constraint says, where it has them (in the directions it has)."""
    relation = {"at_least": "at least", "at_most": "less than"}.get(constraint.get("relation"))
    number = constraint.get("count", 0) + (relation == "less than")
    counted = {
        "words": ("length_constraints:number_words", {"relation": relation, "num_words": number}),
        "sentences": ("length_constraints:number_sentences", {"relation": relation, "num_sentences": number}),
        "keyword_count": (
            "keywords:frequency",
            {"relation": relation, "keyword": constraint.get("word"), "frequency": number},
        ),
        "letter_count": (
            "keywords:letter_frequency",
            {"let_relation": relation, "letter": constraint.get("letter"), "let_frequency": number},
        ),
        "capital_words": (
            "change_case:capital_word_frequency",
            {"capital_relation": relation, "capital_frequency": number},
        ),
    }
    plain = {
        "divided_paragraphs": ("length_constraints:number_paragraphs", {"num_paragraphs": number}),
        "bullets": ("detectable_format:number_bullet_lists", {"num_bullets": number}),
        "highlights": ("detectable_format:number_highlighted_sections", {"num_highlights": number}),
        "placeholders": ("detectable_content:number_placeholders", {"num_placeholders": number}),
        "sections": (
            "detectable_format:multiple_sections",
            {"section_spliter": constraint.get("word"), "num_sections": number},
        ),
        "paragraph_start": (
            "length_constraints:nth_paragraph_first_word",
            {
                "num_paragraphs": number,
                "nth_paragraph": constraint.get("paragraph"),
                "first_word": constraint.get("word"),
            },
        ),
        "json": ("detectable_format:json_format", {}),
        "two_answers": ("combination:two_responses", {}),
        "keywords": ("keywords:existence", {"keywords": constraint.get("words")}),
        "forbidden": ("keywords:forbidden_words", {"forbidden_words": constraint.get("words")}),
        "no_comma": ("punctuation:no_comma", {}),
        "title": ("detectable_format:title", {}),
        "quotation": ("startend:quotation", {}),
        "postscript": ("detectable_content:postscript", {"postscript_marker": constraint.get("marker")}),
        "end_phrase": ("startend:end_checker", {"end_phrase": constraint.get("phrase")}),
        "repeat_request": ("combination:repeat_prompt", {"prompt_to_repeat": constraint.get("text")}),
    }  # letter cases are left out: theirs ask langdetect for the language, which misjudges capitals
    if constraint["type"] in counted:
        return [counted[constraint["type"]]] if relation else []
    return [plain[constraint["type"]]] if constraint["type"] in plain else []
