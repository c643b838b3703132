"""Evaluation items in training texts: all that stand there word for word, nearly all that were changed, no others."""

import gzip
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from keylm.base.errors import KeylmError
from keylm.curate.decontamination import Decontaminator
from keylm.curate.evaluation_items import EvaluationItem, read_items
from keylm.curate.evaluation_words import hash_words, word_spans

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "eval" / "data"

RECORDS: dict[str, list[dict]] = {
    "arc_easy": [
        {
            "id": "a1",
            "question": "Which part of a lighthouse keeper's lamp bends light into a narrow beam?",
            "choices": {"text": ["wick", "lens", "tank", "chimney"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        }
    ],
    "blimp": [
        {"sentence_good": "Most gardeners that Paula visits have trimmed these hedges.", "sentence_bad": "Most x."},
        {"sentence_good": "Ruth sang.", "sentence_bad": "Ruth sing."},
    ],
    "boolq": [{"question": "do otters ever sleep on their backs while floating", "passage": "Long. " * 40, "label": 1}],
    "commonsense_qa": [
        {
            "question": "Where would a baker leave fresh loaves while they slowly cool?",
            "choices": {"label": ["A", "B"], "text": ["wire rack", "mail box"]},
            "answerKey": "A",
        }
    ],
    "hellaswag": [
        {
            "ctx": "[header] How to polish a copper kettle [title] Mix salt with vinegar. [step] Stir the two until a",
            "endings": ["cloudy paste forms, and rub it gently over the tarnished spots.", "horse sings loudly."],
            "label": "0",
        }
    ],
    "ifeval": [
        {
            "key": 7,
            "prompt": "Write a limerick about a retired tram driver without using any commas at all.",
            "kwargs": [],
        }
    ],
    "lambada_openai": [
        {"text": "The ferry had gone an hour before, and Tomas stood on the wet pier counting coins, cursing the ferry"}
    ],
    "mmlu": [
        {
            "question": "Which treaty first fixed the border between the two valley cantons?",
            "choices": ["Treaty of Elm", "Treaty of Oak", "Treaty of Ash", "Treaty of Fir"],
            "answer": 2,
        }
    ],
    "openbookqa": [
        {
            "question_stem": "Frost forms on windows when",
            "choices": {"text": ["moist air meets very cold glass", "glass melts in winter"], "label": ["A", "B"]},
            "answerKey": "A",
        }
    ],
    "piqa": [
        {
            "goal": "unstick two glasses",
            "sol1": "Fill the upper one with ice water and stand the lower one in hot water.",
            "sol2": "Fill the lower one with ice water and stand the upper one in hot sand.",
            "label": 0,
        }
    ],
    "sciq": [
        {
            "question": "What organ of a snail scrapes algae from the surface of stones?",
            "correct_answer": "radula",
            "distractor1": "mantle",
            "support": "",
        }
    ],
    "winogrande": [
        {
            "sentence": "The piano would not fit through the cellar door because the _ was far too wide.",
            "option1": "piano",
            "option2": "door",
            "answer": "1",
        }
    ],
}
WORDS = """
the of and to in a is that it was for on with as his they be at one have this from by hot word but what some we can out
other were all there when up use your how said an each she which do their time if will way about many then them river
stone market evening letter captain window garden paper bridge winter kitchen silver engine forest answer quiet narrow
bright heavy carried followed opened remembered crossed counted painted waited listened travelled
""".split()  # noqa: SIM905


def write_sets(folder: Path) -> Path:
    for name, records in RECORDS.items():
        (folder / name).mkdir(parents=True)
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        if name == "blimp":
            (folder / name / "validation.jsonl.gz").write_bytes(gzip.compress(content))
        elif name == "mmlu":
            (folder / name / "test.jsonl.zst").write_bytes(zstandard.compress(content))
        else:
            (folder / name / "validation.jsonl").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def decontaminator(evaluation: Path) -> Decontaminator:
    return Decontaminator.from_paths([evaluation])


def ordinary(seed: int, words: int = 3000) -> str:
    choice = random.Random(seed)
    return " ".join(choice.choice(WORDS) + ("." if choice.random() < 0.07 else "") for _ in range(words))


def written_out(item: EvaluationItem) -> str:
    """Return an item as a text would hold it: the question, the right answer, and what follows that."""
    space = "" if item.inside and item.stem[-1:] in " \"'(" else " "
    return f"{item.stem}{space}{item.answer}{item.tail}"


def changed(text: str, choice: random.Random) -> str:
    """Return `text` with one word in ten, but at least one, replaced."""
    words = text.split()
    for place in choice.sample(range(len(words)), max(1, round(len(words) / 10))):
        words[place] = choice.choice(WORDS)
    return " ".join(words)


def planted(text: str, choice: random.Random, carrier: str) -> str:
    place = carrier.index(" ", choice.randrange(len(carrier) - 100))
    return f"{carrier[:place]}\n{text}\n{carrier[place:]}"


def word_count(text: str) -> int:
    return len(hash_words([text]).hashes)


def recall(
    decontaminator: Decontaminator,
    items: dict[str, list[EvaluationItem]],
    numbers: dict[str, list[int]],
    rounds: int,
    change: bool,
) -> dict[str, float]:
    """Return for each set the share of planted items that are found."""
    choice = random.Random(11)
    carriers = [ordinary(seed, words=1200) for seed in range(8)]
    shares = {}
    for name, chosen in numbers.items():
        tried = [number for number in chosen for _ in range(rounds)]
        texts = [written_out(items[name][number]) for number in tried]
        texts = [planted(changed(t, choice) if change else t, choice, choice.choice(carriers)) for t in texts]
        verdicts = decontaminator.check_many(texts)
        found = [
            any((match.set, match.item) == (name, number) for match in verdict.matches)
            for number, verdict in zip(tried, verdicts, strict=True)
        ]
        shares[name] = sum(found) / len(found)
    return shares


def long_enough(items: dict[str, list[EvaluationItem]]) -> dict[str, list[int]]:
    return {
        name: [number for number, item in enumerate(of_set) if word_count(written_out(item)) >= 8]
        for name, of_set in items.items()
    }


def test_items_of_every_set_are_found_word_for_word_and_with_one_word_in_ten_changed(decontaminator, evaluation):
    items = read_items([evaluation])
    numbers = long_enough(items)
    assert {name: len(found) for name, found in numbers.items()} == decontaminator.matchable
    assert set(recall(decontaminator, items, numbers, rounds=5, change=False).values()) == {1.0}
    shares = recall(decontaminator, items, numbers, rounds=40, change=True)
    assert min(shares.values()) >= 0.9
    assert sum(shares.values()) / len(shares) >= 0.95


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' items are not on this machine")
def test_real_benchmarks_are_found_word_for_word_and_with_one_word_in_ten_changed():
    decontaminator, items = Decontaminator.from_paths([SHARED]), read_items([SHARED])
    choice = random.Random(5)
    numbers = {}
    for name, of_set in items.items():
        drawn = choice.sample(range(len(of_set)), min(400, len(of_set)))
        numbers[name] = [number for number in drawn if word_count(written_out(of_set[number])) >= 8][:100]
    assert set(recall(decontaminator, items, numbers, rounds=1, change=False).values()) == {1.0}
    shares = recall(decontaminator, items, numbers, rounds=1, change=True)
    assert min(shares.values()) >= 0.95, shares
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("A*.md"))]
    assert not any(verdict.hit for verdict in decontaminator.check_many([*texts, *map(ordinary, range(20))]))


