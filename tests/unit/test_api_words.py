"""How the API words things: times, states, tables, frames, keys."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.api.detach import DetachKeys, detach_sequence
from atoll.api.human import duration, status, timestamp
from atoll.api.listing import decode_filters, image_name_fits
from atoll.api.multiplex import header
from atoll.api.top import process_table
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest, Unsupported
from atoll.model.agent import ProcessRow
from atoll.model.container import ContainerConfig, ContainerState

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (59 * 60, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_are_worded_as_in_docker(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def record(state: ContainerState, *, restarting: bool = False) -> ContainerRecord:
    return ContainerRecord(
        id="0" * 64,
        name="reef",
        created_at=NOW,
        config=ContainerConfig(image="i", image_id="s", hostname="h"),
        state=state,
        started_at=NOW - timedelta(seconds=3),
        finished_at=NOW - timedelta(minutes=2),
        exit_code=7,
        restarting=restarting,
    )


@pytest.mark.parametrize(
    ("state", "restarting", "words"),
    [
        (ContainerState.CREATED, False, "Created"),
        (ContainerState.RUNNING, False, "Up 3 seconds"),
        (ContainerState.PAUSED, False, "Up 3 seconds (Paused)"),
        (ContainerState.EXITED, False, "Exited (7) 2 minutes ago"),
        (ContainerState.EXITED, True, "Restarting (7) 2 minutes ago"),
    ],
)
def test_ps_words_the_state_as_docker_does(state: ContainerState, restarting: bool, words: str) -> None:
    assert status(record(state, restarting=restarting), NOW) == words


def test_times_have_nanoseconds_and_what_never_happened_is_gos_zero() -> None:
    assert timestamp(NOW) == "2026-01-02T03:04:05.678901000Z"
    assert timestamp(None) == "0001-01-01T00:00:00Z"


def test_a_frame_has_dockers_header() -> None:
    assert header("stderr", 258) == b"\x02\x00\x00\x00\x00\x00\x01\x02"


@pytest.mark.parametrize(
    ("text", "keys"), [("", b"\x10\x11"), ("ctrl-a,x", b"\x01x"), ("ctrl-@", b"\x00"), ("ctrl-[", b"\x1b")]
)
def test_detach_keys_are_read_as_docker_writes_them(text: str, keys: bytes) -> None:
    assert detach_sequence(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "abc", "ctrl-p,", "é"])
def test_bad_detach_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid detach keys"):
        detach_sequence(text)


def test_the_detach_keys_detach_even_when_they_come_one_by_one() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.pass_on(b"ls\x10") == b"ls"
    assert not keys.is_detached
    assert keys.pass_on(b"\x11more") == b""
    assert keys.is_detached


@given(st.lists(st.binary(max_size=5)))
def test_what_is_typed_without_the_sequence_reaches_the_process_whole(pieces: list[bytes]) -> None:
    typed = b"".join(pieces) + b"."
    if b"\x10\x11" in typed:
        return
    keys = DetachKeys(b"\x10\x11")
    assert b"".join(keys.pass_on(piece) for piece in [*pieces, b"."]) == typed


ROW = ProcessRow(
    pid=1, parent_pid=0, user="root", command="sleep 5", name="sleep", state="S", terminal="pts/0",
    started_s=0.0, cpu_s=3725.0, resident_bytes=8192, virtual_bytes=4096,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "titles", "picked"),
    [
        ("-ef", ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], ("TIME", "01:02:05")),
        ("aux", ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"], ("RSS", "8")),
        ("-o pid,cmd", ["PID", "CMD"], ("CMD", "sleep 5")),
        ("-eo pid,comm", ["PID", "COMM"], ("COMM", "sleep")),
        ("-o pid -o user", ["PID", "USER"], ("USER", "root")),
    ],
)
def test_top_has_the_columns_of_ps(options: str, titles: list[str], picked: tuple[str, str]) -> None:
    found, rows = process_table([ROW], options)
    assert found == titles
    assert dict(zip(found, rows[0], strict=True))[picked[0]] == picked[1]


def test_top_refuses_options_that_it_does_not_know() -> None:
    with pytest.raises(Unsupported, match="ps option '--forest'"):
        process_table([ROW], "--forest")
    with pytest.raises(InvalidRequest, match="unknown user-defined format specifier 'colour'"):
        process_table([ROW], "-o colour")


def test_filters_come_as_lists_or_as_sets() -> None:
    assert decode_filters('{"name": ["a", "b"]}', ("name",)) == {"name": ["a", "b"]}
    assert decode_filters('{"name": {"a": true, "b": false}}', ("name",)) == {"name": ["a"]}
    with pytest.raises(InvalidRequest, match="invalid filter 'colour'"):
        decode_filters('{"colour": ["red"]}', ("name",))
    with pytest.raises(InvalidRequest, match="invalid filter"):
        decode_filters("{", ("name",))


def test_images_are_found_by_pattern_with_or_without_tag() -> None:
    assert image_name_fits("deb*", ["debian:bookworm"])
    assert image_name_fits("debian:book*", ["debian:bookworm"])
    assert not image_name_fits("busybox", ["debian:bookworm"])
