"""Values as Docker's command line reads and shows them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.cli.values import environment, limits, references, sizes, times
from atoll.errors import InvalidRequest

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("32", 32),
        ("32b", 32),
        ("32B", 32),
        ("32k", 32 << 10),
        ("32KB", 32 << 10),
        ("32kib", 32 << 10),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("2 GiB", 2 << 30),
        (".5k", 512),
        ("1T", 1 << 40),
        ("1p", 1 << 50),
    ],
)
def test_a_size_has_units_of_1024(text: str, size_bytes: int) -> None:
    assert sizes.parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "m", "5x", "5mm", "5bb", "5bib", "-1", "-1k", "five", "0x10", "5kibs", "inf", "nan"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        sizes.parse_size(text)


@given(st.integers(0, 2**62))
def test_a_size_in_bytes_is_itself(size_bytes: int) -> None:
    assert sizes.parse_size(f"{size_bytes}b") == pytest.approx(size_bytes)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_948_000, "1.95MB"),
        (186_000_000, "186MB"),
        (999_960, "1MB"),
        (2_140_000_000, "2.14GB"),
        (123_456_789_012_345, "123TB"),
    ],
)
def test_sizes_are_shown_in_units_of_1000(size_bytes: int, text: str) -> None:
    assert sizes.human_size(size_bytes) == text


def test_memory_is_shown_in_units_of_1024() -> None:
    assert sizes.human_binary_size(25_277_000_000) == "23.54GiB"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("300ms", 300 * 10**6),
        ("-1.5h", -5400 * 10**9),
        ("2h45m", 9900 * 10**9),
        ("1us", 1000),
        ("1µs", 1000),
        (".5s", 5 * 10**8),
        ("1h0m0.000000001s", 3600 * 10**9 + 1),
    ],
)
def test_a_duration_is_one_of_go(text: str, nanoseconds: int) -> None:
    assert times.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "3", "h", "1x", "1h 2m", "-", "1..5s", "."])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        times.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1136073845", "1136073845"),
        ("1136073845.000000001", "1136073845.000000001"),
        ("2006-01-02T15:04:05Z", "1136214245.000000000"),
        ("2006-01-02T15:04:05.999999999Z", "1136214245.999999999"),
        ("2006-01-02T15:04:05+02:00", "1136207045.000000000"),
        ("2006-01-02Z", "1136160000.000000000"),
        ("10m", "999400.000000000"),
        ("1.5s", "999998.500000000"),
    ],
)
def test_since_takes_numbers_times_and_durations(text: str, moment: str) -> None:
    assert times.parse_moment(text, now_ns=1_000_000 * 10**9) == moment


@pytest.mark.parametrize("text", ["yesterday", "2006-13-01", "", "12:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        times.parse_moment(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (59 * 60, "59 minutes"),
        (HOUR, "About an hour"),
        (1.6 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (3 * DAY, "3 days"),
        (15 * DAY, "2 weeks"),
        (70 * DAY, "2 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_durations_are_rounded_as_docker_does(seconds: float, text: str) -> None:
    assert times.human_duration(seconds) == text


def test_a_time_with_nanoseconds_is_read() -> None:
    assert times.seconds_of("2006-01-02T15:04:05.123456789Z") == pytest.approx(1136214245.123456)


def test_a_variable_without_a_value_has_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8080")
    monkeypatch.delenv("ABSENT", raising=False)
    assert environment.parse_variable("PORT") == "PORT=8080"
    assert environment.parse_variable("ABSENT") == "ABSENT"
    assert environment.parse_variable("EMPTY=") == "EMPTY="


def test_a_variable_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid environment variable: =x"):
        environment.parse_variable("=x")


def test_files_of_variables_come_before_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_US", "here")
    monkeypatch.delenv("ABSENT", raising=False)
    file = tmp_path / "variables"
    file.write_bytes("\ufeff# a comment\n\n  A=1 # no comment\r\nFROM_US\nABSENT\nB=x=y\n".encode())
    assert environment.variables([str(file)], ["A=2"]) == ["A=1 # no comment", "FROM_US=here", "B=x=y", "A=2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"A B=1\n", "contains whitespaces"), (b"=1\n", "no variable name"), (b"A=\xff\n", "not UTF-8")],
)
def test_a_file_that_holds_no_variables_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=message):
        environment.variables([str(file)], [])


def test_labels_may_be_empty() -> None:
    assert environment.labels([], ["a=b", "c", "a=d=e"]) == {"a": "d=e", "c": ""}


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [("nofile=1024", 1024, 1024), ("nofile=1:2", 1, 2), ("core=-1", -1, -1), ("core=0:-1", 0, -1)],
)
def test_an_ulimit_has_a_soft_and_a_hard_value(text: str, soft: int, hard: int) -> None:
    assert limits.parse_ulimit(text) == {"Name": text.partition("=")[0], "Soft": soft, "Hard": hard}


@pytest.mark.parametrize(
    "text", ["nofile", "nofile=", "files=1", "nofile=1:2:3", "nofile=x", "nofile=5:3", "nofile=-1:3"]
)
def test_what_is_no_ulimit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ulimit|limit value|ParseInt"):
        limits.parse_ulimit(text)


@pytest.mark.parametrize(
    ("text", "nano"), [("1", 10**9), ("1.5", 15 * 10**8), (".01", 10**7), ("1/2", 5 * 10**8), ("2.", 2 * 10**9)]
)
def test_cpus_are_a_number_or_a_fraction(text: str, nano: int) -> None:
    assert limits.parse_cpus(text) == nano


@pytest.mark.parametrize("text", ["", "x", "-1", "1/0", "1/3", "0.0000000001", "1e3"])
def test_what_is_no_number_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rational number|too precise"):
        limits.parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [("a:10.0.0.1", "a:10.0.0.1"), ("a=::1", "a:::1"), ("a:[::1]", "a:::1"), ("a:host-gateway", "a:host-gateway")],
)
def test_a_host_has_a_name_and_an_address(text: str, host: str) -> None:
    assert limits.parse_host(text) == host


@pytest.mark.parametrize("text", ["a", ":1.2.3.4", "a:b", "a:1.2.3"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="add-host"):
        limits.parse_host(text)


def test_a_restart_policy_may_count() -> None:
    assert limits.parse_restart("on-failure:3") == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert limits.parse_restart("always") == {"Name": "always", "MaximumRetryCount": 0}


@pytest.mark.parametrize("text", ["on-failure:x", ":3", "on-failure:1:2"])
def test_what_is_no_restart_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"restart policy|retry count"):
        limits.parse_restart(text)


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("busybox", "busybox", ""),
        ("busybox:1", "busybox", "1"),
        ("localhost:5000/a/b", "localhost:5000/a/b", ""),
        ("localhost:5000/a/b:c", "localhost:5000/a/b", "c"),
        ("a@sha256:00", "a", "sha256:00"),
    ],
)
def test_a_port_is_no_tag(name: str, repository: str, tag: str) -> None:
    assert references.split_reference(name) == (repository, tag)


def test_a_name_without_a_tag_means_the_latest() -> None:
    assert references.normalized("a") == "a:latest"
    assert references.normalized("a:1") == "a:1"
    assert references.normalized("a@sha256:00") == "a@sha256:00"
