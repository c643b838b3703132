"""Build the trials' data: recipe, tokenizer, shards, and endings of held-out texts.

    python trials/make_data.py OUT --more /work/corpus --corpus /work/shared/corpus [--unique 45_000_000]

The shares are those of corpus_more/README.md ("How much of each") with a tenth of typos, conversations and questions in plain
form. Of each source the beginning is read, as much as --unique tokens of the whole mixture need; sources that are not there (yet)
are left out. `howto`, `stories`: sources whose held-out texts give endings.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

from keylm.data.sources import content_hash, is_held_out, read_source
from keylm.data.documents import Document
from keylm.recipe import load_recipe

HOLDOUT = 0.03
BYTES_PER_TOKEN = 4.2
# name: (share, register, files in order of preference; a "+" before a folder: of ../corpus)
SOURCES: dict[str, tuple[float, str, list[str]]] = {
    "wikipedia_core": (0.16, "formal", ["encyclopaedia/wikipedia_core", "+formal/wikipedia"]),
    "wikipedia_more": (0.05, "formal", ["encyclopaedia/wikipedia_more"]),
    "wikipedia_late": (0.03, "formal", ["encyclopaedia/wikipedia_late"]),
    "wikinews": (0.015, "formal", ["news/wikinews_full", "+formal/wikinews"]),
    "gutenberg_authors": (0.1, "formal", ["books/gutenberg_authors"]),
    "gutenberg_english": (0.045, "formal", ["books/gutenberg_english"]),
    "gutenberg_mixed": (0.02, "formal", ["books/gutenberg_mixed"]),
    "classic_books": (0.02, "formal", ["books/classic_books", "+formal/books"]),
    "american_literature": (0.01, "formal", ["books/american_literature"]),
    "eltec_novels": (0.008, "formal", ["books/eltec_novels"]),
    "english_novels": (0.004, "formal", ["books/english_novels_100"]),
    "standard_ebooks": (0.008, "formal", ["books/standard_ebooks_more"]),
    "short_fiction": (0.03, "formal", ["+formal/short_fiction"]),
    "children": (0.012, "formal", ["+formal/children"]),
    "howto_household": (0.135, "structured", ["howto/howto_household", "+formal/howto"]),
    "office_support": (0.008, "structured", ["howto/office_support"]),
    "public_services": (0.003, "structured", ["howto/public_services"]),
    "us_gov": (0.008, "formal", ["+formal/us_gov"]),
    "openstax": (0.022, "formal", ["+formal/openstax"]),
    "openstax_more": (0.013, "formal", ["textbooks/openstax_more"]),
    "textbooks_synthetic": (0.095, "structured", ["textbooks/textbooks_synthetic", "+formal/textbooks"]),
    "wordnet": (0.006, "structured", ["+formal/wordnet"]),
    "medquad": (0.008, "structured", ["qa/medquad_full", "+formal/medquad"]),
    "reddit_posts": (0.04, "casual", ["talk/reddit_posts", "+casual/reddit_comments"]),
    "imdb_reviews": (0.017, "casual", ["talk/imdb_reviews", "+casual/web_reviews"]),
    "podcasts": (0.009, "casual", ["talk/podcasts_full", "+casual/podcasts"]),
    "python_podcast": (0.003, "casual", ["talk/python_podcast"]),
    "meetings": (0.004, "casual", ["talk/meetings"]),
    "energy_forum": (0.005, "casual", ["talk/energy_forum_full", "+casual/energy_forum"]),
    "newsgroups": (0.002, "casual", ["talk/newsgroups"]),
    "lean_zulip": (0.004, "casual", ["talk/lean_zulip_full", "+casual/lean_zulip"]),
    "web_standards_irc": (0.004, "casual", ["talk/web_standards_irc", "+casual/ubuntu_irc"]),
    "sms": (0.003, "casual", ["+casual/sms"]),
    "stackexchange": (0.003, "casual", ["+casual/stackexchange"]),
    "white_house": (0.005, "formal", ["speeches/white_house"]),
    "un_debates": (0.002, "formal", ["speeches/un_debates"]),
    "self_dialogue": (0.02, "conversational", ["+chat/self_dialogue"]),
    "schema_guided": (0.006, "conversational", ["chat/schema_guided_full", "+chat/schema_guided"]),
    "topical_chat": (0.006, "conversational", ["+chat/topical_chat"]),
    "cmu_dog": (0.004, "conversational", ["+chat/cmu_dog"]),
    "gpteacher": (0.006, "conversational", ["+chat/gpteacher"]),
    "gsm8k": (0.006, "conversational", ["+chat/gsm8k"]),
    "counselchat": (0.003, "conversational", ["+chat/counselchat"]),
    "system_design": (0.003, "conversational", ["+chat/system_design"]),
    "howto_questions": (0.03, "conversational", ["howto/howto_household", "+formal/howto"]),
    "medquad_questions": (0.004, "conversational", ["+formal/medquad"]),
}
ASSISTANT = ("gpteacher", "gsm8k", "counselchat", "system_design")
TYPOS = 0.1
TYPOS_OF = ("wikipedia_core", "wikinews", "short_fiction", "us_gov", "energy_forum", "reddit_posts", "self_dialogue")
HOWTO = ("howto_household", "public_services")
STORIES = ("short_fiction", "children", "standard_ebooks")
TALES = ("reddit_posts",)
ENDINGS = 1500
SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")


def data_recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe of all sources that are there."""
    found = {}
    for name, (share, register, places) in SOURCES.items():
        files = [
            (arguments.corpus / place[1:] if place.startswith("+") else arguments.more / place).with_suffix(".jsonl.zst")
            for place in places
        ]
        there = [file for file in files if file.is_file()]
        if there:
            found[name] = share, register, there[0]
        else:
            print(f"left out: {name} ({share:.1%})")
    total = sum(share for share, _, _ in found.values()) / (1 - TYPOS)
    sources: dict[str, Any] = {}
    for name, (share, register, file) in found.items():
        size = share / total * arguments.unique * BYTES_PER_TOKEN / (1 - HOLDOUT)
        sources[name] = {"path": str(file), "register": register, "max_bytes": round(size)}
        if name.endswith("_questions"):
            sources[name]["adapter"] = "questions"
        if name in ASSISTANT:
            sources[name]["loss"] = "assistant"
    origins = [name for name in TYPOS_OF if name in sources]
    for name, forms in (
        ("typos", {"masked": 0.7, "correction": 0.3}),
        ("typos_pair", {"masked": 0.4, "correction": 0.3, "pair": 0.3}),
    ):
        size = round(TYPOS * arguments.unique * BYTES_PER_TOKEN)
        sources[name] = {"typos_of": origins, "forms": forms, "register": "synthetic", "max_bytes": size}
    weights = {name: share / total for name, (share, _, _) in found.items()}
    hour = load_recipe(Path(__file__).parents[1] / "recipes/keylm-75m-hour.toml", []).to_data()
    return {
        "name": "trials",
        "seed": 1,
        "model": hour["model"],
        "tokenizer": {"vocab_size": 12_020, "path": str(arguments.tokenizer)},
        "typos": {"word_lists": [
            str(arguments.corpus / f"typo/{name}.jsonl.zst")
            for name in ("codespell", "wikipedia_misspellings", "common_misspellings")
        ]},
        "sources": sources,
        "stages": {"all": {
            "tokens": 1_000_000_000, "warmup": 0.03, "decay": 0.2, "weights": {**weights, "typos": TYPOS, "typos_pair": TYPOS},
        }},
        "training": hour["training"],
        "optimizer": hour["optimizer"],
        "checkpoints": hour["checkpoints"],
        "evaluation": {"every_steps": 1_000_000, "windows_per_source": 48, "holdout": HOLDOUT, "prompts": ["Once"]},
    }


