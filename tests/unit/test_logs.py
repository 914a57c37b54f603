"""A log as its reader sees it: exact bytes, whole records, rotation, tails, times."""

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.runtime.log_records import MAX_RECORD_BYTES, OVERHEAD_BYTES, pack, segment_path, segments
from atoll.runtime.log_writer import LogWriter
from atoll.runtime.logs import STDERR, STDOUT, LogReader

UNLIMITED = 0
Printed = list[tuple[int, bytes]]


def write(directory: Path, printed: Printed, max_bytes: int = UNLIMITED, max_files: int = UNLIMITED) -> None:
    writer = LogWriter(directory, max_bytes, max_files)
    for stream, data in printed:
        writer.append(stream, data)
    writer.close()


def read(directory: Path, **options: object) -> Printed:
    with LogReader(directory, **options) as reader:  # type: ignore[arg-type]  # each test names real options
        return [(stream, data) for _, stream, data in reader.pieces()]


def text(printed: Printed) -> bytes:
    return b"".join(data for _, data in printed)


printed = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), st.text("ab\n", min_size=1).map(str.encode)), max_size=30
)


@given(printed=printed, max_bytes=st.one_of(st.just(UNLIMITED), st.integers(50, 300)), restarts=st.integers(1, 3))
def test_what_was_printed_is_read_back_across_segments_and_restarts(
    printed: Printed, max_bytes: int, restarts: int
) -> None:
    with TemporaryDirectory() as name:
        for run in range(restarts):
            write(Path(name), printed[run::restarts], max_bytes)
        expected = [piece for run in range(restarts) for piece in printed[run::restarts]]
        assert read(Path(name)) == expected
        assert read(Path(name), stderr=False) == [piece for piece in expected if piece[0] == STDOUT]


@given(printed=printed, max_bytes=st.integers(50, 300), max_files=st.integers(1, 4))
def test_rotation_keeps_the_newest_output_within_its_bounds(printed: Printed, max_bytes: int, max_files: int) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, printed, max_bytes, max_files)
        kept = segments(directory)
        assert len(kept) <= max_files
        largest = max((len(data) for _, data in printed), default=0) + OVERHEAD_BYTES
        assert all(segment_path(directory, segment).stat().st_size <= max(max_bytes, largest) for segment in kept)
        left = read(directory)
        assert printed[len(printed) - len(left) :] == left
        assert left or not printed


@given(printed=printed, torn=st.integers(1, 200))
def test_a_torn_last_record_is_ignored_and_cut_off_by_the_next_writer(printed: Printed, torn: int) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, printed)
        path = segment_path(directory, 1)
        whole = path.stat().st_size
        record = b"".join(pack(0, len(printed) + 1, STDOUT, b"never finished" * 10))
        path.write_bytes(path.read_bytes() + record[: min(torn, len(record) - 1)])
        assert read(directory) == printed
        assert text(read(directory, tail=1000)) == text(printed)
        write(directory, [(STDERR, b"after the crash")])
        assert read(directory) == [*printed, (STDERR, b"after the crash")]
        assert path.stat().st_size == whole + len(b"after the crash") + OVERHEAD_BYTES


@given(tail=st.binary(max_size=400))
def test_any_bytes_at_the_end_of_a_segment_are_survived(tail: bytes) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, [(STDOUT, b"good\n")])
        with segment_path(directory, 1).open("ab") as segment:
            segment.write(tail)
        assert read(directory)[0] == (STDOUT, b"good\n")
        assert read(directory, tail=5)[0] == (STDOUT, b"good\n")
        LogWriter(directory, UNLIMITED, UNLIMITED).close()


def lines_by_end(printed: Printed) -> list[tuple[int, bytes]]:
    """Whole lines in the order of their ends: what `tail` counts, written the simple way."""
    lines: Printed = []
    rest = {STDOUT: b"", STDERR: b""}
    last = {stream: index for index, (stream, _) in enumerate(printed)}
    for index, (stream, data) in enumerate(printed):
        *whole, rest[stream] = (rest[stream] + data).split(b"\n")
        lines += [(stream, line + b"\n") for line in whole]
        if index == last[stream] and rest[stream]:
            lines.append((stream, rest[stream]))
    return lines


@settings(max_examples=300)
@given(printed=printed, count=st.integers(0, 12), max_bytes=st.sampled_from([UNLIMITED, 100]))
def test_tail_gives_the_last_lines_whole(printed: Printed, count: int, max_bytes: int) -> None:
    with TemporaryDirectory() as name:
        write(Path(name), printed, max_bytes)
        left = read(Path(name), tail=count)
        expected = lines_by_end(printed)[-count:] if count else []
        for stream in (STDOUT, STDERR):
            assert text([piece for piece in left if piece[0] == stream]) == text(
                [piece for piece in expected if piece[0] == stream]
            )


