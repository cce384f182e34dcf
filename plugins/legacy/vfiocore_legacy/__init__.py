"""The legacy backend of vfiocore: VFIO groups (/dev/vfio/N) in type1 containers."""

__version__ = "0.1.0"
