"""Backends and frontends that are wrong in one thing each, and what has to catch them."""

from __future__ import annotations

import errno
import mmap
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from attrs import evolve, field, frozen

import vfiocore_iommufd.plugin
import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore import hookimpl
from vfiocore.access import DeviceAccess, IrqInfo
from vfiocore.container import Attachment, Batch, Capability, Container, for_each
from vfiocore.errors import DmaAddressError, DmaError, KernelError
from vfiocore.irq import Irq
from vfiocore.memory import Access
from vfiocore.region import Region
from vfiocore.registration import Backend, ContextRequest, DeviceSetup, DeviceType
from vfiocore.testing import BackendUnderTest
from vfiocore_pci.device import PciDevice
from vfiocore_pci.irq import PciIrq

from . import backends


class Honest:
    """The legacy backend as it is; a mutant overrides one of the plain methods."""

    inner: ModuleType = vfiocore_legacy.plugin

    @hookimpl
    def vfio_register_backends(self) -> Iterable[Backend]:
        found: Iterable[Backend] = self.inner.vfio_register_backends()
        return found

    @hookimpl
    def vfio_setup_context(self, request: ContextRequest) -> Attachment:
        return self.setup(request)

    @hookimpl
    def vfio_teardown_context(self, attachment: Attachment) -> None:
        self.teardown(attachment)

    @hookimpl
    def vfio_open_device(self, attachment: Attachment) -> DeviceAccess:
        return self.open(attachment)

    @hookimpl
    def vfio_close_device(self, attachment: Attachment, device: DeviceAccess) -> None:
        self.close(attachment, device)

    @hookimpl
    def vfio_dma_map(self, container: Container, batch: Batch) -> None:
        self.map(container, batch)

    @hookimpl
    def vfio_dma_unmap(self, container: Container, batch: Batch) -> None:
        self.unmap(container, batch)

    # -- what a mutant changes ---------------------------------------------------------------
    def setup(self, request: ContextRequest) -> Any:
        return self.inner.vfio_setup_context(request)

    def teardown(self, attachment: Any) -> None:
        self.inner.vfio_teardown_context(attachment)

    def open(self, attachment: Any) -> DeviceAccess:
        access: DeviceAccess = self.inner.vfio_open_device(attachment)
        return access

    def close(self, attachment: Any, device: DeviceAccess) -> None:
        self.inner.vfio_close_device(device)

    def map(self, container: Any, batch: Batch) -> None:
        self.inner.vfio_dma_map(container, batch)

    def unmap(self, container: Any, batch: Batch) -> None:
        self.inner.vfio_dma_unmap(container, batch)


class HonestIommufd(Honest):
    """The iommufd backend as it is."""

    inner = vfiocore_iommufd.plugin

    def close(self, attachment: Any, device: DeviceAccess) -> None:
        self.inner.vfio_close_device(attachment, device)


# -- setting up and taking down --------------------------------------------------------------------
class LeaksAnFd(Honest):
    def setup(self, request: ContextRequest) -> Any:
        request.host.open("/dev/vfio/vfio")
        return super().setup(request)


class LeaksWhenOpeningFails(Honest):
    """Opens a file of its own first, and closes it only if all went well."""

    def setup(self, request: ContextRequest) -> Any:
        fd = request.host.open("/dev/vfio/vfio")
        attachment = super().setup(request)
        request.host.close(fd)
        return attachment


class KeepsTheContainerOpen(Honest):
    def teardown(self, attachment: Any) -> None:
        attachment.container.attachments.remove(attachment)
        attachment.container.closed = True


class LeavesTheDeviceOpen(Honest):
    def close(self, attachment: Any, device: DeviceAccess) -> None:
        return


class ClosesTheFdAlone(Honest):
    """So that the DeviceAccess would use whatever gets its number next."""

    def close(self, attachment: Any, device: DeviceAccess) -> None:
        device.host.close(device.fd)


class OpensWithABareOSError(Honest):
    def open(self, attachment: Any) -> DeviceAccess:
        try:
            return super().open(attachment)
        except KernelError as error:
            raise OSError(error.errno, error.strerror) from error


class GivesUpTheSecondStep(Honest):
    """Leaves the rest of closing undone when its first step fails."""

    def close(self, attachment: Any, device: DeviceAccess) -> None:
        device.info()  # a step that can fail
        super().close(attachment, device)


class DoesNotEnterTheDevice(Honest):
    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        attachment.container.attachments = [attachment, attachment]
        return attachment


class LeavesWithTheFirst(Honest):
    """Takes the container down with its first device, though there are others."""

    def teardown(self, attachment: Any) -> None:
        super().teardown(attachment)
        attachment.container.closed = True


