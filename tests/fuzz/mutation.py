"""Damage for fuzzers: seeded mutations of files, and the judgement of what the code under test does with them.

A target (test_*.py beside this) copies something sound, calls `mutate_file` on one of its files, and hands `probe` what
reads it. The only answers that count are a result, or an error that the command line prints with exit code 2; anything
else is a finding: a traceback, a hang, and what a target's assertions call a silent loss (a record that is neither read
nor counted as a fault, a choice that is not answered, other numbers than those of an undisturbed run). A mutation is
known by its number alone:

    pytest tests/fuzz                                      # a few seconds, as in continuous integration
    KEYLM_FUZZ=2000 pytest tests/fuzz --timeout=0          # so many mutations of each target
    KEYLM_FUZZ=1 KEYLM_FUZZ_FROM=1234 pytest tests/fuzz    # one finding again, as its failure says
"""

import copy
import json
import os
import random
import re
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from keylm.base.errors import KeylmError

SECONDS = 20
"""Most seconds that one mutation may take, on a busy machine too."""
SURROGATE = "\ud800"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 10**9, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\x00", "é\u2028", "../../x", "{{ 1/0 }}", "{% for %}", "{{ messages[9].x.y }}", "a" * 5000, SURROGATE),
    *([], [[]], [None], {}, {"x": {}}, [1, "a", {}], ["a b", "c"], {"content": 3}, [[[[["x"]]]]]),
)


def budget(usual: int) -> range:
    """Return the numbers of the mutations to try: `usual` many, or what the environment says."""
    first = int(os.environ.get("KEYLM_FUZZ_FROM", "0"))
    return range(first, first + int(os.environ.get("KEYLM_FUZZ", str(usual))))


def dice(target: str, number: int) -> random.Random:
    """Return the randomness of a target's mutation."""
    return random.Random(f"{target} {number}")


class Hang(BaseException):
    """It took too long; no Exception, so that nothing under test catches it."""


def probe(act: Callable[[], object]) -> str | None:
    """Return None where `act` succeeds or fails as it may, else the traceback."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        act()
    except (KeylmError, OSError) as error:
        return None if str(error).strip() else f"an error without a word: {error!r}"
    except BaseException:  # a panic of a library in Rust is no Exception
        if isinstance(sys.exception(), KeyboardInterrupt):
            raise
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def report(findings: dict[str, str]) -> None:
    """Fail with what was found, each kind of traceback once."""
    kinds: dict[str, list[str]] = {}
    for name, found in findings.items():
        lines = [line.strip() for line in found.strip().splitlines()]
        place = next((line for line in reversed(lines) if "/keylm/" in line), "")
        kinds.setdefault(f"{lines[-1][:200]}\n    {place}", []).append(name)
    told = [f"{len(names)} × {kind}\n    {', '.join(names[:3])}" for kind, names in kinds.items()]
    assert not findings, "\n".join([f"{len(findings)} findings", *told, "", next(iter(findings.values()), "")])


def mutate_file(file: Path, rng: random.Random) -> str:
    """Damage a file in place, in a way of its kind or in its bytes; return what was done."""
    content = file.read_bytes()
    if rng.random() < 0.15 or not content:
        file.write_bytes(mutate_bytes(content, rng))
        return "bytes"
    if file.suffix == ".json":
        file.write_text(_dumped(mutate_json(json.loads(content), rng)), encoding="utf-8", errors="surrogatepass")
    elif file.suffix == ".jsonl":
        lines = content.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = _dumped(mutate_json(json.loads(lines[at]), rng))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    elif file.suffix == ".safetensors":
        file.write_bytes(mutate_tensors(content, rng))
    elif file.suffix == ".toml":
        file.write_text(mutate_toml(content.decode(), rng), encoding="utf-8", errors="surrogatepass")
    else:
        file.write_bytes(mutate_bytes(content, rng))
    return file.suffix


def _dumped(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith("[[[[") else json.dumps(value, ensure_ascii=False)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one or two places replaced, removed, renamed or added; rarely one nested too deeply."""
    if rng.random() < 0.02:
        return "[" * 3000 + "]" * 3000
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = _mutated(value, rng)
    return value


