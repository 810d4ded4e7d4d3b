"""A certificate authority that signs one certificate, that of a broker, and is then forgotten.

Its own certificate is what clients are given: nobody can sign another one for them, since the key that signs is never
written.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pymar.exceptions import MissingExtra, UsageError

if TYPE_CHECKING:
    from cryptography import x509

#: How long a certificate is good, and how far the clock of another host may be behind.
_VALID, _SKEW = datetime.timedelta(days=365), datetime.timedelta(days=1)


class Certificate(NamedTuple):
    """PEM texts: the authority's certificate, the server's certificate and its key."""

    authority: bytes
    server: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Certificate()"  # the key is a secret


def made_for(names: Iterable[str]) -> Certificate:
    """Return a new certificate for these host names and IP addresses, good for a year.

    Raises:
        MissingExtra: the library `cryptography` is not installed.
        UsageError: one of the names is neither a host's name nor an IP address.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingExtra("a broker for other hosts needs TLS, and that: pip install 'pymar[hosts]'") from error

    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])
    now = datetime.datetime.now(datetime.UTC)
    signing, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _named("Pymar's authority for one broker")
    blank = x509.CertificateBuilder().not_valid_before(now - _SKEW).not_valid_after(now + _VALID).issuer_name(issuer)
    authority_id = x509.SubjectKeyIdentifier.from_public_key(signing.public_key())
    authority = (
        blank.subject_name(issuer)
        .public_key(signing.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(of_authority=True), critical=True)
        .add_extension(authority_id, critical=False)
        .sign(signing, hashes.SHA256())
    )
    server = (
        blank.subject_name(_named("Pymar's broker"))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(of_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        # Python 3.13 verifies strictly, and wants this one.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(authority.public_bytes(pem), server.public_bytes(pem), key)


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        ascii_name = ""
    labels = ascii_name.removesuffix(".").split(".")
    if not all(label.replace("-", "").replace("_", "").isalnum() for label in labels):
        raise UsageError(f"{name!r} is neither a host's name nor an IP address: give what other hosts call this one")
    return x509.DNSName(ascii_name.removesuffix("."))


def _named(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])


def _usage(*, of_authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not of_authority,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
