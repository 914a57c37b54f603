"""Docker's grammar of flags."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.cli.flags import INTEGER, STRING, TRUTH, FlagError, HelpWanted, Switch, canonical
from atoll.cli.program import run

OPTIONS = [
    Switch(["-d", "--detach"], type=TRUTH),
    Switch(["-t", "--tty"], type=TRUTH),
    Switch(["--rm"], type=TRUTH),
    click.Option(["-e", "--env"], type=STRING, multiple=True),
    click.Option(["-n", "--last"], type=INTEGER),
]


def parse(*line: str, interspersed: bool = True) -> tuple[list[str], list[str]]:
    return canonical(OPTIONS, line, interspersed=interspersed)


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        (["--env", "A=b"], ["--env=A=b"]),
        (["--env=A=b"], ["--env=A=b"]),
        (["-e", "A=b"], ["--env=A=b"]),
        (["-eA=b"], ["--env=A=b"]),
        (["-e=A=b"], ["--env=A=b"]),
        (["-e", "-d"], ["--env=-d"]),
        (["--env", "--rm"], ["--env=--rm"]),
        (["-dt"], ["--detach=true", "--tty=true"]),
        (["-dte", "X"], ["--detach=true", "--tty=true", "--env=X"]),
        (["-dteX"], ["--detach=true", "--tty=true", "--env=X"]),
        (["-d=false"], ["--detach=false"]),
        (["--rm=false"], ["--rm=false"]),
        (["--env="], ["--env="]),
    ],
)
def test_a_flag_may_be_written_in_every_way_that_docker_knows(line: list[str], tokens: list[str]) -> None:
    assert parse(*line) == (tokens, [])


def test_flags_end_at_the_first_argument_where_a_command_follows() -> None:
    assert parse("-d", "image", "ls", "-t", "--nope", interspersed=False) == (
        ["--detach=true"],
        ["image", "ls", "-t", "--nope"],
    )


def test_flags_may_follow_arguments_elsewhere() -> None:
    assert parse("one", "-d", "two") == (["--detach=true"], ["one", "two"])


def test_two_dashes_end_the_flags() -> None:
    assert parse("-d", "--", "-t") == (["--detach=true"], ["-t"])


def test_a_single_dash_is_an_argument() -> None:
    assert parse("-") == ([], ["-"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--nope=1"], "unknown flag: --nope"),
        (["-dx"], "unknown shorthand flag: 'x' in -dx"),
        (["--env"], "flag needs an argument: --env"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["-de"], "flag needs an argument: 'e' in -de"),
    ],
)
def test_a_flag_that_cannot_be_is_refused_in_the_words_of_docker(line: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(*line)
    assert caught.value.message == message


@pytest.mark.parametrize("line", [["--help"], ["-h"], ["-d", "--help"]])
def test_help_is_asked_for_by_a_flag(line: list[str]) -> None:
    with pytest.raises(HelpWanted):
        parse(*line)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1), max_size=6))
def test_any_line_is_parsed_or_refused_and_no_argument_is_lost(words: list[str]) -> None:
    try:
        tokens, arguments = parse(*words, interspersed=False)
    except (FlagError, HelpWanted):
        return
    assert all(token.startswith("--") and "=" in token for token in tokens)
    assert arguments == words[len(words) - len(arguments) :]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (["ps", "-n", "x"], 125, 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x"'),
        (["run", "--rm=maybe", "i"], 125, 'invalid argument "maybe" for "--rm" flag: strconv.ParseBool'),
        (["run", "-m", "5x", "i"], 125, 'invalid argument "5x" for "-m, --memory" flag: invalid suffix: \'x\''),
        (["run", "--detach-keys", "ctrl-?", "i"], 125, "Unknown character: 'ctrl-?'"),
        (["stop", "-t", "x", "a"], 125, '"-t, --timeout" flag'),
        (["run"], 1, "atoll: 'atoll run' requires at least 1 argument"),
        (["rename", "a"], 1, "atoll: 'atoll rename' requires 2 arguments"),
        (["ps", "x"], 1, "atoll: 'atoll ps' accepts no arguments"),
        (["nope"], 1, "atoll: unknown command: atoll nope"),
        (["image", "nope"], 1, "atoll: unknown command: atoll image nope"),
        (["-H", "tcp://somewhere", "ps"], 1, "invalid bind address format: tcp://somewhere"),
        (["run", "-d", "-a", "stdin", "i"], 1, "cannot specify both --attach and --detach"),
        (["run", "--rm", "--restart", "always", "i"], 125, "cannot specify both --restart and --rm"),
        (["run", "--env-file", "/nope", "i"], 125, "open /nope: no such file or directory"),
    ],
)
def test_a_wrong_line_ends_with_the_exit_code_of_docker_and_one_clear_error(
    line: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["-H", "unix:///nonexistent/socket", *line]) == code
    assert message in capfd.readouterr().err


def test_a_command_without_an_engine_says_where_it_looked(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["-H", "unix:///nonexistent/socket", "ps"]) == 1
    assert "cannot connect to the engine at unix:///nonexistent/socket" in capfd.readouterr().err


def test_the_last_of_a_repeated_switch_wins(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["run", "--rm", "--rm=false", "--restart", "always", "image"]
    assert run(["-H", "unix:///nonexistent/socket", *line]) == 125
    assert "--restart and --rm" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "line", [[], ["--help"], ["ps", "--help"], ["run", "--help"], ["system"], ["system", "kernel"]]
)
def test_help_goes_to_standard_output(line: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 0
    assert capfd.readouterr().out.startswith("Usage:  atoll")