class ForgetsTheOthers(Honest):
    """Empties the list when one leaves."""

    def teardown(self, attachment: Any) -> None:
        super().teardown(attachment)
        attachment.container.attachments.clear()


class NeverJoins(Honest):
    def setup(self, request: ContextRequest) -> Any:
        return super().setup(evolve(request, containers=()))


class LosesMemoryWhenJoined(Honest):
    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        for mapping in attachment.container.mappings:
            attachment.container.dma.unmap(mapping)
        return attachment


class DoesNotRefreshRanges(Honest):
    """Reads them for the first device alone."""

    def setup(self, request: ContextRequest) -> Any:
        known = [container.iova_ranges for container in request.containers]
        attachment = super().setup(request)
        if known:
            attachment.container.iova_ranges = known[0]
        return attachment


class KeepsOldRanges(Honest):
    """Does not read them again when a device leaves."""

    def teardown(self, attachment: Any) -> None:
        ranges = attachment.container.iova_ranges
        super().teardown(attachment)
        attachment.container.iova_ranges = ranges


class ClaimsTooManyAddresses(Honest):
    """Knows of no reserved range."""

    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        (first, *_, last) = attachment.container.iova_ranges
        attachment.container.iova_ranges = (evolve(first, last=last.last + backends.PAGE),)
        return attachment


class ClaimsACapability(Honest):
    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        attachment.container.capabilities |= Capability.MAP_FILE
        return attachment


class KnowsNoLimit(Honest):
    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        attachment.container.max_mappings = None
        return attachment


class KnowsNoPages(Honest):
    """Says that anything is aligned."""

    def setup(self, request: ContextRequest) -> Any:
        attachment = super().setup(request)
        attachment.container.page_sizes = 1
        return attachment


class ClosesAPassedFd(HonestIommufd):
    def open(self, attachment: Any) -> DeviceAccess:
        access = super().open(attachment)
        access.owned = True
        return access


class IsBoundToItsThread(Honest):
    def __init__(self) -> None:
        self.thread: int | None = None

    def setup(self, request: ContextRequest) -> Any:
        self.thread = threading.get_ident()
        return super().setup(request)

    def teardown(self, attachment: Any) -> None:
        if self.thread == threading.get_ident():
            super().teardown(attachment)


