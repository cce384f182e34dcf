"""The VFIO device layer of the simulated kernel: what answers on a *device* fd, driver by driver.

`base` holds what every VFIO driver shares, `pci` and `platform` follow vfio-pci and vfio-platform.
Authors of simulated devices subclass `vfiocore_sim.vfio.pci.PciDevice`,
`vfiocore_sim.vfio.platform.PlatformDevice`, or, for a mediated device, `VfioDevice`.
"""
