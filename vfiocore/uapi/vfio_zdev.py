"""``linux/vfio_zdev.h``: the capabilities that s390 PCI functions add to ``vfio_device_info``.

Their ids are ``VFIO_DEVICE_INFO_CAP_ZPCI_*`` of :mod:`vfiocore.uapi.vfio`. All since 5.11.
"""

from __future__ import annotations

import ctypes

from vfiocore.uapi.vfio import vfio_info_cap_header


# VFIO_DEVICE_INFO_CAP_ZPCI_BASE
class vfio_device_info_cap_zpci_base(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("start_dma", ctypes.c_uint64),  # first usable DMA address
        ("end_dma", ctypes.c_uint64),  # last usable DMA address
        ("pchid", ctypes.c_uint16),  # physical channel id
        ("vfn", ctypes.c_uint16),  # virtual function number
        ("fmb_length", ctypes.c_uint16),  # measurement block, bytes
        ("pft", ctypes.c_uint8),  # PCI function type
        ("gid", ctypes.c_uint8),  # PCI function group
        ("fh", ctypes.c_uint32),  # function handle; capability version 2
    ]


VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH = 1


# VFIO_DEVICE_INFO_CAP_ZPCI_GROUP
class vfio_device_info_cap_zpci_group(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("dasm", ctypes.c_uint64),  # DMA address space mask
        ("msi_addr", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("mui", ctypes.c_uint16),  # measurement block update interval
        ("noi", ctypes.c_uint16),  # most MSIs
        ("maxstbl", ctypes.c_uint16),  # longest store block, bytes
        ("version", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("imaxstbl", ctypes.c_uint16),  # longest interpreted store block; capability version 2
    ]


# VFIO_DEVICE_INFO_CAP_ZPCI_UTIL; `size` bytes of EBCDIC follow (util_str)
class vfio_device_info_cap_zpci_util(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("size", ctypes.c_uint32),
    ]


# VFIO_DEVICE_INFO_CAP_ZPCI_PFIP; `size` bytes of function path follow (pfip)
class vfio_device_info_cap_zpci_pfip(ctypes.Structure):
    _fields_ = [
        ("header", vfio_info_cap_header),
        ("size", ctypes.c_uint32),
    ]
