"""Equal lines are found among many, by all 16 bytes."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.digests import FirstSeen, SortedDigests, as_digests

# Few different halves, so that first halves collide all the time.
halves = st.sampled_from([bytes([n]) * 8 for n in range(4)])
lines = st.lists(st.builds(lambda a, b: a + b, halves, halves), max_size=40)


@given(lines, lines)
def test_a_digest_is_found_by_all_of_its_bytes(known: list[bytes], wanted: list[bytes]) -> None:
    """An equal first half alone is no hit; of several equal ones the first is given."""
    found = SortedDigests(as_digests(b"".join(known)), np.arange(len(known))).find(
        as_digests(b"".join(wanted))
    )
    assert found.tolist() == [known.index(one) if one in known else -1 for one in wanted]


@given(st.lists(lines, max_size=6))
def test_the_first_of_equal_lines_is_named_over_all_chunks(chunks: list[list[bytes]]) -> None:
    """What came before may have come in any chunk, or in this one."""
    seen, before, position = FirstSeen(), dict[bytes, int](), 100
    for chunk in chunks:
        positions = np.arange(position, position + len(chunk))
        expected = []
        for place, one in zip(positions.tolist(), chunk, strict=True):
            expected.append(before.get(one, -1))
            before.setdefault(one, place)
        assert seen.add(as_digests(b"".join(chunk)), positions).tolist() == expected
        position += len(chunk)


def test_many_lines_merge_into_few_levels_and_are_all_found() -> None:
    """A quarter of a million lines, then all of them again."""
    digests = as_digests(b"".join(hashlib.md5(b"%d" % n).digest() for n in range(250_000)))
    seen = FirstSeen()
    for start in range(0, len(digests), 4096):
        part = digests[start : start + 4096]
        assert (seen.add(part, np.arange(start, start + len(part))) < 0).all()
    assert (seen.add(digests, np.arange(len(digests))) == np.arange(len(digests))).all()
    assert len(seen._levels) < 12
