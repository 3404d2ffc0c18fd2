"""The mesh, runs of several processes, and preemption."""
