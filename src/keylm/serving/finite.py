"""Whether a JSON schema admits a finite value: `{"$ref": "#"}` and an object that requires itself do not."""

from typing import Any

from keylm.base.errors import KeylmError

MOST_STEPS = 200_000


def has_finite_value(root: Any) -> bool:
    """Return whether references let a value end; what has nothing to do with them counts as satisfiable."""
    ends = {"#": False}  # the least fixed point: no reference ends until what it refers to does
    before = None
    checker = _Checker(root, ends)
    while ends != before and not ends["#"]:
        before, found = dict(ends), list(ends)
        for ref in found:
            checker.possible(checker.target(ref))
            found += list(ends)[len(found) :]  # references seen for the first time
        for ref in reversed(found):
            ends[ref] = ends[ref] or checker.possible(checker.target(ref))
    return ends["#"]


class _Checker:
    def __init__(self, root: Any, ends: dict[str, bool]) -> None:
        self._root, self._ends, self._steps = root, ends, 0

    def target(self, ref: str) -> Any:
        """Return what a reference points to; True for another document or place, which llguidance judges."""
        found = self._root
        for part in ref.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            inside = isinstance(found, list) and part.isdecimal() and len(part) < 10 and int(part) < len(found)
            if not inside and not (isinstance(found, dict) and part in found):
                return True
            found = found[int(part)] if isinstance(found, list) else found[part]
        return found if ref.partition("/")[0] == "#" else True

    def possible(self, schema: Any) -> bool:
        """Return whether a finite value is known to satisfy a schema."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise KeylmError(f"the schema's references take more than {MOST_STEPS:,} steps to follow")
        if not isinstance(schema, dict):
            return schema is not False
        ref = schema.get("$ref")
        if isinstance(ref, str) and not self._ends.setdefault(ref, False):
            return False
        rules: tuple[tuple[str, Any], ...] = (("anyOf", any), ("oneOf", any), ("allOf", all))
        for name, rule in rules:
            if isinstance(schema.get(name), list) and not rule(map(self.possible, schema[name])):
                return False
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "const" in schema or "enum" in schema or any(kind not in ("object", "array") for kind in kinds):
            return True
        return ("object" in kinds and self._object(schema)) or ("array" in kinds and self._array(schema))

    def _object(self, schema: dict[str, Any]) -> bool:
        listed, other = schema.get("properties"), schema.get("additionalProperties", True)
        listed, required = listed if isinstance(listed, dict) else {}, schema.get("required")
        required = required if isinstance(required, list) else []
        least = schema.get("minProperties", 0)
        more = (
            not isinstance(least, int) or least <= len(required) or any(map(self.possible, [*listed.values(), other]))
        )
        return more and all(self.possible(listed.get(name, other)) for name in required if isinstance(name, str))

    def _array(self, schema: dict[str, Any]) -> bool:
        first, least = schema.get("prefixItems"), schema.get("minItems", 0)
        first, least = first if isinstance(first, list) else [], least if isinstance(least, int) else 0
        rest = least <= len(first) or self.possible(schema.get("items", True))
        return rest and all(map(self.possible, first[:least]))
