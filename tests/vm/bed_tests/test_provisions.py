"""What guests boot from is brought, kept, and explained when it cannot be had."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from tests.vm.bed.errors import BedError
from tests.vm.bed.folders import REPOSITORY, cache_folder, made_whole
from tests.vm.bed.packages import our_projects, requirements, write_metadata
from tests.vm.bed.rootfs import complete
from tests.vm.bed.tools import missing_packages, provide


# -- programs --------------------------------------------------------------------------------------
def test_a_missing_program_is_an_error_that_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # and so there is no apt-get either
    with pytest.raises(BedError, match="apt-get install mmdebstrap qemu-system-misc"):
        provide(["qemu-system-s390x", "mmdebstrap"], pytest.fail)


def test_a_program_that_is_there_needs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mmdebstrap").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_packages(["mmdebstrap"]) == []


# -- folders ---------------------------------------------------------------------------------------
def test_the_cache_is_where_the_user_has_caches() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/vfiocore/vm")
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/vfiocore/vm")


def test_a_folder_is_there_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a/root"
    with made_whole(target) as draft:
        (draft / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]


def test_of_a_folder_that_failed_nothing_is_left(tmp_path: Path) -> None:
    def fill() -> None:
        with made_whole(tmp_path / "root") as draft:
            (draft / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_a_folder_at_once_one_is_enough(tmp_path: Path) -> None:
    target = tmp_path / "root"
    with made_whole(target) as first, made_whole(target) as second:
        (first / "from").write_text("first", encoding="ascii")
        (second / "from").write_text("second", encoding="ascii")
    assert (target / "from").read_text(encoding="ascii") == "second"
    assert list(tmp_path.iterdir()) == [target]


# -- the root file system --------------------------------------------------------------------------
def test_a_root_file_system_has_an_init_a_shell_and_its_mount_points(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").touch()
    complete(tmp_path)
    assert (tmp_path / "init").stat().st_mode & 0o111
    assert (tmp_path / "bin/sh").resolve() == (tmp_path / "bin/busybox").resolve()
    assert {"dev", "proc", "run", "source", "sys", "tmp"} <= {
        path.name for path in tmp_path.iterdir()
    }


# -- Python packages -------------------------------------------------------------------------------
def test_in_a_guest_plugins_are_found_as_where_they_are_installed(tmp_path: Path) -> None:
    write_metadata(REPOSITORY, tmp_path)
    found = {
        (point.name, point.value)
        for distribution in importlib.metadata.distributions(path=[str(tmp_path)])
        for point in distribution.entry_points
        if point.group == "vfiocore"
    }
    installed = {
        (point.name, point.value)
        for point in importlib.metadata.entry_points(group="vfiocore")
        if point.dist is not None and point.dist.name in names(tmp_path)
    }
    assert found == installed


def names(folder: Path) -> set[str]:
    return {
        distribution.name for distribution in importlib.metadata.distributions(path=[str(folder)])
    }


def test_every_distribution_of_the_repository_is_on_a_guests_path(tmp_path: Path) -> None:
    write_metadata(REPOSITORY, tmp_path)
    folders = our_projects(REPOSITORY)
    assert len(folders) == len(names(tmp_path))
    assert Path() in folders
    assert all((REPOSITORY / folder / "pyproject.toml").is_file() for folder in folders)


def test_others_packages_are_those_of_the_core_its_extras_and_the_tests() -> None:
    wanted = {requirement.partition(">")[0] for requirement in requirements(REPOSITORY)}
    assert {"attrs", "pluggy", "click", "pytest", "hypothesis"} <= wanted
    assert not any(requirement.startswith("vfiocore") for requirement in wanted)
