"""Short digests for `Source.fingerprint`."""

import hashlib
from collections.abc import Iterable


def digest(*parts: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `parts`, each preceded by its length."""
    return digest_all(parts)


def digest_all(parts: Iterable[bytes]) -> str:
    """`digest` of many parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:16]
