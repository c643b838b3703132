"""Every row of every known data set is documents or counted faults, in the data set's own columns."""

import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from time import process_time
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_hub import SCHEMAS, fixture_rows, parquet

from keylm.base.errors import KeylmError
from keylm.data.adapters import ADAPTERS, HUB_ADAPTERS, adapter_for
from keylm.data.documents import Document, Fault, read_record

QUESTION = "# How do I descale a kettle?\nMine has a white crust.\n\nWhat helps?\n\n"


def chat(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    lead = [{"role": "system", "content": system}] if system else []
    return lead + [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]


EXPECTED: dict[str, list[str | list[dict[str, str]] | tuple[str]]] = {
    "cosmopedia": ["Dew forms when damp air meets a cold leaf.", ("empty",)],
    "fineweb_edu": [
        "Rivers carry sand to the sea.\n\nThe sand settles where the water slows.",
        ("empty",),
        ("no_text_or_messages",),
        "A lever moves a weight with less force over a longer way.",
    ],
    "lmsys": [
        chat("Name a bird.", "The wren.", "Another?", "The swift."),
        ("flagged",),
        ("other_language",),
        ("redacted",),
        ("no_text_or_messages",),
    ],
    "oasst2": [
        chat("How do bees see?", "With compound eyes.", "How many?", "Five."),
        ("other_language",),
        ("no_reply",),
        ("deleted",),
        ("no_prompt",),
        chat("Two ranks unknown?", "The first then."),
    ],
    "reddit": [
        "I'd say > 3 cups & no sugar, tbh",
        ("deleted",),
        ("deleted",),
        ("bot",),
        ("bot",),
        ("low_score",),
        "same lol",
        ("no_text_or_messages",),
    ],
    "smol_smoltalk": [chat("What is a reed?", "A tall grass.", system="You are brief."), ("unknown_role",)],
    "smoltalk2": [
        chat("What is 2 + 3?", "5.", system="Answer with a number."),
        chat("What is 2 + 3?", "5."),
        ("unfinished_thinking",),
        ("tools",),
        chat("Hi", "Hello!", system="Be kind."),
        chat("Hi", "Hello!"),
    ],
    "stackexchange": [
        f"{QUESTION}## Answer\nBoil vinegar in it.\n\n## Answer\nBuy a new one.\n",
        f"{QUESTION}## Answer\nBoil vinegar in it.\n\n## Answer\n> a quotation\n\nBuy a new one.\n",
        "A text in another frame.\n> 3 votes in the middle stay",
        ("no_text_or_messages",),
    ],
    "ultrachat": [chat("What is a reed?", "A tall grass of wet places."), ("empty",), ("empty_turn",)],
    "wikipedia": [
        "Lantern fern\n\nThe lantern fern is an invented plant.\n\nIt glows.",
        "An article without a title.",
        ("empty",),
    ],
    "wildchat": [
        chat("How warm is tea?", "About 60 degrees."),
        ("other_language",),
        ("flagged",),
        ("redacted",),
        ("empty_turn",),
        ("empty",),
    ],
}
"""What each adapter makes of its invented rows: texts, conversations, and kinds of faults."""


def adapted(name: str, rows: list[dict[str, Any]]) -> list[Document | Fault]:
    """Return what an adapter makes of rows as a reader gives them: its columns alone, grouped."""
    adapter = ADAPTERS[name]
    columns = adapter.columns or tuple(SCHEMAS[name].names)
    projected: Iterator[Mapping[str, Any]] = ({column: row.get(column) for column in columns} for row in rows)
    grouped = adapter.group(projected) if adapter.group else projected
    return [item for line, row in enumerate(grouped, 1) for item in adapter.documents(row, "f", line)]


def plain(item: Document | Fault) -> str | list[dict[str, str]] | tuple[str] | None:
    if isinstance(item, Fault):
        return (item.kind,)
    return list(item.messages) or item.text


ANY_DATA = {"auto", "questions"}
"""Adapters that are made for no data set of the hub."""


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - ANY_DATA))
def test_an_adapter_reads_its_data_sets_rows(name: str) -> None:
    items = adapted(name, fixture_rows(name))
    assert [plain(item) for item in items] == EXPECTED[name]
    assert [(item.file, item.line) for item in items] == [("f", line) for line in range(1, len(items) + 1)]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_parquet_file_with_the_hubs_types_gives_the_same(name: str) -> None:
    rows = pq.read_table(io.BytesIO(parquet(fixture_rows(name), SCHEMAS[name]))).to_pylist()
    assert [plain(item) for item in adapted(name, rows)] == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_columns_exist_and_are_enough(name: str) -> None:
    columns = ADAPTERS[name].columns
    assert set(columns) <= set(SCHEMAS[name].names)
    assert set(SCHEMAS) == set(ADAPTERS) - ANY_DATA == set(HUB_ADAPTERS.values()) == set(EXPECTED)


