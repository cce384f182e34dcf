"""``linux/vfio_ccw.h``: the regions of a VFIO subchannel (s390).

The kernel declares these structs packed, which moves nothing. The areas carry channel subsystem
structures, big-endian, of :mod:`vfiocore.uapi.s390_cio`; the other fields are native.
"""

from __future__ import annotations

import ctypes

ORB_AREA_SIZE = 12
SCSW_AREA_SIZE = 12
IRB_AREA_SIZE = 96
SCHIB_AREA_SIZE = 52


# The I/O region (VFIO_CCW_CONFIG_REGION_INDEX, always there): writing it starts a channel program.
# since 4.12
class ccw_io_region(ctypes.Structure):
    _fields_ = [
        ("orb_area", ctypes.c_uint8 * ORB_AREA_SIZE),
        ("scsw_area", ctypes.c_uint8 * SCSW_AREA_SIZE),
        # SCSW 12, ESW 20, ECW 32, EMW 32 bytes; the kernel fills the first 64
        ("irb_area", ctypes.c_uint8 * IRB_AREA_SIZE),
        ("ret_code", ctypes.c_uint32),  # a negative errno as two's complement
    ]


# VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD; since 5.2
class ccw_cmd_region(ctypes.Structure):
    _fields_ = [
        ("command", ctypes.c_uint32),
        ("ret_code", ctypes.c_uint32),
    ]


VFIO_CCW_ASYNC_CMD_HSCH = 1 << 0
VFIO_CCW_ASYNC_CMD_CSCH = 1 << 1


# VFIO_REGION_SUBTYPE_CCW_SCHIB: reading it issues STSCH; since 5.8
class ccw_schib_region(ctypes.Structure):
    _fields_ = [
        ("schib_area", ctypes.c_uint8 * SCHIB_AREA_SIZE),
    ]


# VFIO_REGION_SUBTYPE_CCW_CRW: reading it takes one channel report word; since 5.8
class ccw_crw_region(ctypes.Structure):
    _fields_ = [
        ("crw", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]
