"""The constants and tables that decide a curation, apart from its sources and settings.

Invariant: a constant added to one of these modules is in the fingerprint unless it is listed in `_NO_RULES`.
"""

from typing import Any

from keylm.base.constants import constants_of
from keylm.curate.evaluation_items import ITEM_FIELDS
from keylm.curate.filters import filter_settings
from keylm.recipe.schema import PIECE_BYTES, Curation

_MODULES = (
    *("keylm.curate.filters", "keylm.curate.steps", "keylm.curate.reading", "keylm.curate.decontamination"),
    *("keylm.curate.evaluation_index", "keylm.curate.evaluation_items", "keylm.curate.evaluation_words"),
)
_NO_RULES = {
    *("CHECKED_TOGETHER", "BATCH_CHARACTERS", "PLACES_AT_ONCE", "SHINGLES_AT_ONCE", "MOST_WORDS", "BLOCK_BYTES"),
    *("IO", "DAMAGE", "BENCHMARKS", "ITEM_FIELDS", "COMMON_FIELDS", "WORDS", "_QUALITY", "TYPE_CHECKING"),
}
"""Batch sizes, which change no verdict, and values that are not plain (tables among them are added below)."""


def rules_of(curation: Curation) -> dict[str, Any]:
    """Return, ready for JSON, the constants, the limits of the quality filters, and how evaluation items are read."""
    return {
        "constants": constants_of(*_MODULES, apart=_NO_RULES),
        "piece_bytes": PIECE_BYTES,
        "filters": filter_settings(curation),
        "items": {known_by: fields.model_dump(mode="json") for known_by, fields in ITEM_FIELDS.items()},
    }
