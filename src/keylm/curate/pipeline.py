# mypy: disable-error-code="import-untyped"
"""Curation: a recipe's sources, filtered, deduplicated and decontaminated with datatrove, written as records.

Invariants: the output's bytes depend on the documents, the settings and the package versions alone, not on the
workers, the executor or how often the run was killed; a folder without report.json is unfinished; work with other
settings, or partly deleted, has no fingerprint.json and is never resumed.

The stages, each a datatrove pipeline run for every rank (a rank is a part of a source; see reading.py):

    clean        read → language → quality → length → mask → content hashes → intermediate files
    exact        one task: hashes that occurred before
    signatures   MinHash signatures of all but exact duplicates (Broder 1997)
    buckets      one task a bucket: pairs with the same signature
    clusters     one task: pairs to clusters
    firsts       one task: keep the first of each cluster
    final        drop both kinds of duplicates → decontamination → records
"""

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylm.base.console import say
from keylm.base.errors import KeylmError, how_to_install
from keylm.base.files import flush, read_object, read_table, write_json
from keylm.curate.decontamination import Decontaminator
from keylm.curate.evaluation_items import unread_files
from keylm.curate.report import FAULTS, REPORT, join_faults, make_report, print_report, settings_of
from keylm.data.curated import Executor, curated_sources
from keylm.data.hub import SHA, HubRows
from keylm.data.provenance import curation_inputs, source_origin, source_stamps
from keylm.data.readers import source_files
from keylm.data.sources import source_adapter, source_path
from keylm.recipe.load import Recipe
from keylm.recipe.schema import Curation, Source

if TYPE_CHECKING:
    from keylm.curate.executors import CurationStage
    from keylm.curate.reading import Unit

PART_BYTES = 8 << 20
"""Bytes on disk of a unit of work; larger files are shared by several tasks."""
MOST_PARTS = 32
WORK = ".work"
"""Folder of intermediate files; no source can have a name with a dot."""
FINGERPRINT = "fingerprint.json"


def curate(
    recipe: Recipe, folder: Path, *, workers: int, executor: Executor = "local", quiet: bool = False
) -> dict[str, Any]:
    """Curate the recipe's sources into folder/SOURCE/*.jsonl.zst and return the report (also folder/report.json).

    Finished work is reused, interrupted work is resumed. Raises KeylmError where a source cannot be read or is left
    without a document, a package is missing or the disk is full.
    """
    _need_datatrove()
    curation = recipe.curation or Curation()
    sources = curated_sources(recipe)
    settings = settings_of(curation)
    fingerprint = curation_fingerprint(curation, settings, sources)
    finished = read_table(folder / REPORT)
    if finished.get("fingerprint") == fingerprint and _all_there(finished, folder):
        return _usable(finished)
    from keylm.curate.executors import sole_run

    try:
        with sole_run(folder / WORK, lambda text: say(text, quiet=quiet)):
            _begin(folder, fingerprint)
            report = _curate(curation, sources, settings, folder, executor, workers, quiet=quiet)
            if curation_fingerprint(curation, settings, sources) != fingerprint:
                raise KeylmError("curation: a source's files changed while being read; the same command starts anew")
            report["fingerprint"] = fingerprint
            write_json(folder / REPORT, report)
            _forget(folder / WORK)
        shutil.rmtree(folder / WORK)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise KeylmError(f"{folder}: the disk is full; free some space, the same command goes on") from None
        raise
    print_report(report, quiet=quiet)
    return _usable(report)


def curation_fingerprint(curation: Curation, settings: dict[str, Any], sources: dict[str, Source]) -> str:
    """Return the SHA-256 that identifies a finished curation: settings, rules, sizes and times of the files."""
    from keylm.curate.rules import rules_of  # imports datatrove, which may be missing

    return curation_inputs({**settings, "rules": rules_of(curation)}, sources)


def _need_datatrove() -> None:
    try:
        import datatrove  # noqa: F401
        import orjson  # noqa: F401
        import py3langid  # noqa: F401
    except ImportError as error:
        raise KeylmError(
            f"curation: {error.name} is not installed; install it with: {how_to_install('curate')}"
        ) from None


def _all_there(report: dict[str, Any], folder: Path) -> bool:
    entries = report["sources"].items()
    return all((folder / name / file).is_file() for name, entry in entries for file in entry["files"])


