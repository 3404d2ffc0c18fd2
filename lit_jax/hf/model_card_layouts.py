"""What a model card says about a layout of `lit_jax.save`: what the folder is, and how it is used."""

from typing import NamedTuple

_IN_TORCH = """\
In PyTorch, with transformers:

```python
import torch
from PIL import Image
from transformers import CLASS, VisionTextDualEncoderProcessor

model = CLASS.from_pretrained("MODEL")
processor = VisionTextDualEncoderProcessor.from_pretrained("MODEL")

texts = ["a cat", "a sleeping dog"]
inputs = processor(text=texts, images=Image.open("picture.png").convert("RGB"), padding=PADDING, return_tensors="pt")
with torch.no_grad():
    probabilities = model(**inputs).logits_per_image.softmax(dim=-1)
print(dict(zip(texts, probabilities[0].tolist())))
```"""

_IN_JAX = """\
In JAX, with lit_jax:

```python
import jax
from lit_jax import VisionTextDualEncoderModel
from PIL import Image
from transformers import VisionTextDualEncoderProcessor

model = VisionTextDualEncoderModel.from_pretrained("MODEL")
processor = VisionTextDualEncoderProcessor.from_pretrained("MODEL")

texts = ["a cat", "a sleeping dog"]
inputs = processor(text=texts, images=Image.open("picture.png").convert("RGB"), padding=PADDING, return_tensors="np")
probabilities = jax.nn.softmax(model(**inputs).logits_per_image)
print(dict(zip(texts, probabilities[0].tolist())))
```"""

_IN_SENTENCE_TRANSFORMERS = """\
In PyTorch, with sentence-transformers:

```python
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("MODEL")
pictures = model.encode([Image.open("picture.png").convert("RGB")])
texts = model.encode(["a cat", "a sleeping dog"])
print(model.similarity(pictures, texts))
```

The vectors have length one. sentence-transformers has no place for the temperature, by whose exponential a softmax
over texts multiplies these similarities. It is the tensor `logit_scale` of `heads/model.safetensors`, and `logit_bias`,
where there is one, is in `heads/config.json`; a CLIP or SigLIP has both in `model.safetensors`.

In JAX, with lit_jax:

```python
from lit_jax import Embedder

model = Embedder("MODEL")
print(model.pictures("picture.png") @ model.texts(["a cat", "a sleeping dog"]).T)
```"""

_IN_OPEN_CLIP = """\
In PyTorch, with open_clip:

```python
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("PLACE")
tokenizer = open_clip.get_tokenizer("PLACE")

texts = ["a cat", "a sleeping dog"]
with torch.no_grad():
    pictures = model.encode_image(preprocess(Image.open("picture.png"))[None], normalize=True)
    words = model.encode_text(tokenizer(texts), normalize=True)
probabilities = (model.logit_scale.exp() * pictures @ words.T).softmax(dim=-1)
print(dict(zip(texts, probabilities[0].tolist())))
```

In JAX, with lit_jax:

```python
from lit_jax import Embedder

model = Embedder("MODEL")
print(model.pictures("picture.png") @ model.texts(["a cat", "a sleeping dog"]).T)
```"""

_TOWERS = """\
The towers, one by one, in PyTorch with transformers; `heads` holds the projections that belong to their outputs:

```python
IMPORTS

vision, text = VISION.from_pretrained("MODEL/vision"), TEXT.from_pretrained("MODEL/text")
```

In JAX, under new projections, with lit_jax:

```python
import lit_jax

module, params = lit_jax.from_towers("MODEL/vision", "MODEL/text")
```"""


class Layout(NamedTuple):
    """`usage` is Markdown, in which MODEL, PLACE (as open_clip writes it), IMPORTS and so on are filled in.

    So is CLASS, the class of transformers that holds the model, in it and in `what`. `library` is a library name on the
    Hub.
    """

    what: str
    usage: str
    library: str


_HF = Layout(
    "Its weights are those of an ordinary `CLASS` of transformers.",
    f"{_IN_TORCH}\n\n{_IN_JAX}",
    "transformers",
)
LAYOUTS = {
    "hf": _HF,
    "dual_encoder": _HF,
    "lit_jax": Layout(
        "lit_jax reads it; transformers has no class for two towers of these types.", _IN_JAX, "lit_jax"
    ),
    "towers": Layout(
        "Its two towers are stored as two models of transformers, and its projections beside them.",
        _TOWERS,
        "lit_jax",
    ),
    "sentence_transformers": Layout(
        "It is stored as a model of sentence-transformers, which embeds pictures and texts.",
        _IN_SENTENCE_TRANSFORMERS,
        "sentence-transformers",
    ),
    "open_clip": Layout("It is stored as a model of open_clip.", _IN_OPEN_CLIP, "open_clip"),
}
