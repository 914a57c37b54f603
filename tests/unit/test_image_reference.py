import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidRequest
from atoll.image.reference import Reference, is_loopback

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian", "debian"),
        ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"),
        ("atoll/reef", "docker.io/atoll/reef", "atoll/reef"),
        ("docker.io/debian", "docker.io/library/debian", "debian"),
        ("index.docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/library/debian", "docker.io/library/debian", "debian"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
        ("localhost:5000/x:1.0", "localhost:5000/x:1.0", "localhost:5000/x:1.0"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("Registry/x", "Registry/x", "Registry/x"),
        ("my.host/a__b/c--d:T_1", "my.host/a__b/c--d:T_1", "my.host/a__b/c--d:T_1"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}", f"debian:12@{DIGEST}"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
    ],
)
def test_a_reference_is_normalised_as_docker_does(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "lower-case"),
        ("Debian", "lowercase"),
        ("a//b", "lower-case"),
        ("-a", "lower-case"),
        ("a..b", "lower-case"),
        ("a:b:c", "lower-case"),
        ("a:", "not a tag"),
        ("a:-x", "not a tag"),
        ("a:" + "x" * 129, "not a tag"),
        ("a\n", "lower-case"),
        ("a:1\n", "not a tag"),
        ("a@sha256:12", "not a digest"),
        ("a@", "not a digest"),
        ("0123456789abcdef" * 4, "an image's id"),
        ("my_host:5000/a", "host name"),
        ("https://host/a", "host name"),
        ("a/" * 130 + "a", "longer than"),
        ("ä", "lower-case"),
    ],
)
def test_a_wrong_reference_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("localhost:5000/x", True),
        ("127.0.0.1:5000/x", True),
        ("127.9.9.9/x", True),
        ("[::1]:5000/x", True),
        ("debian", False),
        ("10.0.0.1:5000/x", False),
        ("localhost.example/x", False),
    ],
)
def test_only_loopback_registries_count_as_loopback(text: str, loopback: bool) -> None:
    assert is_loopback(Reference.parse(text).domain) is loopback


def test_the_tag_latest_is_added_only_where_there_is_no_other() -> None:
    assert Reference.parse("a").tagged().familiar == "a:latest"
    assert Reference.parse("a:b").tagged().familiar == "a:b"
    assert Reference.parse(f"a@{DIGEST}").tagged().familiar == f"a@{DIGEST}"


@given(st.from_regex(r"\A([a-z0-9.:\-]{1,12}/)?[a-z0-9._/\-]{1,20}(:[\w.\-]{0,10})?\Z", fullmatch=True) | st.text())
def test_what_is_accepted_means_the_same_when_written_out(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidRequest:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
