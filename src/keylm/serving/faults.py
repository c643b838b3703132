"""Errors as OpenAI's clients know them: a status, and a body {"error": {message, type, param, code}}."""

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


def invalid(error: ValidationError) -> ApiError:
    """Return the answer to a body that does not fit its type: the first error, where it is, what is accepted."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of a union's members the path names each; what a client can use is the field.
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognised field: {'.'.join(path)}", param=path[0], code="unknown_parameter")
    where = f"{'.'.join(path)}: " if path else ""
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, where + first["msg"], param=path[0] if path else None, code=code)


def too_long(context: int, prompt: int, wanted: int) -> ApiError:
    """Return what a request beyond the context is answered with; sizes in tokens."""
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, you requested {prompt + wanted} tokens "
        f"({prompt} in the prompt, {wanted} for the completion). Please reduce the length of either.",
        param="messages",
        code="context_length_exceeded",
    )
