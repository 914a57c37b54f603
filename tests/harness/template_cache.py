"""The templates that engines of a test run have built: the next engine need not build the same again, for seconds.

Building one takes both processors for seconds, and nearly all engines of a run need the same one. What is lent is a
copy: an engine may damage or remove its own.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.engine import EngineUnderTest


@dataclass(frozen=True)
class TemplateCache:
    """Templates by id, in a directory that all workers of a run share."""

    directory: Path

    def lend(self, engine: EngineUnderTest, uid: int) -> None:
        """Give an engine that has not been started yet all that there are."""
        own = engine.root / "templates"
        own.mkdir(mode=0o700)
        for template in self._templates(self.directory):
            _copy(template, own / template.name)
        for path in (own, *own.rglob("*")):
            os.chown(path, uid, uid)

    def keep(self, engine: EngineUnderTest) -> None:
        """Take what an engine has and the cache does not."""
        for template in self._templates(engine.root / "templates"):
            if not (self.directory / template.name).exists():
                with tempfile.TemporaryDirectory(prefix=".", dir=self.directory) as name, suppress(OSError):
                    # The engine may forget it meanwhile, another worker may be first.
                    _copy(template, Path(name) / "template")
                    (Path(name) / "template").rename(self.directory / template.name)

    @staticmethod
    def _templates(directory: Path) -> list[Path]:
        return [path for path in directory.glob("[0-9a-f]*") if (path / "template.json").exists()]


def _copy(source: Path, target: Path) -> None:
    try:
        subprocess.run(("cp", "-r", "--sparse=always", source, target), check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise OSError(error.stderr.decode()) from error
