"""``vfiocore demo``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vfiocore_sim.topology import AP_MATRIX_UUID, CCW_DISK_UUID

Run = Callable[..., Any]

SEED = [
    "-object iommufd,id=iommufd0 -device vfio-pci,id=edu,host=0000:02:00.0,iommufd=iommufd0",
    "-device vfio-pci,id=edu,iommufd=iommufd0,fd=",
    "-device vfio-pci,id=edu,host=0000:02:00.0\n",
]

NEVER_READY = f"""
[[pci]]
name = "0000:03:00.0"
device = "cards:NeverReady"
group = 2

[[platform]]
name = "10000000.timer"
device = "timer"
group = 3

[[ap_matrix]]
name = "{AP_MATRIX_UUID}"

[[subchannel]]
name = "0.0.0001"

[[mdev]]
name = "{CCW_DISK_UUID}"
parent = "0.0.0001"
"""


def test_the_three_configurations_of_the_guide_run(run: Run) -> None:
    result = run("demo")
    assert result.code == 0
    assert result.err == ""
    for words in SEED:
        assert words in result.out


def test_every_kind_of_device_works_on_both_backends(run: Run) -> None:
    document = run("demo", "--json").document
    done = {(s["backend"], step["type"]) for s in document["scenarios"] for step in s["steps"]}
    types = ("vfio-pci", "vfio-platform", "vfio-ap", "vfio-ccw")
    assert done == {(backend, type_) for backend in ("legacy", "iommufd") for type_ in types}


def test_every_device_moves_bytes_and_interrupts(run: Run) -> None:
    document = run("demo", "--json").document
    steps = [step for scenario in document["scenarios"] for step in scenario["steps"]]
    assert all(step["bytes"] > 0 and step["interrupts"] > 0 for step in steps)


def test_a_device_that_corrupts_data_is_found_out(run: Run, machine: Callable[..., str]) -> None:
    result = run("demo", "--host", machine("cards:Corrupt"))
    assert result.code == 1
    assert result.err.startswith(
        "vfiocore: the card's copy: 1 of 1024 bytes came back wrong, the first at 0x0"
    )


def test_a_device_that_gives_a_wrong_result_is_found_out(
    run: Run, machine: Callable[..., str]
) -> None:
    result = run("demo", "--host", machine("cards:Miscounting"))
    assert result.code == 1
    assert result.err == "vfiocore: 10!: 3628801 came back, 3628800 was expected\n"


def test_a_controller_that_never_becomes_ready_is_given_up(
    run: Run, machine: Callable[..., str]
) -> None:
    result = run("demo", "--host", machine(more=NEVER_READY))
    assert result.code == 1
    assert result.err == "vfiocore: the controller does not become ready\n"


def test_a_machine_without_the_devices_is_told_so(run: Run, machine: Callable[..., str]) -> None:
    result = run("demo", "--host", machine())
    assert result.code == 2
    assert "0000:03:00.0" in result.err


def test_the_demo_is_for_simulated_machines(run: Run) -> None:
    result = run("demo", "--host", "linux")
    assert result.code == 2
    assert "--host sim[:FILE]" in result.err
