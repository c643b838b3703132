"""Checks before every route: who may send requests, how large and how slow they may be."""

import asyncio
import contextlib
import hmac
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from keylm.serving.faults import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Guard:
    """The rules of one server."""

    api_key: str | None = None
    """Where it is set, requests need `Authorization: Bearer KEY`."""
    hosts: tuple[str, ...] = ()
    """Host names that are answered; empty: all. Keeps other sites' pages away (DNS rebinding)."""
    body_bytes: int = 4_000_000
    body_seconds: float = 30.0

    def check(self, request: Request, *, key: bool = True) -> None:
        """Raise ApiError where a request must not be answered; `key`: whether it needs the key, if one is set."""
        if self.hosts and _host(request.headers.get("host", "")) not in self.hosts:
            raise ApiError(403, "this server answers its own machine only", kind="permission_error", code="forbidden")
        if self.api_key is None or not key:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.api_key.encode()):
            raise ApiError(
                401,
                "missing or wrong API key; send it as Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def body(self, request: Request) -> bytes:
        """Return the body. Raises ApiError where its type is not JSON, or it is too large or too slow."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, f"content-type {kind[:80]!r}; accepted: application/json", code="unsupported_media_type"
            )
        large = ApiError(413, f"the body is over {self.body_bytes} bytes", code="request_too_large")
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdecimal() and (len(declared) > 18 or int(declared) > self.body_bytes):
            raise large  # Python makes no number of more than 4,300 digits
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.body_bytes:
                        raise large
                    parts.append(part)
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {self.body_seconds:g} s", code="timeout") from None
        except ClientDisconnect:
            raise ApiError(400, "the client hung up", code="cancelled") from None
        return b"".join(parts)


async def drain(request: Request, seconds: float) -> None:
    """Read what is left of a body: a connection closed before is a reset, and the client never sees its answer."""
    if "expect" in request.headers:
        return
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it has all been read
        async with asyncio.timeout(seconds):
            async for _ in request.stream():
                pass


def _host(header: str) -> str:
    """Return the name in a Host header."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
