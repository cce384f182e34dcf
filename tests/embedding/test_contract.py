"""The names and signatures that others rely on change on purpose only."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from .contract import FOLDER, MODULES, contract, file_of, installed

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "api"
HOW_TO_ACCEPT = """{changes}

This is the contract of {package} with plugins and embedders. If it is meant to change, accept it
with the following command, and commit the file that it changes:

    python tests/embedding/contract.py
"""
BY_THE_KERNEL = "vfiocore.uapi"


@pytest.mark.parametrize("package", installed())
def test_the_public_names_are_those_that_were_agreed_on(package: str) -> None:
    agreed = file_of(package).read_text(encoding="utf-8").splitlines()
    now = contract(package).splitlines()
    changes = list(difflib.unified_diff(agreed, now, "agreed", "now", n=0, lineterm=""))
    if changes:
        pytest.fail(
            HOW_TO_ACCEPT.format(changes="\n".join(changes), package=package), pytrace=False
        )


def test_every_package_has_its_file_and_no_other_is_there() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(MODULES)


@pytest.mark.skipif(not REFERENCE.exists(), reason="an sdist has no pages")
def test_every_module_of_the_reference_is_agreed_on() -> None:
    agreed = {
        f"{package}.{name}" if name else package
        for package, names in MODULES.items()
        for name in names
    }
    documented = {
        name
        for page in REFERENCE.glob("*.md")
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    }
    assert documented - agreed == {BY_THE_KERNEL}
