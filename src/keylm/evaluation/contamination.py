"""How many items of each benchmark the training texts contain, before and after curation.

    RUN/contamination.json   what `scan` found, source by source

Invariant: what was not searched is None, with the reason, never 0. `scan` searches the original sources and the texts
that were trained on, as long as decontamination takes. Without it, curation's report is read: curation searched what
its filters and deduplication had left, and dropped every document in which it found an item.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from keylm.base.console import Status, say
from keylm.base.errors import KeylmError
from keylm.base.files import read_table, sha256_json, write_json
from keylm.curate.decontamination import LONGEST_NGRAM, Decontaminator, batches
from keylm.curate.evaluation_items import PLAIN_NAMES
from keylm.curate.tally import Items, merge_items, ordered_items
from keylm.data.curated import curated_recipe
from keylm.data.documents import Fault, document_bytes, document_texts
from keylm.data.provenance import bytes_read, source_stamps
from keylm.data.sources import read_source
from keylm.recipe.load import Recipe, load_recipe
from keylm.recipe.run_folder import RunFolder
from keylm.recipe.schema import Source

FORMAT = 1
FOUND = "contamination.json"
Row = dict[str, Any]


def contamination(place: Path) -> list[Row]:
    """Return a row for each benchmark searched for in the training texts of `place`: a run folder or a manifest.json.

    A row is {"benchmark", "items", "matchable" (items long enough to be found), "before", "before_13", "after",
    "after_13", "documents_removed", "basis", "unknown"}. `before` and `after` count the items in the sources before
    curation and in the training texts; those with _13 only items with 13 words in a row, or all of theirs if fewer
    (Brown et al. 2020, appendix C). `basis` is "scan", "curation" or "manifest"; `unknown` lists in words what is not
    known; an unknown count is None. Raises KeylmError where `place` is neither.
    """
    folder = place.parent if place.is_file() else place
    folder = folder.parent if place.is_file() and folder.name == "shards" else folder
    try:
        return _recorded(place, folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise KeylmError(
            f"{folder}: a record of its data is damaged: {error!r}; accepted: {FOUND}, curated/report.json and "
            "shards/manifest.json as keylm writes them"
        ) from None


def _recorded(place: Path, folder: Path) -> list[Row]:
    scanned = read_table(folder / FOUND)
    if scanned.get("format") == FORMAT:
        return _scanned_rows(scanned)
    report = read_table(RunFolder(folder).curated / "report.json")
    if "settings" in report:
        return _curation_rows(report, _left_alone(RunFolder(folder)))
    manifest = read_table(place if place.is_file() else RunFolder(folder).shards / "manifest.json")
    if not manifest:
        raise KeylmError(f"{place}: no data to tell of; accepted: a run folder whose data is built, or a manifest.json")
    settings = (manifest.get("curation") or {}).get("settings", {})
    return [_row(name, basis="manifest", unknown=[_MANIFEST]) for name in _named_sets(settings)]


def contamination_record(place: Path) -> dict[str, Any]:
    """Return `contamination(place)` for evaluations and cards: its rows, and the statement in words."""
    rows = contamination(place)
    return {"statement": statement(rows), "rows": rows}


_MANIFEST = "the manifest names the items that were looked for, and not what was found"


def scan(recipe: Recipe, folder: Path, *, items: Sequence[Path] = (), quiet: bool = False) -> list[Row]:
    """Search the recipe's sources and their curated texts in the run `folder`; write and return the findings.

    `items`: files or folders of evaluation items, by default those of `curation.decontaminate`. Sources already
    searched and unchanged are skipped, so an interrupted scan resumes; what cannot be read is unknown, with the reason.
    Raises KeylmError where there are no items.
    """
    paths = list(items) or [Path(path) for path in (recipe.curation.decontaminate if recipe.curation else ())]
    if not paths:
        raise KeylmError("contamination: no items to look for; accepted: curation.decontaminate, or paths of items")
    searched = Decontaminator.from_paths(paths)
    known = read_table(folder / FOUND)
    found: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": searched.fingerprint(),
        "evaluation": {name: {"items": n, "matchable": searched.matchable[name]} for name, n in searched.sets.items()},
        "sources": {},
    }
    same = known.get("format") == FORMAT and known.get("fingerprint") == found["fingerprint"]
    known_sources = known.get("sources", {}) if same else {}
    for name, parts in _places(recipe, RunFolder(folder)).items():
        entry = dict(known_sources.get(name, {}))
        for side, where in parts.items():
            label = f"contamination  {name} {side}"
            entry[side] = _searched(searched, name, where, entry.get(side, {}), label, quiet=quiet)
        found["sources"][name] = entry if "after" in parts else {**entry, "after": entry["before"]}
        write_json(folder / FOUND, {**found, "sources": {**known_sources, **found["sources"]}})
    write_json(folder / FOUND, found)
    _print_speed(found["sources"], quiet=quiet)
    return _scanned_rows(found)


def _places(recipe: Recipe, folder: RunFolder) -> dict[str, dict[str, Source | str]]:
    """Return each source's texts "before" and "after" curation, or why they are unknown; without it no "after"."""
    report = read_table(folder.curated / "report.json")
    curated = curated_recipe(recipe, folder.curated).sources if recipe.curation else {}
    places: dict[str, dict[str, Source | str]] = {}
    for name, source in recipe.read_sources.items():
        if not recipe.curation or not source.curate:
            places[name] = {"before": source}
            continue
        entry = report.get("sources", {}).get(name)
        before = _as_it_was(name, source, (entry or {}).get("origin", {}))
        after = curated[name] if entry else "no finished curation of it in the run folder"
        places[name] = {"before": before, "after": after}
    return places


