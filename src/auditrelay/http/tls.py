"""TLS to one peer: always verified, with its own authority and client certificate if set."""

import functools
import ssl
from pathlib import Path

import certifi

from auditrelay.errors import ConfigError
from auditrelay.files import check_file
from auditrelay.settings import PeerSettings


@functools.cache
def _public_tls() -> ssl.SSLContext:
    """Return the context shared by all peers with public certificates: it takes 20 ms to make."""
    return _trusting(certifi.where())


@functools.cache
def _no_tls() -> ssl.SSLContext:
    """Return a context that trusts no certificate, for peers with plain http."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def tls_context(name: str, settings: PeerSettings, base_url: str) -> ssl.SSLContext:
    """
    Return the TLS context for the peer *name*: public authorities, or its own, and our certificate.

    Raises ConfigError if a file of *settings* cannot be used.
    """
    addresses = (base_url, settings.proxy or "", *settings.addresses.values())
    if not any(address.startswith("https:") for address in addresses):
        return _no_tls()
    if settings.ca_file is None and settings.client_cert is None:
        return _public_tls()
    for key in ("ca_file", "client_cert", "client_key"):
        file: Path | None = getattr(settings, key)
        try:
            if file is not None:
                check_file(file)  # OpenSSL would wait for a pipe
        except OSError as error:
            raise ConfigError(f"{name}.{key}: cannot read {file}: {error.strerror}") from error
    try:
        context = _trusting(settings.ca_file or certifi.where())
    except OSError as error:
        raise ConfigError(
            f"{name}.ca_file: {settings.ca_file} contains no certificates in PEM form"
        ) from error
    if settings.client_cert is not None and settings.client_key is not None:
        try:
            # Without a password of some kind OpenSSL would ask for one at the terminal.
            context.load_cert_chain(settings.client_cert, settings.client_key, password="")
        except OSError as error:
            raise ConfigError(
                f"{name}.client_cert, client_key: {settings.client_cert} and "
                f"{settings.client_key} must be a certificate and its unencrypted key in PEM form"
            ) from error
    return context


def _trusting(ca_file: Path | str) -> ssl.SSLContext:
    """
    Return a context that trusts the authorities in *ca_file*.

    ``ssl.create_default_context`` would do the same, and write the keys of every connection where
    the variable SSLKEYLOGFILE says.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    return context
