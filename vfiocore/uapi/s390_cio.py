"""Channel subsystem structures of s390, as z/Architecture lays them out: big-endian everywhere.

They travel inside the regions of a VFIO subchannel (:mod:`vfiocore.uapi.vfio_ccw`) and in guest
memory (channel programs). No uAPI header declares them. Structure and field names follow QEMU's
``include/hw/s390x/{css,ioinst}.h``; constants are masks in place, to be and-ed with the field
named in the comment above them, unless that says otherwise. CCW commands are those of the kernel's
``arch/s390/include/asm/cio.h``, CRW codes those of its ``crw.h``.
"""

from __future__ import annotations

import ctypes


# Format-0 CCW, 8 bytes: 24-bit data address. Must lie below 16 MiB.
class CCW0(ctypes.BigEndianStructure):
    _fields_ = [
        ("cmd_code", ctypes.c_uint8),
        ("cda0", ctypes.c_uint8),  # address bits 16..23
        ("cda1", ctypes.c_uint16),  # address bits 0..15
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("count", ctypes.c_uint16),  # bytes
    ]


# Format-1 CCW, 8 bytes: 31-bit data address (ORB_CTRL0_MASK_FMT set).
class CCW1(ctypes.BigEndianStructure):
    _fields_ = [
        ("cmd_code", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("count", ctypes.c_uint16),  # bytes
        ("cda", ctypes.c_uint32),
    ]


# CCW flags
CCW_FLAG_DC = 0x80  # data chaining
CCW_FLAG_CC = 0x40  # command chaining
CCW_FLAG_SLI = 0x20  # suppress length indication
CCW_FLAG_SKIP = 0x10
CCW_FLAG_PCI = 0x08  # program controlled interruption
CCW_FLAG_IDA = 0x04  # cda is the address of an indirect data address list
CCW_FLAG_SUSPEND = 0x02

# CCW cmd_code
CCW_CMD_READ_IPL = 0x02
CCW_CMD_NOOP = 0x03
CCW_CMD_BASIC_SENSE = 0x04
CCW_CMD_TIC = 0x08  # transfer in channel: cda is the next CCW
CCW_CMD_STLCK = 0x14
CCW_CMD_SENSE_PGID = 0x34
CCW_CMD_SUSPEND_RECONN = 0x5B
CCW_CMD_RDC = 0x64  # read device characteristics
CCW_CMD_RELEASE = 0x94
CCW_CMD_SET_PGID = 0xAF
CCW_CMD_SENSE_ID = 0xE4
CCW_CMD_DCTL = 0xF3


# Operation request block, the 12 bytes of a command-mode one.
class ORB(ctypes.BigEndianStructure):
    _fields_ = [
        ("intparm", ctypes.c_uint32),
        ("ctrl0", ctypes.c_uint16),
        ("lpm", ctypes.c_uint8),  # logical path mask
        ("ctrl1", ctypes.c_uint8),
        ("cpa", ctypes.c_uint32),  # channel program address
    ]


# ORB ctrl0
ORB_CTRL0_MASK_KEY = 0xF000
ORB_CTRL0_MASK_SPND = 0x0800
ORB_CTRL0_MASK_STR = 0x0400
ORB_CTRL0_MASK_MOD = 0x0200
ORB_CTRL0_MASK_SYNC = 0x0100
ORB_CTRL0_MASK_FMT = 0x0080  # format-1 CCWs
ORB_CTRL0_MASK_PFCH = 0x0040  # prefetch allowed; vfio-ccw wants it
ORB_CTRL0_MASK_ISIC = 0x0020
ORB_CTRL0_MASK_ALCC = 0x0010
ORB_CTRL0_MASK_SSIC = 0x0008
ORB_CTRL0_MASK_C64 = 0x0002  # format-2 (64-bit) IDAWs
ORB_CTRL0_MASK_I2K = 0x0001  # 2 KiB format-2 IDAW blocks

# ORB ctrl1
ORB_CTRL1_MASK_ILS = 0x80
ORB_CTRL1_MASK_MIDAW = 0x40
ORB_CTRL1_MASK_ORBX = 0x01


# Subchannel status word, 12 bytes.
class SCSW(ctypes.BigEndianStructure):
    _fields_ = [
        ("flags", ctypes.c_uint16),
        ("ctrl", ctypes.c_uint16),
        ("cpa", ctypes.c_uint32),  # 8 past the last CCW used
        ("dstat", ctypes.c_uint8),
        ("cstat", ctypes.c_uint8),
        ("count", ctypes.c_uint16),  # residual, bytes
    ]


# SCSW flags
SCSW_FLAGS_MASK_KEY = 0xF000
SCSW_FLAGS_MASK_SCTL = 0x0800
SCSW_FLAGS_MASK_ESWF = 0x0400
SCSW_FLAGS_MASK_CC = 0x0300
SCSW_FLAGS_MASK_FMT = 0x0080
SCSW_FLAGS_MASK_PFCH = 0x0040
SCSW_FLAGS_MASK_ISIC = 0x0020
SCSW_FLAGS_MASK_ALCC = 0x0010
SCSW_FLAGS_MASK_SSI = 0x0008
SCSW_FLAGS_MASK_ZCC = 0x0004
SCSW_FLAGS_MASK_ECTL = 0x0002
SCSW_FLAGS_MASK_PNO = 0x0001

# SCSW ctrl: function control
SCSW_CTRL_MASK_FCTL = 0x7000
SCSW_FCTL_START_FUNC = 0x4000
SCSW_FCTL_HALT_FUNC = 0x2000
SCSW_FCTL_CLEAR_FUNC = 0x1000

# SCSW ctrl: activity control
SCSW_CTRL_MASK_ACTL = 0x0FE0
SCSW_ACTL_RESUME_PEND = 0x0800
SCSW_ACTL_START_PEND = 0x0400
SCSW_ACTL_HALT_PEND = 0x0200
SCSW_ACTL_CLEAR_PEND = 0x0100
SCSW_ACTL_SUBCH_ACTIVE = 0x0080
SCSW_ACTL_DEVICE_ACTIVE = 0x0040
SCSW_ACTL_SUSP = 0x0020

# SCSW ctrl: status control
SCSW_CTRL_MASK_STCTL = 0x001F
SCSW_STCTL_ALERT = 0x0010
SCSW_STCTL_INTERMEDIATE = 0x0008
SCSW_STCTL_PRIMARY = 0x0004
SCSW_STCTL_SECONDARY = 0x0002
SCSW_STCTL_STATUS_PEND = 0x0001

# SCSW dstat
SCSW_DSTAT_ATTENTION = 0x80
SCSW_DSTAT_STAT_MOD = 0x40
SCSW_DSTAT_CU_END = 0x20
SCSW_DSTAT_BUSY = 0x10
SCSW_DSTAT_CHANNEL_END = 0x08
SCSW_DSTAT_DEVICE_END = 0x04
SCSW_DSTAT_UNIT_CHECK = 0x02
SCSW_DSTAT_UNIT_EXCEP = 0x01

# SCSW cstat
SCSW_CSTAT_PCI = 0x80
SCSW_CSTAT_INCORR_LEN = 0x40
SCSW_CSTAT_PROG_CHECK = 0x20
SCSW_CSTAT_PROT_CHECK = 0x10
SCSW_CSTAT_DATA_CHECK = 0x08
SCSW_CSTAT_CHN_CTRL_CHK = 0x04
SCSW_CSTAT_INTF_CTRL_CHK = 0x02
SCSW_CSTAT_CHAIN_CHECK = 0x01


# Interruption response block, 96 bytes; the kernel's own is the first 64.
class IRB(ctypes.BigEndianStructure):
    _fields_ = [
        ("scsw", SCSW),
        ("esw", ctypes.c_uint32 * 5),  # extended status word, 20 bytes
        ("ecw", ctypes.c_uint8 * 32),  # extended control word: concurrent sense data
        ("emw", ctypes.c_uint32 * 8),  # extended measurement word, 32 bytes
    ]


# Path management control word, 28 bytes.
class PMCW(ctypes.BigEndianStructure):
    _fields_ = [
        ("intparm", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("devno", ctypes.c_uint16),
        ("lpm", ctypes.c_uint8),  # logical path mask
        ("pnom", ctypes.c_uint8),  # path not operational mask
        ("lpum", ctypes.c_uint8),  # last path used mask
        ("pim", ctypes.c_uint8),  # path installed mask
        ("mbi", ctypes.c_uint16),  # measurement block index
        ("pom", ctypes.c_uint8),  # path operational mask
        ("pam", ctypes.c_uint8),  # path available mask
        ("chpid", ctypes.c_uint8 * 8),
        ("chars", ctypes.c_uint32),
    ]


# PMCW flags
PMCW_FLAGS_MASK_QF = 0x8000
PMCW_FLAGS_MASK_W = 0x4000
PMCW_FLAGS_MASK_ISC = 0x3800
PMCW_FLAGS_MASK_ENA = 0x0080
PMCW_FLAGS_MASK_LM = 0x0060
PMCW_FLAGS_MASK_MME = 0x0018
PMCW_FLAGS_MASK_MP = 0x0004
PMCW_FLAGS_MASK_TF = 0x0002
PMCW_FLAGS_MASK_DNV = 0x0001  # devno is valid

# PMCW chars
PMCW_CHARS_MASK_ST = 0x00E00000
PMCW_CHARS_MASK_MBFC = 0x00000004
PMCW_CHARS_MASK_XMWME = 0x00000002
PMCW_CHARS_MASK_CSENSE = 0x00000001  # concurrent sense


# Subchannel information block, 52 bytes.
class SCHIB(ctypes.BigEndianStructure):
    _fields_ = [
        ("pmcw", PMCW),
        ("scsw", SCSW),
        # A doubleword in the architecture; two words here, as an 8-byte field would pad to 56.
        ("mba", ctypes.c_uint32 * 2),  # measurement block address, high then low
        ("mda", ctypes.c_uint8 * 4),  # model-dependent area
    ]


# Channel report word, 4 bytes.
class CRW(ctypes.BigEndianStructure):
    _fields_ = [
        ("flags", ctypes.c_uint16),
        ("rsid", ctypes.c_uint16),  # reporting-source id: chpid of a channel path
    ]


# CRW flags
CRW_FLAGS_MASK_S = 0x4000  # solicited
CRW_FLAGS_MASK_R = 0x2000  # overflow: reports were lost
CRW_FLAGS_MASK_C = 0x1000  # chained: another word follows
CRW_FLAGS_MASK_RSC = 0x0F00  # reporting source
CRW_FLAGS_MASK_A = 0x0080  # ancillary
CRW_FLAGS_MASK_ERC = 0x003F  # error-recovery code

# CRW reporting source: the value of CRW_FLAGS_MASK_RSC, to be shifted into place
CRW_FLAGS_SHIFT_RSC = 8
CRW_RSC_MONITOR = 0x2
CRW_RSC_SUBCH = 0x3
CRW_RSC_CHP = 0x4
CRW_RSC_CONFIG = 0x9
CRW_RSC_CSS = 0xB

# CRW error-recovery code (CRW_FLAGS_MASK_ERC)
CRW_ERC_EVENT = 0x00
CRW_ERC_AVAIL = 0x01
CRW_ERC_INIT = 0x02
CRW_ERC_TERROR = 0x03
CRW_ERC_IPI = 0x04
CRW_ERC_TERM = 0x05
CRW_ERC_PERRN = 0x06
CRW_ERC_PERRI = 0x07
CRW_ERC_PMOD = 0x08