def test_tail_of_output_without_lines_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, [(STDOUT, bytes(4 << 20))])
    assert 0 < len(text(read(tmp_path, tail=1))) <= 2 << 20
    assert len(segments(tmp_path)) == 1


def test_large_output_is_cut_into_records(tmp_path: Path) -> None:
    data = os.urandom(3 * MAX_RECORD_BYTES + 5)
    write(tmp_path, [(STDOUT, data)])
    assert [len(piece) for _, piece in read(tmp_path)] == [MAX_RECORD_BYTES] * 3 + [5]
    assert text(read(tmp_path)) == data


def test_timestamps_stand_before_each_line_and_never_inside(tmp_path: Path, clock: Callable[[int], None]) -> None:
    writer = LogWriter(tmp_path, UNLIMITED, UNLIMITED)
    for time_ns, stream, data in [
        (1_000_000_001, STDOUT, b"one\ntw"),
        (2_500_000_000, STDERR, b"oops\n"),
        (3_000_000_000, STDOUT, b"o\nthree"),
    ]:
        clock(time_ns)
        writer.append(stream, data)
    assert read(tmp_path, timestamps=True) == [
        (STDOUT, b"1970-01-01T00:00:01.000000001Z one\n1970-01-01T00:00:01.000000001Z tw"),
        (STDERR, b"1970-01-01T00:00:02.500000000Z oops\n"),
        (STDOUT, b"o\n1970-01-01T00:00:03.000000000Z three"),
    ]


def test_since_and_until_bound_the_time(tmp_path: Path, clock: Callable[[int], None]) -> None:
    writer = LogWriter(tmp_path, 2 * (OVERHEAD_BYTES + 1), UNLIMITED)
    for time_ns in range(10):
        clock(time_ns)
        writer.append(STDOUT, b"%d" % time_ns)
    assert text(read(tmp_path, since_ns=3)) == b"3456789"
    assert text(read(tmp_path, until_ns=3)) == b"0123"
    assert text(read(tmp_path, since_ns=4, until_ns=7)) == b"4567"
    assert text(read(tmp_path, since_ns=100)) == b""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    now = 0

    def set_to(time_ns: int) -> None:
        nonlocal now
        now = time_ns

    monkeypatch.setattr("time.time_ns", lambda: now)
    return set_to


async def test_a_follower_sees_what_is_added_and_ends_with_the_log(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 200, 2)
    seen = b""

    async def follow() -> None:
        nonlocal seen
        with LogReader(tmp_path) as reader:
            async for _, _, data in reader.follow(writer.wait_beyond):
                seen += data

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        expected = b""
        for number in range(100):
            writer.append(STDOUT, b"line %d\n" % number)
            expected += b"line %d\n" % number
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        writer.close()
    assert seen == expected


def test_a_reader_that_was_overtaken_by_rotation_goes_on_with_what_is_left(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 3 * (OVERHEAD_BYTES + 1), 2)
    with LogReader(tmp_path) as reader:
        writer.append(STDOUT, b"0")
        assert [piece.data for piece in reader.pieces()] == [b"0"]
        for number in range(1, 10):
            writer.append(STDOUT, b"%d" % number)
        rest = b"".join(piece.data for piece in reader.pieces())
    # The segment that it had open is read to its end, although its file is gone by now.
    assert rest == b"126789"
    assert reader.records == 10


def test_numbers_of_records_go_on_after_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        writer = LogWriter(tmp_path, OVERHEAD_BYTES, UNLIMITED)
        writer.append(STDOUT, b"x")
        assert writer.records == expected
        writer.close()


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere") == []
    assert read(tmp_path / "nowhere", tail=3) == []


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """A limit on the size of files stands for the disk: a write goes as far as it can, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_output_and_not_the_log(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    writer = LogWriter(tmp_path, UNLIMITED, UNLIMITED)
    writer.append(STDOUT, b"before")
    full_disk(segment_path(tmp_path, 1).stat().st_size + 40)
    writer.append(STDOUT, b"lost" * 10)
    full_disk(segment_path(tmp_path, 1).stat().st_size)
    writer.append(STDOUT, b"lost" * 10)
    full_disk(1 << 20)
    writer.append(STDOUT, b"after")
    writer.close()
    assert text(read(tmp_path)) == b"beforeafter"
    assert writer.lost_bytes == 80


def test_times_are_now(tmp_path: Path) -> None:
    write(tmp_path, [(STDOUT, b"x")])
    with LogReader(tmp_path) as reader:
        ((time_ns, _, _),) = reader.pieces()
    assert abs(datetime.fromtimestamp(time_ns / 1e9, UTC).timestamp() - datetime.now(UTC).timestamp()) < 3600
