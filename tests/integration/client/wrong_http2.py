"""A server that speaks HTTP/2 and answers every call as a proxy, or a server that goes away, does: not with a reply."""

import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.exceptions


class WrongHttp2:
    """answer(connection, stream) answers one call through the h2 connection; `calls` counts them."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.calls = 0

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        with peer:
            try:
                peer.sendall(connection.data_to_send())
                while data := peer.recv(65536):
                    for event in connection.receive_data(data):
                        if isinstance(event, h2.events.DataReceived):
                            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        elif isinstance(event, h2.events.StreamEnded):
                            self.calls += 1
                            self._answer(connection, event.stream_id)
                    peer.sendall(connection.data_to_send())
            except (OSError, h2.exceptions.ProtocolError):  # the caller is gone, or does not know yet that we are
                return


def reset(code):
    """RST_STREAM with an HTTP/2 error code: 2 INTERNAL_ERROR, 7 REFUSED_STREAM, 8 CANCEL, ..."""
    return lambda connection, stream: connection.reset_stream(stream, code)


def page(status):
    """An HTML page with an HTTP status."""

    def answer(connection, stream):
        connection.send_headers(stream, [(":status", str(status)), ("content-type", "text/html")])
        connection.send_data(stream, b"<html>Bad Gateway</html>", end_stream=True)

    return answer


def no_trailers(connection, stream):
    """A reply whose sender was gone before it had said how the call ended."""
    connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")], end_stream=True)


def goaway(connection, _stream):
    connection.close_connection(last_stream_id=0)
