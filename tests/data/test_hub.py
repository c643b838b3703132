"""A hub source gives each row once and in order, through failures and restarts, or says what to do."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_hub import SCHEMAS, SHA, FakeHub, Reader, Repo, fixture_rows, json_lines, one_split, parquet

from keylm.base.errors import KeylmError
from keylm.data import hub as hub_module
from keylm.data.adapters import ADAPTERS, HUB_ADAPTERS
from keylm.data.hub import TRIES, HubRows, hub_size
from keylm.recipe.schema import Source

pytest.importorskip("datasets")

TEXTS = [{"text": f"Row {n} of the web. " + "word " * (n % 5), "id": n, "dump": "x" * 500} for n in range(23)]
# 2 files of 3 row groups and one of a single row; the last group of a file is short.
WEB = {
    "data/train-0.parquet": parquet(TEXTS[:11], row_group=4),
    "data/train-1.parquet": parquet(TEXTS[11:22], row_group=4),
    "data/train-2.parquet": parquet(TEXTS[22:], row_group=4),
}
LINES = {"data/a.jsonl.gz": json_lines(TEXTS[:12]), "data/b.jsonl.gz": json_lines(TEXTS[12:])}
INFO = {"dataset_info": {"splits": [{"name": "train", "num_examples": 23, "num_bytes": 12_345}]}}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        for name, adapter in HUB_ADAPTERS.items():
            rows, schema = fixture_rows(adapter), SCHEMAS[adapter]
            if adapter == "stackexchange":
                hub.repos[name] = one_split({"data/part-0.jsonl.gz": json_lines(rows)})
            else:
                hub.repos[name] = one_split({"data/train-0.parquet": parquet(rows, schema)})
        hub.repos["our/web"] = one_split(WEB, **INFO)
        hub.repos["our/lines"] = one_split(LINES)
        hub.repos["our/locked"] = Repo({"data/train-0.parquet": b""}, gated=True)
        parts = {"data/early.parquet": parquet(TEXTS[:2]), "data/late.parquet": parquet(TEXTS[2:4])}
        configs = [
            {"config_name": name, "data_files": [{"split": "first", "path": f"data/{name}.parquet"}]}
            for name in ("early", "late")
        ]
        hub.repos["our/parts"] = Repo(parts, {"configs": configs})
        hub.repos["our/broken"] = one_split({"data/train-0.parquet": b"PAR1 this is no parquet file PAR1"})
        yield hub


@pytest.fixture(scope="module")
def reader(fake: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    home = tmp_path_factory.mktemp("hub")
    # A local folder of a data set's name, which must not be taken for it.
    (home / "our" / "web").mkdir(parents=True)
    (home / "our" / "web" / "train.jsonl").write_text('{"text": "not this one"}\n')
    with Reader(fake.url, home) as process:
        yield process


@pytest.fixture
def hub(fake: FakeHub) -> Iterator[FakeHub]:
    fake.calm()
    yield fake
    fake.calm()


def texts(answer: dict[str, Any]) -> list[str]:
    assert "error" not in answer, answer["error"]
    return [row["text"] for _, _, row in answer["rows"]]


WHOLE = [row["text"] for row in TEXTS]


@pytest.mark.parametrize("name", ["our/web", "our/lines"])
def test_every_row_comes_once_and_in_order(name: str, hub: FakeHub, reader: Reader) -> None:
    answer = reader(source={"hub": name})
    assert texts(answer) == WHOLE
    assert [(file, line) for file, line, _ in answer["rows"]] == [(f"{name}/train", n) for n in range(1, 24)]
    assert [row["id"] for _, _, row in answer["rows"]] == list(range(23))
    assert answer["said"] == answer["slept"] == []


@pytest.mark.parametrize("name", sorted(HUB_ADAPTERS))
def test_each_known_data_set_comes_in_its_adapters_columns(name: str, hub: FakeHub, reader: Reader) -> None:
    adapter = ADAPTERS[HUB_ADAPTERS[name]]
    wanted = [{column: row[column] for column in adapter.columns} for row in fixture_rows(HUB_ADAPTERS[name])]
    expected = list(adapter.group(iter(wanted)) if adapter.group else wanted)
    answer = reader(source={"hub": name})
    assert "error" not in answer, answer["error"]

    def documents(rows: list[Any]) -> list[Any]:
        return [item for n, row in enumerate(rows, 1) for item in adapter.documents(row, "f", n)]

    assert documents([row for _, _, row in answer["rows"]]) == documents(expected)
    if not adapter.group:
        assert {column for _, _, row in answer["rows"] for column in row} == set(adapter.columns)


@pytest.mark.parametrize("name", ["our/web", "our/lines", "OpenAssistant/oasst2"])
def test_from_the_state_after_any_row_the_rest_follows(name: str, hub: FakeHub, reader: Reader) -> None:
    whole = reader(source={"hub": name})
    count = len(whole["rows"])
    assert len(whole["states"]) == count + 1
    assert [state["rows"] for state in whole["states"]] == list(range(count + 1))
    for done, state in enumerate(whole["states"]):
        assert reader(source={"hub": name}, state=state)["rows"] == whole["rows"][done:], done


@pytest.mark.parametrize("name", ["our/web", "our/lines"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_chain_of_restarts_is_one_stream(name: str, step: int, hub: FakeHub, reader: Reader) -> None:
    state, found = None, []
    while True:
        answer = reader(source={"hub": name}, state=state, take=step)
        if not answer["rows"]:
            break
        found += texts(answer)
        state = answer["states"][-1]
    assert found == WHOLE


def test_a_state_of_another_datasets_version_is_read_by_counting(hub: FakeHub, reader: Reader) -> None:
    [*_, state] = reader(source={"hub": "our/web"}, take=7)["states"]
    state = {**state, "datasets": "1.0.0", "stream": {"unreadable": True}}
    hub.calm()
    hub.faults = lambda number: 503 if number < 7 else None
    rest = reader(source={"hub": "our/web"}, state=state)
    assert texts(rest) == WHOLE[7:]
    assert rest["rows"][0][1] == 8
    [*_, state] = reader(source={"hub": "our/web"}, state=state, take=5)["states"]
    assert texts(reader(source={"hub": "our/web"}, state=state)) == WHOLE[12:]


def test_parquet_fetches_the_adapters_columns_alone(hub: FakeHub, reader: Reader) -> None:
    noise = random.Random(3)
    rows = [{"text": f"row {n}", "other": noise.randbytes(12 << 20)} for n in range(3)]
    wide = {"data/train-0.parquet": parquet(rows, row_group=1)}
    hub.repos["our/wide"] = one_split(wide)
    assert texts(reader(source={"hub": "our/wide", "adapter": "fineweb_edu"})) == [row["text"] for row in rows]
    assert hub.bytes < len(wide["data/train-0.parquet"]) / 2
    del hub.repos["our/wide"]


# huggingface_hub repeats a request five times by itself; the sixth failure in a row is ours.
OURS = 6


@pytest.mark.parametrize("kind", [429, 503, 500, "break"])
@pytest.mark.parametrize("name", ["our/web", "our/lines", "OpenAssistant/oasst2"])
def test_short_failures_lose_and_repeat_nothing(name: str, kind: int | str, hub: FakeHub, reader: Reader) -> None:
    undisturbed = reader(source={"hub": name})
    hub.calm()
    hub.faults = lambda number: kind if number % 3 else None
    assert reader(source={"hub": name})["rows"] == undisturbed["rows"]
    assert hub.requests > 2


@pytest.mark.parametrize("kind", [429, 503, "break"])
@pytest.mark.parametrize("name", ["our/web", "our/lines"])
def test_long_failures_reopen_the_stream_at_the_same_row(
    name: str, kind: int | str, hub: FakeHub, reader: Reader
) -> None:
    undisturbed = reader(source={"hub": name})
    requests = hub.requests
    for first in range(requests):
        hub.calm()
        hub.faults = lambda number, first=first: kind if first <= number < first + 2 * OURS else None
        disturbed = reader(source={"hub": name})
        assert disturbed["rows"] == undisturbed["rows"], first
        assert disturbed["slept"][:2] == [1.0, 2.0][: len(disturbed["slept"])], first
        assert disturbed["slept"], first


def test_waits_double_up_to_two_minutes_and_say_what_for(hub: FakeHub, reader: Reader) -> None:
    hub.faults = lambda number: 503 if number >= 1 else None
    answer = reader(source={"hub": "our/web", "revision": SHA})
    assert answer["slept"] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0][: TRIES - 1]
    assert "given up after 10 attempts without a new row (HTTP 503)" in answer["error"]
    assert answer["said"][-1].startswith("web: HTTP 503 at row ")
    assert answer["said"][-1].endswith(" of our/web/train; trying again in 2 min 0 s")


def test_the_hubs_own_wish_for_a_wait_is_kept(hub: FakeHub, reader: Reader) -> None:
    hub.asked_wait = 37
    hub.faults = lambda number: 429 if 1 <= number < 1 + OURS else None
    answer = reader(source={"hub": "our/web"})
    assert texts(answer) == WHOLE
    assert answer["slept"] == [37.0]
    assert "the hub does not answer or asks to wait; trying again in 38.0 s" in answer["said"]


def test_a_new_row_renews_the_patience(hub: FakeHub, reader: Reader) -> None:
    # Each burst is borne by 8 attempts of ours; together they are more than would be borne in a row.
    hub.repos["our/many"] = one_split({f"data/{n:02}.parquet": parquet(TEXTS[n : n + 4]) for n in range(0, 23, 4)})
    hub.faults = lambda number: 503 if number % (3 + 8 * OURS) >= 3 else None
    answer = reader(source={"hub": "our/many"})
    assert texts(answer) == WHOLE
    assert len(answer["slept"]) > TRIES


def test_the_revision_is_a_commit_and_stays(hub: FakeHub, reader: Reader) -> None:
    answer = reader(source={"hub": "our/web"}, take=3)
    state = answer["states"][-1]
    assert answer["revision"] == state["revision"] == SHA
    assert reader(source={"hub": "our/web", "revision": "main"}, take=1)["revision"] == SHA
    assert reader(source={"hub": "our/web", "revision": SHA}, state=state, take=1)["rows"][0][1] == 4
    other = {**state, "revision": "0" * 40}
    answer = reader(source={"hub": "our/web", "revision": "main"}, state=other)
    assert f"begun at revision {'0' * 40}, but revision = 'main' is {SHA}" in answer["error"]
    assert "set revision = " in answer["error"]
    answer = reader(source={"hub": "our/web"}, state=other)
    assert "there is no revision" in answer["error"]


def test_a_state_of_another_split_is_refused(hub: FakeHub, reader: Reader) -> None:
    state = reader(source={"hub": "our/web"}, take=3)["states"][-1]
    assert "begun with our/web None train; begin anew" in reader(source={"hub": "our/lines"}, state=state)["error"]


ERRORS = {
    ("our/locked", "adapter", "auto"): ["gated", "accept its terms at", "/datasets/our/locked", "hf auth login"],
    ("our/nothing", "adapter", "auto"): ["the hub has no such data set, or it is private", "/datasets/our/nothing"],
    ("not a name", "adapter", "auto"): ["the hub has no such data set"],
    ("our/web", "split", "trian"): ["there is no split = 'trian'; accepted: train"],
    ("our/web", "revision", "v9"): ["there is no revision = 'v9'; accepted: a branch, tag or commit"],
    ("our/parts", "config", "middle"): ["there is no config = 'middle'; accepted: early, late"],
    ("our/parts", "split", "first"): ["it needs a `config`; accepted: early, late"],
    ("our/broken", "adapter", "auto"): ["its data cannot be read (ArrowInvalid: "],
    ("our/web", "adapter", "nosuch"): ["adapter = 'nosuch' is not known; accepted: auto, cosmopedia"],
}


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: "-".join(case))
def test_what_will_not_mend_is_told_at_once(case: tuple[str, str, str], hub: FakeHub, reader: Reader) -> None:
    name, key, value = case
    answer = reader(source={"hub": name, key: value})
    for part in ERRORS[case]:
        assert part in answer["error"]
    assert "\n" not in answer["error"]
    assert answer["slept"] == []


def test_a_config_is_read_and_named(hub: FakeHub, reader: Reader) -> None:
    answer = reader(source={"hub": "our/parts", "config": "late", "split": "first"})
    assert texts(answer) == WHOLE[2:4]
    assert [file for file, _, _ in answer["rows"]] == ["our/parts/late/first"] * 2


def test_the_size_is_what_the_card_says(hub: FakeHub, reader: Reader) -> None:
    assert reader("size", source={"hub": "our/web"})["size"] == [23, 12_345]
    assert reader("size", source={"hub": "our/lines"})["size"] is None
    assert reader("size", source={"hub": "our/web", "split": "test"})["size"] is None
    assert reader("size", source={"hub": "our/nothing"})["size"] is None


def test_no_network_at_all_is_told_soon(tmp_path: Path) -> None:
    with Reader("http://127.0.0.1:9", tmp_path) as alone:
        answer = alone(source={"hub": "our/web"})
        assert "the hub, http://127.0.0.1:9, cannot be reached (Connect" in answer["error"]
        assert "or give the data as files with `path`" in answer["error"]
        assert answer["slept"] == [1.0, 2.0]
        answer = alone(source={"hub": "our/web", "revision": SHA})
        assert "the hub, http://127.0.0.1:9, cannot be reached" in answer["error"]
        assert alone("size", source={"hub": "our/web"})["size"] is None


def test_the_offline_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = (None, SimpleNamespace(constants=SimpleNamespace(HF_HUB_OFFLINE=True)))
    monkeypatch.setattr(hub_module, "load_libraries", lambda: libraries)
    with pytest.raises(KeylmError, match=r"our/web/train: HF_HUB_OFFLINE is set; unset it, or"):
        HubRows("web", Source(hub="our/web"))
    assert hub_size(Source(hub="our/web")) is None


def test_without_datasets_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    hub_module.load_libraries.cache_clear()
    monkeypatch.setattr(hub_module.importlib, "import_module", missing)
    with pytest.raises(KeylmError, match=r"need datasets: pip install -e '\.\[hub\]'"):
        HubRows("web", Source(hub="our/web"))
    assert hub_size(Source(hub="our/web")) is None
