"""A backend without VFIO: cards that live in this process, behind an isolation unit of its own."""

__version__ = "0.1.0"
