"""VisionTextDualEncoderModel, with the interface of transformers."""
