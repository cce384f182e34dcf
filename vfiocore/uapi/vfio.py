"""``linux/vfio.h``: containers, groups, devices, regions, interrupts, features and type1.

Every struct that an ioctl takes starts with ``argsz``, the size in bytes of the buffer passed.
INFO ioctls with capabilities write the size they need there; ``cap_offset`` is then the offset of
the first :class:`vfio_info_cap_header` from the start of the buffer, and 0 means none.

The ioctl numbers are shared between kinds of fd: 112 is GET_PCI_HOT_RESET_INFO on a device and
IOMMU_GET_INFO on a container. SPAPR, EEH, NVLink, GFX planes and the first migration protocol
(a region that no driver of Linux 7.2 offers) are not declared: nothing here uses them.
"""

from __future__ import annotations

import ctypes

from vfiocore.uapi.ioctl import _IO

VFIO_API_VERSION = 0
VFIO_TYPE = ord(";")
VFIO_BASE = 100

# VFIO_CHECK_EXTENSION; the *_IOMMU ones without DMA_CC are VFIO_SET_IOMMU's argument too
VFIO_TYPE1_IOMMU = 1
VFIO_SPAPR_TCE_IOMMU = 2  # since 3.10
VFIO_TYPE1v2_IOMMU = 3  # since 3.15
VFIO_DMA_CC_IOMMU = 4  # since 3.15
VFIO_EEH = 5  # since 3.17
VFIO_SPAPR_TCE_v2_IOMMU = 7  # since 4.2
VFIO_NOIOMMU_IOMMU = 8  # since 4.5
VFIO_UNMAP_ALL = 9  # since 5.12
VFIO_UPDATE_VADDR = 10  # since 5.12


class vfio_info_cap_header(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint16),
        ("version", ctypes.c_uint16),
        ("next", ctypes.c_uint32),  # offset from the start of the buffer; 0 ends the chain
    ]


# -------- container fd (/dev/vfio/vfio) --------

VFIO_GET_API_VERSION = _IO(VFIO_TYPE, VFIO_BASE + 0)  # returns VFIO_API_VERSION
VFIO_CHECK_EXTENSION = _IO(VFIO_TYPE, VFIO_BASE + 1)  # the argument is the extension itself
VFIO_SET_IOMMU = _IO(VFIO_TYPE, VFIO_BASE + 2)  # the argument is the type itself

# -------- group fd (/dev/vfio/N) --------


class vfio_group_status(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    ]


VFIO_GROUP_FLAGS_VIABLE = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1

VFIO_GROUP_GET_STATUS = _IO(VFIO_TYPE, VFIO_BASE + 3)
VFIO_GROUP_SET_CONTAINER = _IO(VFIO_TYPE, VFIO_BASE + 4)  # pointer to s32; an iommufd since 6.2
VFIO_GROUP_UNSET_CONTAINER = _IO(VFIO_TYPE, VFIO_BASE + 5)
VFIO_GROUP_GET_DEVICE_FD = _IO(VFIO_TYPE, VFIO_BASE + 6)  # NUL-terminated name; returns an fd

# -------- device fd --------


