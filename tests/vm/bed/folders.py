"""Where things are: the repository, and what is kept between runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

RESULTS = REPOSITORY / ".vm"
"""Where a run leaves its reports; not in git."""


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where kernels, root file systems and packages are kept: they take a while to make."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "vfiocore" / "vm"


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `target` when all went well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        # QEMU and the guest's users read it, whoever made it.
        draft.chmod(0o755)
        yield draft
        _rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        # Somebody else was faster, and theirs is as good.
        if not target.is_dir():
            raise
