"""Starts Python programs as processes of their own without paying each time for the same imports.

A server, started once a test process, imports torch, transformers and keylm, and from then on only forks. A program
runs in a process of its own, a child of the server; it can be killed with -9, has its own exit code and shares no state
with any other. This spares it about 2.5 CPU seconds. KEYLM_COLD_PROGRAMS=1 starts all of them the plain way, which is
the only one but on Linux.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

IMPORTED = (
    *(
        "keylm.cli.main",
        "keylm.pipeline.run",
        "keylm.pipeline.doctor",
        "keylm.runtimes.generation",
        "keylm.pipeline.verify",
        "keylm.pipeline.show",
    ),
    *("keylm.training.loop", "keylm.training.sharding", "keylm.training.sharded_checkpoint"),
    *("torch._dynamo", "torch._inductor.config", "torch.distributed.fsdp", "torch.distributed.checkpoint"),
    *("transformers.models.qwen3.modeling_qwen3", "transformers.generation.utils", "matplotlib.backends.backend_svg"),
)
ALSO_IMPORTED: list[str] = []
"""What the server is to import besides, filled before it is first used; for tests that start many programs."""
WARM = sys.platform == "linux" and not os.environ.get("KEYLM_COLD_PROGRAMS")
SHOWN = {"COLUMNS": "200", "NO_COLOR": "1"}
"""What rich reads when keylm is imported; a program's own values come too late for the server."""
PATIENCE = 200.0
"""Most seconds a program may take."""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Program:
    """A program that has been started, with subprocess.Popen's names; what it says goes to files."""

    def __init__(
        self, command: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start `command`, which begins with sys.executable: a script, -m MODULE or -c CODE, and arguments."""
        assert command[0] == sys.executable
        self._files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  # they live as long as this
        self._files[0].write(stdin.encode())
        self._files[0].seek(0)
        environment = {**(os.environ if env is None else env), **SHOWN}
        self.returncode: int | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        if not WARM:
            [given, told, wrong] = self._files
            self._popen = subprocess.Popen(command, stdin=given, stdout=told, stderr=wrong, env=environment, cwd=cwd)
            self.pid = self._popen.pid
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(server())
        request = {
            "arguments": [str(part) for part in command[1:]],
            "environment": environment,
            "folder": str(cwd or Path.cwd()),
        }
        socket.send_fds(self._socket, [json.dumps(request).encode()], [file.fileno() for file in self._files])
        self.pid = int(self._socket.recv(100))

    def poll(self) -> int | None:
        """Return the exit code (-9: killed by signal 9) or None while the program runs."""
        return self._look(0)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit code. Raises TimeoutExpired after `timeout` seconds; the program is killed then."""
        found = self._look(timeout)
        if found is None:
            self.kill()
            raise subprocess.TimeoutExpired(f"program {self.pid}", timeout, *self._told())
        return found

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Wait, and return what the program wrote to standard output and error."""
        self.wait(timeout)
        return self._told()

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self._look(PATIENCE)

    def send_signal(self, number: int) -> None:
        """Send a signal if the program still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _look(self, seconds: float) -> int | None:
        if self.returncode is None and self._popen:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.returncode = self._popen.wait(seconds)
        elif self.returncode is None and select.select([self._socket], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._socket.recv(100)))
            self._socket.close()
        return self.returncode

    def _told(self) -> tuple[str, str]:
        texts = []
        for file in self._files[1:]:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return texts[0], texts[1]


def run(command: Sequence[str], *, check: bool = False, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end; with `check`, one that fails is an error that shows what it said."""
    program = Program(command, **options)
    told, wrong = program.communicate()
    assert program.returncode is not None
    assert not (check and program.returncode), f"{' '.join(command)}: exit code {program.returncode}\n{told}{wrong}"
    return subprocess.CompletedProcess(command, program.returncode, told, wrong)


def start_ranks(command: Sequence[str], processes: int) -> list[Program]:
    """Start `command` as torchrun does on one machine, without a launcher that watches over the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    shared["LOCAL_WORLD_SIZE"] = shared["WORLD_SIZE"]
    return [Program(command, env={**shared, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(processes)]


def run_ranks(command: Sequence[str], processes: int) -> "subprocess.CompletedProcess[str]":
    """Run `command` as torchrun does to its end, and return what all processes said; one that fails ends the others."""
    ranks = start_ranks(command, processes)
    deadline = time.monotonic() + PATIENCE
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        if any(rank.returncode for rank in ranks):
            break
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
    told = [rank.communicate() for rank in ranks]
    worst = next((rank.returncode for rank in ranks if rank.returncode), 0)
    assert not worst, "".join(wrong for _, wrong in told)
    return subprocess.CompletedProcess(command, worst, *("".join(texts) for texts in zip(*told, strict=True)))


@functools.cache
def server() -> str:
    """Start the server, and return the path of its socket."""
    folder = tempfile.TemporaryDirectory(prefix="keylm-programs-")
    path = f"{folder.name}/socket"
    command = [sys.executable, __file__, path, *ALSO_IMPORTED]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **SHOWN, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def end() -> None:
        process.stdin.close()  # which the server takes for its end
        process.wait()
        folder.cleanup()

    atexit.register(end)
    return path


def serve(path: str, also: Sequence[str]) -> bool:
    """Import, then fork for each client; return True in a process that is to become a program, False at the end."""
    for name in (*IMPORTED, *also):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what all programs share is not gone through by each
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    os.write(1, b"ready\n")
    running: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor that is readable when the program has ended
    while True:
        ready, _, _ = select.select([0, listener, *running], [], [])
        for descriptor in running.keys() & set(ready):
            pid, client = running.pop(descriptor)
            tell(client, os.waitpid(pid, 0)[1])
            client.close()
            os.close(descriptor)
        if listener in ready:
            client = listener.accept()[0]
            message, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
            pid = os.fork()
            if pid == 0:
                for held in (listener, client, *(other for _, other in running.values())):
                    held.close()
                become_program(json.loads(message), files)
                return True
            running[os.pidfd_open(pid)] = pid, client
            tell(client, pid)
            for file in files:
                os.close(file)
        if 0 in ready:  # standard input has ended
            return False


def tell(client: socket.socket, number: int) -> None:
    """Send a number to a client that may have lost its interest."""
    with contextlib.suppress(BrokenPipeError):
        client.send(str(number).encode())


def become_program(request: dict[str, Any], files: Sequence[int]) -> None:
    """Take on the standard streams, environment, folder and arguments of a request."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["arguments"]


def execute() -> int:
    """Run what sys.argv names, as `python` does with these arguments, and return the exit code."""
    try:
        if sys.argv[0] == "-m":
            name = sys.argv[1]
            sys.argv, sys.path[0] = sys.argv[1:], str(Path.cwd())
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        elif sys.argv[0] == "-c":
            code = sys.argv[1]
            sys.argv, sys.path[0] = ["-c", *sys.argv[2:]], ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(sys.argv[0]).parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, int):
            return error.code
        raise
    return 0


def leave_at_once(codes: Sequence[int]) -> None:
    """End the process with the exit code that is known by now; taking the interpreter apart would cost 0.3 seconds."""
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    exit_codes: list[int] = []
    atexit.register(leave_at_once, exit_codes)  # the first to be registered is the last to be called
    if serve(sys.argv[1], sys.argv[2:]):
        exit_codes.append(execute())
