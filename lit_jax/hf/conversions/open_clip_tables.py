"""The names of open_clip and those of Hugging Face, read in both directions: blocks, towers and heads."""

from lit_jax.hf.conversions.renames import rows

BLOCKS = rows("""
    resblocks.{l}.ln_1.weight          | layers.{l}.layer_norm1.weight                      | d
    resblocks.{l}.ln_1.bias            | layers.{l}.layer_norm1.bias                        | d
    resblocks.{l}.attn.in_proj_weight  | layers.{l}.self_attn.{q_proj,k_proj,v_proj}.weight | (g d) e -> g d e
    resblocks.{l}.attn.in_proj_bias    | layers.{l}.self_attn.{q_proj,k_proj,v_proj}.bias   | (g d) -> g d
    resblocks.{l}.attn.out_proj.weight | layers.{l}.self_attn.out_proj.weight               | d e
    resblocks.{l}.attn.out_proj.bias   | layers.{l}.self_attn.out_proj.bias                 | d
    resblocks.{l}.ln_2.weight          | layers.{l}.layer_norm2.weight                      | d
    resblocks.{l}.ln_2.bias            | layers.{l}.layer_norm2.bias                        | d
    resblocks.{l}.mlp.c_fc.weight      | layers.{l}.mlp.fc1.weight                          | f d
    resblocks.{l}.mlp.c_fc.bias        | layers.{l}.mlp.fc1.bias                            | f
    resblocks.{l}.mlp.c_proj.weight    | layers.{l}.mlp.fc2.weight                          | d f
    resblocks.{l}.mlp.c_proj.bias      | layers.{l}.mlp.fc2.bias                            | d
""")
VISION = rows("""
    class_embedding      | embeddings.class_embedding           | d
    positional_embedding | embeddings.position_embedding.weight | n d
    conv1.weight         | embeddings.patch_embedding.weight    | d c p q
    ln_pre.weight        | pre_layrnorm.weight                  | d
    ln_pre.bias          | pre_layrnorm.bias                    | d
    ln_post.weight       | post_layernorm.weight                | d
    ln_post.bias         | post_layernorm.bias                  | d
""")
TEXT = rows("""
    token_embedding.weight | embeddings.token_embedding.weight    | v d
    positional_embedding   | embeddings.position_embedding.weight | n d
    ln_final.weight        | final_layer_norm.weight              | d
    ln_final.bias          | final_layer_norm.bias                | d
""")
VISION_HEAD = rows("visual.proj | visual_projection.weight | d e -> e d")
VISION_BIASED_HEAD = rows("""
    weight | visual_projection.weight | e d
    bias   | visual_projection.bias   | e
""")
TEXT_HEAD = rows("text_projection | text_projection.weight | d e -> e d")
DENSE = rows("""
    text_projection.weight | head.weight | e d
    text_projection.bias   | head.bias   | e
""")
TEXT_BIASED_HEAD = rows("""
    text_projection.weight | text_projection.weight | e d
    text_projection.bias   | text_projection.bias   | e
""")

# The heads behind an image tower of timm, and behind a text tower of transformers.
TIMM_LINEAR = rows("visual.head.proj.weight | visual_projection.weight | e d")
TIMM_LINEAR_BIAS = rows("visual.head.proj.bias | visual_projection.bias | e")
TIMM_MLP = rows("""
    visual.head.mlp.fc1.weight | visual_projection.hidden.0.weight | f d
    visual.head.mlp.fc1.bias   | visual_projection.hidden.0.bias   | f
    visual.head.mlp.fc2.weight | visual_projection.out.weight      | e f
""")
TIMM_MLP_BIAS = rows("visual.head.mlp.fc2.bias | visual_projection.out.bias | e")
HF_LINEAR = rows("text.proj.weight | text_projection.weight | e d")
HF_MLP = rows("""
    text.proj.0.weight | text_projection.hidden.0.weight | f d
    text.proj.2.weight | text_projection.out.weight      | e f
""")