def test_ordinary_texts_have_no_hits(decontaminator):
    assert not any(verdict.hit for verdict in decontaminator.check_many(map(ordinary, range(100, 150))))
    near = "Most gardeners that we met last summer have cut their own hedges, and the otters sleep on the bank."
    assert not decontaminator.check(near).hit


def test_a_match_says_which_item_where_and_whether_the_answer_is_given_away(decontaminator):
    question = "WHICH part of a lighthouse-keeper’s lamp — bends light into a narrow beam".replace("-", " ")
    verdict = decontaminator.check(f"“Tell me: {question}?” It is the lens, of course. {ordinary(1)}")
    [match] = verdict.matches
    assert (match.set, match.item, match.how, match.answer_leaks) == ("arc_easy", 0, "whole", True)
    assert verdict.detail == "arc_easy:0 whole 1.00, answer"
    text = f"{ordinary(2)} {question}? {ordinary(3)} lens"
    [match] = decontaminator.check(text).matches
    assert not match.answer_leaks
    assert text[match.start : match.end] == f"{question}?"


def test_an_answer_inside_the_text_leaks_only_where_it_stands_in_its_place(decontaminator):
    sentence = "The piano would not fit through the cellar door because the {} was far too wide."
    leaks = [decontaminator.check(sentence.format(word)).matches[0].answer_leaks for word in ("piano", "door")]
    assert leaks == [True, False]


