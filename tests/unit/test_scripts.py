"""The steps of the Makefile choose the right tools, and say which one is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.checkout import CHECKOUT, script
from harness.command import Command


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory with the few programs that the scripts call, to be the whole PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("bash", "cut", "dirname", "head", "sed", "sort"):
        (directory / name).symlink_to(f"/usr/bin/{name}")
    return directory


def make_cargo(directory: Path, version: str) -> None:
    """A cargo that says its version, and otherwise that it was the one to run."""
    cargo = directory / "cargo"
    cargo.write_text(f'#!/bin/bash\n[ "$1" = --version ] && echo "cargo {version} (abc)" || echo "mine: $*"\n')
    cargo.chmod(0o755)


def run_cargo(tools: Path, *arguments: str) -> str:
    """Standard output and error of `scripts/cargo` with only `tools` on PATH."""
    done = Command((os.fspath(script("cargo")),), {"PATH": os.fspath(tools), "HOME": "/nonexistent"})(*arguments)
    return done.stdout + done.stderr


def test_a_new_enough_cargo_on_path_is_used(tools: Path):
    make_cargo(tools, "1.100.0")
    assert run_cargo(tools, "build", "--release") == "mine: build --release\n"


def test_an_old_cargo_on_path_is_not_used(tools: Path):
    make_cargo(tools, "1.63.0")
    assert "mine" not in run_cargo(tools, "build", "--help")


def test_a_cargo_that_does_not_run_is_not_used(tools: Path):
    make_cargo(tools, "1.100.0")
    (tools / "cargo").write_text("#!/bin/bash\nexit 1\n")
    assert "mine" not in run_cargo(tools, "build", "--help")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A git repository for Markdown pages."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "guide.md").write_text("# Guide\n\n## First steps\n")
    return tmp_path


def check_links(pages: Path, text: str) -> tuple[int, str]:
    """Exit code and output of the link checker when a page holds `text`."""
    (pages / "index.md").write_text(text)
    checker = Command((sys.executable, os.fspath(script("check_links.py")))).in_directory(pages)
    done = checker()
    return done.code, done.stdout


def test_links_that_lead_somewhere_pass(pages: Path):
    text = "[a](guide.md) [b](guide.md#first-steps) [c](https://example.org/x) `[d](nowhere)`\n```\n[e](nowhere)\n```\n"
    assert check_links(pages, text)[0] == 0


@pytest.mark.parametrize("target", ["missing.md", "guide.md#no-such-heading", "#neither"])
def test_a_link_that_leads_nowhere_is_named(pages: Path, target: str):
    code, output = check_links(pages, f"see [this]({target})\n")
    assert code == 1
    assert target in output


def test_locked_packages_have_hashes_and_no_address():
    for lock in (CHECKOUT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "-index" not in text
