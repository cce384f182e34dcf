"""Everything that a guest needs, put together: prepare a machine once, run jobs on it."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import acceleration, device_tree, emulator, guest
from .emulator import Boot, Share
from .folders import REPOSITORY, cache_folder
from .guest import Limits, Report
from .kernel import find_kernel
from .machines import Machine
from .packages import our_projects, third_party, write_metadata
from .rootfs import root_file_system
from .tools import provide

Say = Callable[[str], None]

COMMAND = """\
#!/bin/sh
exec python3 -c 'from vfiocore.cli import main; main()' "$@"
"""


@dataclass(frozen=True)
class Bed:
    """A machine with all that its guests boot from.

    Attributes:
        machine: What is run.
        kernel: The image.
        root: The root file system.
        packages: Python packages of others.
        bytecode: Where the guests keep compiled Python, which takes them long to make.
        accelerator: QEMU's name of what runs their instructions.
    """

    machine: Machine
    kernel: Path
    root: Path
    packages: Path
    bytecode: Path
    accelerator: str

    def run(self, job: str, results: Path, limits: Limits, show: guest.Show) -> Report:
        """Run a job, a shell script, in a guest of its own.

        Args:
            job: Runs in ``/source``, with our packages importable.
            results: The folder for what the guest gives back; what it had is removed.
            limits: How long it may take.
            show: Gets the job's output as it comes.
        """
        with self._boot(job, results, console=results / "console") as boot:
            return guest.run(emulator.command(self.machine, boot), results, limits, show)

    def shell(self, results: Path) -> int:
        """A shell in a guest, on this terminal; QEMU's exit code."""
        with self._boot("exec sh -l", results, console=None) as boot:
            (results / "interactive").touch()
            return guest.attach(emulator.command(self.machine, boot))

    @contextmanager
    def _boot(self, job: str, results: Path, console: Path | None) -> Iterator[Boot]:
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        self._write_job(job, results)
        with tempfile.TemporaryDirectory(prefix="vfiocore-vm-") as folder:
            work = Path(folder)
            emulator.make_disks(self.machine, work)
            boot = Boot(
                kernel=self.kernel,
                shares=self._shares(results),
                work=work,
                console=console,
                accelerator=self.accelerator,
                device_tree=device_tree.patched(self.machine, work),
            )
            yield boot

    def _shares(self, results: Path) -> tuple[Share, ...]:
        return (
            Share("root", self.root),
            Share("source", REPOSITORY),
            Share("packages", self.packages),
            Share("bytecode", self.bytecode, writable=True),
            Share("bed", results, writable=True),
        )

    def _write_job(self, job: str, results: Path) -> None:
        write_metadata(REPOSITORY, results / "metadata")
        programs = results / "programs"
        programs.mkdir()
        (programs / "vfiocore").write_text(COMMAND, encoding="utf-8")
        (programs / "vfiocore").chmod(0o755)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self._environment()]
        (results / "environment").write_text("\n".join([*lines, ""]), encoding="utf-8")
        (results / "job").write_text(job + "\n", encoding="utf-8")

    def _environment(self) -> Iterator[tuple[str, str]]:
        ours = [str(Path("/source") / folder) for folder in our_projects(REPOSITORY)]
        variables: Mapping[str, str] = {
            "PATH": "/run/bed/programs:/run/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "USER": "root",
            "LANG": "C.UTF-8",
            "PYTHONPATH": ":".join([*ours, "/run/bed/metadata", "/run/packages"]),
            "PYTHONPYCACHEPREFIX": "/run/bytecode",
            "PYTHONUNBUFFERED": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
            "VFIOCORE_VM_MACHINE": self.machine.name,
            "VFIOCORE_VM_FIXTURES": " ".join(sorted(self.machine.fixtures)),
        }
        yield from variables.items()


def prepare(machine: Machine, say: Say, accelerator: str | None = None) -> Bed:
    """Bring what a machine needs: QEMU, a kernel, a root file system, packages.

    Args:
        machine: What is to run.
        say: Told of what takes a while.
        accelerator: What to run it with; found out if None.

    Raises:
        BedError: Something is not to be had; the text says what helps.
    """
    architecture = machine.architecture
    provide([architecture.emulator, "setpriv", *device_tree.programs(machine)], say)
    cache = cache_folder()
    bytecode = cache / "bytecode" / architecture.name
    bytecode.mkdir(parents=True, exist_ok=True)
    kernel = find_kernel(architecture, cache, say)
    return Bed(
        machine=machine,
        kernel=kernel,
        root=root_file_system(architecture, cache, say),
        packages=third_party(REPOSITORY, cache, say),
        bytecode=bytecode,
        accelerator=accelerator or acceleration.accelerator(architecture, kernel),
    )