ARTICLE = (
    """How To Clean A Kettle

A kettle that whistles late is full of lime.
- Fill it with vinegar.
- Wait an hour. Rinse it twice.
- Boil fresh water once.
- Dry it.
How often should I clean a kettle?
Once a month is enough in most towns. Where water is soft, twice a year does. """
    + f"""{"Salt helps. " * 30}
Q2: Is lime bad for you?
A2: No, it is harmless in such amounts as tea holds!
Why does it settle at all?
Why not, you may ask?
Can tea do it? Who knows?
It cannot, though some say so?
Is steel better?
Yes.
What is a kettle?
a vessel with a spout, in small letters
Should it be?
- The list does not answer this, it seems"""
)


def test_questions_are_a_texts_titles_and_lines_that_the_next_line_answers() -> None:
    """Answers that are questions, too short or no sentence are none; long ones are cut after a sentence."""
    items = list(ADAPTERS["questions"].documents({"text": ARTICLE}, "f", 7))
    texts = [item.text for item in items if isinstance(item, Document)]
    often = "Once a month is enough in most towns. Where water is soft, twice a year does. "
    assert texts == [
        "Question: How often should I clean a kettle?\nAnswer: " + (often + "Salt helps. " * 30)[:293].strip(),
        "Question: Is lime bad for you?\nAnswer: No, it is harmless in such amounts as tea holds!",
        "Question: How To Clean A Kettle\n"
        "Answer: Fill it with vinegar. Wait an hour. Rinse it twice. Boil fresh water once.",
    ]
    assert all(len(text) < 400 for text in texts)
    assert {(item.file, item.line) for item in items} == {("f", 7)}


def test_an_answer_is_not_cut_behind_an_abbreviation() -> None:
    """The second sentence goes past the limit, and what would be left of it ends with "U.S."."""
    kept = f"They are counted{', and counted again' * 12}."
    text = f"How many are there?\n{kept} In the U.S. Census they were{' very' * 20} many."
    (item,) = ADAPTERS["questions"].documents({"text": text}, "f", 1)
    assert plain(item) == f"Question: How many are there?\nAnswer: {kept}"


@pytest.mark.parametrize("row", [{"text": "Nothing is asked here."}, {"text": ""}, {"text": None}, {}])
def test_a_text_without_questions_is_counted(row: dict[str, Any]) -> None:
    assert [plain(item) for item in ADAPTERS["questions"].documents(row, "f", 1)] == [("no_question",)]


RECORDS: list[Any] = [
    {"text": "A text.", "prompt": "x", "response": "y"},
    {"text": ""},
    {"text": "x", "messages": []},
    {"text": "x", "messages": chat("Hi", "Ho")},
    {"messages": chat("Hi", "Ho")},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": "hello", "text": "x"},
    {"text": None, "messages": None},
    {"title": "no text"},
    {},
    ["text"],
    None,
]


