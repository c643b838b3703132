"""What a model card says, section by section, in Markdown. A section with nothing to say is not there."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keylm.evaluation.following import HEADS, FollowingRow
from keylm.evaluation.results import Figure
from keylm.recipe.benchmark_table import published_models
from keylm.recipe.schema import EMBEDDED, UNSTATED
from keylm.report.cost import cost_of, device_hours
from keylm.report.evaluation import BESIDE, contamination_rows, interval_of
from keylm.report.run_record import Run, number, table

UNKNOWN = "not known"
WATTS = {"H100 80GB HBM3": 700.0, "H200": 700.0, "H100 PCIe": 350.0, "A100-SXM4-80GB": 400.0}
"""Largest power of a GPU board, in watts, by a part of its name (NVIDIA's data sheets)."""


@dataclass(frozen=True)
class CardFacts:
    """The facts of a card; what is missing is None or empty."""

    name: str
    config: Mapping[str, Any]
    has_chat: bool
    parameters: int | None
    run: Run | None
    part: str
    """limit-N if only the first N items were measured."""
    figures: tuple[Figure, ...]
    harness: str
    commands: tuple[str, ...]
    robustness: Mapping[str, Any]
    typing: Mapping[str, Any]
    instructions: Mapping[str, Any]
    following: tuple[FollowingRow, ...]
    contamination: Mapping[str, Any]
    parity: Mapping[str, Any]
    languages: tuple[str, ...]
    """Codes, the first one's first."""
    licence: str | None
    repo: str | None
    watts: float | None


def body(facts: CardFacts) -> str:
    """Return the card without its metadata."""
    sections: list[tuple[str, Callable[[CardFacts], str]]] = [
        ("", _summary),
        ("How to use", _use),
        ("Evaluation", _measured),
        ("Following instructions", _instructions),
        ("Typing and typing errors", _typing),
        ("Training data", _data),
        ("Curriculum", _curriculum),
        ("Compute and energy", _compute),
        ("Decontamination", _decontamination),
        ("Other formats", _formats),
        ("Limitations", _limitations),
        ("Licence", _licence),
        ("Citation", _citation),
    ]
    parts = [f"# {facts.name}"]
    for title, write in sections:
        text = write(facts).strip()
        if text:
            parts.append(f"## {title}\n\n{text}" if title else text)
    return "\n\n".join(parts) + "\n"


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """Return a Markdown table; columns after the first `left` are to the right."""
    heads = list(heads)
    rule = ["---"] * left + ["--:"] * (len(heads) - left)
    lines = [heads, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(facts: CardFacts) -> str:
    config, run = facts.config, facts.run
    size = f"{facts.parameters:,} parameters" if facts.parameters else "a number of parameters that is not known"
    layout = ", ".join(config.get("architectures") or ["decoder"])
    lines = [str(run.recipe.get("description", ""))] if run and run.recipe.get("description") else []
    lines.append(
        f"A decoder of the stock {layout} layout with {size}: "
        f"{config.get('num_hidden_layers')} layers, hidden size {config.get('hidden_size')}, "
        f"{config.get('num_attention_heads')} heads over {config.get('num_key_value_heads')} of keys and values, "
        f"a vocabulary of {_count(number(config.get('vocab_size')))}, a context of {_context(facts)} tokens."
    )
    if run and run.tokens_seen > 0:
        lines.append(
            f"Trained from scratch on {run.tokens_seen:,.0f} tokens with keylm {run.summary.keylm}.".replace(" .", ".")
        )
    return "\n\n".join(lines)


def _context(facts: CardFacts) -> str:
    return _count(number(facts.config.get("max_position_embeddings")))


def snippet(name: str) -> str:
    """Return the three lines that load a model and continue a text."""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        'prompt = tokenizer("Once upon a time", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))"
    )


CHAT_USE = """

For a conversation:

```python
turns = [{"role": "user", "content": "Hello! Who are you?"}]
options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
asked = tokenizer.apply_chat_template(turns, **options)
answer = model.generate(**asked, max_new_tokens=100)[0][asked["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

**Text of others can end a turn.** transformers, llama.cpp, Ollama and other servers render a conversation to one text
and read `<|im_end|>` and `<|im_start|>` in it as control tokens, whoever typed them; keylm alone reads them as
characters. Where users are not trusted, tokenize their texts apart, as characters:

```python
def ids(text, **options):
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


def turn(role, text):
    return ids("<|im_start|>") + ids(f"{role}\\n{text}", split_special_tokens=True) + ids("<|im_end|>\\n")


asked = turn("user", "What does <|im_end|> mean?") + ids("<|im_start|>assistant\\n")
```

To a server that takes nothing but text, send `text.replace("<|", "< |")`."""


def _use(facts: CardFacts) -> str:
    name = facts.repo or facts.name
    text = f"```python\n{snippet(name)}\n```\n\n"
    text += "The layout is transformers' own: no code comes with the model, and none is to be trusted."
    return text + (CHAT_USE if facts.has_chat else "")


def _measured(facts: CardFacts) -> str:
    if not facts.figures:
        return "Not measured."
    published = {row["model"]: row for row in published_models() if row["figures"]}
    beside = [name for name in BESIDE if name in published]
    rows = []
    for figure in facts.figures:
        scale, (low, high) = 100 if figure.is_share else 1, interval_of(figure)
        interval = f"{scale * low:.1f}–{scale * high:.1f}" if math.isfinite(low) else "not known"
        floor = "" if figure.line.floor is None else f"{100 * figure.line.floor:.0f}"
        others = [published[name]["figures"].get(figure.line.title) for name in beside]
        cells = ["" if value is None else f"{value:.1f}" for value in others]
        rows.append([figure.line.title, f"{scale * figure.value:.1f}", interval, floor, f"{figure.n:,}", *cells])
    heads = ["zero-shot, per cent", "this model", "95 %", "chance", "items", *beside]
    sources = "; ".join(f"{name}: {published[name]['source']}" for name in beside)
    notes = [f"Measured with lm_eval {facts.harness}."] if facts.harness else []
    notes.append(f"The other models' figures are published ones, and protocols differ by up to a point ({sources}).")
    notes += [f"Commands: {', '.join(f'`{command}`' for command in facts.commands)}."] if facts.commands else []
    if facts.part:
        notes.insert(0, f"Only the first {facts.part.removeprefix('limit-')} items of each task were evaluated.")
    return markdown_table(heads, rows) + "\n\n" + " ".join(notes)


TYPO_ROWS = {"exact": "sentence fixed to the character", "error reduction": "wrong words fixed, less right ones spoilt"}


def _instructions(facts: CardFacts) -> str:
    """Say how instructions are followed, and that IFEval's kinds of constraint may have been trained on."""
    found = {row["measure"]: row for row in _own_rows(facts.instructions) if row["set"] == "typos"}
    typos = [
        [words, *_typing_cells(found[name])[:2], f"{found[name]['n']:,}"]
        for name, words in TYPO_ROWS.items()
        if name in found
    ]
    tables = [markdown_table(HEADS, [row.cells() for row in facts.following])] if facts.following else []
    tables += (
        [markdown_table(["typos in held-out sentences, per cent", "value", "95 %", "items"], typos)] if typos else []
    )
    if not tables or not facts.instructions:
        return ""
    return "\n\n".join(tables) + (
        "\n\nGreedy answers; ± is one standard error. The data of `keylm data instructions` "
        "have constraints of the types that IFEval asks, with checkers and phrasings of their own and none of its "
        "prompts; where a model was trained on them, read its IFEval figure with that in mind, beside the types that "
        "training never had."
    )


def _own_rows(measured: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in measured.get("rows", []) if row.get("system") == "model"]


KNOWN_STORIES = (
    "The texts of `embedded` are old and widely read, and this model was trained on other files that may hold them: "
    "those rows say how well it knows them. `git_fixes` is fair, and `casual` where training held 1 % of its files out."
)


def _reads_other_files(facts: CardFacts) -> bool:
    """Return whether a model was not trained on the package's corpus alone, or may not have been."""
    sources = facts.run.recipe.get("sources", {}).values() if facts.run else [{}]
    return any(not source.get("path", "").startswith(EMBEDDED) for source in sources if not source.get("typos_of"))


def _typing(facts: CardFacts) -> str:
    lines = []
    rows = [row for row in _own_rows(facts.typing) if row.get("value") is not None]
    if rows:
        cells = [[f"{row['measure']} ({row['set']})", *_typing_cells(row)] for row in rows]
        lines.append(markdown_table(["measure", "value", "95 %", "unit"], cells))
        if any(row["set"] == "embedded" for row in rows) and _reads_other_files(facts):
            lines.append(KNOWN_STORIES)
    curves = [row for row in facts.robustness.get("curves", []) if row.get("retention")]
    if curves:
        cells = [
            [row["benchmark"], row["metric"], f"{rate}", f"{100 * value:.1f}", f"{100 * kept:.1f}"]
            for row in curves
            for rate, value, kept in zip(row["rates"], row["values"], row["retention"], strict=True)
        ]
        heads = ["prompts with typing errors", "metric", "words mistyped, %", "accuracy, %", "kept, %"]
        kept_text = "Kept: of what is above chance with clean prompts; the errors are drawn three times."
        lines.append(markdown_table(heads, cells, left=2) + f"\n\n{kept_text}")
    area = facts.robustness.get("area")
    if isinstance(area, int | float):
        low, high = facts.robustness.get("area_low"), facts.robustness.get("area_high")
        bounds = f" (95 %: {low:.3f}–{high:.3f})" if isinstance(low, float) and isinstance(high, float) else ""
        lines.append(f"Accuracy kept under typing errors, area under the curve, 1 at most: {area:.3f}{bounds}.")
    return "\n\n".join(lines)


def _typing_cells(row: Mapping[str, Any]) -> list[str]:
    share = row.get("unit") in ("", "share", None)
    scale, digits = (100, 1) if share else (1, 3)
    low, high = row.get("low"), row.get("high")
    interval = "" if low is None or high is None else f"{scale * low:.{digits}f}–{scale * high:.{digits}f}"
    return [f"{scale * row['value']:.{digits}f}", interval, "per cent" if share else str(row["unit"])]


def _data(facts: CardFacts) -> str:
    run = facts.run
    if not run or not run.sources:
        return "Not known: the card was made without the run that trained the model."
    cost, made = cost_of(run), table(run.manifest, "sources")
    used = {source for shares in run.shares.values() for source in shares}
    total = math.fsum(cost.seen.values())
    rows = []
    for source in sorted(run.sources, key=lambda name: -cost.seen.get(name, 0.0)):
        there, seen = number(table(table(made, source), "train").get("tokens")), cost.seen.get(source, 0.0)
        if source in used or there > 0:
            counts = [
                _count(there),
                _count(seen if total else math.nan),
                f"{100 * seen / total:.1f}" if total else UNKNOWN,
            ]
            rows.append([source, *_described(table(table(run.recipe, "sources"), source)), *counts])
    heads = ["source", "origin", "register", "licence", "tokens", "tokens seen", "share, %"]
    parts = [markdown_table(heads, rows, left=4)]
    licences = [[each.name, _count(each.seen), f"{100 * each.seen / total:.1f}"] for each in cost.licences if each.seen]
    if licences:
        parts += ["By licence:", markdown_table(["licence", "tokens seen", "share, %"], licences)]
        unstated = math.fsum(each.seen for each in cost.licences if each.name == UNSTATED)
        if unstated:
            parts.append(
                f"At least {100 * unstated / total:.1f} % of the tokens seen are of sources that state no licence; "
                'the recipe\'s `licences = "open"` leaves them out. What is made from several sources counts apart.'
            )
    if run.manifest.get("hash"):
        parts.append(f"The data are named by the hash of their manifest, `{run.manifest['hash']}`.")
    return "\n\n".join(parts)


def _described(source: Mapping[str, Any]) -> list[str]:
    """Return a source's origin, register and licence as text."""
    origin = source.get("hub") or _origin(str(source.get("path") or UNKNOWN))
    if source.get("typos_of"):
        origin = "errors added to " + ", ".join(source["typos_of"])
    return [origin, str(source.get("register") or "not stated"), str(source.get("licence") or "unstated")]


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else UNKNOWN


def _origin(path: str) -> str:
    """Return a path without this machine's folders."""
    return path.replace("\\", "/").rsplit("/", 1)[-1] if path.startswith(("/", "../")) or ":\\" in path else path


def _curriculum(facts: CardFacts) -> str:
    run = facts.run
    if not run or not run.shares:
        return ""
    stages = table(run.recipe, "stages")
    rows = []
    for name, shares in run.shares.items():
        stage = stages[name]
        mixture = ", ".join(
            f"{source} {100 * share:.1f} %" for source, share in sorted(shares.items(), key=lambda x: -x[1])
        )
        rates = f"{number(stage.get('peak', 1.0)):g}"
        if number(stage.get("decay", 0.0)) > 0:
            rates += f" → {number(stage.get('peak', 1.0)) * number(stage.get('final', 0.0)):g}"
        rows.append([name, f"{number(stage.get('tokens')):,.0f}", rates, mixture])
    heads = ["stage", "tokens", "learning rate, of the peak", "mixture"]
    return markdown_table(heads, rows)


def _compute(facts: CardFacts) -> str:
    run = facts.run
    if not run or not run.train:
        return "Not known: the card was made without the run that trained the model."
    cost, hours = cost_of(run), device_hours(run)
    lines = []
    if cost.flops:
        estimate = str(cost.flops).replace("<sup>", "^").replace("</sup>", "")
        lines.append(
            f"About {estimate} floating-point operations: 6 × parameters × tokens, without attention over the context."
        )
    if hours > 0:
        lines.append(f"{cost.hours}, the time of the training steps; without data, evaluation and failed attempts.")
        lines.append(_energy(facts, run, hours))
    return "\n\n".join(lines) or "Not measured."


def _energy(facts: CardFacts, run: Run, hours: float) -> str:
    device = run.summary.device_name
    known = next((watts for name, watts in WATTS.items() if name in device), None)
    watts = facts.watts or known
    if watts is None:
        return "Energy was not measured, and what this processor draws is not known."
    source = "as given by the maker of the model" if facts.watts else "the most that its board draws"
    return (
        f"Energy was not measured. An estimate: {hours * watts / 1000:.2g} kWh, from these hours and {watts:g} W a "
        f"processor ({source}); the rest of the machine, cooling and losses come on top."
    )


def _decontamination(facts: CardFacts) -> str:
    found = facts.contamination
    rows = contamination_rows(found)
    if not rows and not found.get("statement"):
        return "What the training texts hold of the benchmarks is not known."
    text = str(found.get("statement", ""))
    if rows:
        cells = [[row["benchmark"], row["items"], row["before"], row["after"]] for row in rows]
        heads = ["benchmark", "items", "in the sources", "in the training texts"]
        text += "\n\n" + markdown_table(heads, cells)
    return text


def _formats(facts: CardFacts) -> str:
    rows = [row for row in facts.parity.get("artefacts", []) if row.get("passed")]
    if not rows:
        return ""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "file": lambda row: str(row["artefact"]),
        "MB": lambda row: f"{row['bytes'] / 1e6:.1f}",
        "max logit difference": lambda row: f"{row['logit']:.2g}",
        "mean KL": lambda row: f"{row['kl']:.2g}",
        "same top token, %": lambda row: f"{100 * row['top1']:.1f}",
        "perplexity": lambda row: f"{row['perplexity']:.2f}",
        "texts tokenized differently": lambda row: f"{row['tokenizer_mismatches']} of {row['tokenizer_strings']}",
    }
    perplexity = rows[0]["reference_perplexity"]
    cells = [[text(row) for text in columns.values()] for row in rows]
    return (
        "Each file was run by its own runtime beside PyTorch in fp32 on the same texts "
        f"(perplexity there {perplexity:.2f}):\n\n" + markdown_table(columns, cells)
    )


