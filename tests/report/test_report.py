"""The run report: what it shows, what it survives, and that it stays small, safe and the same."""

import json
import math
import re
import time
from pathlib import Path

import matplotlib
import pytest
from support.fake_run import SUMMARY, Page, check_colours, check_self_contained, fake_run, metric_rows

from keylm.report import charts, run_record
from keylm.report import run_report as report
from keylm.report.cost import cost_of
from keylm.report.run_report import write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(fake_run(tmp_path_factory.mktemp("run") / "nano")).read_text(encoding="utf-8")


def test_shows_what_the_run_was(page: str) -> None:
    words = ["nano", "2.15M", "2.46M", "4 min 1 s", "AMD EPYC 7763", "CC-BY-4.0", "2 malformed json, 1 empty"]
    words += [
        "Once upon a time",
        "three sons",
        "I have no lentils.",
        "rms_norm_eps",
        "keylm run",
        "9ae0" * 16,
    ]
    assert [word for word in words if word not in page] == []
    last = [row for row in metric_rows(300) if row["kind"] == "validation"][-1]["bits_per_byte"]
    assert f"<dd>{sum(last.values()) / 4:.3f}</dd>" in page
    assert page.count("<svg") == 4 * 2 + 6
    assert "not there yet" not in page


def test_is_self_contained_and_every_colour_follows_the_scheme(page: str) -> None:
    check_self_contained(page)
    check_colours(page)


def test_same_run_same_bytes_and_global_settings_untouched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    run = fake_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report.html"]


def test_nothing_from_the_run_is_markup(tmp_path: Path) -> None:
    run, evil = fake_run(tmp_path / "run"), "<script>alert(1)</script><!--$x_1$"
    for file in ("recipe.toml", "metrics.jsonl", "shards/manifest.json"):
        text = (run / file).read_text()
        quoted = text.replace("sources.letters", f"sources.'{evil}'").replace("letters =", f"'{evil}' =")
        (run / file).write_text(quoted.replace('"letters"', json.dumps(evil)))
    bad = {"stage": evil, "prompt": evil, "text": evil, "messages": None}
    chat = {"stage": "chat", "prompt": None, "messages": [{"role": '"><script>', "content": evil}]}
    (run / "samples.json").write_text(json.dumps([bad, chat]))
    summary = SUMMARY | {"command": evil, "device_name": evil}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "stages.json").write_text(json.dumps({evil: {"seconds": 3.0}}))
    text = write_report(run).read_text()
    assert "<script" not in text
    assert "<!--" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 8
    Page(text)


@pytest.mark.parametrize("name", run_record.FILES)
def test_one_missing_file_costs_its_section_only(tmp_path: Path, name: str) -> None:
    run = fake_run(tmp_path / "run", steps=30)
    (run / name).unlink()
    text = write_report(run).read_text()
    Page(text)
    assert f"<code>{name}</code>: not there yet" in text
    assert text.count("<svg") >= 4


def test_an_empty_folder_has_a_report_and_no_folder_has_none(tmp_path: Path) -> None:
    text = write_report(tmp_path).read_text()
    Page(text)
    assert all(f"<code>{name}</code>: not there yet" in text for name in run_record.FILES)
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "absent")


def test_a_run_cut_off_while_writing(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=40)
    whole = (run / "metrics.jsonl").read_bytes()
    again = b'{"kind": "train", "step": 30, "stage": "chat", "tokens": 253952, "loss": null}\n{"kind": "tr'
    (run / "metrics.jsonl").write_bytes(whole[: whole.index(b'"step": 33')] + b"\xc3\n" + again)
    (run / "summary.json").write_text('{"keylm": ')
    (run / "samples.json").write_text('{"not": "a list"}')
    found = run_record.read_run(run)
    assert [row["step"] for row in found.train] == list(range(33))
    assert found.train[30]["loss"] is None
    text = write_report(run).read_text()
    assert "summary.json</code>: cannot be read" in text
    assert "samples.json</code>: cannot be read: holds no list" in text
    assert "1 step had no finite loss" in text


def test_one_step_and_no_finite_number(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=1)
    Page(write_report(run).read_text())
    row = {"kind": "train", "step": 0, "stage": "pretrain", "tokens": 8192, "loss": math.nan}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    Page(write_report(run).read_text())


def test_many_rows_are_quick_and_small(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=40_000)
    start = time.process_time()
    path = write_report(run)
    assert time.process_time() - start < 5
    assert path.stat().st_size < 2_000_000
    points = [len(re.findall(r"[ML] ", d)) for d in re.findall(r' d="([^"]*)"', path.read_text())]
    assert max(points) <= charts.MOST_POINTS + 4


def test_many_sources_with_long_names(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=30)
    names = [f"a_source_with_a_rather_long_name_{i}" for i in range(11)]
    rows = [{"kind": "train", "step": i, "stage": "s", "tokens": 10 * i + 10, "loss": 2.0,
             "source_loss": dict.fromkeys(names, 2.0)} for i in range(20)]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run).read_text()
    Page(text)
    assert 'class="dashed"' in text


def test_more_sources_than_have_room_at_the_ends_of_their_lines_are_named_below(tmp_path: Path) -> None:
    def keys(number: int) -> tuple[bool, int]:
        run = fake_run(tmp_path / str(number), steps=30)
        losses = {f"source_{i}": 2.0 + i / 10 for i in range(number)}
        rows = [
            {"kind": "train", "step": i, "stage": "s", "tokens": 10 * i + 10, "source_loss": losses} for i in range(20)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = write_report(run).read_text()
        assert "no finite loss" not in text, "a row that tells no loss is no fault"
        figure = text[text.index("Training loss by source") :]
        wide = figure[: figure.index("</svg>")]
        return 'class="keys"' in figure[: figure.index("</ul>")], wide.count("source_")

    assert keys(10) == (False, 10)
    assert keys(20) == (True, 0)


def test_epochs_are_planned_windows_over_windows(tmp_path: Path) -> None:
    table = report.epochs(run_record.read_run(fake_run(tmp_path / "run", steps=3)))
    assert table["fairy_tales"] == pytest.approx([1638400 * 0.6 / 256 / 2900, 573440 / 6 / 256 / 2900, 0])
    assert table["small_talk"] == pytest.approx([0, 573440 / 6 / 256 / 260, 245760 * 0.9 / 256 / 260])


def test_without_an_evaluation_the_page_says_so(page: str) -> None:
    assert "<code>evaluation/benchmarks</code>: not measured" in page


def test_tokens_and_compute(page: str, tmp_path: Path) -> None:
    found = cost_of(run_record.read_run(fake_run(tmp_path / "run")))
    assert sum(found.seen.values()) == pytest.approx(300 * 8192)
    assert found.seen["fairy_tales"] == pytest.approx(200 * 8192 * 0.6 + 70 * 8192 / 6)
    by_name = {licence.name: licence for licence in found.licences}
    assert by_name["CC-BY-4.0"].tokens == 1450 * 256
    power = 6 * 2150000 * 300 * 8192
    assert f"{power / 1e13:.1f} × 10<sup>13</sup>" in page
    assert "6·N·D" in page
    assert "0.07 hours of CPU on 1 × AMD EPYC 7763" in page