def _as_it_was(name: str, source: Source, origin: Mapping[str, Any]) -> Source | str:
    """Return a source as it was curated, or why that is no longer possible."""
    if source.hub:
        return source.model_copy(update={"revision": origin.get("revision", source.revision)})
    try:
        now = [[file, size] for file, size, _ in source_stamps(name, source)]
    except KeylmError as error:
        return f"it cannot be read any more: {error}"
    if "files" in origin and [[file["name"], file["bytes"]] for file in origin["files"]] != now:
        return "its files are not those that were curated"
    return source


def _searched(
    searched: Decontaminator, name: str, where: Source | str, known: Mapping[str, Any], label: str, *, quiet: bool
) -> dict[str, Any]:
    """Return the items in a source's documents; `known` if it is of the same files."""
    if isinstance(where, str):
        return {"unknown": where}
    try:
        key = sha256_json([where.model_dump(mode="json"), source_stamps(name, where)])
        if known.get("key") == key:
            return dict(known)
        faults = Counter[str]()
        with Status(label, bytes_read({name: where}, name), quiet=quiet) as status:
            found = {"key": key, **_search(searched, _documents(name, where, faults), status)}
        if faults:
            found["not_read"] = dict(faults)
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in faults.items())
            say(f"{label}: not read as documents, and so not searched: {kinds}", quiet=quiet)
        return found
    except KeylmError as error:
        return {"unknown": f"it cannot be read: {error}"}


