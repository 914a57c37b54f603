from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidRequest
from atoll.image.changes import apply_changes
from atoll.image.oci import Empty, Execution, Healthcheck

S = 10**9


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["bash", "-l"]', Execution(cmd=("bash", "-l"))),
        ("cmd echo $HOME", Execution(cmd=("/bin/sh", "-c", "echo $HOME"))),
        ("CMD [broken", Execution(cmd=("/bin/sh", "-c", "[broken"))),
        ("CMD []", Execution(cmd=())),
        ('ENTRYPOINT ["/init"]', Execution(entrypoint=("/init",))),
        ("ENV A=1", Execution(env=("A=1",))),
        (
            'ENV A=1 B=\'two words\' C="3 \\"x\\"" D=a\\ b E=',
            Execution(env=("A=1", "B=two words", 'C=3 "x"', "D=a b", "E=")),
        ),
        ("ENV A the whole rest", Execution(env=("A=the whole rest",))),
        ("ENV A=1\nENV A=2 B=x=y", Execution(env=("A=2", "B=x=y"))),
        ("EXPOSE 80 53/udp", Execution(exposed_ports={"80/tcp": Empty(), "53/udp": Empty()})),
        ("EXPOSE 7000-7001", Execution(exposed_ports={"7000/tcp": Empty(), "7001/tcp": Empty()})),
        ('LABEL a=b "c d"="e f"', Execution(labels={"a": "b", "c d": "e f"})),
        ("USER 1000:1000", Execution(user="1000:1000")),
        ("WORKDIR /srv", Execution(working_dir="/srv")),
        ("WORKDIR /srv\nWORKDIR ../x/./y/", Execution(working_dir="/x/y")),
        ("VOLUME /a /b", Execution(volumes={"/a": Empty(), "/b": Empty()})),
        ('VOLUME ["/a b"]', Execution(volumes={"/a b": Empty()})),
        ("STOPSIGNAL SIGINT", Execution(stop_signal="SIGINT")),
        ("ONBUILD RUN make", Execution(on_build=("RUN make",))),
        ("HEALTHCHECK NONE", Execution(healthcheck=Healthcheck(test=("NONE",)))),
        (
            "HEALTHCHECK --interval=1m30s --timeout=3s --retries=2 CMD curl x",
            Execution(healthcheck=Healthcheck(test=("CMD-SHELL", "curl x"), interval=90 * S, timeout=3 * S, retries=2)),
        ),
        ('HEALTHCHECK CMD ["a"]', Execution(healthcheck=Healthcheck(test=("CMD", "a")))),
        ("# a comment\nUSER a", Execution(user="a")),
        ("ENV A=1 \\\n  B=2", Execution(env=("A=1", "B=2"))),
        ("", Execution()),
    ],
)
def test_a_change_means_what_it_means_in_a_dockerfile(change: str, expected: Execution) -> None:
    assert apply_changes(Execution(), [change]) == expected


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("RUN make", "RUN is not a valid change command"),
        ("CMD", "at least one argument"),
        ("ENV A", "name=value"),
        ("ENV A=1 B", "'B' is not of the form"),
        ("ENV A='x", "quote is not closed"),
        ("EXPOSE x", "not a port"),
        ("EXPOSE 0", "not a port"),
        ("EXPOSE 70000", "not a port"),
        ("EXPOSE 90-80", "not a port"),
        ("EXPOSE 80/icmp", "not a port"),
        ("USER a b", "exactly one"),
        ("STOPSIGNAL a b", "exactly one"),
        ('VOLUME [""]', "empty string"),
        ("ONBUILD FROM x", "isn't allowed"),
        ("HEALTHCHECK CMD", "requires CMD"),
        ("HEALTHCHECK --what=1 CMD x", "unknown flag"),
        ("HEALTHCHECK --interval=1x CMD x", "not a duration"),
    ],
)
def test_a_wrong_change_is_refused_with_its_reason(change: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        apply_changes(Execution(), [change])


@given(st.sampled_from(["CMD", "ENV", "LABEL", "EXPOSE", "VOLUME", "HEALTHCHECK", "WORKDIR", "ONBUILD"]), st.text())
def test_any_change_is_applied_or_refused(word: str, text: str) -> None:
    with suppress(InvalidRequest):
        apply_changes(Execution(), [f"{word} {text}"])


TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N", "Zs", "P")))


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), TEXTS, min_size=1))
def test_quoted_values_come_out_as_they_went_in(environment: dict[str, str]) -> None:
    words = []
    for name, value in environment.items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        words.append(f'{name}="{escaped}"')
    changed = apply_changes(Execution(), ["ENV " + " ".join(words)])
    assert dict(entry.split("=", 1) for entry in changed.env or ()) == environment
