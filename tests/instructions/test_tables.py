"""The tables of phrases: complete, and refused where a file is damaged; the fingerprint covers them and the code."""

import re
import shutil
from pathlib import Path
from random import Random

import pytest
from support.instruction_examples import GOOD_AND_BAD

import keylm.instructions
from keylm.base.errors import KeylmError
from keylm.instructions.checks import CHECKS, HELD_OUT, TRAINED
from keylm.instructions.document_tasks import TASK_MAKERS
from keylm.instructions.everyday import MAKERS as EVERYDAY_MAKERS
from keylm.instructions.exercises import EXERCISES
from keylm.instructions.held_out_items import DRAWS
from keylm.instructions.makers import MAKERS
from keylm.instructions.measures import MEASURES
from keylm.instructions.table_schema import Genre, PhraseTables
from keylm.instructions.tables import fingerprint, phrase_tables, read_tables
from keylm.instructions.templates import expand
from keylm.instructions.wordings import describe, wordings

PACKAGE = Path(keylm.instructions.__file__).parent
TABLES = PACKAGE / "phrases"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a copy of the package."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "instructions", ignore=shutil.ignore_patterns("__pycache__")))


def replace_once(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{file.name} has no {old!r}"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_each_file_is_a_table():
    assert {file.stem for file in TABLES.glob("*.toml")} == set(PhraseTables.model_fields)
    assert read_tables(TABLES) == phrase_tables()


def test_genres_have_names_of_their_own():
    parts = (phrase_tables().letters, phrase_tables().articles, phrase_tables().stories, phrase_tables().ideas)
    assert len(phrase_tables().genres) == sum(map(len, parts))


def every_constraint() -> list[dict]:
    """Return an example of each type, with each relation that it takes."""
    examples = {constraint["type"]: constraint for constraint, _, _ in GOOD_AND_BAD}
    table = phrase_tables().wordings
    found = []
    for kind, example in examples.items():
        relations = table.relations if kind in table.units else table.counts.get(kind, [])
        found += [{**example, "relation": relation, "most": 9} for relation in relations] or [example]
    return found


def test_every_type_of_constraint_is_worded():
    table = phrase_tables().wordings
    worded = [set(table.units), set(table.counts), set(table.plain)]
    assert set.union(*worded) == set(CHECKS)
    assert sum(map(len, worded)) == len(CHECKS)


@pytest.mark.parametrize("constraint", every_constraint(), ids=lambda row: f"{row['type']} {row.get('relation', '')}")
def test_every_wording_can_be_filled_in(constraint):
    found = {describe(constraint, Random(seed)) for seed in range(40 * len(wordings(constraint)))}
    assert len(found) >= len(wordings(constraint))
    assert not [text for text in found if re.search(r"[{}]", text)]


def test_every_name_has_its_maker():
    tables = phrase_tables()
    drawn = tables.constraints
    made = {*MAKERS, *MEASURES, *(kind for kind in EXERCISES if kind in TRAINED)}
    assert set(drawn.weights) - {"repeat_request", "request_last"} == made
    assert set(HELD_OUT) == {*DRAWS, *(kind for kind in EXERCISES if kind not in TRAINED)}
    assert set(tables.sources.tasks) == set(TASK_MAKERS)
    assert set(tables.sources.everyday) == set(EVERYDAY_MAKERS)
    families = {*tables.genres, *TASK_MAKERS, *(family for family, _ in EXERCISES.values())}
    assert {*drawn.unfit, *drawn.fit} <= families


def templates() -> list[str]:
    tables = phrase_tables()
    exchanges = [tables.talk.greetings, tables.talk.thanks, *tables.talk.identity, *tables.talk.small_talk]
    said = [text for exchange in (*exchanges, *tables.refusals.unable) for text in (*exchange.says, *exchange.answers)]
    written = [text for genre in tables.genres.values() for text in genre.templates()]
    return [*said, *written, *tables.refusals.harmful.answers]


def test_every_template_can_be_expanded():
    for template in templates():
        for seed in range(3):
            text = expand(template, {}, Random(seed))
            assert text
            assert not re.search(r"[{}$|]", text), template


DAMAGES = [
    ("slots.toml", "season = ", "seasons = ", r"slot \$season"),
    ("letters.toml", "for $reason", "for $cause", r"slot \$cause"),
    ("letters.toml", "{Dear|Hello|Hi}", "{Dear|Hello|Hi", "without its other half"),
    ("letters.toml", 'fields = "letter"', 'fields = "form"', "fields 'form'"),
    ("stories.toml", "verse = true", "verse = true\nrhyme = true", "rhyme"),
    ("talk.toml", "[thanks]", "[thank]", "thank"),
    ("wordings.toml", "between = [", "between = []\nrest = [", "relations.between"),
    ("facts.toml", '"France: Paris"', '"France"', "pairs"),
    ("facts.toml", "capital of {a}?", "capital of {c}?", "slots c"),
    ("answers.toml", "about {topic}", "about {subject}", "slots subject"),
    ("everyday.toml", "spelling: {text}", "spelling: {sentence}", "slots sentence"),
    ("documents.toml", '"It depends."', "", "verdicts"),
    ("passages.toml", 'no_subject = "', 'no_subject = ""\n# "', "no_subject"),
    ("sources.toml", "howto = 4", "hotwo = 4", "hotwo"),
    ("constraints.toml", "json = 6", "json = 0", "weights.json"),
    ("constraints.toml", "english = 1", "language = 1", "types english"),
    ("constraints.toml", "[weights]", "[weights", "cannot be read"),
    ("constraints.toml", "json = 6\n", "json = 6\nrefrain = 1\n", "weights: refrain; accepted: each trained type"),
    ("families.toml", 'refrain = { kind = "combination"', 'refrain = { kind = "poetry"', "refrain.kind"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), DAMAGES, ids=[f"{row[0]} {row[3]}" for row in DAMAGES])
def test_a_damaged_file_is_refused(package: Path, file, old, new, message):
    replace_once(package / "phrases" / file, old, new)
    with pytest.raises(KeylmError, match=message):
        read_tables(package / "phrases")


def test_a_missing_file_is_refused(package: Path):
    (package / "phrases" / "talk.toml").unlink()
    with pytest.raises(KeylmError, match=r"talk\.toml"):
        read_tables(package / "phrases")


@pytest.mark.parametrize("file", sorted(path.name for path in TABLES.iterdir()))
def test_a_changed_table_changes_the_fingerprint(package: Path, file):
    assert fingerprint(package) == fingerprint()
    lines = (package / "phrases" / file).read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith('  "') or " = " in line)
    lines[place] = re.sub(r"[a-z]", lambda match: "b" if match[0] == "a" else "a", lines[place], count=1)
    (package / "phrases" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert fingerprint(package) != fingerprint()


def test_the_order_of_a_table_and_the_constants_in_the_code_are_in_the_fingerprint(package: Path):
    replace_once(package / "phrases" / "slots.toml", '"rain", "the sea"', '"the sea", "rain"')
    reordered = fingerprint(package)
    assert reordered != fingerprint()
    replace_once(package / "generator.py", "< 0.06", "< 0.07")
    assert fingerprint(package) not in (reordered, fingerprint())


def test_a_genre_without_sentences_is_refused():
    with pytest.raises(ValueError, match="body"):
        Genre.model_validate({"requests": ["Write."], "body": []})
