"""A frontend for one kind of card: QEMU's educational device, with a method for each thing it does."""

__version__ = "0.1.0"
