"""The server that stands on gRPC's core: what grpc.aio's does for a handler, without the gateway around it."""

import asyncio
import contextlib
import gc
import threading
import weakref

import grpc
import pytest

from servable.gateway.core_events import CoreEvents
from servable.gateway.fair_server import FairServer
from tests.integration.servable.gateway.harness import WAIT_S, until

PATH = "/a.b/C"


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, handler):
        self._handler = handler

    def service(self, _details):
        return self._handler


@contextlib.contextmanager
def served(handler):
    """(channel, run: a coroutine on the server's loop, server)."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT_S)

    async def start():
        server = FairServer((("grpc.so_reuseport", 0),), streams=100, with_bodies=set)
        server.add_generic_rpc_handlers((_Handlers(handler),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = run(start())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel, run, server
    finally:
        run(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def test_messages_go_both_ways_as_they_come():
    async def double(messages, _context):
        async for message in messages:
            yield message + message

    handler = grpc.stream_stream_rpc_method_handler(double, bytes.decode, str.encode)
    with served(handler) as (channel, _, _):
        assert list(channel.stream_stream(PATH)(iter([b"a", b"b"]), timeout=WAIT_S)) == [b"aa", b"bb"]


def test_a_handler_that_fails_is_answered_without_a_word_of_its_error(caplog):
    async def fail(_body, _context):
        raise ValueError("/secret/path")

    with served(grpc.unary_unary_rpc_method_handler(fail)) as (channel, _, _):
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(PATH)(b"", timeout=WAIT_S)
    assert failed.value.code() is grpc.StatusCode.INTERNAL and "secret" not in failed.value.details()
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("streams", [False, True])
def test_a_handler_is_cancelled_when_its_caller_goes(streams):
    began, ended = threading.Event(), threading.Event()

    async def wait(_body, _context):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def wait_in_a_stream(body, context):
        yield b"first"
        await wait(body, context)

    handler = grpc.unary_unary_rpc_method_handler(wait)
    if streams:
        handler = grpc.unary_stream_rpc_method_handler(wait_in_a_stream)
    with served(handler) as (channel, _, _):
        call = channel.unary_stream(PATH)(b"") if streams else channel.unary_unary(PATH).future(b"")
        assert began.wait(WAIT_S)
        call.cancel()
        assert ended.wait(WAIT_S)


def test_a_call_that_is_over_is_held_by_nothing():
    calls = []

    async def note(body, context):
        calls.append(weakref.ref(context))
        return body

    with served(grpc.unary_unary_rpc_method_handler(note)) as (channel, _, _):
        gc.disable()
        try:
            channel.unary_unary(PATH)(b"", timeout=WAIT_S)
            until(lambda: calls[0]() is None, "the end of the call")
        finally:
            gc.enable()


def test_calls_end_when_the_server_has_stopped():
    began = threading.Event()

    async def wait(_body, _context):
        began.set()
        await asyncio.Event().wait()

    with served(grpc.unary_unary_rpc_method_handler(wait)) as (channel, run, server):
        call = channel.unary_unary(PATH).future(b"")
        assert began.wait(WAIT_S)
        run(server.stop(0.05))
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert run(server.wait_for_termination()) is False


def test_an_event_that_meets_an_error_is_logged_and_the_next_one_is_taken(caplog):
    async def answer(body, _context):
        return body

    with served(grpc.unary_unary_rpc_method_handler(answer)) as (channel, _, server):
        line_up = server._line_up
        server._line_up = lambda event: line_up(event) or 1 / 0
        for _ in range(70):  # more than gRPC is asked for in the beginning
            assert channel.unary_unary(PATH)(b"1", timeout=WAIT_S) == b"1"
        del server._line_up
    assert "an event of gRPC met an error" in caplog.text


def test_the_thread_that_waits_for_events_ends_with_the_server_and_with_the_loop():
    def threads():
        return [each for each in threading.enumerate() if each.name == "grpc-events"]

    async def answer(body, _context):
        return body

    with served(grpc.unary_unary_rpc_method_handler(answer)):
        assert len(threads()) == 1
    until(lambda: not threads(), "its end")

    async def stop_when(events_wait):
        events = CoreEvents(asyncio.get_running_loop())
        events.start()
        if events_wait:
            await asyncio.sleep(0)
        await events.stop()

    for events_wait in (False, True):
        asyncio.run(stop_when(events_wait))
        until(lambda: not threads(), "its end")