# VFIO_DEVICE_GET_INFO; min 16 bytes, cap_offset since 5.11
class vfio_device_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("num_regions", ctypes.c_uint32),
        ("num_irqs", ctypes.c_uint32),
        ("cap_offset", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


VFIO_DEVICE_FLAGS_RESET = 1 << 0
VFIO_DEVICE_FLAGS_PCI = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2  # since 4.1
VFIO_DEVICE_FLAGS_AMBA = 1 << 3  # since 4.1
VFIO_DEVICE_FLAGS_CCW = 1 << 4  # since 4.12
VFIO_DEVICE_FLAGS_AP = 1 << 5  # since 4.20
VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6  # since 5.10
VFIO_DEVICE_FLAGS_CAPS = 1 << 7  # since 5.11
VFIO_DEVICE_FLAGS_CDX = 1 << 8  # since 6.4

VFIO_DEVICE_GET_INFO = _IO(VFIO_TYPE, VFIO_BASE + 7)

# sysfs device_api of a mediated device; since 4.10
VFIO_DEVICE_API_PCI_STRING = "vfio-pci"
VFIO_DEVICE_API_PLATFORM_STRING = "vfio-platform"
VFIO_DEVICE_API_AMBA_STRING = "vfio-amba"
VFIO_DEVICE_API_CCW_STRING = "vfio-ccw"
VFIO_DEVICE_API_AP_STRING = "vfio-ap"

# Contents of the zPCI capabilities: vfiocore.uapi.vfio_zdev; since 5.11
VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1
VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2
VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3
VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4
VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5  # since 6.5


class vfio_device_info_cap_pci_atomic_comp(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


VFIO_PCI_ATOMIC_COMP32 = 1 << 0
VFIO_PCI_ATOMIC_COMP64 = 1 << 1
VFIO_PCI_ATOMIC_COMP128 = 1 << 2


# VFIO_DEVICE_GET_REGION_INFO; capabilities since 4.6
class vfio_region_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("cap_offset", ctypes.c_uint32),
        ("size", ctypes.c_uint64),  # bytes; 0 is a region that is not there
        ("offset", ctypes.c_uint64),  # of the region in the device fd, bytes
    ]


VFIO_REGION_INFO_FLAG_READ = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS = 1 << 3

VFIO_DEVICE_GET_REGION_INFO = _IO(VFIO_TYPE, VFIO_BASE + 8)

VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1  # since 4.6
VFIO_REGION_INFO_CAP_TYPE = 2  # since 4.6
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3  # a header only; since 4.16


class vfio_region_sparse_mmap_area(ctypes.Structure):
    _fields_ = [
        ("offset", ctypes.c_uint64),  # in the region, bytes
        ("size", ctypes.c_uint64),
    ]


# vfio_region_sparse_mmap_area[nr_areas] follows
class vfio_region_info_cap_sparse_mmap(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("nr_areas", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class vfio_region_info_cap_type(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("type", ctypes.c_uint32),
        ("subtype", ctypes.c_uint32),
    ]


VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 1 << 31  # or'ed with the PCI vendor id
VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xFFFF
VFIO_REGION_TYPE_GFX = 1
VFIO_REGION_TYPE_CCW = 2
VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3

# of PCI_VENDOR_TYPE | 0x8086
VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1
VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2
VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3

# of GFX
VFIO_REGION_SUBTYPE_GFX_EDID = 1

# of CCW; the regions' structs are in vfiocore.uapi.vfio_ccw
VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD = 1  # since 5.2
VFIO_REGION_SUBTYPE_CCW_SCHIB = 2  # since 5.8
VFIO_REGION_SUBTYPE_CCW_CRW = 3  # since 5.8


class vfio_irq_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    ]


VFIO_IRQ_INFO_EVENTFD = 1 << 0
VFIO_IRQ_INFO_MASKABLE = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED = 1 << 2
VFIO_IRQ_INFO_NORESIZE = 1 << 3

VFIO_DEVICE_GET_IRQ_INFO = _IO(VFIO_TYPE, VFIO_BASE + 9)


# Data follows at offset 20: nothing, u8[count] (BOOL) or s32[count] (EVENTFD, -1 for none)
class vfio_irq_set(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("start", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    ]


VFIO_IRQ_SET_DATA_NONE = 1 << 0
VFIO_IRQ_SET_DATA_BOOL = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2
VFIO_IRQ_SET_ACTION_MASK = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5
VFIO_IRQ_SET_DATA_TYPE_MASK = 0x07
VFIO_IRQ_SET_ACTION_TYPE_MASK = 0x38

VFIO_DEVICE_SET_IRQS = _IO(VFIO_TYPE, VFIO_BASE + 10)
VFIO_DEVICE_RESET = _IO(VFIO_TYPE, VFIO_BASE + 11)

# PCI regions; device-specific ones start at VFIO_PCI_NUM_REGIONS
VFIO_PCI_BAR0_REGION_INDEX = 0
VFIO_PCI_BAR1_REGION_INDEX = 1
VFIO_PCI_BAR2_REGION_INDEX = 2
VFIO_PCI_BAR3_REGION_INDEX = 3
VFIO_PCI_BAR4_REGION_INDEX = 4
VFIO_PCI_BAR5_REGION_INDEX = 5
VFIO_PCI_ROM_REGION_INDEX = 6
VFIO_PCI_CONFIG_REGION_INDEX = 7
VFIO_PCI_VGA_REGION_INDEX = 8
VFIO_PCI_NUM_REGIONS = 9

VFIO_PCI_INTX_IRQ_INDEX = 0
VFIO_PCI_MSI_IRQ_INDEX = 1
VFIO_PCI_MSIX_IRQ_INDEX = 2
VFIO_PCI_ERR_IRQ_INDEX = 3  # since 3.10
VFIO_PCI_REQ_IRQ_INDEX = 4  # since 4.0
VFIO_PCI_NUM_IRQS = 5

# The other CCW regions are found by VFIO_REGION_INFO_CAP_TYPE
VFIO_CCW_CONFIG_REGION_INDEX = 0
VFIO_CCW_NUM_REGIONS = 1

VFIO_CCW_IO_IRQ_INDEX = 0
VFIO_CCW_CRW_IRQ_INDEX = 1  # since 5.8
VFIO_CCW_REQ_IRQ_INDEX = 2  # since 5.11
VFIO_CCW_NUM_IRQS = 3

# AP devices have no regions
VFIO_AP_REQ_IRQ_INDEX = 0  # since 6.6
VFIO_AP_CFG_CHG_IRQ_INDEX = 1  # since 6.15
VFIO_AP_NUM_IRQS = 2


class _vfio_pci_dependent_device_id(ctypes.Union):
    _fields_ = [
        ("group_id", ctypes.c_uint32),
        ("devid", ctypes.c_uint32),  # when HOT_RESET_FLAG_DEV_ID is set; since 6.6
    ]


class vfio_pci_dependent_device(ctypes.Structure):
    _anonymous_ = ("_id",)
    _fields_ = [
        ("_id", _vfio_pci_dependent_device_id),
        ("segment", ctypes.c_uint16),
        ("bus", ctypes.c_uint8),
        ("devfn", ctypes.c_uint8),
    ]


VFIO_PCI_DEVID_OWNED = 0
VFIO_PCI_DEVID_NOT_OWNED = 0xFFFFFFFF  # -1 in C, as the unsigned field holds it


# vfio_pci_dependent_device[count] follows; since 3.12
class vfio_pci_hot_reset_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    ]


VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0  # since 6.6
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1  # since 6.6

VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = _IO(VFIO_TYPE, VFIO_BASE + 12)


# s32 group_fds[count] follows; since 3.12 (count 0 with an owning iommufd since 6.6)
class vfio_pci_hot_reset(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # 0
        ("count", ctypes.c_uint32),
    ]


VFIO_DEVICE_PCI_HOT_RESET = _IO(VFIO_TYPE, VFIO_BASE + 13)


# since 4.17; 28 bytes are enough
class vfio_device_ioeventfd(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),  # in the device fd, bytes
        ("data", ctypes.c_uint64),  # what a signal writes
        ("fd", ctypes.c_int32),  # -1 removes
        ("reserved", ctypes.c_uint32),
    ]


VFIO_DEVICE_IOEVENTFD_8 = 1 << 0
VFIO_DEVICE_IOEVENTFD_16 = 1 << 1
VFIO_DEVICE_IOEVENTFD_32 = 1 << 2
VFIO_DEVICE_IOEVENTFD_64 = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xF

VFIO_DEVICE_IOEVENTFD = _IO(VFIO_TYPE, VFIO_BASE + 16)


# The feature's data follows; since 5.7
class vfio_device_feature(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # feature id and operation
    ]


VFIO_DEVICE_FEATURE_MASK = 0xFFFF
VFIO_DEVICE_FEATURE_GET = 1 << 16
VFIO_DEVICE_FEATURE_SET = 1 << 17
VFIO_DEVICE_FEATURE_PROBE = 1 << 18

VFIO_DEVICE_FEATURE = _IO(VFIO_TYPE, VFIO_BASE + 17)

# -------- device cdev (/dev/vfio/devices/vfioX); since 6.6 --------


# 16 bytes before the token came (6.17)
class vfio_device_bind_iommufd(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("iommufd", ctypes.c_int32),
        ("out_devid", ctypes.c_uint32),
        ("token_uuid_ptr", ctypes.c_uint64),  # address of 16 raw bytes
    ]


VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0  # since 6.17

VFIO_DEVICE_BIND_IOMMUFD = _IO(VFIO_TYPE, VFIO_BASE + 18)


# 12 bytes before pasid came (6.15)
class vfio_device_attach_iommufd_pt(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pt_id", ctypes.c_uint32),  # in: IOAS or HWPT; out: the HWPT in use
        ("pasid", ctypes.c_uint32),
    ]


VFIO_DEVICE_ATTACH_PASID = 1 << 0  # since 6.15

VFIO_DEVICE_ATTACH_IOMMUFD_PT = _IO(VFIO_TYPE, VFIO_BASE + 19)


# 8 bytes before pasid came (6.15)
class vfio_device_detach_iommufd_pt(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pasid", ctypes.c_uint32),
    ]


VFIO_DEVICE_DETACH_PASID = 1 << 0  # since 6.15

VFIO_DEVICE_DETACH_IOMMUFD_PT = _IO(VFIO_TYPE, VFIO_BASE + 20)

# -------- VFIO_DEVICE_FEATURE: ids and data --------

VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0  # SET, 16 bytes of UUID; since 5.7
VFIO_DEVICE_FEATURE_MIGRATION = 1  # GET; since 5.18
VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2  # GET, SET; since 5.18
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3  # SET, no data; since 6.1
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4  # SET; since 6.1
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5  # SET, no data; since 6.1
VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6  # SET; since 6.1
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7  # SET, no data; since 6.1
VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8  # GET; since 6.1
VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9  # GET; since 6.2
VFIO_DEVICE_FEATURE_BUS_MASTER = 10  # SET, CDX only; since 6.7
VFIO_DEVICE_FEATURE_DMA_BUF = 11  # GET, returns an fd; since 6.19
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12  # SET, no data; since 7.1


class vfio_device_feature_migration(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
    ]


VFIO_MIGRATION_STOP_COPY = 1 << 0
VFIO_MIGRATION_P2P = 1 << 1
VFIO_MIGRATION_PRE_COPY = 1 << 2  # since 6.2


class vfio_device_feature_mig_state(ctypes.Structure):
    _fields_ = [
        ("device_state", ctypes.c_uint32),
        ("data_fd", ctypes.c_int32),
    ]


# enum vfio_device_mig_state
VFIO_DEVICE_STATE_ERROR = 0
VFIO_DEVICE_STATE_STOP = 1
VFIO_DEVICE_STATE_RUNNING = 2
VFIO_DEVICE_STATE_STOP_COPY = 3
VFIO_DEVICE_STATE_RESUMING = 4
VFIO_DEVICE_STATE_RUNNING_P2P = 5
VFIO_DEVICE_STATE_PRE_COPY = 6  # since 6.2
VFIO_DEVICE_STATE_PRE_COPY_P2P = 7  # since 6.2
VFIO_DEVICE_STATE_NR = 8


# On the migration data fd; since 6.2
class vfio_precopy_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("initial_bytes", ctypes.c_uint64),
        ("dirty_bytes", ctypes.c_uint64),
    ]


