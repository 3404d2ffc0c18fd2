"""What a config costs on TPUs, without having them."""
