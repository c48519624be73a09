"""Codes that say why one image has no embedding. The text behind each member is its line in client/docs/errors.md."""

from __future__ import annotations

import enum


class ImageErrorCode(str, enum.Enum):
    """Said by the servable: stable, and at the start of the text of an image's error, `E_DECODE: ...`."""

    DECODE = "E_DECODE"
    """The file is damaged or cut off, also where a decoder would return what it could read of it.
    Do: replace the file."""
    TOO_LARGE = "E_TOO_LARGE"
    """The image is over a limit, and the sentence says which: bytes, pixels, parts of the file.
    Do: make it smaller, or raise `limits` on the server."""
    EMPTY = "E_EMPTY"
    """The image has no bytes. Do: look at where the file comes from; an upload or a copy was cut."""
    UNSUPPORTED = "E_UNSUPPORTED"
    """The file is of a kind that is not read, and the sentence says which. Do: convert it to JPEG, PNG, WebP or BMP."""
    SHAPE = "E_SHAPE"
    """Pixels that are not uint8 [224, 224, 3]. Do: make them with `metric_learn_client.preprocess`."""
    NON_FINITE = "E_NON_FINITE"
    """The network gave no usable embedding: not a number, or all zero.
    Do: tell the operator; with sound weights no picture does this."""
    CRASH = "E_CRASH"
    """The image ended, or held up, the process that worked on it. Final: it is never sent again.
    Do: keep the file and report it; decoders should survive every file."""


class ClientImageCode(str, enum.Enum):
    """Said by the client or by a job, about an image that was not sent, or that no reply decided."""

    READ = "E_READ"
    """The file cannot be read, or it is a folder, a named pipe or a device; nothing was sent.
    Do: the sentence has the path and the reason."""
    NOT_FOUND = "E_NOT_FOUND"
    """In a job: there is no such file or object. Do: mend the list, or `--root`."""
    PERMISSION = "E_PERMISSION"
    """In a job: the file or object may not be read. Do: give the job's user the right to."""
    INTERNAL = "E_INTERNAL"
    """The service failed on this image, by no fault of the image. A job has tried it three times.
    Do: try again; where it stays, the server's log has the reason under the request id."""
    CALL = "E_CALL"
    """In a job: every call that this image was in failed, at last with it alone. Do: `--retry-failed`, later."""
    REJECTED = "E_REJECTED"
    """In a job: the server refuses the call with this image alone in it. Do: read the sentence, which has the field."""
