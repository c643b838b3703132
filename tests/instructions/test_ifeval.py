"""Instruction data and IFEval: no prompt of it is in them, and what passes our checks passes its own."""

import json
import os
import random
import re

import pytest
from support.instruction_examples import GOOD_AND_BAD, SHARED, documents

from keylm.instructions.checks import CHECKS
from keylm.instructions.generator import GeneratorSettings, PairGenerator
from keylm.instructions.instruction_files import CorpusFile, read_documents
from keylm.instructions.wordings import describe

IFEVAL = SHARED / "eval" / "data" / "ifeval" / "train.jsonl"
CORPUS = SHARED / "corpus"


@pytest.fixture(scope="module")
def generator() -> PairGenerator:
    return PairGenerator(documents(), GeneratorSettings(seed=1))


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
    names = ("children", "wordnet", "medquad")
    files = [CorpusFile(name, next(CORPUS.rglob(f"{name}.jsonl.zst")), "", "") for name in names]
    kept, _ = read_documents(files)
    generator = PairGenerator({**documents(), **kept}, GeneratorSettings(seed=0))
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
