"""Names that several folders share: towers, lock letters in words, directions of retrieval, prefixes of metrics."""

TOWERS = ("vision", "text")  # In the order of the lock letters and of the parameters.
MODALITIES = ("image", "text")  # What each of the towers embeds, in the order of TOWERS.
LOCK_WORDS = {"L": "locked", "U": "tuned", "u": "from scratch"}  # Lock letter -> how a tower was trained.
TRAINED = LOCK_WORDS | {
    "A": "locked, with tuned adapters (LoRA)"
}  # The same with the letter that no grid has.
DIRECTIONS = ("image_to_text", "text_to_image")  # Of retrieval; the metrics of each begin with its name.
TEST_PREFIX = "test/"  # Of the metrics of an evaluation: "test/text_to_image_recall@1".
MONITOR_PREFIX = "monitor/"  # Of the metrics of the embeddings of a training batch; they are not printed.
