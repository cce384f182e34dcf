"""Which kernel guests boot, and what the user is told when there is none."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.bed import kernel
from tests.vm.bed.architectures import AARCH64, ARCHITECTURES, X86_64, Architecture
from tests.vm.bed.errors import BedError
from tests.vm.bed.folders import REPOSITORY
from tests.vm.bed.kernel import find_kernel, newest_source

SCRIPTS = REPOSITORY / "scripts/vm"


def say(text: str) -> None:
    pytest.fail(f"nothing was to be built: {text}")


def program(folder: Path, name: str, script: str) -> None:
    """A program of the machine, standing in for a real one."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_kernel_that_is_there_is_taken(architecture: Architecture, tmp_path: Path) -> None:
    image = tmp_path / architecture.name / architecture.image
    image.parent.mkdir()
    image.touch()
    environment = {"VFIOCORE_KERNELS": str(tmp_path)}
    assert find_kernel(architecture, tmp_path / "cache", say, environment) == image


def test_a_folder_without_the_image_is_an_error_that_says_what_it_should_have(
    tmp_path: Path,
) -> None:
    with pytest.raises(BedError) as error:
        find_kernel(AARCH64, tmp_path, say, {"VFIOCORE_KERNELS": str(tmp_path)})
    assert f"there is no {tmp_path}/aarch64/Image" in str(error.value)
    assert "VFIOCORE_KERNEL_SOURCE" in str(error.value)


def test_without_a_kernel_and_without_apt_the_user_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BedError, match=r"(?s)no apt.*VFIOCORE_KERNELS.*VFIOCORE_KERNEL_SOURCE"):
        find_kernel(X86_64, tmp_path, say, {})


def test_the_newest_source_is_the_one_with_the_highest_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["linux-source-6.1", "linux-source-6.12", "linux-source-6.9"]
    lines = "\n".join(f"echo '{name} - Linux kernel source'" for name in names)
    program(tmp_path / "bin", "apt-cache", lines)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert newest_source() == "linux-source-6.12"


def test_a_failed_build_shows_the_end_of_its_log(tmp_path: Path) -> None:
    said: list[str] = []
    environment = {"VFIOCORE_KERNEL_SOURCE": str(tmp_path)}
    with pytest.raises(BedError, match=r"(?s)build\.log.*has no kernel source"):
        find_kernel(X86_64, tmp_path / "cache", said.append, environment)
    assert said[0].startswith(f"building a kernel for x86_64 from {tmp_path}")


# -- two at once -----------------------------------------------------------------------------------
SECONDS = 20


@pytest.fixture
def slow_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder: builds write ``begun`` there, and go on when there is ``go``."""
    scripts = tmp_path / "scripts"
    program(
        scripts,
        "build-kernel.sh",
        f"echo $1 >>{tmp_path}/begun\n"
        f"until [ -e {tmp_path}/go ]; do sleep 0.01; done\n"
        '[ -e "$2" ] || exit 1\n'
        "touch $3/bzImage",
    )
    for name in ("common.config", "x86_64.config"):
        (scripts / name).touch()
    monkeypatch.setattr(kernel, "BUILD", scripts / "build-kernel.sh")
    yield tmp_path
    (tmp_path / "go").touch()  # whatever became of the test, no build goes on


class Finding(threading.Thread):
    """Somebody who wants a kernel, which is built from a source that may be missing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.found: Path | BedError | None = None
        self.start()

    def run(self) -> None:
        environment = {"VFIOCORE_KERNEL_SOURCE": str(self._folder / "source")}
        try:
            self.found = find_kernel(X86_64, self._folder / "cache", self.said.put, environment)
        except BedError as error:
            self.found = error


def two_at_once(folder: Path) -> list[Path | BedError | None]:
    """What the first and the second to want a kernel get; the second has to wait."""
    first = Finding(folder)
    assert first.said.get(timeout=SECONDS).startswith("building a kernel")
    second = Finding(folder)
    assert "somebody else is building this kernel" in second.said.get(timeout=SECONDS)
    (folder / "go").touch()
    for finding in (first, second):
        finding.join(SECONDS)
    return [first.found, second.found]


def test_who_comes_second_waits_for_the_kernel_and_has_it_too(slow_build: Path) -> None:
    (slow_build / "source").mkdir()
    first, second = two_at_once(slow_build)
    assert isinstance(first, Path)
    assert first == second
    assert (slow_build / "begun").read_text() == "x86_64\n"


def test_who_comes_second_to_a_build_that_fails_builds(slow_build: Path) -> None:
    first, second = two_at_once(slow_build)
    assert isinstance(first, BedError)
    assert isinstance(second, BedError)
    assert (slow_build / "begun").read_text() == "x86_64\n" * 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_option_of_a_kernel_is_set_twice(architecture: str) -> None:
    text = "".join(
        (SCRIPTS / name).read_text(encoding="ascii")
        for name in ("common.config", f"{architecture}.config")
    )
    options = re.findall(r"^(?:# )?(CONFIG_\w+)(?:=| is not set)", text, re.MULTILINE)
    assert len(options) == len(set(options))