def _documents(name: str, source: Source, faults: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield each document as decontamination sees it, and its size in bytes; count what is none by kind."""
    for item in read_source(name, source):
        if isinstance(item, Fault):
            faults[item.kind] += 1
        else:
            yield "\n\n".join(document_texts(item)), document_bytes(item)


def _search(searched: Decontaminator, documents: Iterable[tuple[str, int]], status: Status) -> dict[str, Any]:
    items: Items = {}
    count = hits = size = 0
    seconds = 0.0
    for batch in batches(documents, itemgetter(0)):
        begun = time.process_time()
        verdicts = searched.check_many(text for text, _ in batch)
        seconds += time.process_time() - begun
        for verdict in verdicts:
            hits += verdict.hit
            merge_items(items, verdict.items)
        count += len(batch)
        size += sum(length for _, length in batch)
        status.update(size, f"{count:,} documents, {size / 1e6:,.1f} MB, {hits:,} with an item")
    facts = {"documents": count, "bytes": size, "hits": hits, "seconds": round(seconds, 2)}
    return {**facts, "items": ordered_items(items)}


def _print_speed(sources: Mapping[str, Any], *, quiet: bool) -> None:
    parts = [part for entry in sources.values() for part in entry.values() if "seconds" in part]
    size, seconds = sum(part["bytes"] for part in parts), sum(part["seconds"] for part in parts)
    if seconds:
        say(f"contamination  searched at {size / 1e6 / seconds:.1f} MB a CPU second", quiet=quiet)


def _row(name: str, **known: Any) -> Row:
    columns = ("items", "matchable", "before", "before_13", "after", "after_13", "documents_removed")
    return {"benchmark": name, **dict.fromkeys(columns), **known}


def _counts(column: str, items: Mapping[str, Mapping[str, int]], name: str) -> Row:
    """Return how many items of a set were found, and how many with 13 words in a row."""
    words = items.get(name, {}).values()
    return {column: len(words), f"{column}_13": sum(number >= LONGEST_NGRAM for number in words)}


def _scanned_rows(found: Mapping[str, Any]) -> list[Row]:
    sides: dict[str, Items] = {"before": {}, "after": {}}
    unknown: dict[str, list[str]] = {"before": [], "after": []}
    for source, entry in found["sources"].items():
        for side in sides:
            part = entry.get(side, {})
            merge_items(sides[side], part.get("items", {}))
            if "items" not in part:
                unknown[side].append(f"{source}, {side} curation: {part.get('unknown', 'not searched')}")
    rows = []
    for name, facts in found["evaluation"].items():
        counts: Row = {}
        for side, items in sides.items():
            counts |= _counts(side, items, name) if not unknown[side] else {}
        rows.append(_row(name, **facts, **counts, basis="scan", unknown=[*unknown["before"], *unknown["after"]]))
    return rows


def _curation_rows(report: Mapping[str, Any], left_alone: list[str] | None) -> list[Row]:
    """Return the rows of a curation's report; older reports count documents, not items."""
    items: Items = {}
    removed: dict[str, int] = {}
    for entry in report["sources"].values():
        for step in [step for step in entry["steps"] if step["step"] == "decontamination"]:
            merge_items(items, step.get("items", {}))
            for reason, documents in step["reasons"].items():
                for name in reason.split(", "):
                    removed[name] = removed.get(name, 0) + documents
    recorded = report.get("evaluation")
    unknown = ["documents that the filters or de-duplication had dropped were not searched"]
    if recorded is None:
        unknown.append("curation counted the documents that it dropped, and not the items in them")
    if left_alone is None:
        unknown.append("there is no recipe to tell whether sources were left out of curation")
    elif left_alone:
        unknown.append(f"left out of curation, so not searched: {', '.join(left_alone)}")
    rows = []
    for name in recorded or sorted({*_named_sets(report["settings"]), *removed}):
        counts = {**_counts("before", items, name), **recorded[name]} if recorded else {}
        # Curation drops every document with an item, so by the same rule the rest has none.
        after = {"after": 0, "after_13": 0} if left_alone == [] else {}
        facts = {"documents_removed": removed.get(name, 0), "basis": "curation", "unknown": list(unknown)}
        rows.append(_row(name, **counts, **after, **facts))
    return rows


def _left_alone(folder: RunFolder) -> list[str] | None:
    """Return the sources that are trained on uncurated; None where there is no recipe."""
    if not folder.recipe.is_file():
        return None
    recipe = load_recipe(folder.recipe)
    return [name for name, source in recipe.read_sources.items() if not (recipe.curation and source.curate)]


def _named_sets(settings: Mapping[str, Any]) -> list[str]:
    """Return the sets that a curation's settings name by their files, named as `read_items` does."""
    names = set()
    for content in (settings.get("curation") or {}).get("decontaminate", ()):
        for file, _ in content:
            if file.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
                home, *parts = file.split(".jsonl")[0].split("/")
                names.add(next((part for part in parts or [home] if part.lower() not in PLAIN_NAMES), home))
    return sorted(names)


def statement(rows: Sequence[Row]) -> str:
    """Return the rows in words, for a model's card or a report."""
    if not rows:
        return "No benchmark's items were looked for in the training texts, so whether they hold any is not known."
    total, long_enough = (_total(rows, column) for column in ("items", "matchable"))
    items = "the items" if total is None else f"{total:,} items"
    rule = (
        "An item counts as held where its question or the whole of it stands in a text, many of its words in a row, or "
        f"four fifths of them in place; {LONGEST_NGRAM} words in a row are counted apart."
    )
    lines = [f"The training texts were searched for {items} of {len(rows)} benchmarks. {rule}"]
    if all(row["basis"] == "manifest" for row in rows):
        lines = [f"Items of {len(rows)} benchmarks were looked for: {', '.join(row['benchmark'] for row in rows)}."]
    else:
        lines += [_held(rows, "before", "Before curation the sources held"), *_removed(rows)]
        lines += [_held(rows, "after", "The texts that were trained on hold"), _by_benchmark(rows)]
    unknown = dict.fromkeys(reason for row in rows for reason in row["unknown"])
    if total is not None and long_enough is not None and total > long_enough:
        unknown[f"{total - long_enough:,} items are too short to be told from ordinary language"] = None
    unknown["rewordings and translations of items are not found"] = None
    lines.append(f"Not known: {'; '.join(unknown)}.")
    return " ".join(line for line in lines if line)


def _total(rows: Sequence[Row], column: str) -> int | None:
    numbers = [row[column] for row in rows]
    return None if None in numbers else sum(numbers)


def _held(rows: Sequence[Row], column: str, beginning: str) -> str:
    number, long = _total(rows, column), _total(rows, f"{column}_13")
    if number is None:
        return f"{beginning} an unknown number of them."
    if not number:
        return f"{beginning} none of them."
    return f"{beginning} {number:,} of them, {long:,} with {LONGEST_NGRAM} words in a row."


def _removed(rows: Sequence[Row]) -> list[str]:
    removed = [f"{row['benchmark']} {row['documents_removed']:,}" for row in rows if row["documents_removed"]]
    return [f"Curation removed documents that held items: {', '.join(removed)}."] if removed else []


def _by_benchmark(rows: Sequence[Row]) -> str:
    """Return the benchmarks with hits, and how many of their items."""
    parts = [
        f"{row['benchmark']} {row['before']:,} before and {'unknown' if row['after'] is None else row['after']} after"
        + (f", of {row['items']:,}" if row["items"] else "")
        for row in rows
        if row["before"]
    ]
    return f"By benchmark: {'; '.join(parts)}." if parts else ""
