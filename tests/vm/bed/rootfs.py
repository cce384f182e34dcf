"""The guests' root file systems: Debian's Python and busybox, unpacked but not installed.

No maintainer script runs, so neither root nor emulation is needed to make one.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from .architectures import Architecture
from .errors import BedError
from .folders import made_whole
from .tools import provide

SUITE = "bookworm"
"""Its Python is the oldest that vfiocore runs on, 3.11."""

PACKAGES = ("busybox-static", "python3")

INIT = """\
#!/bin/busybox sh
# Only enough to reach the init that is under version control.
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose source /source
exec /bin/busybox sh /source/tests/vm/guest/init
"""

FILES = {
    "init": INIT,
    "etc/passwd": "root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hostname": "guest\n",
}
MOUNT_POINTS = ("dev", "proc", "run", "source", "sys", "tmp")

Say = Callable[[str], None]


def root_file_system(architecture: Architecture, cache: Path, say: Say) -> Path:
    """The folder with a root file system, made if there is none.

    Raises:
        BedError: It cannot be made.
    """
    root = cache / "roots" / f"{architecture.name}-{SUITE}-{_recipe()}"
    if root.is_dir():
        return root
    provide(["mmdebstrap"], say)
    say(f"making a root file system for {architecture.name} of Debian {SUITE}'s packages")
    with made_whole(root) as draft:
        _unpack(architecture, draft)
        complete(draft)
    return root


def complete(root: Path) -> None:
    """Add what is not in any package: the init, users, mount points, a shell."""
    for name in MOUNT_POINTS:
        (root / name).mkdir(exist_ok=True)
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "init").chmod(0o755)
    shell = root / "bin/sh"
    if not shell.is_symlink():
        shell.symlink_to("busybox")


def _unpack(architecture: Architecture, into: Path) -> None:
    command = [
        "mmdebstrap",
        "--quiet",
        # Unlike the other modes this one needs no privilege: there is nothing to run inside.
        "--mode=chrootless",
        "--variant=extract",
        "--format=directory",
        f"--architectures={architecture.debian}",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(into),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BedError(
            f"no root file system for {architecture.name}: mmdebstrap failed\n"
            f"{done.stderr.strip()}",
            "it fetches packages from a Debian mirror, and needs Debian's archive keyring"
            " (package debian-archive-keyring)",
        )


def _recipe() -> str:
    """What tells a root file system from one made by another version of this module."""
    text = repr((PACKAGES, FILES, MOUNT_POINTS))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