def test_thirteen_words_in_a_row_are_found_within_a_longer_item(decontaminator):
    part = "an hour before and Tomas stood on the wet pier counting coins cursing"
    [match] = decontaminator.check(f"{ordinary(4)} {part} {ordinary(5)}").matches
    assert (match.set, match.how, match.words) == ("lambada_openai", "ngram", 13)
    assert not decontaminator.check(f"{ordinary(4)} {part.replace('stood', 'stands')} {ordinary(5)}").hit


def test_a_word_put_in_or_left_out_does_not_hide_an_item(decontaminator):
    words = written_out(read_items_of("hellaswag")).split()
    for text in (" ".join([*words[:14], "really", *words[14:]]), " ".join(words[:10] + words[11:])):
        assert decontaminator.check(f"{ordinary(6)} {text} {ordinary(7)}").matches[0].share >= 0.8


def read_items_of(name: str) -> EvaluationItem:
    record = RECORDS[name][0]
    return EvaluationItem(
        record["ctx"].replace("[header]", "").replace("[title]", "").replace("[step]", ""), (record["endings"][0],), 0
    )


def test_items_that_are_too_short_are_counted_apart(decontaminator):
    assert (decontaminator.sets["blimp"], decontaminator.matchable["blimp"]) == (2, 1)
    assert not decontaminator.check("Ruth sang. " * 20).hit
    assert decontaminator.check("Frost forms on windows when moist air meets very cold glass.").hit
    assert not decontaminator.check("Frost forms on windows when it is cold.").hit


def test_a_verdict_does_not_depend_on_the_texts_beside_it(decontaminator, evaluation):
    choice = random.Random(3)
    texts = [ordinary(seed, words=choice.randrange(1, 90)) for seed in range(200)]
    texts[::7] = [written_out(items[0]) for items in read_items([evaluation]).values() for _ in range(3)][
        : len(texts[::7])
    ]
    texts += ["", "—", "Which part of a lighthouse keeper's", "lamp bends light into a narrow beam?"]
    assert decontaminator.check_many(texts) == [decontaminator.check(text) for text in texts]
    assert not any(decontaminator.check(text).hit for text in texts[-4:])


def test_the_index_is_saved_pickled_and_cached_without_a_word_of_the_items(decontaminator, evaluation, tmp_path):
    decontaminator.save(tmp_path / "index.npz")
    again = Decontaminator.load(tmp_path / "index.npz")
    text = written_out(read_items([evaluation])["winogrande"][0])
    for copy in (again, pickle.loads(pickle.dumps(decontaminator))):
        assert copy.check(text) == decontaminator.check(text)
        assert (copy.fingerprint(), copy.sets) == (decontaminator.fingerprint(), decontaminator.sets)
    content = (tmp_path / "index.npz").read_bytes()
    assert not any(word in content for word in (b"lighthouse", b"piano", b"radula"))
    Decontaminator.from_paths([evaluation], cache=tmp_path / "cache")
    [kept] = (tmp_path / "cache").iterdir()
    assert Decontaminator.from_paths([evaluation], cache=tmp_path / "cache").fingerprint() == again.fingerprint()
    kept.write_bytes(b"PK\x03\x04")
    with pytest.raises(KeylmError, match="not an index of evaluation items"):
        Decontaminator.from_paths([evaluation], cache=tmp_path / "cache")


