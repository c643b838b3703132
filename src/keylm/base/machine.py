"""What this machine is and can do."""

import os
import platform
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Return free bytes on `device`, or None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = [line for line in _of_linux("/proc/meminfo") if line.startswith("MemAvailable:")]
    return int(available[0].split()[1]) * 1024 if available else None


def compute_deterministically(on: bool) -> None:
    """Choose for this process whether a GPU computes the same bits every time, as a CPU does; that costs some speed."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    if on or "torch._inductor.config" in sys.modules:
        import torch._inductor.config as compiler

        # Nothing that the compiler measures may choose between kernels that round differently.
        compiler.deterministic = on
    torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # what is read was written


AMPERE = 8
"""The compute capability that bf16 and variable-length attention need at least."""


def compute_capability(device: torch.device) -> int:
    """Return the major compute capability of an NVIDIA GPU, 0 of anything else."""
    return int(torch.cuda.get_device_capability(device)[0]) if device.type == "cuda" else 0


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor and its number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    names = [line.split(":", 1)[1].strip() for line in _of_linux("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.processor() or platform.machine()


def _of_linux(path: str) -> list[str]:
    """Return the lines of what Linux says about the machine; [] where another system doesn't, or it may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
