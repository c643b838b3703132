"""Strings that tokenizers disagree on: what a parity check of two tokenizers is asked about."""

import random

PIECES = (
    *(
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\r\n",
        "\n\n\n",
        " \n ",
        "\u00a0",
        "\u2003",
        "\u3000",
        "\u200b",
        "\ufeff",
        "\u0085",
    ),
    *("\x00", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\u2028", "\u2029", "\u202e", "\u1680", "\u180e", "\u2060"),
    *("don't", "I'll", "we've", "they're", "it's", "I'm", "he'd", "DON'T", "It'S", "rock'n'roll", "'s", "''", "’s"),
    *("123", "3.14", "1,000,000", "0x1F", "½", "²", "Ⅷ", "٣٤٥", "१२", "１２", "1st", "v2.0", "10:30", "€5", "$9.99"),
    *("naïve", "café", "cafe\u0301", "Žluťoučký", "straße", "ĳ", "ﬁ", "Å", "A\u030a", "Ω", "привет", "שלום", "مرحبا"),
    *("日本語", "한국어", "ไทย", "हिन्दी", "𝔘𝔫𝔦", "𐍈", "\U000e0041", "\ue000", "\U0010ffff", "\u0378", "ǆ", "ª", "ͺ"),
    *("🙂", "👍🏽", "👨‍👩‍👧", "🇨🇿", "❤️", "☃", "1️⃣", "©", "™", "\ufe0f", "\u200d", "🫠", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
    *(
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<|pad|>",
        "<|typo|>",
        "<|im_",
        "|>",
        "< |im_end| >",
        "<s>",
        "[INST]",
    ),
    *("...", "…", "—", "--", "?!", "(a)", "[b]", "{c}", "a/b\\c", "x@y.z", "#tag", "a_b", "a-b", "`x`", "&amp;", "\\n"),
    *(
        "Hello",
        "hello",
        "HELLO",
        "the",
        "teh",
        "adn",
        "recieve",
        "helllo",
        "iPhone",
        "McDonald",
        "e.g.",
        "https://a.b/c?d=1",
    ),
    *(
        "if x == 1:\n    return",
        "<div>",
        "SELECT * FROM t;",
        "a" * 40,
        "ab" * 20,
        "=" * 30,
        "." * 20,
        " " * 17,
        "\n" * 9,
    ),
)
"""Spaces of all kinds, controls, contractions, numbers, scripts, emoji, special tokens and parts, code, runs."""


def awkward_strings(count: int = 500, seed: int = 0) -> list[str]:
    """Return `count` different strings, the same each time: each piece alone, then pieces joined at random."""
    dice, found = random.Random(seed), dict.fromkeys(["", *PIECES])
    while len(found) < count:
        joint = dice.choice(["", "", " "])
        found[joint.join(dice.choices(PIECES, k=dice.randint(2, 7)))] = None
    return list(found)[:count]
