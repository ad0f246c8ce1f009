"""Devices: meshes, shardings, runs of several processes, CPU cores, data sheets."""
