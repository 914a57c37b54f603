"""`atoll run -it` with a person at the terminal."""

import pytest
from harness.command import Command
from harness.terminal import Terminal

# At the beginning of a line: the command that sets it is echoed as well.
PROMPT = r"[\r\n]inside> "


def running_shell(terminal: Terminal, *flags: str) -> None:
    """Start a shell in a container named `shell` and wait for its prompt."""
    terminal.type(f"atoll run -it --name shell -e PS1='inside> ' {' '.join(flags)} busybox sh")
    terminal.expect(PROMPT)


def test_a_resize_is_seen_inside(terminal: Terminal) -> None:
    running_shell(terminal)
    terminal.type("stty size")
    terminal.expect("24 80")
    # A script, for an interactive shell keeps the signal to itself.
    terminal.type("sh -c 'trap \"stty size; exit 3\" WINCH; echo go $((40 + 2)); while :; do sleep 0.1; done'")
    terminal.expect("go 42")
    terminal.resize(100, 30)
    terminal.expect("30 100")
    terminal.expect(PROMPT)
    terminal.type("exit $?")
    terminal.expect("ready> ")
    terminal.type("echo code $?")
    terminal.expect("code 3")


def test_ctrl_c_goes_to_the_process_inside_and_not_to_us(terminal: Terminal) -> None:
    running_shell(terminal)
    # Told by the process itself: until it is in the foreground the shell would take the signal, and wait for its end.
    terminal.type("sh -c 'echo go $((40 + 2)); exec sleep 1000'")
    terminal.expect("go 42")
    terminal.press("C-c")
    terminal.expect(PROMPT)
    terminal.type("echo still $((40 + 2))")
    terminal.expect("still 42")
    terminal.press("C-d")
    terminal.expect("ready> ")


def test_detach_keys_leave_it_running_and_attach_comes_back(terminal: Terminal, atoll: Command) -> None:
    running_shell(terminal)
    terminal.type("MARK=reef")
    terminal.press("C-p", "C-q")
    terminal.expect("ready> ")
    assert atoll.ok("ps", "--format", "{{.Names}} {{.State}}") == "shell running"
    terminal.type("atoll attach shell")
    terminal.press("Enter")
    terminal.expect(PROMPT)
    terminal.type("echo $MARK is $((40 + 2))")
    terminal.expect("reef is 42")
    terminal.expect(PROMPT)  # busybox asks the terminal where the cursor is, and must be there for the answer
    terminal.press("C-p", "C-q")
    terminal.expect("read escape sequence")
    terminal.type("atoll attach shell; echo code $?")
    terminal.press("Enter")
    terminal.expect(PROMPT)
    terminal.type("exit 5")
    terminal.expect("[\r\n]code 5")


def test_detach_keys_may_be_others(terminal: Terminal, atoll: Command) -> None:
    running_shell(terminal, "--detach-keys", "ctrl-a,d")
    # The default ones are the shell's now: previous line, and go on with output.
    terminal.press("C-p", "C-q")
    terminal.type("echo here $((40 + 2))")
    terminal.expect("here 42")
    terminal.press("C-a", "d")
    terminal.expect("ready> ")
    assert atoll.ok("inspect", "-f", "{{.State.Running}}", "shell") == "true"


def test_exec_has_a_terminal_of_its_own(terminal: Terminal, atoll: Command) -> None:
    atoll.ok("run", "-d", "--name", "sleeper", "busybox", "sleep", "1000")
    terminal.type("atoll exec -it -e PS1='inside> ' sleeper sh")
    terminal.expect(PROMPT)
    terminal.type("stty size; tty")
    terminal.expect("24 80")
    terminal.expect("/dev/pts/")
    terminal.resize(120, 40)
    terminal.type("until stty size | grep '40 120'; do sleep 0.1; done")
    terminal.expect("[\r\n]40 120")
    terminal.type("exit 4")
    terminal.expect("ready> ")
    terminal.type("echo code $?")
    terminal.expect("code 4")


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_the_terminal_is_as_before_when_the_container_has_ended(terminal: Terminal, atoll: Command, end: str) -> None:
    terminal.type("before=$(stty -g); echo saved $((40 + 2))")
    terminal.expect("saved 42")
    running_shell(terminal)
    if end == "exit":
        terminal.type("exit")
    else:
        atoll.ok("kill", "shell")
    terminal.expect("ready> ")
    terminal.type('test "$(stty -g)" = $before && echo same $((40 + 2))')
    terminal.expect("same 42")


def test_ctrl_c_without_a_terminal_inside_reaches_the_process(terminal: Terminal) -> None:
    terminal.type(
        "atoll run --rm busybox sh -c 'trap \"echo caught; exit 9\" INT; echo go $((40 + 2)); sleep 1000 & wait'"
    )
    terminal.expect("go 42")
    terminal.press("C-c")
    terminal.expect("caught")
    terminal.expect("ready> ")
    terminal.type("echo code $?")
    terminal.expect("code 9")
