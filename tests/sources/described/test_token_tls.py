"""A token endpoint is reached as its source says: with its authorities and its certificate."""

import ssl
from pathlib import Path

import pytest
from tests.support.authorized import ask, rig
from tests.support.certificates import certify
from tests.support.clock import FakeClock
from tests.support.peers import raw_server

from auditrelay.errors import Retryable

TOKEN = "tls-token-0123456789"
BODY = b'{"access_token": "%s"}' % TOKEN.encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a key and a certificate of it for 127.0.0.1."""
    return certify(tmp_path)


async def test_a_token_endpoint_is_believed_and_believes_as_the_source_says(
    clock: FakeClock, certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificate / "cert.pem")
    async with rig(clock) as made, raw_server(*[ANSWER] * 9, tls=tls) as url:
        made.server.accepted.add(TOKEN)
        stranger = made.source("one", token_url=f"{url}/other")
        with pytest.raises(Retryable, match="no TLS connection for POST https") as caught:
            await ask(stranger)
        assert caught.value.reason == "tls"
        peer = made.source(
            "two",
            token_url=url,
            ca_file=certificate / "cert.pem",
            client_cert=certificate / "cert.pem",
            client_key=certificate / "key.pem",
        )
        assert (await ask(peer)).status == 200
