"""``linux/kvm.h``: the little of KVM that VFIO needs, the KVM-VFIO pseudo device.

KVM must know the files of assigned devices, else s390 zPCI and AP interpretation, coherent DMA
on x86 and some mdev drivers do not work.
"""

from __future__ import annotations

import ctypes

from vfiocore.uapi.ioctl import _IO, _IOW, _IOWR

KVMIO = 0xAE
KVM_API_VERSION = 12

KVM_GET_API_VERSION = _IO(KVMIO, 0x00)  # /dev/kvm; returns KVM_API_VERSION
KVM_CREATE_VM = _IO(KVMIO, 0x01)  # /dev/kvm; the argument is the machine type, returns a VM fd


class kvm_create_device(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("fd", ctypes.c_uint32),  # out
        ("flags", ctypes.c_uint32),
    ]


KVM_CREATE_DEVICE = _IOWR(KVMIO, 0xE0, ctypes.sizeof(kvm_create_device))  # VM fd; since 3.10
KVM_DEV_TYPE_VFIO = 4  # since 3.13


class kvm_device_attr(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("attr", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),  # of the attribute's data
    ]


KVM_SET_DEVICE_ATTR = _IOW(KVMIO, 0xE1, ctypes.sizeof(kvm_device_attr))  # device fd; since 3.10

# Called KVM_DEV_VFIO_GROUP* before 6.6, with the same values; cdev fds are taken since 6.6.
KVM_DEV_VFIO_FILE = 1
KVM_DEV_VFIO_FILE_ADD = 1  # addr points to an s32 fd
KVM_DEV_VFIO_FILE_DEL = 2
