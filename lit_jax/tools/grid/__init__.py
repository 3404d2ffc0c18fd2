"""The LiT design grid."""
