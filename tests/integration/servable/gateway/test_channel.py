"""The gateway's connection to MindSpore Serving: gRPC's own server at the other end, and what is none."""

import asyncio
import contextlib
import time

import grpc
import grpc.aio
import pytest

from metric_learn_client.wire import PREDICT_PATH
from servable.gateway.channel import BackendError, Channel
from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from tests.patience import patient

TIMEOUT_S = 30.0
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@contextlib.asynccontextmanager
async def serving(path, answer):
    """gRPC's server; `answer(body, context)`."""
    server = grpc.aio.server(options=OPTIONS)
    service, method = PREDICT_PATH[1:].split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def speaking(path, speak):
    """A socket; `speak(reader, writer)` for each connection."""
    server = await asyncio.start_unix_server(speak, path)
    try:
        yield
    finally:
        server.close()


@contextlib.asynccontextmanager
async def connected(path):
    channel = Channel(f"unix:{path}")
    try:
        yield channel
    finally:
        channel.close()


@contextlib.asynccontextmanager
async def waiting(path):
    """(a channel, its `opened` that has found nobody at `path` so far)."""
    async with connected(path) as channel:
        opened = asyncio.ensure_future(channel.opened())
        await asyncio.wait({opened}, timeout=0.1)
        assert not opened.done()
        yield channel, opened


async def failed(call):
    with pytest.raises(BackendError) as caught:
        await call
    return str(caught.value)


async def echo(body, _context):
    return body


async def never(_body, _context):
    await asyncio.Event().wait()


@pytest.mark.parametrize("size", [0, 1, 65_530, 65_531, 200_000, 20_000_000])
def test_a_body_of_any_size_comes_back_as_it_was(tmp_path, size):
    async def scenario():
        message = bytes(range(256)) * (size // 256) + bytes(size % 256)
        pieces = [memoryview(message)[at : at + 1_000_003] for at in range(0, size, 1_000_003)]
        async with serving(tmp_path / "s", echo), connected(tmp_path / "s") as channel:
            for _ in range(3):
                assert bytes(await channel.predict(pieces, TIMEOUT_S)) == message

    asyncio.run(scenario())


def test_it_waits_for_a_server_that_is_still_starting(tmp_path):
    async def scenario():
        async with waiting(tmp_path / "s") as (channel, opened):
            async with serving(tmp_path / "s", echo):
                await asyncio.wait_for(opened, TIMEOUT_S)
                assert bytes(await channel.predict([b"x"], TIMEOUT_S)) == b"x"

    asyncio.run(scenario())


def test_nobody_waits_for_a_server_on_a_connection_that_was_closed(tmp_path):
    async def scenario():
        async with waiting(tmp_path / "s") as (channel, opened):
            channel.close()
            async with serving(tmp_path / "s", echo):
                with pytest.raises(CallError, match="was closed"):
                    await asyncio.wait_for(opened, TIMEOUT_S)

    asyncio.run(scenario())


def test_calls_at_once_get_each_its_own_reply(tmp_path):
    async def scenario():
        messages = [bytes([number]) * (number * 30_000) for number in range(20)]
        async with serving(tmp_path / "s", echo), connected(tmp_path / "s") as channel:
            replies = await asyncio.gather(*[channel.predict([each], TIMEOUT_S) for each in messages * 5])
            assert list(map(bytes, replies)) == messages * 5

    asyncio.run(scenario())


def test_what_the_server_says_is_told_with_its_status(tmp_path):
    async def refuse(_body, context):
        await context.abort(grpc.StatusCode.INTERNAL, "100 % wrong, said the küche")

    async def scenario():
        async with serving(tmp_path / "s", refuse), connected(tmp_path / "s") as channel:
            assert await failed(channel.predict([b"x"], TIMEOUT_S)) == "INTERNAL: 100 % wrong, said the küche"

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["deadline", "cancel", "close"])
def test_the_server_hears_that_a_call_is_not_wanted_any_more(tmp_path, end):
    async def scenario():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hold(_body, _context):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with serving(tmp_path / "s", hold), connected(tmp_path / "s") as channel:
            call = asyncio.ensure_future(channel.predict([b"x"], 0.2 if end == "deadline" else TIMEOUT_S))
            await asyncio.wait_for(begun.wait(), TIMEOUT_S)
            if end == "deadline":
                assert (await failed(call)).startswith("DEADLINE_EXCEEDED")
            elif end == "close":
                channel.close()
                assert await failed(call) == "CANCELLED: the connection was closed"
            else:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await asyncio.wait_for(ended.wait(), TIMEOUT_S)

    asyncio.run(scenario())


def test_the_end_of_the_server_ends_its_calls_and_a_successor_is_found_at_once(tmp_path):
    async def scenario():
        async with connected(tmp_path / "s") as channel:
            assert (await failed(channel.predict([b"x"], TIMEOUT_S))).startswith("UNAVAILABLE")
            for _ in range(2):
                async with serving(tmp_path / "s", never) as server:
                    calls = [asyncio.ensure_future(channel.predict([b"x"], TIMEOUT_S)) for _ in range(3)]
                    while len(asyncio.all_tasks()) < 7:  # those of the server's own calls
                        await asyncio.sleep(0.01)
                    await server.stop(0)
                    for call in calls:
                        assert (await failed(call)).partition(":")[0] in ("UNAVAILABLE", "CANCELLED", "INTERNAL")
            async with serving(tmp_path / "s", echo):
                assert bytes(await channel.predict([b"there"], TIMEOUT_S)) == b"there"

    asyncio.run(scenario())


def test_a_socket_that_is_full_holds_up_nobody_beyond_the_deadline(tmp_path):
    async def scenario():
        over = asyncio.Event()

        async def reads_nothing(_reader, writer):
            writer.transport.pause_reading()
            writer.write(frames.settings({frames.INITIAL_WINDOW_SIZE: frames.MOST_WINDOW}))
            writer.write(frames.window_update(0, 2**30))
            await over.wait()
            writer.close()

        async with speaking(tmp_path / "s", reads_nothing), connected(tmp_path / "s") as channel:
            began = time.monotonic()
            calls = [channel.predict([bytes(5_000_000)], 0.3) for _ in range(10)]
            for told in await asyncio.gather(*map(failed, calls)):
                assert told.startswith("DEADLINE_EXCEEDED")
            assert time.monotonic() - began < patient(3)
            over.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", bytes(100_000), b"\xff" * 50, b""])
def test_a_stranger_on_the_socket_is_no_reply(tmp_path, data):
    async def speaks(reader, writer):
        await reader.read(10)
        writer.write(data)
        writer.close()

    async def scenario():
        async with speaking(tmp_path / "s", speaks), connected(tmp_path / "s") as channel:
            for _ in range(3):
                assert (await failed(channel.predict([b"x"], TIMEOUT_S))).startswith("UNAVAILABLE")

    asyncio.run(scenario())


def test_a_channel_that_is_closed_takes_no_calls(tmp_path):
    async def scenario():
        async with serving(tmp_path / "s", echo), connected(tmp_path / "s") as channel:
            await channel.predict([b"x"], TIMEOUT_S)
            opening = Channel(f"unix:{tmp_path}/s")
            calls = [asyncio.ensure_future(opening.predict([b"x"], TIMEOUT_S)) for _ in range(3)]
            await asyncio.sleep(0)
            for closed in (channel, opening):
                closed.close()
            for call in [channel.predict([b"x"], TIMEOUT_S), *calls]:
                assert (await failed(call)).startswith("CANCELLED")

    asyncio.run(scenario())
