"""Who made a bundle: an Ed25519 signature over its manifest, which holds the hashes of all else.

``manifest.sig`` is the signature in base64 (RFC 8032). Where an operator names public keys, a
bundle that none of them signed is not even parsed. Needs the ``signing`` extra; keys are OpenSSL's:

    openssl genpkey -algorithm ed25519 -out release.pem
    openssl pkey -in release.pem -pubout -out release.pub
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detectors.manifest_file import MANIFEST, SIGNATURE, BundleProblem, Refusal, read_manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class KeyProblem(Exception):
    """A key that cannot be used. The message says which file and what to do."""


def sign(directory: Path, key: Ed25519PrivateKey) -> None:
    """Write ``manifest.sig`` beside the manifest, in place of one that is there. Raises
    ``BundleProblem``."""
    signature = key.sign(read_manifest(directory))
    (directory / SIGNATURE).write_bytes(base64.b64encode(signature) + b"\n")


def check_signature(directory: Path, manifest: bytes, keys: Sequence[Ed25519PublicKey]) -> None:
    """Raise ``BundleProblem`` unless one of ``keys`` signed these bytes of the manifest."""
    from cryptography.exceptions import InvalidSignature

    path = directory / SIGNATURE
    try:
        signature = base64.b64decode(path.read_bytes().strip(), validate=True)
    except FileNotFoundError:
        raise BundleProblem(
            f"{directory}: not signed, and only signed bundles are served here (bundle_keys); sign "
            "it with `lazaret bundle sign`",
            Refusal.SIGNATURE,
        ) from None
    except OSError as error:
        raise BundleProblem(f"{path}: {error.strerror or error}", Refusal.UNREADABLE) from None
    except binascii.Error:
        raise BundleProblem(
            f"{path}: no signature; sign the bundle again", Refusal.SIGNATURE
        ) from None
    for key in keys:
        try:
            key.verify(signature, manifest)
        except InvalidSignature:
            continue
        return
    raise BundleProblem(
        f"{path}: none of the trusted keys signed this {MANIFEST}; fetch the bundle again from "
        "where it was signed, or trust the key that signed it",
        Refusal.SIGNATURE,
    )


def private_key(path: Path) -> Ed25519PrivateKey:
    """From a PEM file without a passphrase. Raises ``KeyProblem``."""
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(
            f"{path}: no Ed25519 private key in PEM without a passphrase; make one with `openssl "
            "genpkey -algorithm ed25519 -out FILE`"
        )
    return key


def public_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """All of a PEM file, at least one. Raises ``KeyProblem``."""
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = []
    for block in _PEM.findall(_read(path)):
        try:
            key = load_pem_public_key(block)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyProblem(f"{path}: holds a public key that is not Ed25519")
        keys.append(key)
    if not keys:
        raise KeyProblem(
            f"{path}: no public key in PEM; make it with `openssl pkey -in PRIVATE -pubout`"
        )
    return tuple(keys)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyProblem(f"{path}: {error.strerror or error}") from None


def _need_cryptography() -> None:
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise KeyProblem("signatures need `pip install 'lazaret[signing]'`")
