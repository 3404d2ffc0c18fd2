"""The mesh, several processes, preemption."""
