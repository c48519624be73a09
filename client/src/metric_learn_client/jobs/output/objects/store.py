"""Objects below one prefix of a bucket, through s3fs: read, listed, deleted, and written on a condition only.

Every write says what it replaces: nothing (`If-None-Match: *`) or the object with this ETag (`If-Match`), so that of
two writers one wins and the other knows. A store that does not keep to this is found out by `probe`.

What fails for a while (5xx, 429, no connection, no answer) is tried again with longer pauses, up to `limit_s`. A try
whose answer was lost may have succeeded: its repetition is then refused, and the object's content says whose it is.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Callable, NamedTuple, Optional

from metric_learn_client.jobs.errors import AccessError, InputError, OutageError, OutputError, RefusedError, Stopped

_SCHEMES = ("s3://", "s3a://")
_MAX_OBJECT_BYTES = 5 * 1000**3  # of one PutObject. Source: S3's and OBS's limits for an upload in one part
_FIRST_CONTACT_S = 20.0  # an endpoint that is not there when a job begins is rather a wrong one
_TRY_S = 30.0  # one request, and more for what is large:
_BYTES_PER_S = 1_000_000  # the slowest connection that is waited for
_END_S = 3.0  # what a request that is under way gets once the run is to end
# Not every store that speaks S3 takes the checksums that botocore sends since 1.36 unless told otherwise.
_COMPATIBLE = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
_NO_RETRIES = {"retries": {"mode": "standard", "total_max_attempts": 1}}  # this module has its own
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_LOOK_S = 0.2
_TELL_S = 2.0  # an outage that is over sooner is not worth a word
_GONE = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("PreconditionFailed", "412")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_PATH_STYLE = ("VirtualHostDomainRequired", "SecondLevelDomainForbidden")
_ADDRESSING = (
    "where it asks for virtual-hosted addressing, set "
    'FSSPEC_S3=\'{"config_kwargs": {"s3": {"addressing_style": "virtual"}}}\''
)
_BUSY = ("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown")


class Object(NamedTuple):
    content: bytes
    etag: str


class ObjectStore:
    """Thread-safe. url: "s3://bucket/prefix"; limit_s: how long an outage is waited for; stop: ends every wait;
    notice: what a person should read."""

    def __init__(
        self,
        url: str,
        limit_s: float = _FIRST_CONTACT_S,
        stop: Optional[threading.Event] = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        scheme = next((each for each in _SCHEMES if url.lower().startswith(each)), None)
        if scheme is None:
            raise RefusedError(
                f"{url.split('://')[0]}://: output is written to a folder or to s3://bucket/prefix (also where another "
                "store speaks S3); copy it elsewhere afterwards"
            )
        self.bucket, _, prefix = url[len(scheme) :].partition("/")
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        if "@" in self.bucket or not self.bucket:
            raise RefusedError(
                "--output-dir is s3://bucket/prefix, and credentials are no part of it: they come from the environment "
                "or from ~/.aws, as for s3fs"
            )
        self.url = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        self.limit_s = limit_s
        self._stop = stop or threading.Event()
        self._notice = notice
        self._filesystem: Any = None
        self._lock = threading.Lock()

    def with_limit(self, limit_s: float) -> ObjectStore:
        """The same objects, with another patience and without a word about it."""
        return ObjectStore(self.url, limit_s, self._stop)

    def get(self, key: str) -> Optional[Object]:
        """The object, None where there is none."""
        reply = self._call("get_object", key, "read")
        return None if reply is None else Object(reply["Body"], reply["ETag"])

    def etag(self, key: str) -> Optional[str]:
        """Of the object as it is now, None where there is none."""
        reply = self._call("head_object", key, "read")
        return None if reply is None else str(reply["ETag"])

    def put(self, key: str, content: bytes, *, replaces: Optional[str]) -> Optional[str]:
        """Writes the object where it is not there (replaces None), or still has this ETag. Its new ETag, None where it
        was not as expected; nothing is changed then."""
        if len(content) > _MAX_OBJECT_BYTES:
            raise OutputError(
                f"{self.shown(key)}: {len(content)} bytes; an object has at most {_MAX_OBJECT_BYTES}: lower "
                "--shard-size"
            )
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        try:
            reply = self._call("put_object", key, "written", Body=content, **condition)
        except _RefusedWrite:
            reply = None
        if reply is not None:
            return str(reply["ETag"])
        there = self.get(key)  # also where a try before this one succeeded and its answer was lost
        return there.etag if there is not None and there.content == content else None

    def list(self, folder: str) -> list[str]:
        """The keys that begin with `folder`, sorted."""
        return sorted(self._listed(folder))

    def any_other_than(self, folders: tuple[str, ...]) -> Optional[str]:
        """A key that is in none of these folders, None where there is none."""
        return next((key for key in self._listed("") if not key.startswith(folders)), None)

    def delete(self, key: str) -> None:
        """Nothing is said where it is gone already."""
        self._call("delete_object", key, "deleted")

    def shown(self, key: str) -> str:
        return f"{self.url}/{key}"

    def probe(self) -> None:
        """Whether the store can be written to, and keeps conditions. Raises RefusedError, AccessError, OutageError."""
        key = f".locks/probe-{uuid.uuid4().hex}"
        limit_s, self.limit_s = self.limit_s, min(self.limit_s, _FIRST_CONTACT_S)
        try:
            try:
                first = self.put(key, b"1", replaces=None)
                if first is None:  # OBS, for one, answers NoSuchKey to a write with path-style addressing
                    raise AccessError(f"{self.url}: the store takes no new object (NoSuchKey): {_ADDRESSING}")
                kept = self.put(key, b"2", replaces=None) is None
                kept = kept and self.put(key, b"3", replaces='"00000000000000000000000000000000"') is None
                kept = kept and self.put(key, b"4", replaces=first) is not None
            except _NotImplementedByStore:
                kept = False
            self.delete(key)
        finally:
            self.limit_s = limit_s
        if not kept:
            raise RefusedError(
                f"{self.url}: this store has no conditional writes (PutObject with If-None-Match and If-Match), and "
                "without them two jobs could write one shard. Write to a folder, and copy it there afterwards"
            )

    def _listed(self, folder: str) -> Iterator[str]:
        following: dict[str, str] = {}
        while True:
            found = self._call("list_objects_v2", folder, "listed", **following) or {}
            yield from (each["Key"][len(self._prefix) :] for each in found.get("Contents", ()))
            if found.get("NextContinuationToken") is None:
                return
            following = {"ContinuationToken": found["NextContinuationToken"]}

    def _call(self, method: str, key: str, verb: str, **more: Any) -> Any:
        """What the store answers, None where there is no such object. Raises what `_meaning` says."""
        place = {"Prefix" if method == "list_objects_v2" else "Key": self._prefix + key}
        limit_s = _TRY_S + len(more.get("Body", b"")) / _BYTES_PER_S
        started = time.monotonic()
        failures, told = 0, False
        while True:
            try:
                result = self._once(method, limit_s, Bucket=self.bucket, **place, **more)
                if told:
                    self._notice(f"{self.url} answers again")
                return result
            except (Stopped, InputError):
                raise
            except Exception as error:
                meaning = _meaning(error, self.url, f"{self.shown(key)} cannot be {verb}")
                if meaning is None:
                    return None
                if not isinstance(meaning, OutageError):
                    raise meaning from error
                away_s = time.monotonic() - started
                if away_s >= self.limit_s:
                    text = f"{self.url}: no answer for {away_s:.0f} s (the limit is {self.limit_s:g}): {meaning}"
                    raise OutageError(text, "UNAVAILABLE") from error
                if not told and away_s > _TELL_S:
                    told = True
                    self._notice(f"waiting up to {self.limit_s:g} s for {self.url}: {meaning}")
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures, self.limit_s - away_s)
                failures = min(failures + 1, 10)
            if self._stop.wait(pause_s * (0.5 + random.random() / 2)):
                raise Stopped

    def _once(self, method: str, limit_s: float, **given: Any) -> Any:
        filesystem = self._connected()

        async def request() -> Any:
            reply = await filesystem._call_s3(method, **given)
            if method == "get_object":
                async with reply["Body"] as body:
                    reply["Body"] = await body.read()
            return reply

        running = asyncio.run_coroutine_threadsafe(asyncio.wait_for(request(), limit_s), filesystem.loop)
        ends: Optional[float] = None
        while True:
            try:
                return running.result(_LOOK_S)
            except FutureTimeoutError:
                if running.done():  # it is the request's own
                    raise TimeoutError from None
            if self._stop.is_set():
                ends = ends or time.monotonic() + _END_S
                if time.monotonic() > ends:
                    running.cancel()
                    raise Stopped

    def _connected(self) -> Any:
        with self._lock:
            if self._filesystem is None:
                try:
                    import fsspec

                    given = dict(fsspec.config.conf.get("s3", {}).get("config_kwargs", {}))
                    self._filesystem = fsspec.filesystem("s3", config_kwargs={**_COMPATIBLE, **given, **_NO_RETRIES})
                    self._filesystem.retries = 1
                except ImportError as error:
                    raise InputError(f"{self.url} needs s3fs: pip install 'metric-learn-client[s3]'") from error
                except (TypeError, ValueError, KeyError) as error:  # options that fsspec was given
                    raise RefusedError(f"fsspec's options for s3 (FSSPEC_S3..., ~/.config/fsspec): {error}") from error
            return self._filesystem


class _RefusedWrite(Exception):
    """A condition does not hold."""


class _NotImplementedByStore(RefusedError):
    pass


def _meaning(error: BaseException, url: str, what: str) -> Optional[Exception]:
    """What to raise for an error of s3fs or botocore; OutageError for what may be over soon; None for an object that is
    not there. Texts are ours, or the store's short code: a message of the store's can hold an access key."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        NoCredentialsError,
        ParamValidationError,
    )

    found: Optional[BaseException] = error
    while found is not None and not isinstance(found, (ClientError, BotoCoreError)):
        found = found.__cause__
    if isinstance(found, ClientError):
        return _meaning_of_reply(found.response, url, what)
    if isinstance(found, NoCredentialsError):
        return AccessError(f"{url}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(found, ParamValidationError) and "IfMatch" in str(found):
        return RefusedError(f"{url}: the installed botocore has no If-Match: pip install -U 'metric-learn-client[s3]'")
    if isinstance(found, BotoCoreError) and not isinstance(found, HTTPClientError):
        return AccessError(f"{url}: {type(found).__name__}: see to AWS_PROFILE, the region and the endpoint")
    if isinstance(error, FileNotFoundError):
        return None
    return OutageError(f"{type(found or error).__name__}", "UNAVAILABLE")


def _meaning_of_reply(reply: dict[str, Any], url: str, what: str) -> Optional[Exception]:
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code in _REFUSED or status == 412:
        return _RefusedWrite()
    if code == "NoSuchBucket":
        return AccessError(f"{url}: there is no such bucket at this endpoint")
    if code in _GONE or status == 404:
        return None
    if code == "NotImplemented" or status == 501:
        return _NotImplementedByStore(f"{what}: the store does not implement it")
    if code in _BUSY or status in (408, 409, 429) or status >= 500:
        return OutageError(f"{code or 'HTTP status'} ({status})", "UNAVAILABLE")
    if status in (301, 307) or code in _ELSEWHERE:
        return AccessError(f"{url}: the bucket is in another region ({code}): set AWS_DEFAULT_REGION or the endpoint")
    if "Expired" in code or "Token" in code:
        return AccessError(f"{url}: the credentials are not valid any more ({code}): get new ones")
    if code in _PATH_STYLE:
        return AccessError(f"{url}: refused ({code}): {_ADDRESSING}")
    if code == "RequestTimeTooSkewed":
        return AccessError(f"{url}: refused ({code}): the clock of this machine is wrong by more than the store allows")
    if status in (401, 403) or "AccessKey" in code or "Signature" in code:
        return AccessError(f"{what}: not permitted ({code or status}): see to the credentials and what they allow")
    return OutputError(f"{what}: the store says {code or 'HTTP status'} ({status})")
