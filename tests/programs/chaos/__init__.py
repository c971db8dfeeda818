"""Faults on a running system: replicas come and go, disks and brokers die, then everything is counted."""
