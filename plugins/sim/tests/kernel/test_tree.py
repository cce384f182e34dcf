"""The tree behind sysfs: links and names, with the errnos of a file system."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from vfiocore_sim.kernel.tree import Tree


@pytest.fixture
def tree() -> Tree:
    tree = Tree()
    tree.put("/sys/devices/card/vendor", b"0x1af4\n")
    tree.link("/sys/bus/pci/devices/card", "/sys/devices/card")
    return tree


def test_a_link_leads_to_the_directory_that_it_names(tree: Tree) -> None:
    assert tree.readlink("/sys/bus/pci/devices/card") == "../../../devices/card"
    assert tree.realpath("/sys/bus/pci/devices/card/vendor") == "/sys/devices/card/vendor"
    assert tree.read("/sys/bus/pci/devices/card/vendor") == b"0x1af4\n"


def test_the_parent_of_the_root_is_the_root(tree: Tree) -> None:
    assert tree.realpath("/../../sys/devices/./card") == "/sys/devices/card"


def test_links_that_lead_in_a_circle_are_followed_only_so_often(tree: Tree, refused: Any) -> None:
    tree.link("/sys/here", "/sys/there")
    tree.link("/sys/there", "/sys/here")
    with refused(errno.ELOOP):
        tree.find("/sys/here")


def test_nothing_is_below_a_file(tree: Tree, refused: Any) -> None:
    with refused(errno.ENOTDIR):
        tree.find("/sys/devices/card/vendor/id")
    with pytest.raises(TypeError, match="vendor is no directory"):
        tree.put("/sys/devices/card/vendor/id", b"")
