"""A simulated host for vfiocore: the kernel's VFIO and iommufd objects, and devices as programs.

For users: `vfiocore_sim.host.SimHost` and `vfiocore_sim.topology.Topology`. For authors of
simulated devices: `vfiocore_sim.device`.
"""

__version__ = "0.1.0"
