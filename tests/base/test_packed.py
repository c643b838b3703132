"""Files of lines that are of use only whole: cut short or damaged in any packing, they are refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from keylm.base.files import DamagedFile, parse_json
from keylm.base.packed import json_rows, open_packed

ROWS = [{"n": number, "text": "é\u2028" * number} for number in range(200)]
CONTENT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_rows_come_with_their_place_whatever_the_packing(suffix: str, tmp_path: Path):
    file = tmp_path / f"x.jsonl{suffix}"
    file.write_bytes(PACKERS[suffix](b"\xef\xbb\xbf" + CONTENT))
    assert [row for _, row in json_rows(file, "rows")] == ROWS
    assert next(json_rows(file, "rows"))[0] == f"{file}, line 1"
    with open_packed(file) as stream:
        assert stream.read() == b"\xef\xbb\xbf" + CONTENT


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_archive_cut_short_is_never_a_shorter_file(suffix: str, tmp_path: Path):
    packed, file = PACKERS[suffix](CONTENT), tmp_path / f"x.jsonl{suffix}"
    for length in (1, 9, len(packed) // 2, len(packed) - 1):
        file.write_bytes(packed[:length])
        with pytest.raises(DamagedFile, match=r"cannot be read: .*; accepted: rows"):
            list(json_rows(file, "rows"))


@pytest.mark.parametrize("line", [b"{", b"\xff", b"", b"[" * 3000, b'{"a": "\\ud800"}'])
def test_a_line_that_is_no_json_is_refused_with_its_number(line: bytes, tmp_path: Path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"{}\n" + line + b"\n{}\n")
    with pytest.raises(DamagedFile, match=r"x\.jsonl, line 2: cannot be read"):
        list(json_rows(file, "rows"))
    with pytest.raises(DamagedFile, match="cannot be read"):
        list(json_rows(tmp_path / "none.jsonl", "rows"))


def test_half_a_surrogate_pair_is_no_text():
    assert parse_json('"\\ud83d\\ude00 \\\\ud800"') == "😀 \\ud800"
    for text in ('"\\ud800"', b'{"\\uDC00": 1}', '["\\ude00\\ud83d"]'):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            parse_json(text)