def _usable(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report. Raises KeylmError where a source was left without a document."""
    for name, entry in report["sources"].items():
        if not entry["kept"]["documents"]:
            worst = max(entry["steps"], key=lambda step: int(step["dropped"]), default={"step": "reading"})["step"]
            raise KeylmError(
                f"sources.{name}: curation left none of {entry['read']['documents']} documents, most dropped by {worst}"
                f" (report.json has samples); change [curation], or set sources.{name}.curate=false"
            )
    return report


def _begin(folder: Path, fingerprint: str) -> None:
    """Prepare `folder`: keep what an interrupted run of the same fingerprint left, else empty it."""
    work = folder / WORK
    finished = (folder / REPORT).exists()  # its files have left the work folder
    if not finished and read_table(work / FINGERPRINT).get("fingerprint") == fingerprint:
        return
    _forget(work)
    for old in (folder / REPORT, folder / FAULTS, *folder.glob("*/*.jsonl.zst")):
        old.unlink(missing_ok=True)
    for old in work.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.suffix != ".lock":
            old.unlink()
    write_json(work / FINGERPRINT, {"fingerprint": fingerprint})


def _forget(work: Path) -> None:
    """Delete the fingerprint before anything else, so that half-deleted work is never resumed."""
    (work / FINGERPRINT).unlink(missing_ok=True)
    flush(work)


def _curate(
    curation: Curation,
    sources: dict[str, Source],
    settings: dict[str, Any],
    folder: Path,
    executor: Executor,
    workers: int,
    *,
    quiet: bool,
) -> dict[str, Any]:
    from keylm.curate.executors import run_stage, silenced
    from keylm.curate.filters import filter_settings

    work = (folder / WORK).absolute()
    origins = _origins(sources, work / "origins.json")
    if curation.decontaminate and not (work / "evaluation.npz").is_file():
        _index_items([Path(path) for path in curation.decontaminate], work / "evaluation.npz", quiet=quiet)
    units = make_units({name: _pinned(source, origins[name]) for name, source in sources.items()})
    with silenced():
        stages = make_stages(curation, units, work)
        settings = {**settings, "filters": filter_settings(curation)}
    for stage in stages:
        run_stage(stage, work, executor, workers, quiet=quiet)
    ranks = {name: [rank for rank, unit in enumerate(units) if unit.name == name] for name in sources}
    _publish(work / "final", folder, sources)
    join_faults(work / "faults", ranks, folder / FAULTS)
    return make_report(work, folder, sources, origins, ranks, settings)


def _origins(sources: dict[str, Source], file: Path) -> dict[str, dict[str, Any]]:
    """Return the sources' origins, hub branches as commits; from `file` where there is one. Raises KeylmError."""
    if not file.is_file():
        origins = {}
        for name, source in sources.items():
            moving = source.hub and not SHA.fullmatch(source.revision or "")
            revision = HubRows(name, source).revision if moving else source.revision
            origins[name] = source_origin(name, source, revision)
        write_json(file, origins)
    return read_object(file)


def _pinned(source: Source, origin: dict[str, Any]) -> Source:
    """Return a hub source at the commit of its `origin`, others unchanged."""
    return source.model_copy(update={"revision": origin["revision"]}) if source.hub else source


def _index_items(paths: list[Path], index: Path, *, quiet: bool) -> None:
    """Save the index of the evaluation items below `paths`; print which files are ignored. Raises KeylmError."""
    for path in paths:
        unread = unread_files(path) if path.is_dir() else []
        if unread:
            names = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
            say(f"curate  {path}: not evaluation files, and not looked for: {names}", quiet=quiet)
    Decontaminator.from_paths(paths).save(index)


def make_units(sources: dict[str, Source]) -> list["Unit"]:
    """Return the tasks' parts of the sources, in the recipe's order; independent of the workers."""
    units = []
    for name, source in sources.items():
        own = []
        for unit, size in _files(name, source):
            parts = min(MOST_PARTS, max(1, -(-size // PART_BYTES)))
            own += [replace(unit, part=part, parts=parts) for part in range(parts)]
        units += [replace(unit, number=number) for number, unit in enumerate(own)]
    return units


def _files(name: str, source: Source) -> list[tuple["Unit", int]]:
    """Return a unit for each file of a folder, or one for the source, with their bytes on disk."""
    from keylm.curate.reading import Unit

    inputs = source_stamps(name, source)  # whole, `max_bytes` or not: the order of the output depends on the parts
    path = source_path(source) if source.path else None
    one_by_one = path and path.is_dir() and source.max_bytes is None and not source_adapter(source).group
    if not path or not one_by_one:
        return [(Unit(name, source, 0), sum(size for _, size, _ in inputs))]
    files = zip(inputs, source_files(path), strict=True)
    return [
        (Unit(name, source.model_copy(update={"path": str(file)}), 0, file=inside), size)
        for (inside, size, _), file in files
    ]


def make_stages(curation: Curation, units: list["Unit"], work: Path) -> list["CurationStage"]:
    """Return the stages in order, without what the recipe switches off."""
    from keylm.curate.executors import CurationStage
    from keylm.curate.steps import FindExact

    stages = [CurationStage("clean", _clean_steps(curation, units, work), len(units))]
    if curation.exact_duplicates:
        stages.append(CurationStage("exact", [FindExact(work / "hashes", work / "exact", len(units))], 1))
    if curation.near_duplicates:
        stages += _near_stages(curation, len(units), work)
    return [*stages, CurationStage("final", _final_steps(curation, work), len(units))]


def _clean_steps(curation: Curation, units: list["Unit"], work: Path) -> list[Any]:
    from keylm.curate.filters import LanguageFilter, LengthFilter
    from keylm.curate.reading import SourceReader
    from keylm.curate.steps import Counted, HashRecorder, MaskPii, QualityFilters, clean_writer

    tallies = work / "tallies" / "clean"
    length = LengthFilter(curation.minimum_characters, curation.maximum_characters)
    return [
        SourceReader(units, tallies, work / "faults"),
        Counted("language", LanguageFilter(curation.languages, curation.language_threshold), tallies),
        QualityFilters(units, curation, tallies),
        Counted("length", length, tallies),
        *([MaskPii(tallies)] if curation.mask_pii else []),
        HashRecorder(work / "hashes"),
        clean_writer(work / "clean"),
    ]


def _near_stages(curation: Curation, ranks: int, work: Path) -> list["CurationStage"]:
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster

    from keylm.curate.executors import CurationStage
    from keylm.curate.steps import KeepFirst, Signature, minhash_config

    config = minhash_config()
    signatures, buckets, clusters = (str(work / name) for name in ("signatures", "buckets", "clusters"))
    pairs = MinhashDedupBuckets(signatures, buckets, config=config, lines_to_buffer=4096)
    cluster = MinhashDedupCluster(buckets, clusters, config=config, save_cluster_id=True, lines_to_buffer=4096)
    return [
        CurationStage("signatures", [*_without_exact(curation, work), Signature(work / "signatures", config)], ranks),
        CurationStage("buckets", [pairs], config.num_buckets),
        CurationStage("clusters", [cluster], 1),
        CurationStage("firsts", [KeepFirst(work / "clusters", work / "near", ranks)], 1),
    ]


def _without_exact(curation: Curation, work: Path) -> list[Any]:
    """Return the steps that read the first stage's output without exact duplicates."""
    from datatrove.pipeline.dedup import MinhashDedupFilter

    from keylm.curate.reading import CleanReader

    reader = CleanReader(work / "clean", work / "hashes")
    return [reader, MinhashDedupFilter(str(work / "exact"))] if curation.exact_duplicates else [reader]


def _final_steps(curation: Curation, work: Path) -> list[Any]:
    from datatrove.pipeline.dedup import MinhashDedupFilter

    from keylm.curate.filters import DecontaminationFilter
    from keylm.curate.reading import CleanReader
    from keylm.curate.steps import Counted, record_writer

    tallies = work / "tallies" / "final"
    steps: list[Any] = [CleanReader(work / "clean", work / "hashes")]
    for kind in ("exact", "near"):
        if getattr(curation, f"{kind}_duplicates"):
            steps.append(Counted(f"{kind}_duplicates", MinhashDedupFilter(str(work / kind)), tallies))
    if curation.decontaminate:
        steps.append(Counted("decontamination", DecontaminationFilter(work / "evaluation.npz"), tallies))
    return [*steps, record_writer(work / "final")]


def _publish(final: Path, folder: Path, sources: dict[str, Source]) -> None:
    """Move the finished files to their places; a run killed here resumes with the rest."""
    for name in sources:
        (folder / name).mkdir(exist_ok=True)
        for file in sorted((final / name).glob("*.jsonl.zst")):
            flush(file)
            file.replace(folder / name / file.name)
        flush(folder / name)
