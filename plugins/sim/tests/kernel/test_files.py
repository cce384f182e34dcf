"""File descriptors: real ones, with the kernel's rules for the last close."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import socket
import stat
import threading
from typing import Any

import pytest

from vfiocore.host import Host
from vfiocore.uapi import vfio

PAGE = mmap.PAGESIZE
SHARED = {"prot": mmap.PROT_READ | mmap.PROT_WRITE, "flags": mmap.MAP_SHARED}


@pytest.fixture
def device(kernel: Any) -> int:
    device = kernel.cdev("0000:01:00.0")
    kernel.bind(device, kernel.open("/dev/iommu"))
    return int(device)


def test_it_is_a_host(kernel: Any) -> None:
    assert isinstance(kernel.host, Host)
    assert kernel.host.name == "sim"


def test_fds_are_not_inherited(kernel: Any) -> None:
    assert not os.get_inheritable(kernel.open("/dev/vfio/1"))


def test_a_dup_is_the_same_open_file(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    copy = kernel.host.dup(group)
    kernel.close(group)
    assert kernel.status(copy) == vfio.VFIO_GROUP_FLAGS_VIABLE
    with refused(errno.EBUSY):
        kernel.open("/dev/vfio/1")
    kernel.close(copy)
    assert kernel.host.open_files() == []


def test_a_received_fd_is_the_same_open_file_also_when_the_sent_one_was_closed(
    kernel: Any,
) -> None:
    group = kernel.open("/dev/vfio/1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        kernel.host.send_fds(ours.fileno(), b"x", [group])
        kernel.close(group)
        assert kernel.host.open_files() == ["group 1"]
        _data, (received,) = kernel.host.recv_fds(theirs.fileno(), 16, 1)
    assert kernel.status(received) == vfio.VFIO_GROUP_FLAGS_VIABLE
    kernel.close(received)
    assert kernel.host.open_files() == []


def test_a_close_behind_the_hosts_back_is_noticed(kernel: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    os.close(group)
    kernel.open("/dev/vfio/1")


def test_a_closed_fd_is_a_bad_one(kernel: Any, refused: Any) -> None:
    group = kernel.open("/dev/vfio/1")
    kernel.close(group)
    for call in (kernel.close, kernel.status, kernel.host.fstat):
        for fd in (group, -1):
            with refused(errno.EBADF):
                call(fd)


def test_a_real_file_has_no_ioctl_of_ours(kernel: Any, refused: Any) -> None:
    event = kernel.host.eventfd()
    with refused(errno.ENOTTY):
        kernel.ioctl(event, vfio.VFIO_GET_API_VERSION)
    kernel.close(event)


def test_a_node_has_the_device_number_of_its_file(kernel: Any) -> None:
    fd = kernel.cdev("0000:01:00.0")
    found = kernel.host.fstat(fd)
    assert stat.S_ISCHR(found.mode)
    directory = "/sys/bus/pci/devices/0000:01:00.0/vfio-dev"
    name = kernel.host.listdir(directory)[0]
    number = kernel.host.read_file(f"{directory}/{name}/dev").decode().strip()
    assert f"{os.major(found.rdev)}:{os.minor(found.rdev)}" == number
    again = kernel.open(f"/dev/char/{number}")
    assert kernel.host.fstat(again) == found


def test_a_quiet_fd_can_be_polled(kernel: Any) -> None:
    assert kernel.host.poll([(kernel.open("/dev/vfio/1"), select.POLLIN)], 0) == []


def test_a_device_is_read_and_written_at_an_offset_and_at_its_position(
    kernel: Any, device: int
) -> None:
    host = kernel.host
    assert host.pwrite(device, b"abcdef", 0) == 6
    assert host.pread(device, 3, 1) == b"bcd"
    assert (host.read(device, 2), host.read(device, 2)) == (b"ab", b"cd")
    assert host.write(device, b"EF") == 2
    assert host.pread(device, 6, 0) == b"abcdEF"


def test_a_mapping_keeps_the_device_open(kernel: Any, device: int) -> None:
    mapping = kernel.host.mmap(device, PAGE, **SHARED)
    mapping[:4] = b"mmio"
    assert kernel.host.pread(device, 4, 0) == b"mmio"
    kernel.close(device)
    assert kernel.host.live_mappings() == ["device 0000:01:00.0"]
    assert kernel.device("0000:01:00.0").diary == ["open"]
    mapping.close()
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]
    assert kernel.host.live_mappings() == []


def test_an_unmapping_that_is_made_to_fail_keeps_nothing_open(kernel: Any, device: int) -> None:
    mapping = kernel.host.mmap(device, PAGE, **SHARED)
    kernel.host.fail("munmap device 0000:01:00.0", errno.EINVAL)
    with pytest.raises(OSError, match="Invalid argument"):
        mapping.close()
    kernel.close(device)
    assert kernel.host.live_mappings() == []
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


@pytest.mark.parametrize("how", ["with", "collected", "closed twice"])
def test_every_way_to_unmap_is_noticed_once(kernel: Any, device: int, how: str) -> None:
    mapping = kernel.host.mmap(device, PAGE, **SHARED)
    if how == "with":
        with mapping:
            pass
    elif how == "closed twice":
        mapping.close()
        mapping.close()
    del mapping
    gc.collect()
    assert kernel.host.call_names().count("munmap device 0000:01:00.0") == 1


def test_other_files_and_memory_are_the_real_ones(kernel: Any, tmp_path: Any) -> None:
    host = kernel.host
    path = tmp_path / "file"
    host.write_file("/dev/null", b"x")
    path.write_bytes(b"real")
    assert host.read_file(str(path)) == b"real"
    assert host.listdir(str(tmp_path)) == ["file"]
    assert host.exists(str(path))
    fd = host.open(str(path))
    assert host.pread(fd, 4, 0) == b"real"
    host.close(fd)
    memory = host.memfd("guest", PAGE)
    with host.mmap(memory, PAGE, **SHARED) as mapping:
        mapping[:2] = b"ok"
        assert host.pread(memory, 2, 0) == b"ok"
    host.close(memory)


def test_an_iommufd_cannot_be_read_written_or_mapped(kernel: Any, refused: Any) -> None:
    context = kernel.open("/dev/iommu")
    with refused(errno.EINVAL):
        kernel.host.pread(context, 1, 0)
    with refused(errno.EINVAL):
        kernel.host.pwrite(context, b"x", 0)
    with refused(errno.ENXIO):
        kernel.host.mmap(context, PAGE, **SHARED)


def test_the_end_of_the_process_closes_everything(kernel: Any, buffer: Any) -> None:
    container, (group,) = kernel.container_with(1)
    kernel.map(container, 0, buffer(1).address, PAGE)
    kernel.device_fd(group, "0000:01:00.0")
    kernel.host.exit_process()
    assert kernel.host.open_files() == []
    assert kernel.host.pinned_bytes == 0
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


def test_the_end_of_the_process_unmaps_registers_before_it_closes_files(
    kernel: Any, device: int
) -> None:
    mapping = kernel.host.mmap(device, PAGE, **SHARED)
    kernel.close(device)
    kernel.host.exit_process()
    assert kernel.host.live_mappings() == []
    assert kernel.host.open_files() == []
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]
    mapping.close()
    assert kernel.device("0000:01:00.0").diary == ["open", "close"]


def test_the_end_of_the_process_makes_no_calls(kernel: Any, device: int) -> None:
    mapping = kernel.host.mmap(device, PAGE, **SHARED)
    kernel.host.forget_calls()
    kernel.host.fail("munmap", errno.EINVAL)
    kernel.host.exit_process()
    mapping.close()
    assert kernel.host.calls == []


def test_registers_that_are_mapped_stay_registers_to_the_next_process(
    kernel: Any, device: int, refused: Any
) -> None:
    from vfiocore_sim.kernel.memory import addresses

    with kernel.host.mmap(device, PAGE, **SHARED) as mapping:
        kernel.host.exit_process()
        context, ioas, _device = kernel.attached("0000:01:00.0")
        with refused(errno.EFAULT):
            kernel.ioas_map(context, ioas, addresses(mapping).first, PAGE, 0)


def test_many_threads_may_open_map_and_close(machine: Any, buffer: Any) -> None:
    kernel = machine()
    memory = buffer(1)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                context, ioas, device = kernel.attached(name)
                kernel.ioas_map(context, ioas, memory.address, PAGE, 0)
                kernel.device(name).dma.write(0, b"x")
                kernel.close(device, context)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    names = ["0000:01:00.0", "0000:02:00.0", "a000000.timer"]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kernel.host.pinned_bytes == 0
