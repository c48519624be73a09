"""What a connection may take, of either public port: bytes of a head, and time."""

from __future__ import annotations

# Connections that the kernel keeps while many come at once. Beyond, the caller's kernel tries again a second later.
WAITING = 1024
# Names and values of a head, and for each field 32 bytes more (RFC 9113, section 6.5.2): thousands of short ones
# take as long to read as a picture.
MOST_HEAD_BYTES, FIELD_BYTES = 16 * 1024, 32
AGE_S = 300.0  # then it is asked to end, after the calls that it has
TAKE_REPLY_S = 30.0  # for a caller to take an answer
