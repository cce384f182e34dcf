"""What the suites have to know of a backend or a frontend: records that its author fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field, frozen

from vfiocore.container import NO_CAPABILITY, Capability
from vfiocore.framework import Framework

if TYPE_CHECKING:
    from vfiocore.device import Device
    from vfiocore.host import Host
    from vfiocore.session import Session


class DeviceFault(Exception):  # noqa: N818 - it is what an IOMMU calls it
    """The device could not reach the address: what `BackendUnderTest.device_read` raises then."""


class Faults(Protocol):
    """A way to make the kernel, or what the backend has in its place, fail on demand."""

    def fail_map(self, number: int, *, after: int) -> None:
        """After `after` more ranges were mapped, the next one fails, once, with errno `number`."""

    def fail_unmap(self, number: int, *, after: int) -> None:
        """The same for unmapping."""

    def calls(self) -> Sequence[str]:
        """What was asked so far, in words and in order; none where nothing can be made to fail."""

    def fail_call(self, name: str, number: int, *, after: int) -> None:
        """After `after` more calls of that name, the next one fails, once, with errno `number`."""


@frozen
class PassedDevice:
    """A device that was opened by somebody else.

    Attributes:
        words: What ``-device`` takes, without id and link: ``vfio-pci,fd=9``.
        fds: The fds that are passed; the suite closes them, and nobody else may.
    """

    words: str
    fds: tuple[int, ...]


@define(eq=False, kw_only=True)
class BackendUnderTest(ABC):
    """A backend, and what is promised of it. Subclass it and say how its devices do DMA.

    Attributes:
        host: The machine.
        plugins: The plugin modules of the backend and of the device types that are used.
        name: The backend's name.
        devices: At least two devices, each as ``-device`` has it without id and link
            (``vfio-pci,host=0000:02:00.0``). Only the first is used if there is one alone.
        has_objects: True if devices link to an ``-object`` of the backend's name.
        object_options: What the object takes besides its id: ``slots=64``.
        capabilities: What its containers can do; one that is not named must be refused.
        joins: True if the second device joins the container of the first, False if each has one
            of its own.
        max_mappings: How many mappings a container takes (choose it small), or None.
        memlock_limit: How much memory can be pinned, in bytes (choose it small), or None.
        checks_memory: True if memory that is not there is refused when it is mapped.
        protects: True if a device cannot write what it may only read.
        reads_what_is_read_only: True if a device can read what it may not write.
        survives_faults: True if a device works on after an IOMMU has stopped it. If not, the suite
            lets none try what it may not do, and does not see what is wrongly reached.
        narrow: A device with fewer usable addresses than the first, which it can join; or None.
        faults: How to make things fail, or None.
    """

    host: Host
    plugins: Sequence[object]
    name: str
    devices: Sequence[str]
    has_objects: bool = True
    object_options: str = ""
    capabilities: Capability = NO_CAPABILITY
    joins: bool = True
    max_mappings: int | None = None
    memlock_limit: int | None = None
    checks_memory: bool = True
    protects: bool = True
    reads_what_is_read_only: bool = True
    survives_faults: bool = True
    narrow: str | None = None
    faults: Faults | None = None
    _framework: Framework | None = field(default=None, init=False, repr=False)

    # -- to be said by the author ------------------------------------------------------------
    @abstractmethod
    def device_read(self, device: Device, iova: int, size: int) -> bytes:
        """Let a device read `size` bytes of memory by DMA, and tell what it found.

        Raises:
            DeviceFault: it reaches nothing there.
        """

    @abstractmethod
    def device_write(self, device: Device, iova: int, data: bytes) -> None:
        """Let a device write `data` to memory by DMA; DeviceFault if it may not."""

    @abstractmethod
    def leftovers(self) -> Sequence[str]:
        """What is still open, mapped or pinned in this process, in words; nothing if all is well."""

    def pinned_bytes(self) -> int | None:
        """How much memory is pinned, in bytes; None if that cannot be seen."""
        return None

    def pass_device(self) -> PassedDevice | None:
        """Open the first device for passing it in; None if the backend takes no fds."""
        return None

    # -- for the suite -----------------------------------------------------------------------
    @property
    def maps(self) -> bool:
        """True if anything can be mapped."""
        return Capability.NO_IOMMU not in self.capabilities

    @property
    def framework(self) -> Framework:
        """The plugins on the host, nothing else."""
        if self._framework is None:
            self._framework = Framework(self.plugins, autoload=False, host=self.host)
        return self._framework

    def open(
        self,
        count: int = 1,
        *,
        devices: Sequence[str] | None = None,
        objects: int = 1,
        first: str = "",
    ) -> Session:
        """Open devices, called ``device0`` and so on.

        Args:
            count: How many of `devices`.
            devices: Which ones instead, in the form of `devices`.
            objects: Over how many objects they are dealt out.
            first: More of the configuration, before them.
        """
        chosen = self.devices[:count] if devices is None else devices
        options = f",{self.object_options}" if self.object_options else ""
        made = [f"-object {self.name},id=object{n}{options}" for n in range(objects)]
        linked = [
            f"-device {words},id=device{number}"
            + (f",{self.name}=object{number % objects}" if self.has_objects else "")
            for number, words in enumerate(chosen)
        ]
        return self.framework.open(" ".join([first, *(made if self.has_objects else ()), *linked]))


@frozen(kw_only=True)
class Register:
    """A register of a device, as its suite uses it.

    Attributes:
        region: The index of its region.
        offset: In bytes.
        width: 1, 2, 4 or 8 bytes.
        initial: What it has when the device is opened and after a reset, or None if that varies.
        keeps: A value that it keeps when it is written, or None if it is read-only.
    """

    region: int
    offset: int
    width: int = 4
    initial: int | None = None
    keeps: int | None = None


@define(eq=False, kw_only=True)
class DeviceUnderTest:
    """A device with its frontend, and what is promised of it.

    Attributes:
        open: Opens a session with the device, ready for use (memory decode on, say).
        leftovers: What is still open, mapped or pinned, in words; nothing if all is well.
        id: The device's id in the session.
        registers: Some of its registers.
        mappable: The indexes of regions that can be mapped, wholly or in part; any other region
            must refuse it.
        memory: Those of `mappable` that are plain memory: the first 8 bytes of what can be mapped
            keep what is written.
        interrupts: How to make the device signal its first vector: by index, a function that takes
            the session. It is also called while the index is disabled.
        acknowledge: How a driver tells the device that it has seen the interrupt: by index, a
            function that takes the session. An index that needs none is left out; one whose line
            stays asserted until then, and signals again when it is unmasked, must be here.
        resettable: True if it can be reset; if not, `Device.reset` must be refused.
    """

    open: Callable[[], Session]
    leftovers: Callable[[], Sequence[str]]
    id: str = "device"
    registers: Sequence[Register] = ()
    mappable: frozenset[int] = frozenset()
    memory: frozenset[int] = frozenset()
    interrupts: Mapping[int, Callable[[Any], object]] = field(factory=dict)
    acknowledge: Mapping[int, Callable[[Any], object]] = field(factory=dict)
    resettable: bool = True
