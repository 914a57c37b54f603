"""Measures EROFS against squashfs as the file system of layers (docs/adr/0010-squashfs-or-erofs.md).

Of one tar (Debian's root and a file of 256 MiB that nothing compresses) a squashfs is made by our own writer and by
sqfstar, and an EROFS by mkfs.erofs, which in Debian 12 takes a directory, so that the tar is unpacked before. None is
compressed. Each is then a disk of a plain guest (bench/guest.py), which mounts it, and reads it in several ways, its
caches dropped before; the three take turns.
"""

import argparse
import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import boot
from disk import image_tar
from figures import print_table, wait_until_quiet
from guest import Disk, GuestFailed, guest
from harness.images import debian_root
from harness.kernel import unpacked_kernel

from atoll.image.layer import write_layer

BIG_MIB = 256
OURS, SQFSTAR, EROFS = "squashfs, our writer", "squashfs, sqfstar", "EROFS, tar -x and mkfs.erofs"
KINDS = {OURS: "squashfs", SQFSTAR: "squashfs", EROFS: "erofs"}
_FIO = "chroot /tools fio --name=x --output-format=terse --minimal --readonly --filename=/written/big"
_MOUNTS = 20
_REMOUNT = "umount $AT; mount -t $KIND -o ro $DISK $AT"
_TIMED = {
    f"mount and unmount {_MOUNTS} times": f"for n in $(seq {_MOUNTS}); do {_REMOUNT}; done",
    "find all": "find $AT > /dev/null",
    "read all of /usr/share and /usr/bin": "find $AT/usr/share $AT/usr/bin -type f -exec cat {} + > /dev/null",
    "read a file of 256 MiB": "dd if=$AT/big of=/dev/null bs=1M 2> /dev/null",
    "10,000 random reads of 4 KiB": f"{_FIO} --rw=randread --bs=4k --io_size=40000k > /dev/null",
}


def source_tar(file: Path) -> None:
    """The tar that all are made of."""
    file.write_bytes(debian_root().read_bytes())
    with tarfile.open(file, mode="a") as tar:
        info = tarfile.TarInfo("big")
        info.size = BIG_MIB << 20
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))


def make(kind: str, source: Path, target: Path, scratch: Path) -> float:
    """Make a file system of the tar `source`; seconds that it took."""
    started = time.perf_counter()
    if kind == OURS:
        with source.open("rb") as tar, io.FileIO(target, "w+") as file:
            write_layer(tar, file)
    elif kind == SQFSTAR:
        options = ("-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX")
        with source.open("rb") as tar:
            subprocess.run(["sqfstar", *options, target], stdin=tar, check=True, capture_output=True)
    else:
        with tempfile.TemporaryDirectory(dir=scratch) as tree:
            subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-f", source, "-C", tree], check=True)
            subprocess.run(["mkfs.erofs", "--quiet", target, tree], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: %(default)s)")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        source, tools = scratch / "tar", scratch / "tools"
        source_tar(source)
        with io.FileIO(tools, "w+") as file:
            write_layer(io.BytesIO(image_tar()), file)
        made: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds + 1):
            for kind, name in zip(KINDS, "abc", strict=True):
                target = scratch / name
                target.unlink(missing_ok=True)
                wait_until_quiet()
                took_s = make(kind, source, target, scratch)
                if number > 0:
                    made[kind].append(took_s)
        print_table("made of a tar", made, "s")
        files = [scratch / name for name in "abc"]
        for kind, path in zip(KINDS, files, strict=True):
            print(f"{kind}: {path.stat().st_size / (1 << 20):.1f} MiB")
        kernel = unpacked_kernel()
        machine = asyncio.run(boot.machine(kernel, scratch))
        disks = [Disk(tools), *(Disk(path) for path in files)]
        shell = stack.enter_context(guest(kernel, machine, scratch, disks, ("erofs",)))
        shell.run("mkdir /tools && mount -t squashfs -o ro /dev/plain0 /tools && mount -o bind /dev /tools/dev")
        for what, line in _TIMED.items():
            figures: dict[str, list[float]] = defaultdict(list)
            for number in range(options.rounds + 1):
                for disk, (kind, name) in enumerate(KINDS.items(), start=1):
                    shell.run(f"AT=/tools/written KIND={name} DISK=/dev/plain{disk}")
                    shell.run("mount -t $KIND -o ro $DISK $AT; sync; echo 3 > /proc/sys/vm/drop_caches")
                    wait_until_quiet()
                    clock = "cut -d ' ' -f 1 /proc/uptime"
                    began, ended = shell.run(f"{clock}; {line} && {clock}").split()
                    shell.run("umount $AT")
                    if number > 0:
                        figures[kind].append((float(ended) - float(began)) * 1e3)
            print_table(what, figures)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except GuestFailed as error:
            sys.exit(f"bench/filesystems: {error}")