def test_the_same_items_give_the_same_verdicts_in_another_process(decontaminator, evaluation, tmp_path):
    decontaminator.save(tmp_path / "index.npz")
    text = written_out(read_items([evaluation])["mmlu"][0])
    program = (
        "import sys; from pathlib import Path; from keylm.curate.decontamination import Decontaminator\n"
        "print(Decontaminator.load(Path(sys.argv[1])).check(sys.argv[2]).matches[0])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "index.npz"), text]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(decontaminator.check(text).matches[0])


def test_words_are_told_apart_as_gpt3_did_with_their_places_in_the_text():
    text = "Don't STOP—“now”…  a_b – ÉTÉ 3.5% ** naïve\u00a0İx " + "ab" * 30
    spans = word_spans(text)
    alone = [hash_words([text[start:end].strip("“”…%*")]).hashes.tolist() for start, end in spans]
    assert hash_words([text]).hashes.tolist() == [word for [word] in alone]
    plain = ["dont", "stop", "now", "ab", "été", "35", "naïve"]
    assert hash_words([text]).hashes[:7].tolist() == hash_words([" ".join(plain)]).hashes.tolist()
    assert hash_words(["", "one two", " -- ", "three"]).bounds.tolist() == [0, 0, 2, 2, 3]
    many_signs = "".join(map(chr, range(0xC0, 0x180))) + " “ok”"
    assert len(word_spans(many_signs)) == word_count(many_signs)


def test_sets_are_named_after_what_says_most(tmp_path):
    line = json.dumps({"question": "What is seven times six plus nine minus one?", "answer": "fifty"}) + "\n"
    for file in ("suite/quiz/test.jsonl", "suite/extra.jsonl", "suite/mmlu/dev/law.jsonl", "other/validation.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(line, encoding="utf-8")
    paths = [tmp_path / "suite", tmp_path / "other", tmp_path / "other" / "validation.jsonl"]
    assert {name: len(items) for name, items in read_items(paths).items()} == {
        "extra": 1,
        "mmlu": 1,
        "quiz": 1,
        "other": 2,
    }


@pytest.mark.parametrize("line", ['{"title": "x"}', "{", "[]", '{"question": ""}', '{"question": "x", "choices": 3}'])
def test_a_line_that_is_no_item_stops_the_reading(tmp_path, line):
    file = tmp_path / "quiz.jsonl"
    file.write_text(f'{{"question": "What is it?"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(KeylmError, match=r"quiz\.jsonl, line 2: not an evaluation item; accepted: .*MMLU"):
        Decontaminator.from_paths([file])


def test_paths_without_items_and_n_out_of_range_are_refused(tmp_path, evaluation):
    with pytest.raises(KeylmError, match="no evaluation file; accepted"):
        Decontaminator.from_paths([tmp_path])
    with pytest.raises(KeylmError, match="no path of evaluation items"):
        Decontaminator.from_paths([])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "What?"}\n' * 500)[:40])
    with pytest.raises(KeylmError, match="not a readable evaluation file"):
        Decontaminator.from_paths([tmp_path])
    with pytest.raises(KeylmError, match="got ngram = 5; accepted"):
        Decontaminator.from_paths([evaluation], ngram=5)


@pytest.mark.parametrize("kept", [0, 30, -20])
@pytest.mark.parametrize("name", ["cut.jsonl.zst", "cut.jsonl.gz", "cut.jsonl"])
def test_a_file_that_was_cut_short_or_is_empty_is_refused_though_other_sets_have_items(kept, name, tmp_path):
    lines = b"".join(b'{"question": "What is the number %d of?"}\n' % number for number in range(9000))
    pack = {"zst": zstandard.compress, "gz": gzip.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(lines)[:kept])
    (tmp_path / "good.jsonl").write_text('{"question": "What is it that nobody has ever seen here?"}\n')
    with pytest.raises(KeylmError, match=name.replace(".", r"\.") + r".*(no evaluation item|not a readable|not an)"):
        read_items([tmp_path])


def test_a_file_of_a_broken_compressed_stream_is_refused(tmp_path):
    packed = bytearray(gzip.compress(b'{"question": "What?"}\n' * 500, mtime=0))
    packed[14] ^= 0xFF
    (tmp_path / "bad.jsonl.gz").write_bytes(packed)
    with pytest.raises(KeylmError, match=r"bad\.jsonl\.gz: not a readable evaluation file"):
        read_items([tmp_path])


def test_the_report_counts_hits_by_file_and_set(evaluation, tmp_path):
    stolen = written_out(read_items([evaluation])["sciq"][0])
    chat = {"messages": [{"role": "user", "content": stolen}, {"role": "assistant", "content": "Right."}]}
    lines = [json.dumps({"text": ordinary(1)}), json.dumps(chat)]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "tools.studies.contamination_report", "--eval", evaluation, "--corpus", tmp_path]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "| mixed.jsonl | 2 | 0.0 | 1 | 1 | sciq 1 |" in told
    assert "| sciq | 1 | 1 | 0 | 0 | 1 |" in told
    assert "| blimp | 2 | 1 | 50.0% |" in told