VFIO_PRECOPY_INFO_REINIT = 1 << 0  # after MIG_PRECOPY_INFOv2; since 7.1

VFIO_MIG_GET_PRECOPY_INFO = _IO(VFIO_TYPE, VFIO_BASE + 21)


class vfio_device_low_power_entry_with_wakeup(ctypes.Structure):
    _fields_ = [
        ("wakeup_eventfd", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
    ]


class vfio_device_feature_dma_logging_control(ctypes.Structure):
    _fields_ = [
        ("page_size", ctypes.c_uint64),
        ("num_ranges", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("ranges", ctypes.c_uint64),  # address of dma_logging_range[num_ranges]
    ]


class vfio_device_feature_dma_logging_range(ctypes.Structure):
    _fields_ = [
        ("iova", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    ]


class vfio_device_feature_dma_logging_report(ctypes.Structure):
    _fields_ = [
        ("iova", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("page_size", ctypes.c_uint64),
        ("bitmap", ctypes.c_uint64),  # address of the bitmap, one bit a page
    ]


class vfio_device_feature_mig_data_size(ctypes.Structure):
    _fields_ = [
        ("stop_copy_length", ctypes.c_uint64),  # bytes
    ]


class vfio_device_feature_bus_master(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_uint32),
    ]


VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0
VFIO_DEVICE_FEATURE_SET_MASTER = 1


class vfio_region_dma_range(ctypes.Structure):
    _fields_ = [
        ("offset", ctypes.c_uint64),  # in the region, bytes
        ("length", ctypes.c_uint64),
    ]


# vfio_region_dma_range[nr_ranges] follows
class vfio_device_feature_dma_buf(ctypes.Structure):
    _fields_ = [
        ("region_index", ctypes.c_uint32),
        ("open_flags", ctypes.c_uint32),  # O_RDWR, O_CLOEXEC ...
        ("flags", ctypes.c_uint32),  # 0
        ("nr_ranges", ctypes.c_uint32),
    ]


# -------- type1: a container after VFIO_SET_IOMMU --------


# VFIO_IOMMU_GET_INFO; min 16 bytes, cap_offset since 5.4
class vfio_iommu_type1_info(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("iova_pgsizes", ctypes.c_uint64),  # bit n: pages of 2**n bytes
        ("cap_offset", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


VFIO_IOMMU_INFO_PGSIZES = 1 << 0
VFIO_IOMMU_INFO_CAPS = 1 << 1  # since 5.4

VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1  # since 5.4
VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2  # since 5.8
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3  # since 5.10


class vfio_iova_range(ctypes.Structure):
    _fields_ = [
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),  # inclusive
    ]


# vfio_iova_range[nr_iovas] follows
class vfio_iommu_type1_info_cap_iova_range(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("nr_iovas", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class vfio_iommu_type1_info_cap_migration(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("flags", ctypes.c_uint32),  # 0
        ("pgsize_bitmap", ctypes.c_uint64),  # bit n: dirty bits for pages of 2**n bytes
        ("max_dirty_bitmap_size", ctypes.c_uint64),  # bytes
    ]


class vfio_iommu_type1_info_dma_avail(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("avail", ctypes.c_uint32),  # mappings that may still be made
    ]


VFIO_IOMMU_GET_INFO = _IO(VFIO_TYPE, VFIO_BASE + 12)


class vfio_iommu_type1_dma_map(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("vaddr", ctypes.c_uint64),
        ("iova", ctypes.c_uint64),
        ("size", ctypes.c_uint64),  # bytes
    ]


VFIO_DMA_MAP_FLAG_READ = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR = 1 << 2  # since 5.12

VFIO_IOMMU_MAP_DMA = _IO(VFIO_TYPE, VFIO_BASE + 13)


# since 5.8
class vfio_bitmap(ctypes.Structure):
    _fields_ = [
        ("pgsize", ctypes.c_uint64),  # bytes that a bit stands for
        ("size", ctypes.c_uint64),  # of the bitmap, bytes
        ("data", ctypes.c_uint64),  # address of the bitmap (a pointer in C)
    ]


# vfio_bitmap follows with GET_DIRTY_BITMAP
class vfio_iommu_type1_dma_unmap(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("iova", ctypes.c_uint64),
        ("size", ctypes.c_uint64),  # in/out, bytes
    ]


VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0  # since 5.8
VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1  # since 5.12
VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2  # since 5.12

VFIO_IOMMU_UNMAP_DMA = _IO(VFIO_TYPE, VFIO_BASE + 14)


# vfio_iommu_type1_dirty_bitmap_get follows with GET_BITMAP; since 5.8
class vfio_iommu_type1_dirty_bitmap(ctypes.Structure):
    _fields_ = [
        ("argsz", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # exactly one
    ]


VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2


class vfio_iommu_type1_dirty_bitmap_get(ctypes.Structure):
    _fields_ = [
        ("iova", ctypes.c_uint64),
        ("size", ctypes.c_uint64),  # bytes
        ("bitmap", vfio_bitmap),
    ]


VFIO_IOMMU_DIRTY_PAGES = _IO(VFIO_TYPE, VFIO_BASE + 17)