def _mutated(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    # From the top down a file has ever more places: take the depth first, or a long list gets every mutation.
    depth = rng.choice(sorted({len(place) for place in places}))
    place = rng.choice([place for place in places if len(place) == depth])
    if not place:
        return copy.deepcopy(rng.choice(ODD))
    table = value
    for step in place[:-1]:
        table = table[step]
    key, kind = place[-1], rng.randrange(8)
    if kind == 0:
        del table[key]
    elif kind == 1 and isinstance(table, dict):
        table[rng.choice(("x", "", "auto_map", "items", f"{key} ", "0"))] = copy.deepcopy(
            rng.choice((table[key], *ODD))
        )
    elif kind == 1:
        table.insert(key, copy.deepcopy(rng.choice((table[key], *ODD))))
    elif kind == 2 and isinstance(table[key], int | float) and not isinstance(table[key], bool):
        table[key] = rng.choice((-table[key], table[key] + 1, table[key] * 2, table[key] / 3, str(table[key])))
    elif kind == 3 and isinstance(table[key], str):
        table[key] = rng.choice((table[key][:-1], table[key] * 2, table[key].upper(), [table[key]]))
    else:
        table[key] = copy.deepcopy(rng.choice(ODD))
    return value


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*above, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 40)):
            yield from _places(value[index], (*above, index))


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut off, with bits flipped, a stretch zeroed or repeated."""
    if not content:
        return b"\x00"
    at, kind = rng.randrange(len(content)), rng.randrange(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 3, 30))):
            place = rng.randrange(len(changed))
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)
    length = rng.choice((1, 8, 100))
    if kind == 2:
        return content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]
    return content[:at] + content[at : at + length] * 2 + content[at + length :]


def mutate_tensors(content: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file whose header was changed as JSON, or whose values are others."""
    [length] = struct.unpack("<Q", content[:8])
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name, kind = rng.choice(names), rng.randrange(7)
    if kind == 0:
        begin, end = header.pop(name)["data_offsets"]
        values = values[:begin] + values[end:]
        for entry in header.values():
            if entry.get("data_offsets", [0])[0] >= end:
                entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    elif kind == 1:
        header["more.weight"] = {**header[name], "data_offsets": [len(values), len(values) + 4], "shape": [2]}
        values += bytes(4)
    elif kind == 2:
        header[name]["shape"] = header[name]["shape"][::-1] if len(header[name]["shape"]) > 1 else [1, -1]
    elif kind == 3:
        header[name]["dtype"] = rng.choice(("I16", "U16", "F16", "BOOL", "F64", "x"))
    elif kind == 4:
        begin, end = header[name]["data_offsets"]
        values = values[:begin] + rng.choice((b"\xff", b"\x7f", b"\x80")) * (end - begin) + values[end:]
    elif kind == 5:
        header[f"{name}x"] = header.pop(name)
    else:
        header = mutate_json(header, rng)
    encoded = _dumped(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + values


def mutate_toml(text: str, rng: random.Random) -> str:
    """Return TOML with a line removed, repeated or added, or a value that is another."""
    lines = text.splitlines()
    at, kind = rng.randrange(len(lines)), rng.randrange(5)
    odd = (
        '"x"',
        "[]",
        "{}",
        "nan",
        "-inf",
        "1979-05-27",
        "[[1]]",
        "true",
        "-1",
        "1e400",
        "[" * 3000,
        "9" * 5000,
        '"\\u0000"',
    )
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        lines.insert(
            at, rng.choice(("[x]", "[[sources]]", "a" + ".a" * 3000 + " = 1", "=", "\x00", "x = " + rng.choice(odd)))
        )
    else:
        lines[at] = re.sub(r"= .*", lambda _: f"= {rng.choice(odd)}", lines[at])
    return "\n".join(lines) + "\n"
