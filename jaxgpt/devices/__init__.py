"""Devices: meshes, which device holds what, several processes, CPU cores, data sheets."""
