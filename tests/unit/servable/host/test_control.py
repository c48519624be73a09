"""Orders over the control socket: answered, and hostile ones too."""

import asyncio
import socket
import stat

import pytest

from servable.host.control import SOCKET_NAME, ControlServer, give_order


def serve(tmp_path, client):
    """Runs `client` in a thread against a server that echoes orders."""

    async def handler(order):
        return {"exit_code": 0, "message": f"did {order['command']}"}

    async def scenario():
        server = ControlServer(tmp_path, handler)
        await server.start()
        try:
            return await asyncio.to_thread(client)
        finally:
            await server.stop()

    return asyncio.run(scenario())


def test_an_order_is_answered_and_the_socket_is_private(tmp_path):
    def client():
        assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
        return give_order(tmp_path, {"command": "status"}, 5)

    assert serve(tmp_path, client) == {"exit_code": 0, "message": "did status"}
    assert not (tmp_path / SOCKET_NAME).exists()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\n", b"", b"x" * 200_000 + b"\n", b"\xff\xfe\n"])
def test_nonsense_is_refused_and_the_next_order_is_answered(tmp_path, line):
    def client():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(tmp_path / SOCKET_NAME))
            try:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                refused = connection.recv(4096)
            except ConnectionError:
                refused = b""
        assert b"not an order" in refused or not refused
        return give_order(tmp_path, {"command": "status"}, 5)

    assert serve(tmp_path, client)["exit_code"] == 0


def test_no_server_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        give_order(tmp_path, {"command": "status"}, 1)