# -- mapping ---------------------------------------------------------------------------------------
class ForgetsRollback(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        for_each(batch, container.dma.map, lambda mapping: None)


class ForgetsRollbackOfMany(Honest):
    """Takes another way for large batches, and there is no way back on it."""

    def map(self, container: Any, batch: Batch) -> None:
        if len(batch) < 16:
            super().map(container, batch)
        else:
            for_each(batch, container.dma.map, lambda mapping: None)


class ForgetsUnmapRollback(Honest):
    def unmap(self, container: Any, batch: Batch) -> None:
        for_each(batch, container.dma.unmap, lambda mapping: None)


class ForgetsTheIndex(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaError as error:
            error.index = 0
            raise


class UnmapsAPart(Honest):
    """Says that it worked."""

    def unmap(self, container: Any, batch: Batch) -> None:
        super().unmap(container, batch[:1])


class NeverUnmaps(Honest):
    def unmap(self, container: Any, batch: Batch) -> None:
        return


class SwallowsUnmapErrors(Honest):
    def unmap(self, container: Any, batch: Batch) -> None:
        try:
            super().unmap(container, batch)
        except DmaError:
            return


class SwallowsMapErrors(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaError:
            return


class RaisesTheWrongClass(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaAddressError as error:
            raise DmaError(errno.EFAULT, error.operation, error.subject, error.detail) from error


class RaisesABareOSError(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaError as error:
            raise OSError(error.errno, error.strerror) from error


class HidesTheAddresses(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaError as error:
            error.detail = "it did not work"
            raise


class IgnoresReadOnly(Honest):
    def map(self, container: Any, batch: Batch) -> None:
        super().map(container, [evolve(mapping, access=Access.READ_WRITE) for mapping in batch])


class IgnoresTheFileOffset(HonestIommufd):
    def map(self, container: Any, batch: Batch) -> None:
        super().map(container, [evolve(mapping, fd_offset=0) for mapping in batch])


class MapsWithoutAnIommu(Honest):
    """As if it had worked."""

    def map(self, container: Any, batch: Batch) -> None:
        return


class MapsBarsThatAreDeclaredAbsent(HonestIommufd):
    """Seems to: the other device never reaches them."""

    def map(self, container: Any, batch: Batch) -> None:
        try:
            super().map(container, batch)
        except DmaAddressError:
            return


@frozen
class Caught:
    """A mutant, and the test that has to fail for it.

    Attributes:
        plugin: Makes the mutant.
        test: ``Topic.test``.
        says: What the author reads.
        on: The honest backend that it is made of.
    """

    plugin: Callable[[], Any]
    test: str
    says: str
    on: Callable[[], Any] = backends.legacy

    def backend(self) -> BackendUnderTest:
        """The mutant, with what the honest one declares."""
        made: BackendUnderTest = self.on()
        made.plugins = [self.plugin(), vfiocore_pci.plugin]
        return made


CAUGHT = (
    Caught(LeaksAnFd, "TeardownLeaks.test_closing_leaves_nothing", "this is left"),
    Caught(
        LeaksWhenOpeningFails,
        "TeardownLeaks.test_a_device_that_cannot_be_opened_takes_the_others_down",
        "this is left",
    ),
    Caught(KeepsTheContainerOpen, "TeardownLeaks.test_closing_leaves_nothing", "this is left"),
    Caught(
        LeavesTheDeviceOpen,
        "LifeCycle.test_closing_closes_device_and_container",
        "a device of the group is still open",
    ),
    Caught(
        ClosesTheFdAlone,
        "LifeCycle.test_closing_closes_device_and_container",
        "vfio_close_device closes the DeviceAccess",
    ),
    Caught(
        OpensWithABareOSError,
        "TeardownLeaks.test_whatever_fails_leaves_nothing",
        "the contract wants a VfioError",
    ),
    Caught(
        GivesUpTheSecondStep, "TeardownLeaks.test_whatever_fails_leaves_nothing", "this is left"
    ),
    Caught(
        DoesNotEnterTheDevice,
        "LifeCycle.test_a_container_tells_what_it_is",
        "enters its attachment",
    ),
    Caught(
        LeavesWithTheFirst,
        "AttachAndDetach.test_the_first_device_can_go",
        "a container with a device in it stays open",
    ),
    Caught(
        ForgetsTheOthers,
        "AttachAndDetach.test_the_second_device_can_go",
        "takes its own attachment out of the list, and no other",
    ),
    Caught(NeverJoins, "Sharing.test_devices_join_as_declared", "2 devices have 2 containers"),
    Caught(
        LosesMemoryWhenJoined,
        "AttachAndDetach.test_a_device_that_comes_late_finds_what_is_mapped",
        "which is mapped",
    ),
    Caught(
        DoesNotRefreshRanges,
        "Ranges.test_ranges_follow_the_devices_that_come_and_go",
        "iova_ranges are what they were",
    ),
    Caught(
        KeepsOldRanges,
        "Ranges.test_ranges_follow_the_devices_that_come_and_go",
        "its limits stayed",
    ),
    Caught(
        ClaimsTooManyAddresses,
        "Ranges.test_the_ends_of_every_range_can_be_mapped",
        "outside the ranges that the IOMMU can translate",
    ),
    Caught(
        ClaimsACapability,
        "LifeCycle.test_capabilities_are_those_that_are_declared",
        "MAP_FILE",
    ),
    Caught(
        KnowsNoLimit,
        "OverlapAndLimits.test_as_many_mappings_as_declared_can_be_made",
        "Container.max_mappings is kept current",
    ),
    Caught(
        KnowsNoPages,
        "OverlapAndLimits.test_addresses_and_sizes_are_whole_pages",
        "the contract wants DmaAlignmentError",
    ),
    Caught(
        ClosesAPassedFd,
        "Sharing.test_a_passed_device_is_used_and_left_open",
        "was passed in, and the backend closed it",
        backends.iommufd,
    ),
    Caught(
        IsBoundToItsThread,
        "Threads.test_one_thread_opens_and_another_closes",
        "this is left",
    ),
    Caught(
        ForgetsRollback,
        "BatchRollback.test_a_batch_with_memory_that_is_not_there_maps_nothing",
        "which must not be mapped",
    ),
    Caught(
        ForgetsRollbackOfMany,
        "BatchRollback.test_a_batch_with_memory_that_is_not_there_maps_nothing",
        "which must not be mapped",
    ),
    Caught(
        ForgetsUnmapRollback,
        "BatchRollback.test_an_unmap_that_fails_half_way_unmaps_nothing",
        "which is mapped",
    ),
    Caught(
        ForgetsTheIndex,
        "BatchRollback.test_a_batch_with_memory_that_is_not_there_maps_nothing",
        "the error's index says 0",
    ),
    Caught(
        UnmapsAPart,
        "MapAndUnmap.test_each_item_of_an_unmapped_batch_is_gone",
        "which must not be mapped",
    ),
    Caught(NeverUnmaps, "MapAndUnmap.test_what_is_unmapped_is_gone", "which must not be mapped"),
    Caught(SwallowsUnmapErrors, "Errors.test_a_failed_unmap_is_a_dma_error", "nothing was raised"),
    Caught(SwallowsMapErrors, "Errors.test_a_failed_map_is_a_dma_error", "nothing was raised"),
    Caught(
        RaisesTheWrongClass,
        "Errors.test_memory_that_is_not_there_is_an_address_error",
        "the contract wants DmaAddressError",
    ),
    Caught(
        RaisesABareOSError, "Errors.test_a_failed_map_is_a_dma_error", "the contract wants DmaError"
    ),
    Caught(
        HidesTheAddresses,
        "Errors.test_memory_that_is_not_there_is_an_address_error",
        "the message has the iova, in hex",
    ),
    Caught(
        IgnoresReadOnly,
        "MapAndUnmap.test_a_device_only_reads_what_it_may_only_read",
        "mapped with Access.READ",
    ),
    Caught(
        IgnoresTheFileOffset,
        "MapAndUnmap.test_shared_memory_is_mapped_with_its_file_and_offset",
        "reads other memory",
        backends.iommufd,
    ),
    Caught(
        MapsWithoutAnIommu,
        "Errors.test_without_an_iommu_nothing_is_mapped",
        "the contract wants UnsupportedError",
        backends.noiommu,
    ),
    Caught(
        MapsBarsThatAreDeclaredAbsent,
        "Errors.test_another_devices_bar_is_mapped_or_refused",
        "which is declared absent",
        backends.iommufd,
    ),
)


# -- frontends -------------------------------------------------------------------------------------
class LeavesInterruptsOn(PciDevice):
    def release(self) -> None:
        for region in self._regions.values():
            region.unmap()


class LeavesRegionsMapped(PciDevice):
    def release(self) -> None:
        for irq in self._irqs.values():
            irq.disable()


class PretendsToReset(PciDevice):
    def reset(self) -> None:
        return


class IsInTheWrongByteOrder(PciDevice):
    byteorder = "big"


class MakesRegionsAnew(PciDevice):
    def region(self, index: int) -> Any:
        self._regions.pop(index, None)
        return super().region(index)


class TurnsInterruptsOffInAReset(PciDevice):
    def reset(self) -> None:
        for irq in self._irqs.values():
            irq.disable()
        super().reset()


class Copied(Region):
    def map(self) -> None:
        super().map()
        for mapping in self._mappings:
            copy = mmap.mmap(-1, mapping.area.size)
            copy[:] = mapping.view
            mapping.view.release()
            mapping.memory.close()
            mapping.memory, mapping.view = copy, memoryview(copy)


class MapsACopy(PciDevice):
    def region(self, index: int) -> Region:
        if index not in self._regions:
            found = super().region(index)
            self._regions[index] = Copied(
                found.access, found.info, found.name, found.byteorder, found.areas
            )
        return self._regions[index]


class IsMappedInTheWrongByteOrder(PciDevice):
    def region(self, index: int) -> Any:
        region = super().region(index)
        for registers in region._registers.values():
            registers.kind = registers.kind.__ctype_be__
        return region


class Repeats(PciIrq):
    def unmask(self, vector: int = 0) -> None:
        super().unmask(vector)
        self.trigger(vector)


class RepeatsWhatWasAcknowledged(PciDevice):
    def make_irq(self, info: IrqInfo, name: str) -> Irq:
        return Repeats(self.access, info, name, lambda: self.active_irq)


@frozen
class Frontend:
    """The plugin of a frontend that is wrong in one thing."""

    kind: type[PciDevice]
    made: list[PciDevice] = field(factory=list)

    @hookimpl
    def vfio_register_device_types(self) -> Iterable[DeviceType]:
        yield DeviceType(schema=vfiocore_pci.plugin.SCHEMA, bus="pci", wrap=self.wrap)

    def wrap(self, setup: DeviceSetup) -> PciDevice:
        self.made.append(self.kind(setup))
        return self.made[-1]

    def release(self) -> None:
        """What they should have done themselves."""
        for device in self.made:
            for region in device._regions.values():
                region.unmap()


CAUGHT_FRONTENDS: tuple[tuple[type[PciDevice], str], ...] = (
    (LeavesInterruptsOn, "Irqs.test_release_turns_interrupts_off"),
    (LeavesRegionsMapped, "Regions.test_release_unmaps_and_can_be_called_again"),
    (PretendsToReset, "Reset.test_a_reset_sets_registers_back"),
    (IsInTheWrongByteOrder, "Regions.test_registers_have_the_values_of_power_on"),
    (MakesRegionsAnew, "Regions.test_an_index_gives_the_same_region_each_time"),
    (TurnsInterruptsOffInAReset, "Reset.test_interrupts_stay_wired"),
    (MapsACopy, "Regions.test_a_mapped_region_has_the_same_contents"),
    (IsMappedInTheWrongByteOrder, "Regions.test_a_register_is_the_same_through_a_mapping"),
    (RepeatsWhatWasAcknowledged, "Irqs.test_a_line_signals_until_the_device_is_told"),
)