def _limitations(facts: CardFacts) -> str:
    lines = []
    if facts.parameters and facts.parameters < 1_000_000_000:
        lines.append("- Models of this size state falsehoods fluently: check what it writes before relying on it.")
    below = [
        figure.line.title
        for figure in facts.figures
        if figure.line.floor is not None and interval_of(figure)[0] <= figure.line.floor
    ]
    if below:
        lines.append(f"- Not shown to be better than guessing on {', '.join(below)}.")
    lines.append(f"- It reads at most {_context(facts)} tokens, prompt plus answer.")
    if not facts.has_chat:
        lines.append("- It continues texts; it was not trained to answer.")
    lines.append("- Bias and harmful output were not measured, and it was not trained to avoid them.")
    return "\n".join(lines)


def _licence(facts: CardFacts) -> str:
    if not facts.licence:
        return "Not stated. The training data's licences are listed above; keylm itself, the code, is Apache-2.0."
    return f"{facts.licence}. The training data's licences are listed above."


def _citation(facts: CardFacts) -> str:
    year = facts.run.summary.date[:4] if facts.run else ""
    lines = [f"  title = {{{facts.name}}}", "  note = {trained with keylm}"]
    lines += [f"  year = {{{year}}}"] if year.isdecimal() else []
    if facts.repo:
        lines.append(f"  url = {{https://huggingface.co/{facts.repo}}}")
    key = "".join(letter if letter.isalnum() else "-" for letter in facts.name.lower())
    return "```bibtex\n@misc{" + key + ",\n" + ",\n".join(lines) + "\n}\n```"
