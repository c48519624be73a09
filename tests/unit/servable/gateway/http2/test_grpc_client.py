"""Calls to MindSpore Serving, frame by frame: what is sent, what comes back, and how each goes wrong."""

import asyncio
import contextlib
import struct

import grpc
import pytest

from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from servable.gateway.http2.frame_protocol import WINDOW_STEP
from servable.gateway.http2.frames import Reason
from servable.gateway.http2.grpc_client import GREETING, GrpcClient
from servable.gateway.http2.header_block import TABLE_OF_NOTHING, request_block, response_head, status_block
from servable.gateway.http2.http2_stream import PREFIX

PATH = "/package.Service/Method"
MOST_REPLY_BYTES = 300_000
END = frames.END_STREAM | frames.END_HEADERS
SETTINGS = frames.settings({})
TIMEOUT_S = 30.0


class Memory(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data):
        self.writelines([data])

    def writelines(self, pieces):
        assert all(map(len, pieces)), "asyncio never gets rid of a piece without bytes"
        self.written += b"".join(pieces)

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close


class Peer:
    """The other end of a client: reads its frames, and sends it bytes."""

    def __init__(self, client, transport):
        self.client, self.transport = client, transport

    def frames(self):
        """(kind, flags, stream, payload) of what was written since the last look."""
        data, found = bytes(self.transport.written), []
        self.transport.written.clear()
        while data:
            upper, lower, kind, flags, stream = struct.unpack(">HBBBI", data[:9])
            end = 9 + (upper << 8 | lower)
            found.append((kind, flags, stream, data[9:end]))
            data = data[end:]
        return found

    def send(self, data):
        while data:
            buffer = self.client.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.client.buffer_updated(size)
            data = data[size:]


def connected(scenario):
    """Runs `scenario(peer)` on a connection whose peer has sent nothing yet."""

    async def run():
        client, transport = GrpcClient(asyncio.get_running_loop(), MOST_REPLY_BYTES), Memory()
        client.connection_made(transport)
        assert transport.written == GREETING
        transport.written.clear()
        await scenario(Peer(client, transport))

    asyncio.run(run())


async def calling(peer, *message, timeout_s=TIMEOUT_S):
    """A call that has been sent, as a task."""
    task = asyncio.ensure_future(peer.client.call(PATH, message or (b"message",), timeout_s))
    await turns()
    return task


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def head(kind, flags, stream, payload):
    return frames.head(kind, flags, stream, len(payload)) + payload


def reply(stream, message, *, pieces=1, end=None):
    """As grpc++ sends it: head, DATA, trailers."""
    body = PREFIX.pack(0, len(message)) + message
    size = -(-len(body) // pieces)
    data = b"".join(head(frames.DATA, 0, stream, body[at : at + size]) for at in range(0, len(body), size))
    return begun(stream) + data + head(frames.HEADERS, END, stream, end or status_block(0, "", ()))


def begun(stream):
    return head(frames.HEADERS, frames.END_HEADERS, stream, response_head())


async def failed(task):
    with pytest.raises(CallError) as caught:
        await task
    return caught.value


def payloads(found, kind=frames.DATA):
    return [payload for each, _, _, payload in found if each == kind]


def test_a_call_is_its_header_block_and_its_pieces_as_one_message():
    async def scenario(peer):
        await calling(peer, b"one", memoryview(b"two"), b"", b"three")
        (block, data) = peer.frames()
        block_start = TABLE_OF_NOTHING  # of the first block of a connection
        assert block == (frames.HEADERS, frames.END_HEADERS, 1, block_start + request_block(PATH, TIMEOUT_S))
        assert data == (frames.DATA, frames.END_STREAM, 1, PREFIX.pack(0, 11) + b"onetwothree")

    connected(scenario)


def test_frames_are_as_large_as_the_peer_takes_and_the_last_one_ends_the_stream():
    async def scenario(peer):
        message = [bytes([number]) * 40_000 for number in range(3)]
        peer.send(frames.settings({frames.MAX_FRAME_SIZE: 50_000, frames.INITIAL_WINDOW_SIZE: 2**20}))
        peer.send(frames.window_update(0, 2**20))
        await calling(peer, *message)
        sent = [each for each in peer.frames() if each[0] == frames.DATA]
        assert [len(payload) for _, _, _, payload in sent] == [50_000, 50_000, 20_005]
        assert [flags for _, flags, _, _ in sent] == [0, 0, frames.END_STREAM]
        assert b"".join(payloads(sent)) == PREFIX.pack(0, 120_000) + b"".join(message)

    connected(scenario)


@pytest.mark.parametrize(("connection", "stream"), [(20_000, 30_000), (30_000, 20_000)])
@pytest.mark.parametrize("order", [1, -1])
def test_no_more_is_sent_than_both_windows_take(connection, stream, order):
    async def scenario(peer):
        await calling(peer, bytes(100_000))
        sent = sum(map(len, payloads(peer.frames())))
        assert sent == frames.FIRST_WINDOW
        windows = [frames.window_update(0, connection), frames.window_update(1, stream)]
        peer.send(SETTINGS)
        for window in windows[::order]:
            assert not payloads(peer.frames())
            peer.send(window)
            await turns()
        sent += sum(map(len, payloads(peer.frames())))
        assert sent == frames.FIRST_WINDOW + 20_000
        peer.send(frames.window_update(0, 2**20) + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}))
        await turns()
        assert sent + sum(map(len, payloads(peer.frames()))) == PREFIX.size + 100_000

    connected(scenario)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_reply_is_read_however_it_is_cut(pieces, size):
    async def scenario(peer):
        for stream in (1, 3):
            task = await calling(peer)
            message = bytes(range(256)) * 4
            data = (SETTINGS if stream == 1 else b"") + reply(stream, message, pieces=pieces)
            for at in range(0, len(data), size):
                peer.send(data[at : at + size])
            assert bytes(await task) == message

    connected(scenario)


