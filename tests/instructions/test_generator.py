"""Every pair keeps its constraints, has none that is held out, and is a function of seed and index."""

import hashlib
import json

import pytest
from support.instruction_examples import documents

from keylm.data.documents import read_record
from keylm.instructions.checks import TRAINED, violations
from keylm.instructions.generator import GeneratorSettings, PairGenerator
from keylm.instructions.instruction_files import VERSION


@pytest.fixture(scope="module")
def generator() -> PairGenerator:
    return PairGenerator(documents(), GeneratorSettings(seed=1))


def test_every_pair_keeps_its_constraints_and_has_none_that_is_held_out(generator):
    types: set[str] = set()
    for index in range(1200):
        pair = generator.verifiable(index)
        assert 1 <= len(pair.constraints) <= 4
        assert violations(pair.messages[-1]["content"], pair.constraints) == []
        types |= {constraint["type"] for constraint in pair.constraints}
        [document] = read_record(json.loads(json.dumps(pair.record())), "f", 1)
        assert [turn["role"] for turn in document.messages][-2:] == ["user", "assistant"]
    assert types <= set(TRAINED)
    rare = {"choice", "numbers", "exclamation_marks", "sentence_letter", "distinct_starts", "palindromes"}
    assert set(TRAINED) - types <= rare, "types that few of these documents lend themselves to"


def test_pairs_are_a_function_of_seed_and_index(generator):
    again = PairGenerator(documents(), GeneratorSettings(seed=1))
    other = PairGenerator(documents(), GeneratorSettings(seed=2))
    assert [again.verifiable(index) for index in (5, 3)] == [generator.verifiable(5), generator.verifiable(3)]
    assert again.everyday(4) == generator.everyday(4)
    assert other.verifiable(3) != generator.verifiable(3)


def test_records_of_a_version_never_change(generator):
    pairs = [pair for index in range(100) for pair in (generator.verifiable(index), generator.everyday(index))]
    lines = "\n".join(json.dumps(pair.record()) for pair in pairs)
    assert VERSION == 2
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "1d3a7aa7b5544b3db5d2cb6a344af4cc12cabb9b18031693759fa1e09c08084e"
    ), "the same input gives other records: raise VERSION, and set its hash here"


def test_a_rejected_answer_breaks_what_the_chosen_one_keeps(generator):
    for index in range(60):
        pair = generator.preference(index)
        assert violations(pair["chosen"], pair["constraints"]) == []
        assert violations(pair["rejected"], pair["constraints"])
        assert pair["prompt"][-1]["role"] == "user"
