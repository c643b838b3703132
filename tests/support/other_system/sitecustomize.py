"""Makes Python on Linux lack, to keylm's modules, what Windows or macOS lack; put this folder first in PYTHONPATH.

Every process that keylm starts gets it too, with SWITCH. Other packages see the system as it is: their support of
other systems is their own matter. What cannot be shown this way: files that are open can be neither replaced nor
deleted on Windows.
"""

import builtins
import errno
import fcntl
import io
import multiprocessing.context
import os
import signal
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

SWITCH = "KEYLM_ON_ANOTHER_SYSTEM"
"""The environment variable that puts it into effect."""
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "triton", "tty"}
ATTRIBUTES = {
    "os": {
        *("EX_OK", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "chown", "fchmod", "fchown"),
        *("fork", "forkpty", "getloadavg", "geteuid", "getgid", "getpgid", "getsid", "getuid", "killpg", "lchown"),
        *("mkfifo", "nice", "pidfd_open", "posix_spawn", "pread", "preadv", "pwrite", "register_at_fork"),
        *("sched_getaffinity", "sched_setaffinity", "sendfile", "setsid", "statvfs", "sync", "sysconf", "uname"),
        *("wait", "wait3", "wait4"),
    },
    "signal": {
        *("ITIMER_REAL", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1"),
        *("SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
    },
}
ABSENT = ("/proc/", "/dev/fd", "/sys/")


def _opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, flags, *rest, **options)


def _flushed(descriptor: int) -> None:
    file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    os.fsync(descriptor)


REPLACED = {"os": {"open": _opened, "fsync": _flushed}, "signal": {}}


class Lesser(ModuleType):
    """A module without what another system lacks."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES[self.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on another system")
        return REPLACED[self.__name__].get(name) or getattr(self._module, name)


LESSER = {"os": Lesser(os), "signal": Lesser(signal)}
import_as_it_is = builtins.__import__
open_as_it_is = io.open


def import_less(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """Import for a module of keylm what another system has."""
    if globals and str(globals.get("__name__", "")).partition(".")[0] == "keylm" and not level:
        if name.partition(".")[0] in MODULES:
            raise ImportError(f"No module named {name!r} on another system", name=name)
        if name in LESSER:
            return LESSER[name]
    return import_as_it_is(name, globals, locals, fromlist, level)


def open_less(file: Any, *rest: Any, **options: Any) -> Any:
    """Open a file, but none that only Linux has."""
    if isinstance(file, str | os.PathLike) and os.fspath(file).startswith(ABSENT):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))
    return open_as_it_is(file, *rest, **options)


if os.environ.get(SWITCH):
    builtins.__import__ = import_less
    builtins.open = io.open = open_less
    for method in ("fork", "forkserver"):  # get_context raises ValueError, as it does on Windows
        del multiprocessing.context._concrete_contexts[method]
    multiprocessing.set_start_method("spawn")
