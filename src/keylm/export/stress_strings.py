"""Strings on which tokenizers disagree, for parity checks; by kind in stress_strings.json, in ASCII escapes."""

import json
import random
from importlib.resources import files


def stress_strings(count: int = 500, seed: int = 0) -> list[str]:
    """Return `count` different strings, the same each time: each piece alone, then pieces joined at random."""
    text = files("keylm.export").joinpath("stress_strings.json").read_text(encoding="utf-8")
    pieces = [piece for kind in json.loads(text).values() for piece in kind]
    rng, found = random.Random(seed), dict.fromkeys(["", *pieces])
    while len(found) < count:
        joint = rng.choice(["", "", " "])
        found[joint.join(rng.choices(pieces, k=rng.randint(2, 7)))] = None
    return list(found)[:count]
