"""Objects behind a URL, through fsspec: whole ones and ranges, within limits of time and size.

A server can answer late, for ever, drop by drop, with less than it says, or with the whole file where a range was asked
for. Every one of these is an error of the row, never another row's bytes, and never a hold-up beyond the limit.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from metric_learn_client._client.daemon_threads import in_time
from metric_learn_client.jobs.errors import RowError

READ_TIMEOUT_S = 60.0  # a photo of 16 MiB over 2.5 Mbit/s
_TRIES = 3
_PAUSE_S = 0.5
_FINAL_STATUS = range(400, 500)  # HTTP: the request is wrong; except:
_TRY_AGAIN = (408, 425, 429)
_CHUNK_BYTES = 64 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


def filesystem_of(name: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it; it keeps one object per store."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(name)
    return filesystem, path


def read(name: str, start: int, end: int, timeout_s: float, *, whole: bool) -> bytes:
    """Bytes [start, end) of an object, fewer where it ends before; whole: as much of it as that, start being 0.

    All tries and pauses together take no longer than timeout_s. Raises RowError.
    """
    limit = time.monotonic() + timeout_s
    for attempt in range(_TRIES):
        left_s = limit - time.monotonic()
        try:
            return _read(name, start, end, left_s, whole)
        except RowError:
            raise
        except FileNotFoundError:
            raise RowError("E_NOT_FOUND", "no such object") from None
        except PermissionError:
            raise RowError("E_PERMISSION", "permission denied") from None
        except IsADirectoryError:
            raise RowError("E_READ", "it is a folder") from None
        except Exception as error:
            if start == 0 and not _is_http(name) and _is_empty(name, limit):  # a range of nothing is refused by some
                return b""
            pause_s = _PAUSE_S * 2**attempt
            if limit - time.monotonic() <= pause_s:
                text = f"no whole answer within {timeout_s:g} s (--read-timeout-s): {reason_of(error)}"
                raise RowError("E_READ", text) from None
            status = getattr(error, "status", None)
            final = status in _FINAL_STATUS and status not in _TRY_AGAIN
            if final or attempt + 1 == _TRIES:
                raise RowError("E_READ", reason_of(error)) from None
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def reason_of(error: BaseException) -> str:
    """An error in one line, without a name of a file: the row has that already."""
    if isinstance(error, OSError) and error.errno:
        return error.strerror or type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"HTTP status {status} {getattr(error, 'message', '')}".rstrip()
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _read(name: str, start: int, end: int, left_s: float, whole: bool) -> bytes:
    filesystem, path = filesystem_of(name)
    if _is_http(name):
        import fsspec

        async def within() -> bytes:
            return await asyncio.wait_for(_get(filesystem, path, start, end, whole), max(0.0, left_s))

        content: bytes = fsspec.asyn.sync(filesystem.loop, within)
        return content
    return in_time(lambda: bytes(filesystem.cat_file(path, start=start, end=end)), left_s)


async def _get(filesystem: Any, url: str, start: int, end: int, whole: bool) -> bytes:
    """By HTTP; fsspec's own `cat_file` takes whatever comes for the range that was asked for."""
    options = dict(filesystem.kwargs)
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
    if not whole:
        headers["Range"] = f"bytes={start}-{end - 1}"
    session = await filesystem.set_session()
    content = bytearray()
    async with session.get(filesystem.encode_url(url), headers=headers, **options) as reply:
        if reply.status == 404:
            raise FileNotFoundError
        reply.raise_for_status()
        if reply.status != (200 if whole else 206):
            said = "with another part than" if reply.status == 206 else "with the whole file in place of"
            raise RowError("E_READ", f"the server answers {said} the part that was asked for (HTTP {reply.status})")
        size = None if whole else _size_of_range(reply.headers.get("Content-Range", ""), start, end)
        async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > end - start:
                break
    if size is not None and len(content) != size:
        raise RowError("E_READ", f"the server sent {len(content)} bytes of a part of {size}")
    return bytes(content[: end - start])


def _size_of_range(content_range: str, start: int, end: int) -> int:
    """Bytes that a reply to a range has. Raises RowError where it is another one than was asked for."""
    found = _CONTENT_RANGE.match(content_range)
    if found is None or int(found[1]) != start or not start <= int(found[2]) < end:
        raise RowError("E_READ", f"the server answers with another part than was asked for ({content_range!r})")
    return int(found[2]) - start + 1


def _is_http(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _is_empty(name: str, limit: float) -> bool:
    try:
        filesystem, path = filesystem_of(name)
        return in_time(lambda: bool(filesystem.size(path) == 0), limit - time.monotonic())
    except Exception:
        return False
