"""What is killed, and what must be left of it."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest

Start = Callable[..., Container]


@pytest.fixture
def start(private_engine: EngineUnderTest) -> Start:
    """Starts a container of the private engine."""

    def run(*arguments: str) -> Container:
        return Container(private_engine.atoll.ok("run", "-d", *arguments).strip(), private_engine)

    return run


def test_containers_run_on_when_the_engine_is_killed_and_the_next_one_adopts_them(
    private_engine: EngineUnderTest, start: Start
) -> None:
    container = start(
        "--name", "survivor", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"
    )
    vmm = container.vmm
    private_engine.kill()
    assert vmm.is_alive
    private_engine.start()
    assert (container.status, container.vmm) == ("running", vmm)
    assert container.exec("echo", "still here").stdout == "still here\n"
    container.stop()
    lines = [int(line) for line in container.logs().stdout.split()]
    assert lines == list(range(len(lines)))


def test_an_exit_code_without_an_engine_is_known_to_the_next(private_engine: EngineUnderTest, start: Start) -> None:
    container = start("busybox", "sh", "-c", "sleep 2; exit 9")
    vmm = container.vmm
    private_engine.kill()
    vmm.wait()
    private_engine.start()
    assert container.wait() == 9


def test_a_container_run_with_rm_is_removed_although_its_engine_was_killed(
    private_engine: EngineUnderTest, start: Start
) -> None:
    container = start("--rm", "busybox", "sleep", "2")
    vmm = container.vmm
    private_engine.kill()
    vmm.wait()
    private_engine.start()
    private_engine.atoll("wait", container.id)
    assert private_engine.atoll.ok("ps", "-aq") == ""
    assert list((private_engine.root / "containers").iterdir()) == []


def test_a_killed_runtime_takes_its_vm_with_it_and_the_container_says_why(
    private_engine: EngineUnderTest, start: Start
) -> None:
    container = start("busybox", "sleep", "1000")
    vmm = container.vmm
    container.runtime.kill(signal.SIGKILL)
    vmm.wait()
    assert container.wait() == 137
    state = container.inspect()["State"]
    assert (state["Status"], "runtime" in state["Error"]) == ("exited", True)
    container.start()
    assert container.status == "running"


def test_a_killed_qemu_is_exit_code_137_with_the_reason(private_engine: EngineUnderTest, start: Start) -> None:
    container = start("busybox", "sleep", "1000")
    container.vmm.kill(signal.SIGKILL)
    assert container.wait() == 137
    assert container.inspect()["State"]["Error"]


def test_a_policy_brings_a_container_back_after_its_runtime_was_killed(
    private_engine: EngineUnderTest, start: Start
) -> None:
    container = start("--restart", "always", "busybox", "sleep", "1000")
    flags = ("--since", "0", "--filter", f"container={container.id}", "--filter", "event=start")
    with private_engine.docker.start("events", *flags, "--format", "{{.Action}}") as events:
        assert events.stdout is not None
        assert events.stdout.readline() == b"start\n"
        container.runtime.kill(signal.SIGKILL)
        assert events.stdout.readline() == b"start\n"
        events.terminate()
    assert container.inspect()["RestartCount"] == 1


def test_policies_are_honoured_by_the_next_engine(private_engine: EngineUnderTest, start: Start) -> None:
    always = start("--restart", "always", "busybox", "sleep", "1000")
    stopped = start("--restart", "unless-stopped", "busybox", "sleep", "1000")
    stopped.stop()
    runtime = always.runtime
    private_engine.kill()
    runtime.kill(signal.SIGKILL)
    private_engine.start()
    flags = ("--since", "0", "--filter", f"container={always.id}", "--filter", "event=start")
    with private_engine.docker.start("events", *flags, "--format", "{{.Action}}") as events:
        assert events.stdout is not None
        assert events.stdout.readline() == b"start\n"
        events.terminate()
    assert (always.status, stopped.status) == ("running", "exited")


def test_a_second_engine_on_the_same_root_refuses(private_engine: EngineUnderTest) -> None:
    atolld = Command((sys.executable, "-m", "atoll.engine"), private_engine.atoll.environment)
    second = atolld()
    assert second.code == 1
    assert f"another engine (process {private_engine.process.pid}) runs on {private_engine.root}" in second.stderr
    private_engine.atoll.ok("ps")


def test_stale_files_of_a_reboot_are_cleaned_at_start(private_engine: EngineUnderTest, start: Start) -> None:
    container = start("busybox", "sleep", "1000")
    runtime = container.runtime  # asks the engine, and so would start another
    private_engine.kill()
    runtime.kill(signal.SIGKILL)
    (private_engine.root / "containers" / "half-made").mkdir()
    (private_engine.root / "run" / "0123456789ab").mkdir()
    private_engine.start()
    assert container.status == "exited"
    assert [bundle.name for bundle in (private_engine.root / "containers").iterdir()] == [container.id]
    assert [entry.name for entry in (private_engine.root / "run").iterdir() if entry.is_dir()] == ["net"]


def test_without_qemu_a_start_says_what_to_install(empty_engine: EngineUnderTest, busybox_tar: Path) -> None:
    (empty_engine.root / "atoll.toml").write_text('qemu = "/nonexistent/qemu"\n')
    empty_engine.start()
    empty_engine.atoll.ok("image", "import", busybox_tar, "busybox:latest")
    done = empty_engine.atoll("run", "--rm", "busybox", "true")
    assert done.code == 125
    assert "QEMU is missing" in done.stderr
    assert empty_engine.atoll.ok("ps", "-aq") == ""


def test_without_a_kernel_a_start_says_how_to_get_one(empty_engine: EngineUnderTest, busybox_tar: Path) -> None:
    empty_engine.start()
    empty_engine.atoll.ok("image", "import", busybox_tar, "busybox:latest")
    done = empty_engine.atoll("run", "--rm", "busybox", "true")
    assert done.code == 125
    assert "kernel" in done.stderr
    assert empty_engine.atoll.ok("ps", "-aq") == ""


def test_a_bad_settings_file_keeps_the_engine_from_starting_with_file_and_key(empty_engine: EngineUnderTest) -> None:
    settings = empty_engine.root / "atoll.toml"
    settings.write_text("colour = 1\n")
    done = empty_engine.atoll("ps")
    settings.unlink()
    assert done.code != 0
    assert "atoll.toml" in done.stderr
    assert "colour" in done.stderr
