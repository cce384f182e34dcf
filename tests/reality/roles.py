"""Where the devices are on a machine, by what they are for in the sequences."""

from __future__ import annotations

from vfiocore.host.protocol import Host

PCI = {
    "edu": ("1234:11e8", 0),
    "left": ("1234:11e8", 1),
    "right": ("1234:11e8", 2),
    "nvme": ("1b36:0010", 0),
    "testdev": ("1b36:0005", 0),
    "ivshmem": ("1af4:1110", 0),
}
"""Functions by ``vendor:device`` and which of them it is: `left` and `right` share a slot."""

MDEVS = {"mtty": "11111111-0000-4000-8000-000000000001"}


class Roles:
    """The devices of one machine."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._labels = {"/dev/vfio/vfio": "container", "/dev/iommu": "iommufd"}

    def name(self, role: str) -> str:
        """A device's name on its bus."""
        if role in MDEVS:
            return MDEVS[role]
        model, number = PCI[role]
        functions = self._host.listdir("/sys/bus/pci/devices")
        return [name for name in functions if self._model(name) == model][number]

    def folder(self, role: str) -> str:
        """A device's folder in sysfs."""
        bus = "mdev" if role in MDEVS else "pci"
        return self._known(f"/sys/bus/{bus}/devices/{self.name(role)}", role)

    def group(self, role: str) -> str:
        """The node of a device's group."""
        return self._known(f"/dev/vfio/{self.group_number(role)}", f"group of {role}")

    def group_number(self, role: str) -> int:
        """The number of a device's group."""
        return int(self._host.realpath(f"{self.folder(role)}/iommu_group").rpartition("/")[2])

    def cdev(self, role: str) -> str:
        """A device's own node."""
        (name,) = self._host.listdir(f"{self.folder(role)}/vfio-dev")
        return self._known(f"/dev/vfio/devices/{name}", f"cdev of {role}")

    def label(self, path: str) -> str:
        """How a path is called in answers: by role, as numbers are different everywhere."""
        for known in sorted(self._labels, key=len, reverse=True):
            if path.startswith(known):
                return self._labels[known] + path.removeprefix(known)
        return path

    def _known(self, path: str, label: str) -> str:
        self._labels[path] = label
        return path

    def _model(self, name: str) -> str:
        folder = f"/sys/bus/pci/devices/{name}"
        numbers = (self._host.read_file(f"{folder}/{file}") for file in ("vendor", "device"))
        return ":".join(number.decode().strip().removeprefix("0x") for number in numbers)