def test_calls_are_answered_in_any_order():
    async def scenario(peer):
        first, second = await calling(peer), await calling(peer)
        peer.send(SETTINGS + begun(1) + reply(3, b"second") + reply(1, b"first")[len(begun(1)) :])
        assert (bytes(await first), bytes(await second)) == (b"first", b"second")

    connected(scenario)


def trailers(code, words=""):
    return head(frames.HEADERS, END, 1, response_head() + status_block(code, words, ()))


RESET = head(frames.RST_STREAM, 0, 1, struct.pack(">I", Reason.REFUSED_STREAM))
COMPRESSED = begun(1) + head(frames.DATA, 0, 1, PREFIX.pack(1, 2) + b"ab") + trailers(0)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (trailers(13, "50 % of the worker's köpfe"), "INTERNAL", "50 % of the worker's köpfe"),
        (trailers(14), "UNAVAILABLE", ""),
        (trailers(99, "what"), "UNKNOWN", "what"),
        (reply(1, b"message", end=status_block(4, "late", ())), "DEADLINE_EXCEEDED", "late"),
        (head(frames.HEADERS, END, 1, response_head(503)), "INTERNAL", "HTTP status b'503'"),
        (begun(1) + head(frames.HEADERS, END, 1, b""), "UNKNOWN", ""),
        (begun(1) + head(frames.DATA, frames.END_STREAM, 1, b"12345"), "INTERNAL", "without a status"),
        (trailers(0), "INTERNAL", "a reply of 0 bytes that are not one message"),
        (reply(1, b"one").replace(PREFIX.pack(0, 3), PREFIX.pack(0, 2)), "INTERNAL", "not one message"),
        (COMPRESSED, "INTERNAL", "not one message"),
        (begun(1) + reply(1, bytes(2 * MOST_REPLY_BYTES), pieces=5)[len(begun(1)) :], "INTERNAL", "too large"),
        (RESET, "UNAVAILABLE", "the peer ended the call (7)"),
        (RESET[:-1] + b"\x08", "CANCELLED", "(8)"),
        (RESET[:-1] + b"\x02", "INTERNAL", "(2)"),
    ],
)
def test_a_call_that_goes_wrong_leaves_the_connection_to_others(data, status, words):
    async def scenario(peer):
        task, other = await calling(peer), await calling(peer)
        peer.send(SETTINGS + data)
        error = await failed(task)
        assert error.status.name == status and words in error.message
        peer.send(reply(3, b"good"))
        assert bytes(await other) == b"good"

    connected(scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frames.ping(bytes(8), answer=False),
        SETTINGS + reply(5, b"of no call"),
        SETTINGS + head(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        SETTINGS + head(frames.DATA, 0, 5, b"of no call"),
        SETTINGS + head(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)),
        SETTINGS + frames.window_update(0, 0),
        SETTINGS + head(frames.HEADERS, 0, 1, b"") + frames.ping(bytes(8), answer=False),
    ],
)
def test_what_is_no_http2_ends_every_call_and_the_connection(data):
    async def scenario(peer):
        tasks = [await calling(peer), await calling(peer)]
        peer.send(data)
        assert [(await failed(task)).status for task in tasks] == [grpc.StatusCode.UNAVAILABLE] * 2
        assert peer.transport.closing and not peer.client.takes_calls

    connected(scenario)


