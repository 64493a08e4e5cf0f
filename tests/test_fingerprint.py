"""What identifies a data set's images, and how a change is described."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from model.fingerprint import Fingerprint, SplitFingerprint, content_hash, digest

BEFORE = Fingerprint(train=SplitFingerprint(1200, "aa", "bb"), test=SplitFingerprint(60, "cc", "dd"))


def test_an_equal_fingerprint_has_no_changes() -> None:
    assert BEFORE.changes_since(BEFORE.as_json()) is None


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        ({"train": SplitFingerprint(1201, "a1", "b1")}, "1,201 train images, 1,200 then"),
        ({"train": SplitFingerprint(1200, "a1", "bb")}, "train images of other content"),
        ({"test": SplitFingerprint(60, "cc", "d1")}, "test images of other labels"),
        ({"test": SplitFingerprint(60, "c1", "d1")}, "test images of other content and labels"),
        (
            {"train": SplitFingerprint(7, "", ""), "test": SplitFingerprint(60, "c1", "dd")},
            "7 train images, 1,200 then; test images of other content",
        ),
    ],
)
def test_changes_are_described(now: dict[str, Any], changes: str) -> None:
    assert BEFORE._replace(**now).changes_since(BEFORE.as_json()) == changes


def test_weights_files_of_before_fingerprints_have_no_changes() -> None:
    assert BEFORE.changes_since({}) is None


def test_a_hash_is_that_of_the_content_alone() -> None:
    assert content_hash(b"retort") == int.from_bytes(hashlib.blake2b(b"retort", digest_size=8).digest(), "little")
    assert content_hash(b"retort") == content_hash(memoryview(b"a retort")[2:])


def test_a_digest_depends_on_the_order_of_its_parts() -> None:
    assert digest(b"a", b"b") == digest(b"ab") != digest(b"b", b"a")
