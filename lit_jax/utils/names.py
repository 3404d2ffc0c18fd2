"""Names that several folders share: towers, lock letters in words, directions of retrieval, prefixes of metrics."""

TOWERS = ("vision", "text")  # The towers, in the order of the lock letters and of the parameters.
MODALITIES = ("image", "text")  # What each tower embeds, in the order of TOWERS.
LOCK_WORDS = {"L": "locked", "U": "tuned", "u": "from scratch"}  # Lock letter -> how a tower was trained.
# LOCK_WORDS with the letter that grids do not use.
TRAINED = LOCK_WORDS | {"A": "locked, with tuned adapters (LoRA)"}
DIRECTIONS = ("image_to_text", "text_to_image")  # Of retrieval; the names of its metrics begin with these.
TEST_PREFIX = "test/"  # The prefix of the metrics of an evaluation: "test/text_to_image_recall@1".
MONITOR_PREFIX = "monitor/"  # The prefix of metrics of a training batch's embeddings, which are not printed.
