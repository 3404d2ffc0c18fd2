"""The names of timm's vision transformers and those of Hugging Face, for the types that compute them."""

from lit_jax.hf.conversions.renames import rows

ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}

PATCHES = rows("""
    patch_embed.proj.weight | embeddings.patch_embeddings.projection.weight | d c p q
    patch_embed.proj.bias   | embeddings.patch_embeddings.projection.bias   | d
""")
EMBEDDINGS = PATCHES + rows("cls_token | embeddings.cls_token | x y d")
POSITIONS = rows("pos_embed | embeddings.position_embeddings | x n d")
NORM = rows("""
    norm.weight | layernorm.weight | d
    norm.bias   | layernorm.bias   | d
""")
ATTENTION = rows("""
    blocks.{l}.attn.qkv.weight  | encoder.layer.{l}.attention.attention.{query,key,value}.weight | (g d) e -> g d e
    blocks.{l}.attn.qkv.bias    | encoder.layer.{l}.attention.attention.{query,key,value}.bias   | (g d) -> g d
    blocks.{l}.attn.proj.weight | encoder.layer.{l}.attention.output.dense.weight                | d e
    blocks.{l}.attn.proj.bias   | encoder.layer.{l}.attention.output.dense.bias                  | d
""")
VIT = rows("""
    blocks.{l}.norm1.weight   | encoder.layer.{l}.layernorm_before.weight   | d
    blocks.{l}.norm1.bias     | encoder.layer.{l}.layernorm_before.bias     | d
    blocks.{l}.norm2.weight   | encoder.layer.{l}.layernorm_after.weight    | d
    blocks.{l}.norm2.bias     | encoder.layer.{l}.layernorm_after.bias      | d
    blocks.{l}.mlp.fc1.weight | encoder.layer.{l}.intermediate.dense.weight | f d
    blocks.{l}.mlp.fc1.bias   | encoder.layer.{l}.intermediate.dense.bias   | f
    blocks.{l}.mlp.fc2.weight | encoder.layer.{l}.output.dense.weight       | d f
    blocks.{l}.mlp.fc2.bias   | encoder.layer.{l}.output.dense.bias         | d
""")
DINOV2 = rows("""
    blocks.{l}.norm1.weight | encoder.layer.{l}.norm1.weight         | d
    blocks.{l}.norm1.bias   | encoder.layer.{l}.norm1.bias           | d
    blocks.{l}.norm2.weight | encoder.layer.{l}.norm2.weight         | d
    blocks.{l}.norm2.bias   | encoder.layer.{l}.norm2.bias           | d
""")
SCALES = rows("""
    blocks.{l}.ls1.gamma    | encoder.layer.{l}.layer_scale1.lambda1 | d
    blocks.{l}.ls2.gamma    | encoder.layer.{l}.layer_scale2.lambda1 | d
""")
MLP = rows("""
    blocks.{l}.mlp.fc1.weight | encoder.layer.{l}.mlp.fc1.weight | f d
    blocks.{l}.mlp.fc1.bias   | encoder.layer.{l}.mlp.fc1.bias   | f
    blocks.{l}.mlp.fc2.weight | encoder.layer.{l}.mlp.fc2.weight | d f
    blocks.{l}.mlp.fc2.bias   | encoder.layer.{l}.mlp.fc2.bias   | d
""")
GATED = rows("""
    blocks.{l}.mlp.fc1.weight | encoder.layer.{l}.mlp.weights_in.weight  | f d
    blocks.{l}.mlp.fc1.bias   | encoder.layer.{l}.mlp.weights_in.bias    | f
    blocks.{l}.mlp.fc2.weight | encoder.layer.{l}.mlp.weights_out.weight | d f
    blocks.{l}.mlp.fc2.bias   | encoder.layer.{l}.mlp.weights_out.bias   | d
""")
CLIP_BLOCKS = rows("""
    blocks.{l}.norm1.weight     | encoder.layers.{l}.layer_norm1.weight                      | d
    blocks.{l}.norm1.bias       | encoder.layers.{l}.layer_norm1.bias                        | d
    blocks.{l}.norm2.weight     | encoder.layers.{l}.layer_norm2.weight                      | d
    blocks.{l}.norm2.bias       | encoder.layers.{l}.layer_norm2.bias                        | d
    blocks.{l}.attn.qkv.weight  | encoder.layers.{l}.self_attn.{q_proj,k_proj,v_proj}.weight | (g d) e -> g d e
    blocks.{l}.attn.qkv.bias    | encoder.layers.{l}.self_attn.{q_proj,k_proj,v_proj}.bias   | (g d) -> g d
    blocks.{l}.attn.proj.weight | encoder.layers.{l}.self_attn.out_proj.weight               | d e
    blocks.{l}.attn.proj.bias   | encoder.layers.{l}.self_attn.out_proj.bias                 | d
    blocks.{l}.mlp.fc1.weight   | encoder.layers.{l}.mlp.fc1.weight                          | f d
    blocks.{l}.mlp.fc1.bias     | encoder.layers.{l}.mlp.fc1.bias                            | f
    blocks.{l}.mlp.fc2.weight   | encoder.layers.{l}.mlp.fc2.weight                          | d f
    blocks.{l}.mlp.fc2.bias     | encoder.layers.{l}.mlp.fc2.bias                            | d
""")

