"""``linux/iommufd.h``: the ioctls of ``/dev/iommu`` and the records of its fault queue.

Every struct starts with its own size in bytes. A kernel accepts any size from "min" up; what it
does not know must be zero (E2BIG). "min" is given where it is less than the size here.

Nested page tables (their vendor data, HWPT_INVALIDATE, vIOMMU, vDevice, vEVENTQ, HW queue) are
not declared: nothing here offers them.
"""

from __future__ import annotations

import ctypes

from vfiocore.uapi.ioctl import _IO

IOMMUFD_TYPE = ord(";")
IOMMUFD_CMD_BASE = 0x80


class iommu_destroy(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),  # any object: IOAS, HWPT, fault queue
    ]


IOMMU_DESTROY = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x0)


class iommu_ioas_alloc(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # 0
        ("out_ioas_id", ctypes.c_uint32),
    ]


IOMMU_IOAS_ALLOC = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x1)


class iommu_iova_range(ctypes.Structure):
    _fields_ = [
        ("start", ctypes.c_uint64),
        ("last", ctypes.c_uint64),  # inclusive
    ]


class iommu_ioas_allow_iovas(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("ioas_id", ctypes.c_uint32),
        ("num_iovas", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("allowed_iovas", ctypes.c_uint64),  # address of iommu_iova_range[num_iovas]
    ]


IOMMU_IOAS_ALLOW_IOVAS = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x2)


class iommu_ioas_copy(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # IOMMU_IOAS_MAP_*
        ("dst_ioas_id", ctypes.c_uint32),
        ("src_ioas_id", ctypes.c_uint32),
        ("length", ctypes.c_uint64),
        ("dst_iova", ctypes.c_uint64),  # in with FIXED_IOVA, else out
        ("src_iova", ctypes.c_uint64),
    ]


IOMMU_IOAS_COPY = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x3)


class iommu_ioas_iova_ranges(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("ioas_id", ctypes.c_uint32),
        ("num_iovas", ctypes.c_uint32),  # in: room; out: count, also when EMSGSIZE says too small
        ("__reserved", ctypes.c_uint32),
        ("allowed_iovas", ctypes.c_uint64),  # address of iommu_iova_range[num_iovas]
        ("out_iova_alignment", ctypes.c_uint64),  # bytes
    ]


IOMMU_IOAS_IOVA_RANGES = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x4)


class iommu_ioas_map(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("ioas_id", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("user_va", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("iova", ctypes.c_uint64),  # in with FIXED_IOVA, else out
    ]


IOMMU_IOAS_MAP = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x5)

# enum iommufd_ioas_map_flags
IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0
IOMMU_IOAS_MAP_WRITEABLE = 1 << 1
IOMMU_IOAS_MAP_READABLE = 1 << 2


class iommu_ioas_unmap(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("ioas_id", ctypes.c_uint32),
        ("iova", ctypes.c_uint64),
        ("length", ctypes.c_uint64),  # in/out; iova 0 and length 2**64 - 1 unmap everything
    ]


IOMMU_IOAS_UNMAP = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x6)


class iommu_option(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("option_id", ctypes.c_uint32),
        ("op", ctypes.c_uint16),
        ("__reserved", ctypes.c_uint16),
        ("object_id", ctypes.c_uint32),
        ("val64", ctypes.c_uint64),
    ]


IOMMU_OPTION = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x7)

# enum iommufd_option
IOMMU_OPTION_RLIMIT_MODE = 0  # 0 counts pinned pages on the user, 1 on the process
IOMMU_OPTION_HUGE_PAGES = 1

# enum iommufd_option_ops
IOMMU_OPTION_OP_SET = 0
IOMMU_OPTION_OP_GET = 1


class iommu_vfio_ioas(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("ioas_id", ctypes.c_uint32),
        ("op", ctypes.c_uint16),
        ("__reserved", ctypes.c_uint16),
    ]


IOMMU_VFIO_IOAS = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x8)

# enum iommufd_vfio_ioas_op
IOMMU_VFIO_IOAS_GET = 0
IOMMU_VFIO_IOAS_SET = 1
IOMMU_VFIO_IOAS_CLEAR = 2


# since 6.6 (min 24); data_* since 6.7, fault_id since 6.11
class iommu_hwpt_alloc(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("dev_id", ctypes.c_uint32),
        ("pt_id", ctypes.c_uint32),
        ("out_hwpt_id", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("data_type", ctypes.c_uint32),
        ("data_len", ctypes.c_uint32),
        ("data_uptr", ctypes.c_uint64),
        ("fault_id", ctypes.c_uint32),
        ("__reserved2", ctypes.c_uint32),
    ]


IOMMU_HWPT_ALLOC = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x9)

