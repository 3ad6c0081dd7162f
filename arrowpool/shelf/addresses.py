"""Where owners listen: the form of their addresses, and which of them exist.

An owner listens on a socket in the abstract namespace, which needs no file, is visible from every mount namespace, and
disappears with the process. Anybody may take such an address, so the kernel is asked whose a socket is: by sock_diag(7) before
connecting, and by SO_PEERCRED afterwards.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

from arrowpool.memory import facilities
from arrowpool.shelf import users

_PREFIX = "\0arrowpool-shelf"
_PEER = struct.Struct("3i")
_KERNEL_SECONDS = 1.0

# sock_diag(7)
_DIAG_REQUEST = struct.Struct("=IHHIIBBHIIIII")
_DIAG_HEADER = struct.Struct("=IHHII")
_DIAG_MESSAGE = 32
_ATTRIBUTE = struct.Struct("=HH")
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP = 4, 20, 0x301
_LISTENING, _SHOW_NAME, _SHOW_USER = 1 << 10, 0x1, 0x40
_NAME, _USER = 0, 7
_ERROR, _DONE = 2, 3


def address_of(user: int, pid: int, token: str) -> str:
    """The address of an owner."""
    return f"{_PREFIX}/{user}/{pid}/{token}"


def parse_address(address: bytes) -> tuple[int, int, str] | None:
    """User, process and token of the owner with this address; None for an address of another form."""
    parts = address.decode(errors="replace").split("/")
    if len(parts) == 4 and parts[0] == _PREFIX and parts[1].isdecimal() and parts[2].isdecimal():
        user, pid, token = int(parts[1]), int(parts[2]), parts[3]
        if address_of(user, pid, token).encode() == address:
            return user, pid, token
    return None


def peer(connection: socket.socket) -> tuple[int, int]:
    """User id and process at the other end, as the kernel names them: of the process that listens, or that has connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, user, _ = _PEER.unpack(credentials)
    return user, pid


def owners() -> Iterator[tuple[int, str]]:
    """Process and token of every owner of this user.

    Where the kernel does not name the users of sockets, the addresses themselves are believed: what is found there is checked
    again when it is opened or asked.
    """
    own = users.own()
    of_sockets = listeners()
    for address in _listed() if of_sockets is None else of_sockets:
        parsed = parse_address(address)
        if parsed is None:
            continue
        said, pid, token = parsed
        if said in own and (of_sockets is None or of_sockets[address] in own):
            yield pid, token


def _listed() -> Iterator[bytes]:
    with open(facilities.proc("net/unix"), encoding="utf-8", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").rpartition(" ")[2]
            if path.startswith("@"):
                yield b"\0" + path[1:].encode()


def listeners() -> dict[bytes, int] | None:
    """Addresses of owners' form that have a listener, with the user of the socket; None where the kernel does not say.

    From sock_diag(7), which names the user of a socket since Linux 5.3.
    """
    found: dict[bytes, int] = {}
    prefix = _PREFIX.encode() + b"/"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_KERNEL_SECONDS)
            kernel.sendto(
                _DIAG_REQUEST.pack(
                    *(_DIAG_REQUEST.size, _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0),
                    *(socket.AF_UNIX, 0, 0, _LISTENING, 0, _SHOW_NAME | _SHOW_USER, 0, 0),
                ),
                (0, 0),
            )
            while True:
                block = kernel.recv(1 << 18)
                at = 0
                while at + _DIAG_HEADER.size <= len(block):
                    length, kind, *_ = _DIAG_HEADER.unpack_from(block, at)
                    if kind == _DONE:
                        return found
                    if kind == _ERROR or length < _DIAG_HEADER.size:
                        return None
                    name, user = _attributes(block[at + _DIAG_MESSAGE : at + length])
                    if name.startswith(prefix):
                        if user is None:
                            return None
                        found[name] = user
                    at += -(-length // 4) * 4
    except OSError:
        return None


def _attributes(block: bytes) -> tuple[bytes, int | None]:
    """Name and user in the attributes of one socket."""
    name, user = b"", None
    at = 0
    while at + _ATTRIBUTE.size <= len(block):
        length, kind = _ATTRIBUTE.unpack_from(block, at)
        if length < _ATTRIBUTE.size:
            break
        value = block[at + _ATTRIBUTE.size : at + length]
        if kind == _NAME:
            name = value
        elif kind == _USER and len(value) == 4:
            user = int.from_bytes(value, sys.byteorder)
        at += -(-length // 4) * 4
    return name, user
