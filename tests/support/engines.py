"""The engines that tests of serving run on."""

import pytest


def engine_options(name: str) -> dict[str, str]:
    """Return the options of an engine at its most exact; skip where it is not installed."""
    if name == "torch":
        return {"engine": "torch"}
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'keylm[export]'")
    return {"engine": "llama.cpp", "precision": "f32"}
