"""Errors as OpenAI's clients know them: a status, and a body {"error": {message, type, param, code}}."""

from typing import Any

from pydantic import ValidationError

from keylm.serving.protocol import Error, ErrorDetail


class ApiError(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        code = code or ("invalid_value" if status == 400 else None)
        self.body = Error(error=ErrorDetail(message=message, type=kind, param=param, code=code))


KINDS = {
    "string": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "list": "an array",
    "dict": "an object",
    "model": "an object",
    "none": "null",
}
GIVEN = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", list: "an array", dict: "an object"}
BOUNDS = {"greater_than_equal": ("ge", ">="), "less_than_equal": ("le", "<="), "less_than": ("lt", "<")}


def invalid(error: ValidationError) -> ApiError:
    """Return the answer to a body that does not fit its type, in the words of OpenAI's API."""
    found = error.errors(include_url=False)
    first = found[0]
    # A union reports an error for each of its members: the one that fits the value's type says what is wrong.
    same = [each for each in found if _path(each["loc"])[:1] == _path(first["loc"])[:1]]
    chosen = next((each for each in same if not each["type"].endswith("_type")), first)
    path = _path(chosen["loc"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    param = str(path[0]) if path else None
    if chosen["type"] == "value_error":
        text = str(chosen["ctx"]["error"])
        return ApiError(400, text, param=text.partition(":")[0])
    if chosen["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {where}", param=param, code="unknown_parameter")
    if chosen["type"] == "missing":
        code = "missing_required_parameter"
        return ApiError(400, f"Missing required parameter: '{where}'.", param=param, code=code)
    if chosen["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {chosen['ctx']['error']}.")
    kinds = dict.fromkeys(each["type"].removesuffix("_type") for each in same if each["type"].endswith("_type"))
    about = f"'{where}'" if where else "the body"
    return ApiError(400, f"Invalid {about}: {_expected(chosen, list(kinds))}.", param=param)


def _path(loc: tuple[int | str, ...]) -> list[int | str]:
    """Return a place in the body, without the names of a union's members, which pydantic adds."""
    tags = ("str", "int", "float", "bool")
    return [part for part in loc if isinstance(part, int) or (part.isidentifier() and part not in tags)]


def _expected(fault: Any, kinds: list[str]) -> str:
    kind, given, limits = fault["type"], fault["input"], fault.get("ctx", {})
    if kind in BOUNDS:
        name, sign = BOUNDS[kind]
        return f"expected a value {sign} {limits[name]}, but got {given!r} instead"[:200]
    if kind.endswith(("_too_long", "_too_short")) or kind in ("too_long", "too_short"):
        sort, bound = ("string" if isinstance(given, str) else "array"), "max" if kind.endswith("long") else "min"
        most = limits[f"{bound}_length"]
        return f"expected {sort} of {bound}imum length {most}, but got one of length {len(given)} instead"
    if kind == "literal_error":
        return f"supported values are {limits['expected']}, but got {given!r:.80} instead"
    if kind == "finite_number":
        return "expected a finite number"
    wanted = " or ".join(dict.fromkeys(KINDS[each] for each in kinds if each in KINDS)) or "another value"
    return f"expected {wanted}, but got {GIVEN.get(type(given), 'null')} instead"


def too_long(context: int, prompt: int, wanted: int, param: str) -> ApiError:
    """Return what a request beyond the context is answered with; sizes in tokens."""
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, you requested {prompt + wanted} tokens "
        f"({prompt} in the prompt, {wanted} for the completion). Please reduce the length of either.",
        param=param,
        code="context_length_exceeded",
    )
