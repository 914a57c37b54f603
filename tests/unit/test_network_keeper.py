"""What a keeper says when it cannot, and how taps are called."""

import errno

import pytest

from atoll.network.keeper import reason, tap_names


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/dev/net/tun"), 'KERNEL=="tun", MODE="0666"'),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/net/tun"), "load the kernel module 'tun'"),
        (OSError(errno.EPERM, "Operation not permitted"), "cannot do that: Operation not permitted"),
    ],
)
def test_it_says_what_to_do(error: OSError, words: str) -> None:
    assert words in reason(error)


def test_taps_of_a_vm_differ_in_their_slot_and_have_names_that_the_kernel_takes() -> None:
    names = tap_names(4)
    assert [name.rpartition(".")[2] for name in names] == ["0", "1", "2", "3"]
    assert len({name.rpartition(".")[0] for name in names}) == 1
    assert all(len(name) < 16 and name.startswith("at") for name in names)
    assert not set(names) & set(tap_names(4))
