"""A tree of directories, links and attribute files, with the errnos of a file system."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from vfiocore_sim.device import SysfsEntry, SysfsFile
from vfiocore_sim.refusal import refused

_MAXIMUM_LINKS = 40


@frozen
class Link:
    """A symbolic link, with its target as it is stored."""

    target: str


@frozen
class DeviceNode:
    """A character device: opening it is calling `open`, which gives an fd."""

    open: Callable[[], int]


Directory: TypeAlias = "dict[str, Entry]"
Entry: TypeAlias = "Directory | Link | DeviceNode | SysfsEntry"


class Tree:
    """Everything below the root that is simulated."""

    def __init__(self) -> None:
        self.root: Directory = {}

    # -- building ----------------------------------------------------------------------------
    def directory(self, path: str) -> Directory:
        """The directory of a path, made with those above it if need be."""
        here = self.root
        for name in path.strip("/").split("/"):
            entry = here.setdefault(name, {})
            if not isinstance(entry, dict):
                raise TypeError(f"{path}: {name} is no directory")
            here = entry
        return here

    def put(self, path: str, entry: Entry) -> None:
        """Add an entry."""
        parent, name = posixpath.split(path)
        self.directory(parent)[name] = entry

    def link(self, path: str, target: str) -> None:
        """Add a link to an absolute path, stored relative as the kernel does."""
        self.put(path, Link(posixpath.relpath(target, posixpath.dirname(path))))

    # -- reading -----------------------------------------------------------------------------
    def realpath(self, path: str) -> str:
        """The path without links; a part that does not exist ends the resolving."""
        return self._walk(path, follow_last=True, strict=False)[0]

    def find(self, path: str, *, follow: bool = True) -> Entry:
        """The entry of a path: ENOENT, ENOTDIR or ELOOP."""
        return self._walk(path, follow_last=follow, strict=True)[1]

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        entry = self.find(path)
        if not isinstance(entry, dict):
            raise refused(errno.ENOTDIR)
        return sorted(entry)

    def readlink(self, path: str) -> str:
        """The target of a link; EINVAL for anything else."""
        entry = self.find(path, follow=False)
        if not isinstance(entry, Link):
            raise refused(errno.EINVAL)
        return entry.target

    def read(self, path: str) -> bytes:
        """An attribute's content; EISDIR, or EACCES for one that can only be written."""
        entry = self.find(path)
        if isinstance(entry, bytes):
            return entry
        if isinstance(entry, dict):
            raise refused(errno.EISDIR)
        if isinstance(entry, SysfsFile) and entry.read is not None:
            return entry.read()
        raise refused(errno.EACCES)

    def write(self, path: str, data: bytes) -> None:
        """Store to an attribute; EISDIR, or EACCES for one that can only be read."""
        entry = self.find(path)
        if isinstance(entry, dict):
            raise refused(errno.EISDIR)
        if not isinstance(entry, SysfsFile) or entry.write is None:
            raise refused(errno.EACCES)
        entry.write(data)

    def _walk(self, path: str, *, follow_last: bool, strict: bool) -> tuple[str, Entry]:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        done: list[tuple[str, Directory]] = []
        here: Entry = self.root
        links = 0
        while parts:
            name = parts.pop(0)
            if name == "..":
                here = done.pop()[1] if done else self.root
                continue
            if not isinstance(here, dict) or name not in here:
                if strict:
                    raise refused(errno.ENOENT if isinstance(here, dict) else errno.ENOTDIR)
                rest = posixpath.normpath("/".join([name, *parts]))
                return "/" + "/".join([*(done_name for done_name, _ in done), rest]), {}
            entry = here[name]
            if isinstance(entry, Link) and (parts or follow_last):
                links += 1
                if links > _MAXIMUM_LINKS:
                    raise refused(errno.ELOOP)
                parts = [*(part for part in entry.target.split("/") if part), *parts]
                continue
            done.append((name, here))
            here = entry
        return "/" + "/".join(name for name, _ in done), here
