"""Accounts the memory that devices can reach, and refuses more than a quota."""

from vfiocore_quota.plugin import Quota, quota

__version__ = "0.1.0"

__all__ = ["Quota", "quota"]
