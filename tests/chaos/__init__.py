"""Chaos: real node processes, real sockets, real disks, and everything that can be done to them from outside."""
