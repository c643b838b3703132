"""Errors whose kind is beyond doubt, for whatever names kinds."""

KINDS_BY_EXAMPLE = [
    ("teh", "the", "transposition"),
    ("spce", "space", "omission"),
    ("accomodate", "accommodate", "undoubling"),
    ("wqant", "want", "insertion"),
    ("occcur", "occur", "doubling"),
    ("shoukd", "should", "neighbour"),
    ("becouse", "because", "vowel"),
    ("rainbox", "rainbow", "substitution"),
    ("recieve", "receive", "phonetic"),
    ("their", "there", "confusion"),
    ("request", "requests", "inflection"),
    ("dont", "don't", "apostrophe"),
    ("implemention", "implementation", "multiple"),
    ("cat", "elephant", "other"),
]
"""Typed, meant, kind."""
