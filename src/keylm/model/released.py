"""Released models by name: those that come with keylm, in the installed package or in the checkout.

Invariant: nothing is fetched, and a path that exists is what its user means, whatever it is called.
"""

from pathlib import Path

from keylm.base.errors import KeylmError

DEFAULT = "keylm-75m-instruct"
"""The model that `keylm chat` and `keylm serve` use by default; the wheel carries it (pyproject.toml)."""
NAMES = (DEFAULT, "keylm-75m")
"""All released models; anything else in models/ is not one."""
PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "models", PACKAGE.parent.parent / "models")
"""Where they are looked for: of the installed package, of the checkout."""


def released_models() -> dict[str, Path]:
    """Return the folders of the released models that are here, by name."""
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for name in NAMES:
            if name not in found and (folder / name / "config.json").is_file():
                found[name] = folder / name
    return found


def find_model(place: Path) -> Path:
    """Return a released model's folder where `place` is its name and no path of that name exists; else `place`.

    Whether `place` contains a model is checked when it is opened. Raises KeylmError if a released model is missing.
    """
    name = str(place)
    if name not in NAMES or place.exists():
        return place
    here = released_models()
    if name not in here:
        raise KeylmError(
            f"{name}: that released model did not come with this keylm; looked for in the working folder, "
            f"{', '.join(map(str, FOLDERS))}; accepted: a model folder such as runs/nano/model, or the name of a "
            f"released model that is here ({', '.join(here) or 'none is'})"
        )
    return here[name]
