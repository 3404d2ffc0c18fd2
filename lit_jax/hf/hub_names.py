"""Names of models as they are written elsewhere, and their ids on the Hub."""

import re

_ID = r"(?P<id>[\w.-]+/[\w.-]+?)"
_REVISION = r"(@(?P<revision>[\w./-]+))?"
_WRITTEN = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(https?://)?(www\.)?(huggingface\.co|hf\.co)/{_ID}(/(tree|blob|resolve|commit)/(?P<revision>[^/]+).*)?/?",
        rf"hf[-_]hub:{_ID}{_REVISION}",  # As in open_clip and timm.
        rf"hf://{_ID}{_REVISION}",
        rf"{_ID}@(?P<revision>[\w.-]+)",
    )
)
_CACHED = re.compile(r"(.*/)?models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_OPENAI = {  # Names in OpenAI's package clip.
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}
_OPEN_CLIP = "open_clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_TIMM = "timm", "timm/vit_base_patch16_224.augreg_in21k"
_ELSEWHERE = {  # Names without an owner -> the project that uses them, and an id of that kind.
    r"(ViT|EVA\d*|(xlm-)?roberta-(base-|large-)?ViT|MobileCLIP\d*|ViTamin|nllb-clip)-\S+": _OPEN_CLIP,
    r"RN\d+\w*|convnext_\w+|coca_(base|(roberta-)?ViT-\S+)": _OPEN_CLIP,
    r"PE-Core-\S+": ("open_clip", "timm/PE-Core-B-16"),
    r"(vit|vitamin|hiera|deit3?|beit|eva\d*|swin\w*|resnet\w*)_\w+(\.\w+)?": _TIMM,
    r"dino(v2|v3)?_vit\w+": ("torch.hub", "facebook/dinov2-base"),
}


def hint(name: str) -> str:
    """How to give a name of another form, as the end of a sentence; "" if nothing is known about it."""
    if name in _OPENAI:
        return f"give its id on the Hub, {_OPENAI[name]}"
    for written in _WRITTEN:
        if found := written.fullmatch(name):
            revision = found["revision"]
            with_revision = (
                f" (with revision={revision!r} in Python)" if revision not in (None, "main") else ""
            )
            return f"give its id on the Hub, {found['id']}{with_revision}"
    if found := _CACHED.fullmatch(name):
        return f"give its id on the Hub, {found['owner']}/{found['name']}"
    for pattern, (project, example) in _ELSEWHERE.items():
        if re.fullmatch(pattern, name):
            return f"it looks like a name of {project}; on the Hub its weights have an id such as {example}"
    if "://" in name:
        return "it is a URL; copy what is there into a folder, and give that"
    return ""
