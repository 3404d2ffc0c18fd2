"""What a config costs on TPUs that are not there."""