@pytest.mark.parametrize("record", RECORDS, ids=repr)
def test_auto_reads_text_and_messages_as_files_have_always_been_read(record: Any) -> None:
    assert list(ADAPTERS["auto"].documents(record, "f", 3)) == list(read_record(record, "f", 3))


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "id": 1},
        {"conversation": [{"role": "prompter", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"prompt": "Hi", "response": "Ho"},
        {"prompt": "Hi", "completion": "Ho"},
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"question": "Hi", "answer": "Ho", "text": None},
    ],
)
def test_auto_knows_the_usual_columns_of_conversations(record: dict[str, Any]) -> None:
    [item] = ADAPTERS["auto"].documents(record, "f", 1)
    assert plain(item) == chat("Hi", "Ho")


def test_auto_joins_an_input_to_its_instruction() -> None:
    record = {"instruction": "Translate.", "input": "Ahoj", "output": "Hello"}
    [item] = ADAPTERS["auto"].documents(record, "f", 1)
    assert plain(item) == chat("Translate.\n\nAhoj", "Hello")


def test_the_recipes_name_goes_before_the_hubs_and_auto_is_for_all_others() -> None:
    assert adapter_for("allenai/WildChat-1M", None) is ADAPTERS["wildchat"]
    assert adapter_for("allenai/WildChat-1M", "lmsys") is ADAPTERS["lmsys"]
    assert adapter_for("someone/something", None) is adapter_for(None, None) is ADAPTERS["auto"]
    with pytest.raises(KeylmError, match=r"adapter = 'redit' is not known; accepted: auto, .*reddit, .*wildchat"):
        adapter_for(None, "redit")


def test_a_circle_of_parents_ends() -> None:
    tree = [
        {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter", "lang": "en"},
        {"message_id": "a", "parent_id": "a", "text": "Ho", "role": "assistant", "lang": "en"},
    ]
    [item] = ADAPTERS["oasst2"].documents({"tree": tree}, "f", 1)
    assert plain(item) == chat("Hi", "Ho")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KNOWN = [
    "English",
    "en",
    "user",
    "assistant",
    "prompter",
    "<think>x",
    "# Question\nTitle: ",
    "[deleted]",
    "\ud800",
    "a",
]
TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "message_id", "parent_id", "text", "lang", "rank"]),
        st.sampled_from([*KNOWN, None, 0, True, ["user"], {}]) | VALUES,
    )
    | VALUES,
    max_size=3,
)


def rows_for(columns: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    names = columns or ("text", "messages", "conversation", "conversations", "prompt", "response", "input")
    values = VALUES | TURNS | st.sampled_from([*KNOWN, True, False])
    return st.dictionaries(st.sampled_from([*names, "tree"]) | st.text(max_size=3), values, max_size=4)


ROWS = {name: st.lists(rows_for(adapter.columns), min_size=1, max_size=3) for name, adapter in ADAPTERS.items()}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@settings(max_examples=40)
@given(data=st.data())
def test_no_row_raises_and_none_is_lost(name: str, data: st.DataObject) -> None:
    adapter = ADAPTERS[name]
    rows = data.draw(ROWS[name])
    grouped = list(adapter.group(iter(rows)) if adapter.group else rows)
    keys = [row.get("message_tree_id") for row in rows]
    assert len(grouped) == (len(list(groupby(keys))) if adapter.group else len(rows))
    for row in grouped:
        items = list(adapter.documents(row, "f", 1))
        assert items
        for item in items:
            assert (item.text or item.messages) if isinstance(item, Document) else item.kind
            assert isinstance(item, Document) or len(item.detail.encode()) < 500


@pytest.mark.parametrize(
    "filler",
    ["\n", "\n> 1 votes", "> 1 votes\n", "<think>a</think> ", "# Answer\n", "<think>", "\n---\nTags: ", "^", " bot"],
)
@pytest.mark.parametrize("name", ["reddit", "smoltalk2", "stackexchange"])
def test_a_long_row_of_one_pattern_takes_no_long(name: str, filler: str) -> None:
    text = filler * (400_000 // len(filler)) + "x"
    row = {"text": text, "body": text, "messages": chat("Hi", text)}
    start = process_time()
    assert list(ADAPTERS[name].documents(row, "f", 1))
    assert process_time() - start < 2
