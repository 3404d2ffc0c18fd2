"""VisionTextDualEncoderModel as transformers has it."""
