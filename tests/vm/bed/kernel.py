"""The kernels that guests run: given, kept from before, or built."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .architectures import Architecture
from .errors import BedError
from .folders import REPOSITORY

BUILD = REPOSITORY / "scripts/vm/build-kernel.sh"

HOW_TO_BUILD = (
    "the kernels of distributions have no CONFIG_IOMMUFD, so guests need one of their own",
    "VFIOCORE_KERNELS names a folder that has ARCH/bzImage (aarch64: Image); without it one is built",
    (
        "VFIOCORE_KERNEL_SOURCE names what to build it from: a Debian package (linux-source-6.12,"
        " linux-source-7.2/sid) or a folder with an unpacked source"
    ),
)

Say = Callable[[str], None]


def find_kernel(
    architecture: Architecture, cache: Path, say: Say, environ: Mapping[str, str] = os.environ
) -> Path:
    """The image to boot; built, which takes minutes, if there is none.

    Raises:
        BedError: There is none, and none can be built.
    """
    given = environ.get("VFIOCORE_KERNELS")
    if given:
        return _given(Path(given), architecture)
    source = environ.get("VFIOCORE_KERNEL_SOURCE") or newest_source()
    folder = cache / "kernels" / f"{_word(source)}-{_recipe(architecture)}" / architecture.name
    image = folder / architecture.image
    if not image.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder, say):
            if not image.is_file():  # nobody else has built it meanwhile
                _build(architecture, source, folder, say)
    return image


def newest_source() -> str:
    """The newest package with a kernel's source that apt knows.

    Raises:
        BedError: It knows none.
    """
    try:
        done = subprocess.run(
            ["apt-cache", "search", "--names-only", r"^linux-source-[0-9]+\.[0-9]+$"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BedError("no kernel, and no apt to bring a kernel's source", *HOW_TO_BUILD) from None
    names = re.findall(r"^(linux-source-(\d+)\.(\d+)) ", done.stdout, re.MULTILINE)
    if not names:
        raise BedError("no kernel, and apt knows no package with a kernel's source", *HOW_TO_BUILD)
    newest: str = max(names, key=lambda name: (int(name[1]), int(name[2])))[0]
    return newest


def _given(folder: Path, architecture: Architecture) -> Path:
    image = folder / architecture.name / architecture.image
    if not image.is_file():
        raise BedError(f"VFIOCORE_KERNELS is {folder}, but there is no {image}", *HOW_TO_BUILD)
    return image.resolve()


@contextmanager
def _alone_in(folder: Path, say: Say) -> Iterator[None]:
    """Wait until nobody else builds in a folder; the lock goes with who holds it, however he ends."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(
                f"somebody else is building this kernel: waiting for it; see {folder / 'build.log'}"
            )
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _build(architecture: Architecture, source: str, folder: Path, say: Say) -> None:
    log = folder / "build.log"
    say(f"building a kernel for {architecture.name} from {source}: minutes; see {log}")
    command = [str(BUILD), architecture.name, source, str(folder)]
    if _run_with_its_children(command, log):
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise BedError(
            f"building a kernel for {architecture.name} from {source} failed; the end of {log}:\n"
            + "\n".join(tail),
            *HOW_TO_BUILD,
        )


def _run_with_its_children(command: Sequence[str], log: Path) -> int:
    """Run a program that starts many; when this is interrupted they all end. Its exit code."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            # Not SIGKILL: the script removes its work folder.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise


def _recipe(architecture: Architecture) -> str:
    """What tells a kernel from one that was built with other options."""
    digest = hashlib.sha256()
    for name in ("build-kernel.sh", "common.config", f"{architecture.name}.config"):
        digest.update((BUILD.parent / name).read_bytes())
    return digest.hexdigest()[:8]


def _word(source: str) -> str:
    """A source as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", source).strip("-")