def endings(recipe: Any) -> list[dict[str, str]]:
    """Return beginnings and endings of held-out texts: next sentences of how-to and narrative, answers to questions."""
    rows = []
    for kind, names in (("howto", HOWTO), ("stories", STORIES), ("tales", TALES), ("answers", ("howto_questions",))):
        some = []
        for name in names:
            source = recipe.sources.get(name)
            source = source and source.model_copy(update={"max_bytes": 20 * source.max_bytes})
            for document in read_source(name, source) if source else ():
                if len(some) >= 2 * ENDINGS * (names.index(name) + 1):
                    break
                if isinstance(document, Document) and document.text and is_held_out(content_hash(document), HOLDOUT):
                    some += list(answers(document.text) if kind == "answers" else passages(document.text))
        random.Random(kind).shuffle(some)
        rows += [{"kind": kind, "prompt": prompt, "ending": ending} for prompt, ending in some[:ENDINGS]]
        print(f"endings  {kind}: {len(some)} found")
    return rows


def answers(text: str) -> list[tuple[str, str]]:
    """Return the question with its answer."""
    question, found, answer = text.partition("\nAnswer: ")
    return [(f"{question}\nAnswer:", answer)] if found else []


def passages(text: str) -> list[tuple[str, str]]:
    """Return three sentences of a paragraph with the fourth, from every second such place."""
    found = []
    for paragraph in text.split("\n"):
        sentences = SENTENCE.split(paragraph.strip())
        for start in range(0, len(sentences) - 3, 8):
            *before, last = sentences[start : start + 4]
            if 30 <= len(last) <= 250 and 60 <= len(" ".join(before)) <= 900:
                found.append((" ".join(before), last))
    return found


def main() -> None:
    """Build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--more", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--unique", type=int, default=45_000_000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    plain = data_recipe(arguments)
    file = arguments.out / "build.toml"
    file.write_text(tomli_w.dumps(plain), encoding="utf-8")
    command = [sys.executable, "-m", "keylm", "run", str(file), "--run-dir", str(arguments.out / "run"), "--until", "shards"]
    subprocess.run(command, check=True)
    plain["stages"]["all"]["weights"]["typos_pair"] = 0.0
    (arguments.out / "recipe.toml").write_text(tomli_w.dumps(plain), encoding="utf-8")
    rows = endings(load_recipe(file, []))
    (arguments.out / "endings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("shards", "tokenizer"):
        link = arguments.out / name
        if not link.is_symlink():
            link.symlink_to(f"run/{name}")


if __name__ == "__main__":
    main()
