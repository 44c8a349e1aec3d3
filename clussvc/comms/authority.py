"""The cluster's own certificate authority: who is a node, who is an administrator.

Made with the cluster; every member keeps the authority's key, so that any of them can admit the next node. Identities
stand in a URI of the certificate, which is what the other side checks; names and addresses may change freely:

```
  clussvc://CLUSTER-ID/node/NUMBER
  clussvc://CLUSTER-ID/admin/ROLE/NAME
```

Keys are ECDSA on P-256, which every TLS 1.3 library has.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clussvc.model.errors import ClusterError

VALID_DAYS: Final = 3_652
"""Ten years: an expired certificate must not be what stops a failover; rotation does not depend on it."""

CLOCK_SLACK: Final = datetime.timedelta(days=1)
"""Certificates begin to be valid a day early, for machines whose clocks are behind."""

ROLES: Final = ("read-only", "operator", "administrator")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """A member, as its certificate says."""

    cluster_id: str
    node_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminIdentity:
    """A person or program that administers, with one of ROLES."""

    cluster_id: str
    role: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Issues certificates for one cluster."""

    def __init__(self, *, cluster_id: str, pair: KeyPair) -> None:
        """Raises ClusterError(``authority-damaged``) if the texts are no certificate and key."""
        self.cluster_id = cluster_id
        self.pair = pair
        try:
            self._certificate = x509.load_pem_x509_certificate(pair.certificate)
            key = serialization.load_pem_private_key(pair.key, password=None)
        except (ValueError, TypeError) as error:
            raise ClusterError(
                "authority-damaged",
                f"the certificate or key of the cluster's authority cannot be read ({error}); copy ca.pem and ca.key"
                " from another node",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ClusterError("authority-damaged", "the authority's key is not an elliptic-curve key")
        self._key = key

    @classmethod
    def create(cls, *, cluster_id: str, cluster_name: str) -> Authority:
        """A new authority with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"clussvc cluster {cluster_name}"[:64])
        builder = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, hashes.SHA256())
        return cls(cluster_id=cluster_id, pair=KeyPair(certificate=_pem(certificate), key=_key_pem(key)))

    def sign_node_request(self, request: bytes, *, node_id: int, node_name: str) -> bytes:
        """A certificate for the key in a signing request (PEM); everything else in the request is ignored.

        Raises ClusterError(``bad-signing-request``).
        """
        try:
            parsed = x509.load_pem_x509_csr(request)
        except ValueError as error:
            raise ClusterError("bad-signing-request", f"not a signing request: {error}", remote=True) from error
        key = parsed.public_key()
        if not parsed.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ClusterError("bad-signing-request", "its signature or the kind of its key is wrong", remote=True)
        return self._issue(key, f"clussvc://{self.cluster_id}/node/{node_id}", node_name)

    def issue_administrator(self, *, name: str, role: str) -> KeyPair:
        """A new key and certificate for an administrator.

        Raises ClusterError(``unknown-role``).
        """
        if role not in ROLES:
            raise ClusterError("unknown-role", f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
        key = ec.generate_private_key(ec.SECP256R1())
        uri = f"clussvc://{self.cluster_id}/admin/{role}/{quote(name, safe='')}"
        return KeyPair(certificate=self._issue(key.public_key(), uri, name), key=_key_pem(key))

    def _issue(self, key: ec.EllipticCurvePublicKey, uri: str, common_name: str) -> bytes:
        builder = (
            _builder(_name(common_name[:64]), self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()))


def new_signing_request(node_name: str) -> tuple[bytes, bytes]:
    """A new key (PEM) and a signing request for it (PEM); the key never leaves the machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(node_name[:64])).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> str:
    """SHA-256 over a certificate (PEM), as hex.

    Raises ClusterError(``bad-certificate``) unless the text holds exactly one certificate.
    """
    return hashlib.sha256(_parse_one(certificate).public_bytes(serialization.Encoding.DER)).hexdigest()


def only_certificate(text: bytes) -> bytes:
    """The one certificate (PEM) that a text from a stranger holds, written anew and without anything around it.

    TLS trusts *every* authority in the text that it is given. A text with a second certificate behind the expected one
    would otherwise carry the expected fingerprint and make the second authority trusted.

    Raises ClusterError(``bad-certificate``) unless there is exactly one.
    """
    return _pem(_parse_one(text))


def _parse_one(text: bytes) -> x509.Certificate:
    try:
        parsed = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ClusterError("bad-certificate", f"not a certificate: {error}", remote=True) from error
    if len(parsed) != 1:
        raise ClusterError("bad-certificate", f"{len(parsed)} certificates where one belongs", remote=True)
    return parsed[0]


def identity_of(certificate_der: bytes) -> NodeIdentity | AdminIdentity:
    """Who a certificate that TLS has verified stands for.

    Raises ClusterError(``bad-certificate``) when it names nobody of this product.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate_der)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ClusterError("bad-certificate", f"the certificate has no identity: {error}", remote=True) from error
    for uri in uris:
        match uri.split("/"):
            case ["clussvc:", "", cluster, "node", number] if number.isascii() and number.isdecimal():
                return NodeIdentity(cluster_id=cluster, node_id=int(number))
            case ["clussvc:", "", cluster, "admin", role, name] if role in ROLES:
                return AdminIdentity(cluster_id=cluster, role=role, name=unquote(name))
    raise ClusterError("bad-certificate", "the certificate names neither a node nor an administrator", remote=True)


def signed_by(certificate: bytes, authority: bytes) -> bool:
    """Whether the authority's certificate (PEM) signed the other one (PEM)."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def server_context(*, certificate: str, key: str, authority: str, require_client: bool) -> ssl.SSLContext:
    """TLS 1.3 for listening; paths of PEM files. Without ``require_client`` a client may stay anonymous."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cafile=authority)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context


def client_context(*, certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS 1.3 for dialling a member; the host name is not checked, the identity is (see :func:`identity_of`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cafile=authority)
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or "-")])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
