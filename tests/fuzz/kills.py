"""Kill -9 at any moment: a command is killed, started again until it ends, and leaves what it leaves undisturbed.

A trial kills a program of its own once to three times: after the n-th operation on a file beside or below its folder
(opened, renamed, removed, made: Python's audit events), or some time after the first of them; n and the time are drawn
from how many there were, and how long it took, undisturbed. What it leaves is compared byte for byte, but for the
clock's figures (`CLOCK`) and for files that hold little else (`OF_THE_CLOCK`).
"""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.programs import PATIENCE, Program

MOST_STARTS = 12
FACTS = "facts"
"""The file beside the command's folder in which a program that ends leaves its number of operations and seconds."""
CLOCK = {"seconds", "date", "command", "latency", "time", "milliseconds", "created", "tokens_per_second"}
"""Keys of JSON files whose values depend on the clock, or on how a command was typed."""
OF_THE_CLOCK = ("timing.jsonl", "report.html", ".lock", "*.lock", "curated/.work", "trl", FACTS)
"""Names and folders that are not compared: figures of the clock, pages that show some, and work in progress.

report.html is rendered from the files that are compared, and from timing.jsonl.
"""
CHILD = """
import atexit, os, runpy, signal, sys, threading, time
folder, after, seconds, facts = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
owner, count, begun = os.getpid(), 0, 0.0

def die():
    os.kill(owner, signal.SIGKILL)

def watch(event, arguments):
    global count, begun
    if event not in EVENTS or not arguments or os.getpid() != owner:
        return
    place = arguments[0]
    if not isinstance(place, str | bytes) or not os.path.abspath(os.fsdecode(place)).startswith(folder):
        return
    count += 1
    if count == 1:
        begun = time.monotonic()
        if seconds > 0:
            timer = threading.Timer(seconds, die)
            timer.daemon = True
            timer.start()
    if count == after:
        die()

def tell():
    with open(facts, "w") as file:
        file.write(f"{count} {time.monotonic() - begun}")

atexit.register(tell)
sys.addaudithook(watch)
sys.argv = ["keylm", *sys.argv[5:]]
runpy.run_module("keylm", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Command:
    """A keylm command that fills a folder."""

    name: str
    arguments: Callable[[Path], list[str]]
    """its arguments, by the folder"""


@dataclass
class Undisturbed:
    """What a command did when nothing killed it."""

    operations: int
    seconds: float
    artefacts: dict[str, Any]


@dataclass
class Tally:
    """What came of the trials of a command."""

    trials: int = 0
    kills: int = 0
    findings: list[str] = field(default_factory=list)
    """a line for each trial that failed, or left anything else"""


def start(command: Command, folder: Path, after: int = 0, seconds: float = 0) -> tuple[int, str]:
    """Run a command, killed after so many file operations or seconds of its work; return exit code and what it said."""
    facts = folder.parent / FACTS
    given = [str(folder.parent), str(after), str(seconds), str(facts), *command.arguments(folder)]
    program = Program([sys.executable, "-c", CHILD, *given], cwd=folder.parent)
    told, wrong = program.communicate(PATIENCE)
    assert program.returncode is not None
    return program.returncode, told + wrong


def undisturbed(command: Command, scratch: Path) -> Undisturbed:
    """Return what a command leaves that nobody kills. Raises AssertionError where it fails."""
    folder = fresh(scratch)
    code, said = start(command, folder)
    assert code == 0, f"{command.name}: exit code {code}\n{said}"
    operations, seconds = (scratch / FACTS).read_text().split()
    return Undisturbed(int(operations), float(seconds), artefacts(scratch))


def fresh(scratch: Path) -> Path:
    """Return the folder that a command is to fill, of which nothing is there yet; always the same path."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch / "out"


def trial(command: Command, known: Undisturbed, number: int, scratch: Path, tally: Tally) -> None:
    """Kill a command at moments that `number` decides until it ends, and add to the tally what came of it."""
    rng, folder = random.Random(f"{command.name} {number}"), fresh(scratch)
    wanted = rng.choice((1, 1, 2, 3))
    moments: list[str] = []
    tally.trials += 1
    for starts in range(MOST_STARTS):
        after, seconds = 0, 0.0
        if starts < wanted and rng.random() < 0.6:
            after = rng.randint(1, known.operations)
        elif starts < wanted:
            seconds = rng.uniform(0.001, known.seconds)
        code, said = start(command, folder, after, seconds)
        if code == 0:
            found = differences(known.artefacts, artefacts(scratch))
            break
        if code == -signal.SIGKILL:
            tally.kills += 1
            moments.append(f"operation {after}" if after else f"{seconds:.3f} s")
        elif "at work" in said or "another process" in said:
            time.sleep(1)  # workers of the killed program, which notice its end within a second
        else:
            found = [f"exit code {code}\n{said}"]
            break
    else:
        found = [f"does not end\n{said}"]
    if found:
        tally.findings.append(f"{number}: {command.name}, killed at {', '.join(moments)}: {'; '.join(found[:5])}")


def artefacts(folder: Path) -> dict[str, Any]:
    """Return what is in a folder by path: bytes, or the values of JSON without the clock's."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if any(place.match(pattern) for place in (name, *name.parents) for pattern in OF_THE_CLOCK):
            continue
        if file.is_file():
            found[name.as_posix()] = timeless(name.name, file.read_bytes())
    return found


def timeless(name: str, content: bytes) -> Any:
    """Return a file's content without what depends on the clock."""
    if name == "stages.json":  # files that are compared themselves; the hashes are of pages and summaries too
        return {stage: sorted(done["outputs"]) for stage, done in json.loads(content).items()}
    if name == "source.json":  # of shards: the hash covers when the files that it reads were last written
        return {key: one for key, one in json.loads(content).items() if key != "fingerprint"}
    if name == "state.json":  # of a checkpoint: how long timing.jsonl was, and so its own hash
        return {key: one for key, one in json.loads(content).items() if key not in ("timing_bytes", "hash")}
    return without_clock(json.loads(content)) if name.endswith(".json") else content


def without_clock(value: Any) -> Any:
    """Return plain values without the entries in CLOCK."""
    if isinstance(value, Mapping):
        return {key: without_clock(one) for key, one in value.items() if key not in CLOCK}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the names that are in one alone, or not the same in both."""
    told = [f"{name} is missing" for name in expected if name not in found]
    told += [f"{name} is left over" for name in found if name not in expected]
    return told + [f"{name} differs" for name in expected if name in found and expected[name] != found[name]]
