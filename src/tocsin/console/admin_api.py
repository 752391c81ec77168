"""The admin API, as its clients see it: requests with a key, answers as Structs, and errors in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Struct

from tocsin.console.options import Options

T = TypeVar("T")

_TIMEOUT: Final = httpx.Timeout(10.0, connect=3.0)
_STREAM_TIMEOUT: Final = httpx.Timeout(10.0, connect=3.0, read=60.0)
_LARGEST: Final = 16 * 1024 * 1024


class Violation(Struct, frozen=True):
    """What is wrong with one field of a request."""

    at: str = ""
    reason: str = ""


class _Problem(Struct, frozen=True):
    """An error of the API (RFC 9457)."""

    type: str = ""
    title: str = ""
    detail: str = ""
    errors: list[Violation] = []


class ApiError(Exception):
    """The API refused a request, or cannot be reached (`status` 0). The message is for the operator."""

    def __init__(self, status: int, kind: str, message: str, errors: list[Violation] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        """The last part of the problem's type, `not-found`; empty where the answer was no problem."""
        self.errors = errors or []

    @property
    def unreachable(self) -> bool:
        return self.status == 0

    @property
    def key_refused(self) -> bool:
        """The key is unknown, revoked, or no longer valid."""
        return self.status == 401

    def about(self, field: str) -> str:
        """What is wrong with this field of the body; empty where nothing is said of it."""
        return "; ".join(one.reason for one in self.errors if one.at == f"$.{field}")


class AdminApi:
    """One client for everybody who has signed in; each call brings its own key."""

    def __init__(self, options: Options) -> None:
        self._url = options.api_url
        # No proxy and no .netrc of the environment: the key goes to the API and nowhere else.
        self._http = httpx.AsyncClient(
            base_url=options.api_url, timeout=_TIMEOUT, verify=options.api_tls(), trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, key: str, path: str, into: type[T], **query: str | int | None) -> T:
        """`GET` a path below `/api/admin`, and decode the answer.

        Raises:
            ApiError: the answer is not a success, or there is none.
        """
        return await self.call("GET", f"/api/admin{path}", into, key=key, query=query)

    async def get_if_allowed(self, key: str, path: str, into: type[T]) -> T | None:
        """Like `get`; None where the key is not for that area."""
        try:
            return await self.get(key, path, into)
        except ApiError as error:
            if error.status != 403:
                raise
            return None

    async def post(self, key: str, path: str, body: Any, into: type[T]) -> T:
        """`POST` a JSON body to a path below `/api/admin`. Raises ApiError like `get`."""
        return await self.call("POST", f"/api/admin{path}", into, key=key, body=body)

    async def put(self, key: str, path: str, body: Any, into: type[T]) -> T:
        """`PUT` a JSON body. Raises ApiError like `get`."""
        return await self.call("PUT", f"/api/admin{path}", into, key=key, body=body)

    async def delete(self, key: str, path: str) -> None:
        """`DELETE` a path below `/api/admin`. Raises ApiError like `get`."""
        await self._send("DELETE", f"/api/admin{path}", key)

    async def order(self, key: str, path: str, body: Any) -> None:
        """`POST` a JSON body where nothing is answered. Raises ApiError like `get`."""
        await self._send("POST", f"/api/admin{path}", key, body=body)

    async def call(
        self,
        method: str,
        path: str,
        into: type[T],
        *,
        key: str | None = None,
        query: Mapping[str, str | int | None] | None = None,
        body: Any = None,
    ) -> T:
        """One request to any path of the API.

        Raises:
            ApiError: the answer is not a success, or there is none.
        """
        content = await self._send(method, path, key, query=query, body=body)
        try:
            return msgspec.json.decode(content, type=into)
        except msgspec.MsgspecError as error:
            raise ApiError(
                502,
                "",
                f"{method} {path}: the answer is not what this console expects ({error});"
                " are console and server of the same version?",
            ) from None

    async def _send(
        self,
        method: str,
        path: str,
        key: str | None,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: Any = None,
    ) -> bytes:
        headers = {"accept": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        if body is not None:
            headers["content-type"] = "application/json"
        request = self._http.build_request(
            method,
            path,
            params={name: value for name, value in (query or {}).items() if value is not None},
            headers=headers,
            content=None if body is None else msgspec.json.encode(body),
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                content = await _read(response)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise self._unreachable(error) from None
        if not response.is_success:
            raise _refused(response.status_code, content)
        return content

    async def events(self, key: str, path: str, into: type[T]) -> AsyncGenerator[T, None]:
        """The data of each server-sent event below `/api/admin`, until the API ends the stream.

        Raises:
            ApiError: the API refuses, cannot be reached, or was silent for a minute.
        """
        headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
        try:
            async with self._http.stream(
                "GET", f"/api/admin{path}", headers=headers, timeout=_STREAM_TIMEOUT
            ) as response:
                if not response.is_success:
                    raise _refused(response.status_code, await _read(response))
                data: list[str] = []
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        data.append(line[5:].removeprefix(" "))
                    elif not line and data:
                        yield msgspec.json.decode("\n".join(data), type=into)
                        data = []
        except msgspec.MsgspecError as error:
            raise ApiError(502, "", f"{path}: the answer is not what this console expects ({error})") from None
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(
            0, "", f"No answer from {self._url} ({reason}). Is `tocsin serve` running, and is [console] api_url right?"
        )


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _LARGEST:
            raise httpx.DecodingError("the answer is too large", request=response.request)
    return bytes(content)


def _refused(status: int, content: bytes) -> ApiError:
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except msgspec.MsgspecError:
        return ApiError(status, "", f"The answer was {status}, and no problem that tocsin describes.")
    said = problem.detail or problem.title
    violations = (f"{one.at}: {one.reason}" for one in problem.errors)
    # `detail` is the first violation already, where there are some.
    message = "; ".join(part for part in (said, *(one for one in violations if one not in said)) if part)
    return ApiError(status, problem.type.rpartition(":")[2], message, problem.errors)


async def both(first: Any, second: Any) -> tuple[Any, Any]:
    """Two calls at once; where one fails, the other is cancelled and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except* ApiError as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()
