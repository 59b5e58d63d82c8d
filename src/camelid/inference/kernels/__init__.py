"""Kernels in C++ for the processor at hand: compiled on first use, kept in the user's cache, called by ctypes."""