CLIP = rows("""
    cls_token               | embeddings.class_embedding           | x y d -> (x y d)
    pos_embed               | embeddings.position_embedding.weight | x n d -> (x n) d
    patch_embed.proj.weight | embeddings.patch_embedding.weight    | d c p q
    norm_pre.weight         | pre_layrnorm.weight                  | d
    norm_pre.bias           | pre_layrnorm.bias                    | d
    norm.weight             | post_layernorm.weight                | d
    norm.bias               | post_layernorm.bias                  | d
""")
SIGLIP = rows("""
    pos_embed               | embeddings.position_embedding.weight | x n d -> (x n) d
    patch_embed.proj.weight | embeddings.patch_embedding.weight    | d c p q
    patch_embed.proj.bias   | embeddings.patch_embedding.bias      | d
    norm.weight             | post_layernorm.weight                | d
    norm.bias               | post_layernorm.bias                  | d

    attn_pool.latent        | head.probe                           | x y d
    attn_pool.proj.weight   | head.attention.out_proj.weight       | d e
    attn_pool.proj.bias     | head.attention.out_proj.bias         | d
    attn_pool.norm.weight   | head.layernorm.weight                | d
    attn_pool.norm.bias     | head.layernorm.bias                  | d
    attn_pool.mlp.fc1.weight | head.mlp.fc1.weight                 | f d
    attn_pool.mlp.fc1.bias  | head.mlp.fc1.bias                    | f
    attn_pool.mlp.fc2.weight | head.mlp.fc2.weight                 | d f
    attn_pool.mlp.fc2.bias  | head.mlp.fc2.bias                    | d
""")
BEIT = rows("""
    fc_norm.weight      | pooler.layernorm.weight | d
    fc_norm.bias        | pooler.layernorm.bias   | d
""")
BEIT_SCALES = rows("""
    blocks.{l}.ls1.gamma | encoder.layer.{l}.lambda_1 | d
    blocks.{l}.ls2.gamma | encoder.layer.{l}.lambda_2 | d
""")
BEIT_ATTENTION = rows("""
    blocks.{l}.attn.qkv.weight  | encoder.layer.{l}.attention.attention.{query,key,value}.weight | (g d) e -> g d e
    blocks.{l}.attn.proj.weight | encoder.layer.{l}.attention.output.dense.weight                | d e
    blocks.{l}.attn.proj.bias   | encoder.layer.{l}.attention.output.dense.bias                  | d
""")
DINOV3 = rows("""
    cls_token                   | embeddings.cls_token                                  | x y d
    reg_token                   | embeddings.register_tokens                            | x n d
    patch_embed.proj.weight     | embeddings.patch_embeddings.weight                    | d c p q
    patch_embed.proj.bias       | embeddings.patch_embeddings.bias                      | d
    blocks.{l}.norm1.weight     | layer.{l}.norm1.weight                                | d
    blocks.{l}.norm1.bias       | layer.{l}.norm1.bias                                  | d
    blocks.{l}.attn.qkv.weight  | layer.{l}.attention.{q_proj,k_proj,v_proj}.weight     | (g d) e -> g d e
    blocks.{l}.attn.proj.weight | layer.{l}.attention.o_proj.weight                     | d e
    blocks.{l}.attn.proj.bias   | layer.{l}.attention.o_proj.bias                       | d
    blocks.{l}.gamma_1          | layer.{l}.layer_scale1.lambda1                        | d
    blocks.{l}.norm2.weight     | layer.{l}.norm2.weight                                | d
    blocks.{l}.norm2.bias       | layer.{l}.norm2.bias                                  | d
    blocks.{l}.mlp.fc2.weight   | layer.{l}.mlp.down_proj.weight                        | d f
    blocks.{l}.mlp.fc2.bias     | layer.{l}.mlp.down_proj.bias                          | d
    blocks.{l}.gamma_2          | layer.{l}.layer_scale2.lambda1                        | d
    norm.weight                 | norm.weight                                           | d
    norm.bias                   | norm.bias                                             | d
""")
DINOV3_BIASES = rows("""
    blocks.{l}.attn.q_bias      | layer.{l}.attention.q_proj.bias                       | d
    blocks.{l}.attn.v_bias      | layer.{l}.attention.v_proj.bias                       | d
""")
DINOV3_MLP = rows("""
    blocks.{l}.mlp.fc1.weight   | layer.{l}.mlp.up_proj.weight                          | f d
    blocks.{l}.mlp.fc1.bias     | layer.{l}.mlp.up_proj.bias                            | f
""")
DINOV3_GATED = rows("""
    blocks.{l}.mlp.fc1_g.weight | layer.{l}.mlp.gate_proj.weight                        | f d
    blocks.{l}.mlp.fc1_g.bias   | layer.{l}.mlp.gate_proj.bias                          | f
    blocks.{l}.mlp.fc1_x.weight | layer.{l}.mlp.up_proj.weight                          | f d
    blocks.{l}.mlp.fc1_x.bias   | layer.{l}.mlp.up_proj.bias                            | f
""")
