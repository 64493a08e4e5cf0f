"""What identifies the images of a data set: their content, their labels, their order."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple


class SplitFingerprint(NamedTuple):
    """All training images of a data set, or all test images: how many, and digests of their content and labels."""

    images: int
    content: str
    labels: str


class Fingerprint(NamedTuple):
    """Of equal fingerprints, training and test images are equal, in the same order."""

    train: SplitFingerprint
    test: SplitFingerprint

    def as_json(self) -> dict[str, Any]:
        return {name: part._asdict() for name, part in self._asdict().items()}

    def changes_since(self, before: dict[str, Any]) -> str | None:
        """How the data differs from that of an earlier fingerprint, as JSON; None where it does not."""
        changes = [_changes(name, part._asdict(), before.get(name)) for name, part in self._asdict().items()]
        return "; ".join(filter(None, changes)) or None


def _changes(name: str, now: dict[str, Any], before: dict[str, Any] | None) -> str | None:
    if before is None or before == now:
        return None
    if before["images"] != now["images"]:
        return f"{now['images']:,} {name} images, {before['images']:,} then"
    differing = " and ".join(key for key in ("content", "labels") if before[key] != now[key])
    return f"{name} images of other {differing}"


def digest(*parts: bytes) -> str:
    """SHA-256 of some bytes, its first half."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def content_hash(content: bytes | memoryview) -> int:
    """64 bits of BLAKE2b: the hash of one image."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
