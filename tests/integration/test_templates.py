"""Containers that start from a template, or from a clone that stands ready: the same containers, only sooner."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.starts import (
    TEMPLATE_SEALS,
    start_kind,
    status,
    template_memory,
    virtual_machines,
    wait_for_pool,
)

Damage = Callable[[Path], object]
EngineWith = Callable[[str], EngineUnderTest]


def _flip(file: Path) -> None:
    """Change one bit in the middle of what is not a hole."""
    with file.open("r+b") as opened:
        start = os.lseek(opened.fileno(), file.stat().st_size // 2, os.SEEK_DATA)
        (byte,) = os.pread(opened.fileno(), 1, start)
        os.pwrite(opened.fileno(), bytes([byte ^ 1]), start)


DAMAGES: dict[str, Damage] = {
    "memory truncated": lambda template: os.truncate(template / "memory", 1 << 20),
    "memory flipped": lambda template: _flip(template / "memory"),
    "state flipped": lambda template: _flip(template / "state"),
    "state missing": lambda template: (template / "state").unlink(),
    "record torn": lambda template: (template / "template.json").write_bytes(b'{"key": '),
}


def _template(engine: EngineUnderTest) -> Path:
    """The directory of the one template, built if need be."""
    identity = engine.atoll.ok("system", "template", "build").strip()
    return engine.root / "templates" / identity


def test_a_start_says_whether_it_was_cold_a_clone_or_from_the_pool(engine_with: EngineWith) -> None:
    cold = engine_with("templates = false\n")
    assert start_kind(cold, "busybox", "true") == "cold"
    assert cold.atoll.ok("system", "template", "list", "-q") == ""
    clone = engine_with("pool_size = 0\n")
    _template(clone)
    assert start_kind(clone, "busybox", "true") == "clone"
    pool = engine_with("pool_size = 1\n")
    wait_for_pool(pool)
    assert start_kind(pool, "busybox", "true") == "pool"


@pytest.mark.parametrize("settings", ["pool_size = 0\n", "pool_size = 1\n"], ids=["clone", "pool"])
def test_a_container_cannot_tell_how_it_was_started(engine_with: EngineWith, settings: str) -> None:
    engine = engine_with(settings)
    _template(engine)
    look = (
        "hostname; cat /etc/hostname; grep -c . /proc/mounts; cat /proc/self/cgroup; ls /dev | sort | tr '\\n' ' ';"
        "touch /new && rm /new; stat -c '%a %u' / /tmp; df -k / | awk 'END{print $2}'; ls /sys/fs/cgroup | wc -l;"
        "cat /proc/1/comm; ls /proc/1/fd > /tmp/fds; wc -l < /tmp/fds; ulimit -n; dmesg 2>&1 | head -1; echo $$"
    )
    cold = engine_with("templates = false\n").atoll.ok("run", "--rm", "-h", "reef", "busybox", "sh", "-c", look)
    wait_for_pool(engine)
    assert engine.atoll.ok("run", "--rm", "-h", "reef", "busybox", "sh", "-c", look) == cold


@pytest.mark.parametrize(("memory", "least_mib"), [("96m", 150), ("700m", 700), ("2g", 2048), (None, 950)])
def test_all_memory_is_there_when_the_process_begins(
    engine: EngineUnderTest, memory: str | None, least_mib: int
) -> None:
    flags = ("-m", memory) if memory else ()
    engine.atoll.ok("system", "template", "build", *flags)
    first_line = engine.atoll.ok("run", "--rm", *flags, "busybox", "head", "-1", "/proc/meminfo")
    assert int(first_line.split()[1]) // 1024 >= least_mib
    assert start_kind(engine, *flags, "busybox", "true") in ("clone", "pool")


def test_limits_are_those_of_a_guest_that_was_booted_with_all_its_memory(engine_with: EngineWith) -> None:
    def limits(settings: str, *flags: str) -> dict[str, list[int]]:
        engine = engine_with(settings)
        if "templates = false" not in settings:
            _template(engine)
        names = "kernel/threads-max fs/file-max net/ipv4/tcp_mem net/ipv4/udp_mem net/ipv4/tcp_rmem net/ipv4/tcp_wmem"
        look = f"cd /proc/sys && for n in {names}; do echo $n $(cat $n); done; echo signals $(ulimit -i)"
        shown = engine.atoll.ok("run", "--rm", "-m", "1g", *flags, "busybox", "sh", "-c", look)
        return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in shown.splitlines()}

    cold, clone = limits("templates = false\n"), limits("pool_size = 0\n")
    for name, values in cold.items():
        assert clone[name] == pytest.approx(values, rel=0.15), name
    chosen = limits("pool_size = 0\n", "--sysctl", "net.ipv4.tcp_rmem=4096 8192 16384")
    assert chosen["net/ipv4/tcp_rmem"] == [4096, 8192, 16384]


def test_other_sizes_privileges_and_shared_memory_start_from_templates_too(engine: EngineUnderTest) -> None:
    wait_for_pool(engine)
    run = ("run", "--rm")
    assert engine.atoll.ok(*run, "--privileged", "busybox", "sh", "-c", "ls /dev/vda && mount -t tmpfs x /tmp") == (
        "/dev/vda"
    )
    assert engine.atoll.ok(
        *run, "--shm-size", "8m", "busybox", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"
    )
    assert engine.atoll.ok(*run, "--cpus", "1", "busybox", "nproc") == "1"
    assert (
        engine.atoll.ok(*run, "--read-only", "--tmpfs", "/scratch", "busybox", "sh", "-c", "touch /scratch/x; pwd")
        == "/"
    )


def test_a_restarted_container_has_what_it_wrote(engine: EngineUnderTest) -> None:
    engine.atoll.ok("system", "template", "build")
    name = engine.atoll.ok("run", "-d", "busybox", "sh", "-c", "echo x >> /log; wc -l < /log; sync").strip()
    engine.atoll.ok("wait", name)
    engine.atoll.ok("start", name)
    engine.atoll.ok("wait", name)
    assert engine.atoll.ok("logs", name) == "1\n2"
    engine.atoll.ok("rm", name)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_template_is_replaced_and_nobody_notices(private_engine: EngineUnderTest, damage: Damage) -> None:
    template = _template(private_engine)
    private_engine.stop()
    damage(template)
    private_engine.start()
    assert private_engine.atoll.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
    assert _template(private_engine) == template
    assert start_kind(private_engine, "busybox", "true") == "clone"


def test_a_template_that_does_not_load_is_discarded_and_the_container_boots_cold(
    private_engine: EngineUnderTest,
) -> None:
    template = _template(private_engine)
    private_engine.stop()
    state = template / "state"
    state.write_bytes(b"no state of any machine")
    record = json.loads((template / "template.json").read_bytes())
    # Its digest is right: only QEMU can tell.
    record["state_digest"] = _digest_as_written(state)
    (template / "template.json").write_bytes(json.dumps(record).encode())
    private_engine.start()
    done = private_engine.atoll("run", "--timings", "--name", "odd", "busybox", "echo", "fine")
    assert (done.code, done.stdout) == (0, "fine\n"), str(done)
    assert "start: cold" in done.stderr
    assert "discarding template" in private_engine.log()
    _template(private_engine)
    assert start_kind(private_engine, "busybox", "true") == "clone"


def _digest_as_written(file: Path) -> str:
    from atoll.template.template import copy_file

    source, target = os.open(file, os.O_RDONLY), os.memfd_create("copy")
    try:
        return copy_file(source, target)
    finally:
        os.close(source)
        os.close(target)


def test_clones_run_on_when_their_template_is_deleted(private_engine: EngineUnderTest) -> None:
    template = _template(private_engine)
    running = Container(private_engine.atoll.ok("run", "-d", "busybox", "sleep", "1000").strip(), private_engine)
    private_engine.atoll.ok("system", "template", "rm", template.name[:12])
    shutil.rmtree(template, ignore_errors=True)
    assert running.exec("sh", "-c", "find / -xdev | wc -l && echo alive").stdout.endswith("alive\n")
    assert private_engine.atoll.ok("run", "--rm", "busybox", "echo", "fine") == "fine"


def test_a_template_of_another_qemu_is_not_used(engine_with: EngineWith, tmp_path: Path) -> None:
    found = shutil.which("qemu-system-x86_64")
    assert found, "qemu-system-x86_64 is missing: scripts/install-packages test"
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(f'#!/bin/sh\nexec {found} "$@"\n')
    qemu.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):
        if "pytest-of-" in os.fspath(directory):
            directory.chmod(0o755)
    engine = engine_with(f'pool_size = 0\nqemu = "{qemu}"\n')
    old = _template(engine)
    os.utime(qemu, (0, 0))  # as if it had been upgraded
    assert engine.atoll.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
    new = _template(engine)
    assert new != old
    current = engine.atoll.ok("system", "template", "list", "--no-trunc", "--format", "{{.ID}} {{.Current}}")
    assert f"{new.name} yes" in current
    assert f"{old.name} yes" not in current


def test_two_builds_at_once_build_one_template(private_engine: EngineUnderTest) -> None:
    for template in private_engine.atoll.ok("system", "template", "list", "-q").split():
        private_engine.atoll.ok("system", "template", "rm", template)
    with ThreadPoolExecutor() as pool:
        builds = [pool.submit(private_engine.atoll.ok, "system", "template", "build") for _ in range(3)]
    assert len({build.result() for build in builds}) == 1
    assert private_engine.log().count("is ready") == 1


def test_a_builder_that_is_killed_leaves_nothing_and_the_next_one_succeeds(private_engine: EngineUnderTest) -> None:
    _template(private_engine)
    with private_engine.atoll.start("system", "template", "build", "--force") as build:
        while not (builders := virtual_machines(private_engine, "atoll-template")):
            assert build.poll() is None, "the template was built before its builder was found"
        builders[0].kill(signal.SIGKILL)
        _, complaint = build.communicate(timeout=60)
    assert build.returncode == 1
    assert b"killed by signal 9" in complaint or b"is gone" in complaint
    assert [entry for entry in (private_engine.root / "templates").iterdir() if entry.name.startswith(".new")] == []
    assert private_engine.atoll.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
    _template(private_engine)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_ready_clone_that_is_dead_or_hangs_does_not_fail_a_start(
    engine_with: EngineWith, number: signal.Signals
) -> None:
    engine = engine_with("pool_size = 1\n")
    wait_for_pool(engine)
    (spare,) = virtual_machines(engine, "atoll-spare")
    os.kill(spare.pid, number)
    assert engine.atoll.ok("run", "--rm", "busybox", "echo", "fine") == "fine"
    wait_for_pool(engine)
    assert start_kind(engine, "busybox", "true") == "pool"


def test_ready_clones_end_with_their_engine(engine_with: EngineWith) -> None:
    engine = engine_with("pool_size = 2\n")
    wait_for_pool(engine)
    spares = virtual_machines(engine, "atoll-spare")
    assert len(spares) == 2
    assert len({spare.uid for spare in spares}) == (2 if os.geteuid() == 0 else 1)
    engine.kill()
    for spare in spares:
        spare.wait()
    engine.start()
    wait_for_pool(engine)
    assert start_kind(engine, "busybox", "true") == "pool"


def test_an_idle_pool_is_emptied_and_filled_again_by_a_start(engine_with: EngineWith) -> None:
    engine = engine_with("pool_size = 1\npool_idle_s = 10\n")
    engine.atoll.ok("run", "--rm", "busybox", "true")
    wait_for_pool(engine)
    (spare,) = virtual_machines(engine, "atoll-spare")
    spare.wait(timeout_s=60)
    engine.atoll.ok("run", "--rm", "busybox", "true")
    wait_for_pool(engine)


def test_a_container_that_is_created_only_keeps_no_vm(engine_with: EngineWith) -> None:
    engine = engine_with("pool_size = 1\n")
    wait_for_pool(engine)
    (spare,) = virtual_machines(engine, "atoll-spare")
    created = engine.atoll.ok("create", "busybox", "echo", "late").strip()
    spare.wait(timeout_s=30)
    assert engine.atoll.ok("start", "-a", created) == "late"


def test_containers_that_are_removed_while_they_start_leave_nothing(engine: EngineUnderTest) -> None:
    wait_for_pool(engine)
    for number in range(6):
        name = f"short-{number}"
        engine.atoll.ok("create", "--name", name, "busybox", "sleep", "1000")
        with engine.atoll.start("start", name) as start:
            engine.atoll.ok("rm", "-f", name)
            start.communicate(timeout=60)
    assert engine.atoll.ok("ps", "-aq") == ""


def test_twenty_starts_at_once_all_start(engine: EngineUnderTest) -> None:
    with ThreadPoolExecutor(20) as pool:
        starts = [pool.submit(engine.atoll, "run", "-d", "-m", "64m", "busybox", "sleep", "1000") for _ in range(20)]
    failed = [str(start.result()) for start in starts if start.result().code != 0]
    assert failed == []
    names = engine.atoll.ok("ps", "-q").split()
    assert len(names) == 20
    engine.atoll.ok("rm", "-f", *names)


def test_memory_is_not_promised_beyond_the_limit(engine_with: EngineWith) -> None:
    host_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    engine = engine_with(f"pool_size = 0\nmemory_overcommit = {2.5 * 1024 / host_mib:.4f}\n")
    for _ in range(2):
        engine.atoll.ok("run", "-d", "busybox", "sleep", "1000")
    refused = engine.atoll("run", "-d", "--name", "third", "busybox", "sleep", "1000")
    assert refused.code == 125
    assert "memory_overcommit" in refused.stderr
    assert "third" in refused.stderr
    assert len(engine.atoll.ok("ps", "-q").split()) == 2
    assert engine.atoll.ok("run", "--rm", "-m", "64m", "busybox", "echo", "small") == "small"


def test_the_template_is_sealed_and_the_status_counts_it(engine: EngineUnderTest) -> None:
    import fcntl

    wait_for_pool(engine)
    assert status(engine)["Templates"]["Current"] >= 1
    with template_memory(engine) as memory:
        assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) & TEMPLATE_SEALS == TEMPLATE_SEALS
