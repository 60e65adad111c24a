"""The wire that other tests put between a client and a server (``support/wire.py``)."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import psycopg
import pytest
from tests.support.postgres import Server
from tests.support.wire import HOST, Wire

SOON, LONG = 0.1, 20.0  # seconds in which nothing shall come, and in which something shall


class Ends:
    """A listener with a wire to it, and the sockets at both ends of it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.listener = self._stack.enter_context(socket.create_server((HOST, 0)))
        self.listener.settimeout(LONG)
        self.address = f"tcp://{HOST}:{self.listener.getsockname()[1]}"
        self.wire = self._stack.enter_context(Wire(self.address))

    def client(self) -> socket.socket:
        address = HOST, self.wire.port
        return self._stack.enter_context(socket.create_connection(address, LONG))

    def server(self) -> socket.socket:
        server, _ = self.listener.accept()
        server.settimeout(LONG)
        return self._stack.enter_context(server)

    def both(self) -> tuple[socket.socket, socket.socket]:
        return self.client(), self.server()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def received(sock: socket.socket, size: int) -> bytes:
    """Return *size* bytes, or fewer if the other side has ended."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def silent(sock: socket.socket) -> bool:
    """Whether nothing comes, neither a byte nor an end."""
    sock.settimeout(SOON)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(LONG)
    return False


def is_reset(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1)) and False
    except ConnectionResetError:
        return True


def test_everything_is_carried_both_ways_and_counted(ends: Ends) -> None:
    client, server = ends.both()
    large = bytes(range(256)) * 4000
    for sender, receiver in ((client, server), (server, client)):
        sender.sendall(b"small")
        assert received(receiver, 5) == b"small"
        sender.settimeout(LONG)
        sender.sendall(large)
        assert received(receiver, len(large)) == large
    client, server = ends.both()
    client.sendall(b"x")
    assert received(server, 1) == b"x"
    assert ends.wire.connections == ends.wire.open == 2
    assert ends.wire.sent == 5 + len(large) + 1


def test_an_end_is_carried_and_the_other_direction_goes_on(ends: Ends) -> None:
    client, server = ends.both()
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert received(server, 99) == b"last"
    server.sendall(b"answer")
    server.close()
    assert received(client, 99) == b"answer"


def test_a_reset_is_carried(ends: Ends) -> None:
    client, server = ends.both()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert is_reset(server)


def test_a_delay_is_that_of_a_round_trip_and_not_of_each_piece(ends: Ends) -> None:
    client, server = ends.both()
    ends.wire.delay(0.4)
    begun = time.monotonic()
    for number in range(10):
        client.sendall(b"%d" % number)
        time.sleep(0.005)  # so that they are ten pieces
    assert received(server, 10) == b"0123456789"
    server.sendall(b"x")
    assert received(client, 1) == b"x"
    assert 0.4 <= time.monotonic() - begun < 1.2
    ends.wire.heal()
    begun = time.monotonic()
    client.sendall(b"x")
    assert received(server, 1) == b"x"
    assert time.monotonic() - begun < 0.2


@pytest.mark.parametrize("lost", ["to_server", "to_client"])
def test_one_direction_loses_what_it_carries_and_the_other_does_not(ends: Ends, lost: str) -> None:
    client, server = ends.both()
    ends.wire.drop(to_server=lost == "to_server", to_client=lost == "to_client")
    near, far = (client, server) if lost == "to_server" else (server, client)
    near.sendall(b"lost")
    far.sendall(b"arrives")
    assert received(near, 7) == b"arrives"
    assert silent(far)
    ends.wire.heal()
    assert is_reset(client)
    assert is_reset(server)
    client, server = ends.both()
    client.sendall(b"new")
    assert received(server, 3) == b"new"


def test_a_connection_that_has_lost_nothing_outlives_the_loss(ends: Ends) -> None:
    client, server = ends.both()
    ends.wire.drop()
    ends.wire.heal()
    client.sendall(b"alive")
    assert received(server, 5) == b"alive"


def test_an_end_is_lost_as_well(ends: Ends) -> None:
    client, server = ends.both()
    ends.wire.drop()
    client.shutdown(socket.SHUT_WR)
    assert silent(server)
    server.shutdown(socket.SHUT_WR)
    assert silent(client)
    assert silent(server)
    ends.wire.heal()
    assert is_reset(client)
    assert is_reset(server)


def test_what_is_held_arrives_in_order_when_the_wire_is_healed(ends: Ends) -> None:
    client, server = ends.both()
    ends.wire.hold()
    client.sendall(b"one")
    server.sendall(b"answer")
    assert silent(server)
    client.sendall(b"two")
    client.shutdown(socket.SHUT_WR)
    assert silent(client)
    ends.wire.heal()
    assert received(server, 99) == b"onetwo"
    assert received(client, 6) == b"answer"


@pytest.mark.parametrize("how", ["hold", "drop"])
def test_who_connects_to_a_wire_that_carries_nothing_is_connected_afterwards(
    ends: Ends, how: str
) -> None:
    getattr(ends.wire, how)()
    client = ends.client()
    client.sendall(b"hello")
    assert silent(client)
    assert ends.wire.open == 0
    ends.wire.heal()
    assert received(ends.server(), 5) == b"hello"


def test_all_connections_are_reset_at_both_ends(ends: Ends) -> None:
    pairs = [ends.both() for _ in range(3)]
    ends.wire.reset()
    assert all(is_reset(each) for pair in pairs for each in pair)


def test_a_client_that_waits_for_its_server_is_reset_as_well(ends: Ends) -> None:
    ends.wire.hold()
    client = ends.client()
    while not ends.wire.connections:
        assert silent(client)
    ends.wire.reset()
    ends.server()
    assert is_reset(client)


def test_new_clients_get_to_the_server_that_was_switched_to(ends: Ends) -> None:
    other = Ends()
    client, server = ends.both()
    ends.wire.switch(other.address)
    ends.client().sendall(b"new")
    assert received(other.server(), 3) == b"new"
    client.sendall(b"old")
    assert received(server, 3) == b"old"
    other.close()


def test_a_client_of_a_server_that_refuses_is_reset(ends: Ends) -> None:
    ends.listener.close()
    with pytest.raises(ConnectionResetError):
        ends.client().recv(1)


def test_a_wire_that_is_closed_refuses_and_has_reset_its_clients(ends: Ends) -> None:
    client, server = ends.both()
    client.sendall(b"x")
    assert received(server, 1) == b"x"
    ends.wire.close()
    assert is_reset(client)
    assert is_reset(server)
    with pytest.raises(ConnectionRefusedError):
        ends.client()


# --- at an exact place ----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 5, 9])
@pytest.mark.parametrize("pieces", [["...commit..."], ["...com", "mit..."], list("...commit...")])
def test_a_connection_is_cut_so_many_bytes_after_what_a_client_sends(
    ends: Ends, pieces: list[str], after: int
) -> None:
    bystander, client = ends.both(), ends.both()
    happened = ends.wire.trip("cut", at=b"commit", after=after)
    bystander[0].sendall(b"comm")
    assert received(bystander[1], 4) == b"comm"
    got, passed = b"", 0
    for piece in pieces:
        if "commit" not in "".join(pieces)[: passed + len(piece)]:
            passed += len(piece)
        bystander[0].sendall(b"#")
        assert received(bystander[1], 1) == b"#"
        client[0].sendall(piece.encode())
        more = received(client[1], len(piece))
        got += more
        if len(more) < len(piece):
            break
    assert happened.wait(LONG)
    got += received(client[1], 99)
    # What had gone before the last byte of "commit" came cannot be taken back.
    assert got == b"...commit..."[: max(3 + after, passed)]
    assert is_reset(client[0])
    bystander[0].sendall(b"commit")
    assert received(bystander[1], 6) == b"commit"


def test_a_cut_in_the_middle_of_much_passes_no_byte_more(ends: Ends) -> None:
    client, server = ends.both()
    happened = ends.wire.trip("cut", after=3_000_000)
    try:
        client.sendall(bytes(6_000_000))
    except ConnectionResetError:  # before all of it was in the buffers of the system
        reset = True
    else:
        reset = False
    assert len(received(server, 6_000_000)) == 3_000_000
    assert happened.wait(LONG)
    assert reset or is_reset(client)
    assert ends.wire.sent == 3_000_000


def test_the_rest_of_what_a_client_sends_is_held(ends: Ends) -> None:
    client, server = ends.both()
    happened = ends.wire.trip("hold", after=4)
    client.sendall(b"firstsecond")
    assert happened.wait(LONG)
    assert received(server, 4) == b"firs"
    client.sendall(b"third")
    assert silent(server)
    server.sendall(b"answer")
    assert received(client, 6) == b"answer"
    ends.wire.heal()
    assert received(server, 12) == b"tsecondthird"


def test_the_answers_to_a_client_are_lost_from_a_place_on(ends: Ends) -> None:
    client, server = ends.both()
    happened = ends.wire.trip("mute", at=b"commit")
    client.sendall(b"begin")
    assert received(server, 5) == b"begin"
    server.sendall(b"begun")
    assert received(client, 5) == b"begun"
    client.sendall(b"..commit..")
    assert happened.wait(LONG)
    assert received(server, 10) == b"..commit.."
    server.sendall(b"committed")
    server.close()
    assert silent(client)
    other, at_server = ends.both()
    other.sendall(b"commit")
    assert received(at_server, 6) == b"commit"
    at_server.sendall(b"committed")
    assert received(other, 9) == b"committed"
    ends.wire.heal()
    assert is_reset(client)


# --- with PostgreSQL ------------------------------------------------------------------------------


@pytest.mark.process
async def test_a_commit_of_which_the_answer_is_lost_has_happened(
    postgres: Server, database: str, wire: Wire
) -> None:
    name = database.rpartition("/")[2]
    postgres.execute("create table kept (number integer)", database=name)
    connection = await psycopg.AsyncConnection.connect(wire.through(database))
    await connection.execute("insert into kept values (1)")
    happened = wire.trip("mute", at=b"COMMIT")
    committing = asyncio.create_task(connection.commit())
    assert await asyncio.to_thread(happened.wait, LONG)
    # It waits for the lock of the other, which is still to be committed.
    postgres.execute("begin; lock table kept; commit", database=name)
    assert postgres.execute("select number from kept", database=name) == [(1,)]
    assert not committing.done()
    wire.heal()
    with pytest.raises(psycopg.OperationalError):
        await committing
    await connection.close()


@pytest.mark.process
def test_a_commit_that_is_cut_before_its_end_has_not_happened(
    postgres: Server, database: str, wire: Wire
) -> None:
    name = database.rpartition("/")[2]
    postgres.execute("create table kept (number integer)", database=name)
    with psycopg.connect(wire.through(database)) as connection:
        connection.execute("insert into kept values (1)")
        wire.trip("cut", at=b"COMMIT", after=5)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    # It waits for the lock of the other, which the server is still undoing.
    postgres.execute("begin; lock table kept; commit", database=name)
    assert postgres.execute("select number from kept", database=name) == []
