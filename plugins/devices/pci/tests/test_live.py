"""The device type on a simulated machine, through both backends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore.errors import ConfigError, DeviceAccessError, KernelError, UnsupportedError
from vfiocore.framework import Framework
from vfiocore.log import VfioWarning
from vfiocore.region import Area
from vfiocore.session import Session
from vfiocore.uapi import pci_regs as pci
from vfiocore_pci.device import PciDevice
from vfiocore_sim.devices import IvshmemDevice
from vfiocore_sim.devices.edu import BUFFER_OFFSET, EduDevice
from vfiocore_sim.host import SimHost
from vfiocore_sim.topology import Topology
from vfiocore_sim.vfio.pci import Bar, MsixTable
from vfiocore_sim.vfio.pci import PciDevice as PciProgram

EDU = "0000:02:00.0"
CARD = "0000:03:00.0"
SHARED = "0000:04:00.0"

ID, LIVENESS, IRQ_RAISE, IRQ_ACK = 0x00, 0x04, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
DMA_START, DMA_TO_MEMORY = 1, 2
MEMORY, MEMORY_SIZE = 0x80000, 0x10000
MIB = 1 << 20


class EduWithMemory(EduDevice):
    """The edu card with memory behind its registers: interrupts, and a part that can be mapped."""

    bars = (Bar(index=0, size=1 << 20, ram=((MEMORY, MEMORY_SIZE),)),)


class Card(PciProgram):
    """PCI Express with MSI-X, a ROM, and a 64-bit BAR."""

    vendor_id = 0x1234
    device_id = 0x0001
    class_code = 0x010802
    bars = (Bar(index=0, size=0x4000, wide=True),)
    msix = MsixTable(vectors=8, bar=0, table=0x2000, pba=0x3000)
    express = True
    serial = 0x1122334455667788
    rom = b"\x55\xaa" + bytes(510)
    reset_methods = ()


@pytest.fixture
def host() -> SimHost:
    few = lambda: Card(available_vectors=3)  # noqa: E731 - a factory for each host
    machine = Topology().pci(EDU, EduWithMemory, group=1).pci(CARD, few, group=2)
    return SimHost(machine.pci(SHARED, IvshmemDevice, group=3))


@pytest.fixture
def framework(host: SimHost) -> Framework:
    plugins = [vfiocore_legacy.plugin, vfiocore_iommufd.plugin, vfiocore_pci.plugin]
    return Framework(plugins, autoload=False, host=host)


@pytest.fixture(params=["legacy", "iommufd"])
def open_device(
    request: pytest.FixtureRequest, framework: Framework, host: SimHost
) -> Iterator[Callable[[str], tuple[Session, PciDevice]]]:
    sessions: list[Session] = []

    def opened(name: str) -> tuple[Session, PciDevice]:
        words = f"-device vfio-pci,id=dev0,host={name}"
        if request.param == "iommufd":
            words = f"-object iommufd,id=iommufd0 {words},iommufd=iommufd0"
        sessions.append(framework.open(words))
        device = sessions[-1]["dev0"]
        assert isinstance(device, PciDevice)
        return sessions[-1], device

    yield opened
    for session in sessions:
        session.close()
    assert host.open_files() == []
    assert host.live_mappings() == []
    assert host.pinned_bytes == 0


Open = Callable[[str], tuple[Session, PciDevice]]


def test_the_header_tells_what_the_device_is(open_device: Open) -> None:
    _, edu = open_device(EDU)
    assert (edu.config_space.vendor_id, edu.config_space.device_id) == (0x1234, 0x11E8)
    assert (edu.config_space.class_code, edu.config_space.revision) == (0x00FF00, 0x10)
    assert edu.name == EDU


def test_capabilities_are_those_of_the_device(open_device: Open) -> None:
    _, card = open_device(CARD)
    standard = {cap.id for cap in card.config_space.capabilities() if not cap.extended}
    extended = {cap.id for cap in card.config_space.capabilities() if cap.extended}
    assert standard == {pci.PCI_CAP_ID_PM, pci.PCI_CAP_ID_EXP, pci.PCI_CAP_ID_MSIX}
    assert extended == {pci.PCI_EXT_CAP_ID_ERR, pci.PCI_EXT_CAP_ID_DSN}


def test_registers_answer_after_enable_and_are_an_error_before(open_device: Open) -> None:
    _, edu = open_device(EDU)
    bar = edu.bars[0]
    assert bar is not None
    edu.memory_decode = False
    with pytest.raises(DeviceAccessError, match="EIO"):
        bar.read32(ID)
    with edu.enable():
        assert bar.read32(ID) == 0x010000ED
        bar.write32(LIVENESS, 0x12345678)
        assert bar.read32(LIVENESS) == 0xEDCBA987


def test_bars_and_rom_have_the_sizes_of_the_device(open_device: Open) -> None:
    _, card = open_device(CARD)
    assert card.bars[0] is not None
    assert card.bars[0].size == 0x4000
    assert card.bars[1:] == (None,) * 5
    assert card.rom is not None
    assert card.rom.read(0, 2) == b"\x55\xaa"
    assert card.vga is None


def test_a_bar_is_mapped_as_far_as_it_is_memory(open_device: Open) -> None:
    _, edu = open_device(EDU)
    bar = edu.bars[0]
    assert bar is not None
    assert bar.areas == (Area(MEMORY, MEMORY_SIZE),)
    with edu.enable():
        bar.map()
        bar.write(MEMORY, b"mapped")
        assert bytes(bar.view(MEMORY, 6)) == b"mapped"
        assert bar.read32(ID) == 0x010000ED
        bar.unmap()
        assert bar.read(MEMORY, 6) == b"mapped"


def test_a_bar_of_memory_is_mapped_whole_and_one_of_registers_is_not(open_device: Open) -> None:
    _, card = open_device(SHARED)
    registers, memory = card.bars[0], card.bars[2]
    assert registers is not None
    assert memory is not None
    assert (registers.areas, memory.areas) == ((), (Area(0, MIB),))
    with card.enable():
        memory.map()
        memory.view(MIB - 4, 4)[:] = b"last"
        memory.unmap()
        assert memory.read(MIB - 4, 4) == b"last"


def test_dma_moves_bytes_to_the_device_and_back(open_device: Open) -> None:
    session, edu = open_device(EDU)
    bar = edu.bars[0]
    assert bar is not None
    data = os.urandom(256)
    memory = session.dma_alloc(4096, below=1 << 28)
    memory.view[:256] = data
    with edu.enable():
        copy(edu, memory.iova, BUFFER_OFFSET, DMA_START)
        copy(edu, BUFFER_OFFSET, memory.iova + 1024, DMA_START | DMA_TO_MEMORY)
    assert bytes(memory.view[1024 : 1024 + 256]) == data


def copy(edu: PciDevice, source: int, destination: int, command: int) -> None:
    bar = edu.bars[0]
    assert bar is not None
    for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, 256)):
        bar.write64(register, value)
    bar.write32(COMMAND, command)


def test_msi_reaches_the_vector(open_device: Open) -> None:
    _, edu = open_device(EDU)
    bar = edu.bars[0]
    assert bar is not None
    (vector,) = edu.interrupts()
    assert vector.irq is edu.msi
    with edu.enable():
        bar.write32(IRQ_RAISE, 1)
        assert vector.wait(timeout=1) == 1
        bar.write32(IRQ_ACK, 1)
        assert vector.take() == 0


def test_intx_stays_masked_until_it_is_unmasked(open_device: Open) -> None:
    _, edu = open_device(EDU)
    bar, intx = edu.bars[0], edu.intx
    assert bar is not None
    assert intx is not None
    (vector,) = intx.enable()
    with edu.enable():
        bar.write32(IRQ_RAISE, 1)
        assert vector.wait(timeout=1) == 1
        bar.write32(IRQ_RAISE, 2)
        assert vector.take() == 0
        intx.unmask()
        assert vector.take() == 1
        bar.write32(IRQ_ACK, 3)
        intx.unmask()
        assert vector.take() == 0


def test_the_kernel_agrees_that_only_one_kind_may_be_enabled(open_device: Open) -> None:
    _, edu = open_device(EDU)
    assert edu.intx is not None
    assert edu.msi is not None
    edu.msi.enable()
    with pytest.raises(DeviceAccessError, match="EINVAL"):
        edu.access.set_eventfds(edu.intx.index, 1 << 5, 0, [-1])
    with pytest.raises(DeviceAccessError, match="MSI is enabled"):
        edu.intx.enable()
    edu.msi.disable()
    edu.intx.enable()


def test_as_many_vectors_as_the_host_has_come_with_a_minimum(open_device: Open) -> None:
    _, card = open_device(CARD)
    with pytest.raises(DeviceAccessError, match=r"no kind of interrupt has 8.*the host has 3"):
        card.interrupts(8)
    vectors = card.interrupts(8, minimum=2)
    assert len(vectors) == 3
    assert vectors[0].irq is card.msix


def test_a_request_for_the_device_is_heard(open_device: Open, host: SimHost) -> None:
    _, edu = open_device(EDU)
    assert edu.request is not None
    (wanted,) = edu.request.enable()
    host.device(EDU).request(1)
    assert wanted.wait(timeout=1) == 1


def test_an_error_is_heard_from_pci_express_only(open_device: Open, host: SimHost) -> None:
    _, card = open_device(CARD)
    assert card.error is not None
    (error,) = card.error.enable()
    program = host.device(CARD)
    assert isinstance(program, Card)
    program.report_error()
    assert error.wait(timeout=1) == 1


def test_conventional_pci_has_no_error_interrupt(open_device: Open) -> None:
    assert open_device(EDU)[1].error is None


def test_reset_clears_registers_and_keeps_command_and_interrupts(open_device: Open) -> None:
    _, edu = open_device(EDU)
    bar = edu.bars[0]
    assert bar is not None
    (vector,) = edu.interrupts()
    with edu.enable():
        bar.write32(LIVENESS, 1)
        edu.reset()
        assert bar.read32(LIVENESS) == 0
        bar.write32(IRQ_RAISE, 1)
        assert vector.wait(timeout=1) == 1


def test_a_device_that_cannot_be_reset_says_so(open_device: Open) -> None:
    _, card = open_device(CARD)
    with pytest.raises(DeviceAccessError, match="cannot be reset by itself") as caught:
        card.reset()
    assert caught.value.errno == errno.EINVAL


def test_closing_turns_dma_and_interrupts_off_and_unmaps_first(
    open_device: Open, host: SimHost
) -> None:
    session, edu = open_device(EDU)
    assert edu.bars[0] is not None
    edu.bus_master = True
    edu.bars[0].map()
    edu.interrupts()
    host.forget_calls()
    session.close()
    names = [name for name in host.call_names() if not name.startswith("ioctl VFIO_IOMMU")]
    irqs_off = names.index("ioctl VFIO_DEVICE_SET_IRQS")
    unmapped = names.index(f"munmap device {EDU}")
    closed = next(i for i, name in enumerate(names) if name == f"close device {EDU}")
    assert irqs_off < unmapped < closed


def test_bus_mastering_is_off_when_the_session_has_ended_but_the_fd_has_not(
    framework: Framework, host: SimHost
) -> None:
    # A passed fd stays open: what it can still do is the embedder's business, not ours.
    node = "/dev/vfio/devices/" + host.listdir(f"/sys/bus/pci/devices/{EDU}/vfio-dev")[0]
    fd = host.open(node)
    words = f"-object iommufd,id=io0 -device vfio-pci,id=dev0,iommufd=io0,fd={fd}"
    with framework.open(words) as session:
        edu = session["dev0"]
        edu.bus_master = True
        offset = edu.config_space.region.info.offset
    command = int.from_bytes(host.pread(fd, 2, offset + pci.PCI_COMMAND), "little")
    assert not command & pci.PCI_COMMAND_MASTER
    host.close(fd)


def test_a_device_that_does_not_answer_is_closed_with_a_warning(
    open_device: Open, host: SimHost
) -> None:
    session, edu = open_device(EDU)
    edu.bus_master = True
    edu.interrupts()
    session.dma_alloc(host.page_size)
    host.fail(f"pread device {EDU}", errno.ENODEV, times=100)
    with pytest.warns(VfioWarning, match=f"{EDU} does not answer"):
        session.close()
    assert host.open_files() == []
    assert host.pinned_bytes == 0


def test_a_device_that_takes_no_command_is_closed_with_a_warning(
    open_device: Open, host: SimHost
) -> None:
    session, edu = open_device(EDU)
    edu.bus_master = True
    host.fail(f"pwrite device {EDU}", errno.EIO, times=100)
    with pytest.warns(VfioWarning, match=f"{EDU} does not answer"):
        session.close()
    assert host.open_files() == []


def test_the_use_of_a_device_that_does_not_answer_ends_with_a_warning(
    open_device: Open, host: SimHost
) -> None:
    _session, edu = open_device(EDU)
    with pytest.warns(VfioWarning, match=f"{EDU} does not answer"), edu.enable():
        host.fail(f"pread device {EDU}", errno.ENODEV)


def test_a_device_file_that_was_closed_elsewhere_is_no_device_in_error(
    open_device: Open, host: SimHost
) -> None:
    session, edu = open_device(EDU)
    edu.bus_master = True
    host.fail(f"pread device {EDU}", errno.EBADF)
    with pytest.raises(KernelError, match="EBADF"):
        session.close()
    assert host.open_files() == []


# -- configuration ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("vfio-pci", "no host device is selected"),
        (f"vfio-pci,host={EDU},sysfsdev=/sys/bus/pci/devices/{EDU}", "both select the device"),
        ("vfio-pci,fd=9", "fd passing works only with an iommufd object"),
        ("vfio-pci,host=02:00.8", "function 8 is over 7"),
        (f"vfio-pci,host={EDU},vf-token=secret", "is not a UUID"),
        (
            f"vfio-pci,host={EDU},x-balloon-allowed=on",
            "x-balloon-allowed only potentially compatible with mdev devices",
        ),
    ],
)
def test_a_wrong_configuration_opens_nothing(
    framework: Framework, host: SimHost, words: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        framework.open(f"-device {words}")
    assert not [name for name in host.call_names() if name.startswith("open")]


def test_migration_forced_without_support_is_refused(framework: Framework) -> None:
    with pytest.raises(UnsupportedError, match="cannot save its state"):
        framework.open(f"-device vfio-pci,host={EDU},enable-migration=on")
