"""The proxy that the tests of the stores use: each fault is what it says."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time

import pytest
from durable.proxy import Proxy
from helpers import DEADLINE


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.server.received += data
            self.request.sendall(data)


@pytest.fixture
def echo():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        received = b""

        def handle_error(self, *args):
            """Log nothing about connections that were reset."""

    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo):
    with Proxy(echo.server_address[1]) as proxy:
        yield proxy


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def exchange(connection, data):
    connection.sendall(data)
    return connection.recv(1024)


def test_it_forwards_and_gives_the_url_that_leads_through_it(proxy):
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
    assert proxy.url("redis://:6379@127.0.0.1:6379/0") == f"redis://:6379@127.0.0.1:{proxy.port}/0"
    assert proxy.connections == 1


def test_a_connection_that_the_server_resets_is_reset(proxy, echo):
    def reset(request, address):
        request.recv(1024)
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close()

    echo.finish_request = reset
    with connect(proxy) as connection, pytest.raises(ConnectionResetError):
        exchange(connection, b"hello")


def test_cut_resets_what_is_open_and_what_comes(proxy):
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)
    proxy.heal()
    with connect(proxy) as connection:
        assert exchange(connection, b"again") == b"again"


def test_stall_holds_everything_back_until_it_heals(proxy, echo):
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        proxy.stall()
        connection.settimeout(0.1)
        connection.sendall(b"late")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert echo.received == b"hello"
        proxy.heal()
        connection.settimeout(DEADLINE)
        assert connection.recv(1024) == b"late"


def test_lose_answer_lets_the_request_through_and_resets_instead_of_answering(proxy, echo):
    with connect(proxy) as connection:
        proxy.lose_answer(after=2)
        assert exchange(connection, b"1") == b"1"
        assert exchange(connection, b"2") == b"2"
        connection.sendall(b"3")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert echo.received == b"123"


def test_delay_takes_its_time(proxy):
    with connect(proxy) as connection:
        proxy.delay(0.05)
        begin = time.monotonic()
        assert exchange(connection, b"hello") == b"hello"
        assert time.monotonic() - begin >= 0.1


def test_a_server_that_is_away_looks_as_it_does_without_a_proxy(echo):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Proxy(port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)