# enum iommufd_hwpt_alloc_flags
IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0
IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1  # since 6.7
IOMMU_HWPT_FAULT_ID_VALID = 1 << 2  # since 6.11
IOMMU_HWPT_ALLOC_PASID = 1 << 3  # since 6.15

# enum iommu_hwpt_data_type
IOMMU_HWPT_DATA_NONE = 0


class _iommu_hw_info_data_type(ctypes.Union):
    _fields_ = [
        ("in_data_type", ctypes.c_uint32),
        ("out_data_type", ctypes.c_uint32),
    ]


# since 6.6 (min 32); out_capabilities since 6.7
class iommu_hw_info(ctypes.Structure):
    _anonymous_ = ("_data_type",)
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("dev_id", ctypes.c_uint32),
        ("data_len", ctypes.c_uint32),
        ("data_uptr", ctypes.c_uint64),
        ("_data_type", _iommu_hw_info_data_type),
        ("out_max_pasid_log2", ctypes.c_uint8),
        ("__reserved", ctypes.c_uint8 * 3),
        ("out_capabilities", ctypes.c_uint64),
    ]


IOMMU_GET_HW_INFO = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0xA)

# enum iommufd_hw_info_flags
IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1 << 0

# enum iommu_hw_info_type
IOMMU_HW_INFO_TYPE_NONE = 0
IOMMU_HW_INFO_TYPE_DEFAULT = 0
IOMMU_HW_INFO_TYPE_INTEL_VTD = 1
IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2
IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3
IOMMU_HW_INFO_TYPE_AMD = 4

# enum iommufd_hw_capabilities
IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0
IOMMU_HW_CAP_PCI_PASID_EXEC = 1 << 1
IOMMU_HW_CAP_PCI_PASID_PRIV = 1 << 2
IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 1 << 3


# since 6.7
class iommu_hwpt_set_dirty_tracking(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("hwpt_id", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
    ]


IOMMU_HWPT_SET_DIRTY_TRACKING = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0xB)
IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1


# since 6.7
class iommu_hwpt_get_dirty_bitmap(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("hwpt_id", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("iova", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("page_size", ctypes.c_uint64),
        ("data", ctypes.c_uint64),  # address of the bitmap, one bit a page
    ]


IOMMU_HWPT_GET_DIRTY_BITMAP = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0xC)
IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1


# since 6.11
class iommu_fault_alloc(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # 0
        ("out_fault_id", ctypes.c_uint32),
        ("out_fault_fd", ctypes.c_uint32),
    ]


IOMMU_FAULT_QUEUE_ALLOC = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0xE)


# What read() of the fault fd gives; since 6.11
class iommu_hwpt_pgfault(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("dev_id", ctypes.c_uint32),
        ("pasid", ctypes.c_uint32),
        ("grpid", ctypes.c_uint32),
        ("perm", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("length", ctypes.c_uint32),  # a hint, bytes
        ("cookie", ctypes.c_uint32),
    ]


# enum iommu_hwpt_pgfault_flags
IOMMU_PGFAULT_FLAGS_PASID_VALID = 1 << 0
IOMMU_PGFAULT_FLAGS_LAST_PAGE = 1 << 1

# enum iommu_hwpt_pgfault_perm
IOMMU_PGFAULT_PERM_READ = 1 << 0
IOMMU_PGFAULT_PERM_WRITE = 1 << 1
IOMMU_PGFAULT_PERM_EXEC = 1 << 2
IOMMU_PGFAULT_PERM_PRIV = 1 << 3


# What write() to the fault fd takes; since 6.11
class iommu_hwpt_page_response(ctypes.Structure):
    _fields_ = [
        ("cookie", ctypes.c_uint32),
        ("code", ctypes.c_uint32),
    ]


# enum iommufd_page_response_code
IOMMUFD_PAGE_RESP_SUCCESS = 0
IOMMUFD_PAGE_RESP_INVALID = 1


# since 6.13; of a dma-buf since 7.0
class iommu_ioas_map_file(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # IOMMU_IOAS_MAP_*
        ("ioas_id", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
        ("start", ctypes.c_uint64),  # offset in the file, bytes
        ("length", ctypes.c_uint64),
        ("iova", ctypes.c_uint64),  # in with FIXED_IOVA, else out
    ]


IOMMU_IOAS_MAP_FILE = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0xF)


# since 6.13
class iommu_ioas_change_process(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("__reserved", ctypes.c_uint32),
    ]


IOMMU_IOAS_CHANGE_PROCESS = _IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 0x12)
