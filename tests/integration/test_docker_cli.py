"""The real `docker` command against our socket: what people type every day."""

import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest
from harness.command import Command
from harness.engine import EngineUnderTest


@pytest.fixture
def sleeper(docker: Command) -> str:
    """The name of a busybox container that sleeps."""
    docker.ok("run", "-d", "--name", "sleeper", "busybox", "sleep", "1000")
    return "sleeper"


def test_run_prints_the_guests_kernel_which_is_not_the_hosts(docker: Command) -> None:
    assert docker.ok("run", "--rm", "busybox", "uname", "-r").strip() != os.uname().release


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("nosuch",), 127),
        (("/nosuch/command",), 127),
        (("/etc",), 126),
        (("/etc/passwd",), 126),
    ],
)
def test_run_ends_with_the_exit_code_of_the_container(docker: Command, command: tuple[str, ...], code: int) -> None:
    assert docker("run", "--rm", "busybox", *command).code == code


def test_an_engine_error_is_exit_code_125(docker: Command) -> None:
    done = docker("run", "--rm", "--device", "/dev/null", "busybox", "true")
    assert done.code == 125
    assert "atoll does not have host devices (--device) yet" in done.stderr


def test_stdout_and_stderr_are_apart_and_stdin_has_an_end(docker: Command) -> None:
    done = docker("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo trouble >&2", input=bytes(range(256)))
    assert (done.code, done.out, done.err) == (0, bytes(range(256)), b"trouble\n")


def test_much_input_arrives_unchanged(docker: Command) -> None:
    data = os.urandom(1 << 20) * 32
    done = docker("run", "--rm", "-i", "busybox", "sha256sum", input=data)
    assert done.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_flags_are_seen_inside(docker: Command) -> None:
    done = docker.ok(
        "run", "--rm", "--hostname", "reef", "-e", "COLOUR=blue", "-w", "/tmp", "-u", "sailor", "--entrypoint", "sh",
        "--label", "a=b", "--stop-timeout", "3", "--init", "--shm-size", "32m", "--pids-limit", "50", "busybox",
        "-c", "hostname; echo $COLOUR; pwd; id -un; df -m /dev/shm | tail -1 | awk '{print $2}'",
    )  # fmt: skip
    assert done.split() == ["reef", "blue", "/tmp", "sailor", "32"]


def test_a_read_only_container_can_write_to_its_tmpfs_only(docker: Command) -> None:
    script = "touch /file || echo refused; touch /tmp/file && echo written"
    done = docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["refused", "written"]


def test_ps_names_status_and_command(docker: Command, sleeper: str) -> None:
    row = docker.ok("ps", "--format", "{{.Names}}|{{.Image}}|{{.Command}}|{{.Status}}").strip()
    assert re.fullmatch(r'sleeper\|busybox\|"sleep 1000"\|Up (Less than a second|\d+ seconds?|About a minute)', row)
    docker.ok("stop", "-t", "0", sleeper)
    assert docker.ok("ps", "-q") == ""
    assert re.match(r"Exited \(137\) ", docker.ok("ps", "-a", "--format", "{{.Status}}"))


def test_ps_filters(docker: Command, sleeper: str) -> None:
    docker.ok("create", "--name", "other", "--label", "colour=red", "busybox")
    assert docker.ok("ps", "-a", "--filter", "label=colour=red", "--format", "{{.Names}}").split() == ["other"]
    assert docker.ok("ps", "--filter", "name=sleep", "--format", "{{.Names}}").split() == [sleeper]
    assert docker.ok("ps", "-l", "--format", "{{.Names}}").split() == ["other"]
    assert docker.ok("ps", "--filter", "status=created", "--format", "{{.Names}}").split() == ["other"]


def test_exec_has_streams_environment_user_and_exit_code(docker: Command, sleeper: str) -> None:
    assert docker("exec", sleeper, "sh", "-c", "exit 9").code == 9
    done = docker("exec", "-i", "-u", "sailor", "-e", "A=1", "-w", "/tmp", sleeper, "sh", "-c",
                  "cat; id -un; echo $A; pwd; echo no >&2", input="in\n")  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["in", "sailor", "1", "/tmp"], "no\n")
    assert docker("exec", sleeper, "nosuch").code == 127
    docker.ok("exec", "-d", sleeper, "touch", "/made-in-the-background")
    assert docker("exec", sleeper, "ls", "/nosuch").code == 1


def test_logs_show_both_streams_tail_and_time(docker: Command) -> None:
    docker.ok("run", "--name", "talker", "busybox", "sh", "-c", "echo one; echo two >&2; sleep 0.3; echo three")
    done = docker("logs", "talker")
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    assert docker("logs", "--tail", "1", "talker").stdout == "three\n"
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z one\n", docker("logs", "-t", "talker").stdout)


