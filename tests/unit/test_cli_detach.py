"""The keys that leave a container."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.cli.terminal.detach import DEFAULT_KEYS, DetachKeys, parse_detach_keys

KEYS = b"\x10\x11"


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (DEFAULT_KEYS, b"\x10\x11"),
        ("ctrl-a", b"\x01"),
        ("ctrl-z,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1a\x00\x1b\x1c\x1d\x1e\x1f"),
        ("a,b,DEL", b"ab\x7f"),
    ],
)
def test_keys_are_written_as_in_docker(text: str, codes: bytes) -> None:
    assert parse_detach_keys(text) == codes


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "ctrl-ab", "foo", "a,", "é"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Unknown character"):
        parse_detach_keys(text)


def test_the_beginning_of_the_keys_is_held_until_it_is_clear_what_it_is() -> None:
    keys = DetachKeys(KEYS)
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"\x10") == (b"\x10", False)
    assert keys.feed(b"\x11rest") == (b"", True)


@given(st.binary(max_size=4), st.lists(st.text("ab").map(str.encode)))
def test_keys_are_found_where_they_are_and_nothing_before_them_is_lost(keys: bytes, typed: list[bytes]) -> None:
    keys = bytes(b"ab"[code % 2] for code in keys)
    machine = DetachKeys(keys)
    whole = b"".join(typed)
    passed, detached = b"", False
    for piece in typed:
        out, detached = machine.feed(piece)
        passed += out
        if detached:
            break
    if keys and keys in whole:
        assert detached
        assert passed == whole[: whole.index(keys)]
    else:
        assert not detached
        held = whole[len(passed) :]
        assert passed + held == whole
        assert keys.startswith(held)
