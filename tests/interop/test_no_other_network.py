"""What keeps the clients on this machine."""

import socket

import pytest


def test_no_client_can_reach_another_host() -> None:
    """A name is not looked up and an address is not connected to."""
    with pytest.raises(RuntimeError), socket.socket() as one:
        one.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError):
        socket.getaddrinfo("example.com", 443)
