"""What is computed: architectures, layers, kernels, the dual encoder and its weight tables."""
