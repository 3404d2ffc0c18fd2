"""Attention kernels: ours and JAX's for TPUs, cuDNN's for GPUs."""