def test_following_logs_ends_with_the_container(docker: Command) -> None:
    docker.ok("run", "-d", "--name", "talker", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done")
    assert docker.ok("logs", "-f", "talker").split() == ["1", "2", "3"]


def test_life_goes_from_create_to_rm(docker: Command) -> None:
    id = docker.ok("create", "--name", "reef", "busybox", "sleep", "1000").strip()
    assert docker.ok("start", "reef").strip() == "reef"
    docker.ok("rename", "reef", "atoll")
    docker.ok("pause", "atoll")
    assert docker.ok("inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "atoll").strip() == "paused true"
    docker.ok("unpause", "atoll")
    docker.ok("restart", "-t", "0", "atoll")
    assert "sleep 1000" in docker.ok("top", "atoll")
    docker.ok("kill", "atoll")
    assert docker.ok("wait", "atoll").strip() == "137"
    assert docker.ok("inspect", "-f", "{{.Id}} {{.Name}}", id[:12]).split() == [id, "/atoll"]
    docker.ok("rm", "atoll")
    assert "No such object: atoll" in docker("inspect", "atoll").stderr


def test_stop_sends_the_stop_signal_first(docker: Command) -> None:
    script = "trap 'echo asked; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    docker.ok("run", "-d", "--name", "polite", "--stop-signal", "USR1", "busybox", "sh", "-c", script)
    with docker.start("logs", "-f", "polite") as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == b"ready\n"
        logs.terminate()
    docker.ok("stop", "-t", "30", "polite")
    assert docker.ok("wait", "polite").strip() == "5"
    assert docker.ok("logs", "polite") == "ready\nasked"


def test_a_taken_name_is_refused_with_dockers_words(docker: Command, sleeper: str) -> None:
    done = docker("create", "--name", sleeper, "busybox")
    assert done.code == 1
    assert re.search(
        r'Conflict. The container name "/sleeper" is already in use by container "[0-9a-f]{64}"', done.stderr
    )


def test_a_running_container_is_not_removed_without_force(docker: Command, sleeper: str) -> None:
    done = docker("rm", sleeper)
    assert (done.code, "container is running" in done.stderr) == (1, True)
    docker.ok("rm", "-f", sleeper)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--cpus", "999"), "as there are only"),
        (("--cap-add", "FOO"), "unknown capability"),
        (("-w", "relative"), "needs to be an absolute path"),
        (("--stop-signal", "FOO"), "Invalid signal: FOO"),
        (("--restart", "foo"), "invalid restart policy"),
        (("--network", "container:other"), "each container has a kernel of its own"),
        (("--link", "other"), "atoll does not have links (--link)"),
        (("--pid", "host"), "atoll does not have --pid host"),
        (("--device", "/dev/null"), "atoll does not have host devices"),
        (("--security-opt", "seccomp=/dev/null"), "seccomp"),
        (("--platform", "linux/s390x"), "does not match the specified platform"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    docker: Command, engine: EngineUnderTest, flags: tuple[str, ...], words: str
) -> None:
    done = docker("create", "--pull", "never", *flags, "busybox", "true")
    assert done.code != 0
    assert words in done.stderr
    assert docker.ok("ps", "-aq") == ""
    assert list((engine.root / "containers").iterdir()) == []


def test_images_are_tagged_listed_and_removed(docker: Command) -> None:
    docker.ok("tag", "busybox", "reef/box:1")
    assert "reef/box" in docker.ok("images", "--format", "{{.Repository}}")
    assert docker.ok("rmi", "reef/box:1").strip() == "Untagged: reef/box:1"
    assert json.loads(docker.ok("image", "inspect", "busybox"))[0]["Os"] == "linux"


def test_an_image_in_use_is_not_removed(docker: Command, sleeper: str) -> None:
    by_name, by_id = docker("rmi", "busybox"), docker("rmi", "-f", docker.ok("images", "-q", "busybox"))
    assert by_name.code == by_id.code == 1
    assert 'unable to remove repository reference "busybox" (must force)' in by_name.stderr
    assert "(cannot be forced) - image is being used by running container" in by_id.stderr


def test_import_makes_an_image_that_runs(docker: Command, busybox_tar: Path) -> None:
    docker.ok("import", "-c", 'CMD ["echo", "imported"]', busybox_tar, "reef/imported:2")
    assert docker.ok("run", "--rm", "reef/imported:2") == "imported"
    docker.ok("rmi", "reef/imported:2")


def test_events_tell_a_containers_life(docker: Command) -> None:
    docker.ok("run", "--rm", "--name", "short", "busybox", "true")
    span = ("--since", "1h", "--until", f"{time.time():.6f}")  # "0s" would be cut to whole seconds
    told = docker.ok("events", *span, "--filter", "container=short", "--format", "{{.Action}}").split()
    assert told[-5:] == ["create", "attach", "start", "die", "destroy"]


def test_stats_and_info_and_version(docker: Command, sleeper: str) -> None:
    assert sleeper in docker.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", sleeper)
    assert docker.ok("info", "--format", "{{.ContainersRunning}}").strip() == "1"
    assert docker.ok("version", "--format", "{{.Server.APIVersion}}").strip() == "1.47"


def test_a_container_started_with_rm_is_gone_afterwards(docker: Command, engine: EngineUnderTest) -> None:
    docker.ok("run", "--rm", "busybox", "true")
    assert docker.ok("ps", "-aq") == ""
    assert list((engine.root / "containers").iterdir()) == []


def test_half_a_gigabyte_passes_while_memory_stays_bounded(docker: Command, engine: EngineUnderTest) -> None:
    engine_process = engine.process
    before = engine_process.resident_bytes
    running = docker.start("run", "--rm", "busybox", "dd", "if=/dev/zero", "bs=64k", "count=8192")
    count, largest = 0, 0
    assert running.stdout is not None
    while data := running.stdout.read(1 << 20):
        count += len(data)
        largest = max(largest, engine_process.resident_bytes)
    assert count == 512 << 20
    assert largest - before < 32 << 20