def test_the_end_of_the_connection_ends_every_call():
    async def scenario(peer):
        tasks = [await calling(peer), await calling(peer)]
        peer.send(SETTINGS + begun(1))
        peer.client.connection_lost(ConnectionResetError("reset"))
        errors = [await failed(task) for task in tasks]
        assert [(error.status.name, error.message) for error in errors] == [
            ("UNAVAILABLE", "the connection ended: reset")
        ] * 2
        assert not peer.client.takes_calls

    connected(scenario)


def test_a_call_beyond_its_deadline_is_taken_back_and_its_late_reply_is_left():
    async def scenario(peer):
        late = await calling(peer, timeout_s=0.01)
        assert (await failed(late)).status is grpc.StatusCode.DEADLINE_EXCEEDED
        await turns()
        assert peer.frames()[-1] == (frames.RST_STREAM, 0, 1, struct.pack(">I", Reason.CANCEL))
        task = await calling(peer)
        peer.send(SETTINGS + reply(1, b"late") + reply(3, b"good"))
        assert bytes(await task) == b"good"

    connected(scenario)


def test_a_short_deadline_is_kept_beside_a_long_one():
    async def scenario(peer):
        long, short = await calling(peer), await calling(peer, timeout_s=0.01)
        assert (await failed(short)).status is grpc.StatusCode.DEADLINE_EXCEEDED
        peer.send(SETTINGS + reply(1, b"good"))
        assert bytes(await long) == b"good"

    connected(scenario)


def test_a_cancelled_call_is_taken_back_and_what_it_had_to_send_is_dropped():
    async def scenario(peer):
        task = await calling(peer, bytes(100_000))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await turns()
        assert peer.frames()[-1] == (frames.RST_STREAM, 0, 1, struct.pack(">I", Reason.CANCEL))
        peer.send(SETTINGS + frames.window_update(0, 2**20) + frames.window_update(1, 2**20))
        await turns()
        assert not payloads(peer.frames())

    connected(scenario)


def test_a_reply_before_the_request_is_sent_ends_the_sending():
    async def scenario(peer):
        task = await calling(peer, bytes(100_000))
        peer.frames()
        peer.send(SETTINGS + trailers(8, "too much"))
        assert (await failed(task)).status is grpc.StatusCode.RESOURCE_EXHAUSTED
        peer.send(frames.window_update(0, 2**20))
        await turns()
        sent = peer.frames()
        assert not payloads(sent) and (frames.RST_STREAM, 0, 1, struct.pack(">I", Reason.CANCEL)) in sent

    connected(scenario)


def test_settings_and_pings_are_acknowledged():
    async def scenario(peer):
        peer.send(SETTINGS + frames.ping(b"12345678", answer=False))
        await turns()
        assert peer.frames() == [(frames.SETTINGS, frames.ACK, 0, b""), (frames.PING, frames.ACK, 0, b"12345678")]

    connected(scenario)


def test_a_peer_that_goes_answers_what_it_has_begun_and_gets_nothing_more():
    async def scenario(peer):
        begun_one, other = await calling(peer), await calling(peer)
        peer.send(SETTINGS + frames.go_away(1, Reason.NO_ERROR))
        assert (await failed(other)).status is grpc.StatusCode.UNAVAILABLE
        assert not peer.client.takes_calls and not peer.transport.closing
        peer.send(reply(1, b"the last"))
        assert bytes(await begun_one) == b"the last"
        await turns()
        assert peer.transport.closing

    connected(scenario)


def test_a_connection_whose_numbers_are_used_up_answers_its_last_call_and_ends():
    async def scenario(peer):
        peer.client._next_stream = frames.MOST_STREAM
        task = await calling(peer)
        assert not peer.client.takes_calls
        peer.send(SETTINGS + reply(frames.MOST_STREAM, b"the last"))
        assert bytes(await task) == b"the last"
        await turns()
        assert peer.transport.closing

    connected(scenario)


def test_the_window_of_the_connection_is_made_larger_while_replies_come():
    async def scenario(peer):
        peer.send(SETTINGS)
        came = 0
        while came < WINDOW_STEP:
            task = await calling(peer)
            came += PREFIX.size + MOST_REPLY_BYTES
            assert not payloads(peer.frames(), frames.WINDOW_UPDATE)
            peer.send(reply(peer.client._last_stream, bytes(MOST_REPLY_BYTES), pieces=2))
            await task
        await turns()
        ((more,),) = [struct.unpack(">I", each) for each in payloads(peer.frames(), frames.WINDOW_UPDATE)]
        assert WINDOW_STEP <= more <= came

    connected(scenario)


def test_calls_that_end_leave_nothing_behind():
    async def scenario(peer):
        peer.send(SETTINGS)
        for stream in (1, 3, 5):
            task = await calling(peer)
            peer.send(reply(stream, b"good"))
            await task
        assert not peer.client._calls and not peer.client._due

    connected(scenario)
