"""Folders of sentence-transformers, old and new, as text towers and as whole models."""

import json
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import lit_jax
from lit_jax.data.transforms.tokenizer import prompt_of
from lit_jax.hf.processor import load_image_processor, load_processor, load_tokenizer
from lit_jax.models.heads import Head
from lit_jax.utils.errors import LitJaxError, WeightError
from tests import tiny

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


def put(path, tree):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def write_dense(folder, weight, bias=None, activation=IDENTITY):
    sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
    put(folder / "config.json", sizes | {"activation_function": activation})
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file(
        {name: array.astype(np.float32) for name, array in tensors.items()}, folder / "model.safetensors"
    )


def write_text_model(folder, dense=(), place="", pooling=None, tower=tiny.BERT):
    """As sentence-transformers 2 to 5.3 wrote them: a tower at `place`, mean pooling, Dense layers, Normalize."""
    params = tiny.write_tower(folder / place, tower)
    tiny.tokenizer().save_pretrained(folder / place)
    put(folder / place / "sentence_bert_config.json", {"max_seq_length": 7, "do_lower_case": True})
    old = {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    put(folder / "1_Pooling" / "config.json", old if pooling is None else pooling)
    # Normalize has no folder, since git keeps no empty ones.
    kinds = ["Transformer", "Pooling", *("Dense" for _ in dense), "Normalize"]
    for i, layer in enumerate(dense, 2):
        write_dense(folder / f"{i}_Dense", *layer)
    places = [place, *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    put(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, places, strict=True))
        ],
    )
    prompts = {"query": "the ", "document": ""}
    put(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    return params


@pytest.fixture
def vision(tmp_path):
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    return tmp_path / "v"


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_a_text_model_is_a_tower_with_its_own_pooling_and_settings(place, vision, tmp_path):
    written = write_text_model(tmp_path / "t", place=place)
    module, params = lit_jax.from_towers(vision, tmp_path / "t")
    assert (module.config.text_pooling, module.config.text_head) == ("mean", Head())
    chex.assert_trees_all_equal(params["text"], written)
    assert lit_jax.from_towers(vision, tmp_path / "t", text_pooling="cls")[0].config.text_pooling == "cls"
    tokenizer = load_tokenizer(tmp_path / "t")
    assert (prompt_of(tokenizer), tokenizer.model_max_length) == ("the ", 7)
    assert tokenizer("RED").input_ids == tokenizer("red").input_ids == [2, 5, 3]


def test_dense_layers_become_the_text_head_if_a_head_can_hold_them(vision, tmp_path, caplog):
    rng = np.random.default_rng(0)
    first, last, bias = rng.normal(size=(10, 24)), rng.normal(size=(6, 10)), rng.normal(size=10)
    write_text_model(tmp_path / "one", [(rng.normal(size=(6, 24)),)])
    assert lit_jax.from_towers(vision, tmp_path / "one")[0].config.text_head == Head("linear")
    plain = rng.normal(size=(6, 9)), rng.normal(size=(9, 24)), rng.normal(size=9)
    # Two layers without an activation, as in EmbeddingGemma, but with a bias.
    write_text_model(tmp_path / "product", [(plain[1], plain[2]), (plain[0],)])
    module, params = lit_jax.from_towers(vision, tmp_path / "product")
    assert module.config.text_head == Head("linear_bias")
    np.testing.assert_allclose(
        params["text_projection"]["kernel"], (plain[0] @ plain[1]).T, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(params["text_projection"]["bias"], plain[0] @ plain[2], rtol=0, atol=1e-5)
    write_text_model(tmp_path / "two", [(first, bias, TANH), (last,)])
    module, params = lit_jax.from_towers(vision, tmp_path / "two")
    assert (module.config.text_head, module.config.projection_dim) == (Head("mlp", (10,), "tanh"), 6)
    pooled = jnp.asarray(rng.normal(size=(2, 24)), jnp.float32)
    want = np.tanh(np.asarray(pooled) @ first.T + bias) @ last.T
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    _, got, _ = module.apply({"params": params}, pooled_texts=pooled)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert caplog.text == ""
    for how, reason in (({"projection_dim": 8}, "projection_dim is 8 and theirs is 6"),):
        assert lit_jax.from_towers(vision, tmp_path / "two", **how)[0].config.text_head == Head()
        assert (
            f"The Dense layers of {tmp_path / 'two'} are replaced by a new projection, since {reason}"
            in caplog.text
        )
    assert lit_jax.from_towers(vision, tmp_path / "two", projections="new")[0].config.text_head == Head()
    write_text_model(tmp_path / "tanh", [(last[:, :1] @ first[:1], None, TANH)])
    assert lit_jax.from_towers(vision, tmp_path / "tanh")[0].config.text_head == Head()
    assert "since the layers behind" in caplog.text and "the last Dense has an activation" in caplog.text


def test_a_dense_without_its_tensors_is_reported_in_one_sentence(vision, tmp_path):
    write_text_model(tmp_path / "t", [(np.ones((6, 24)),)])
    save_file({"weight": np.ones((6, 24), np.float32)}, tmp_path / "t/2_Dense/model.safetensors")
    with pytest.raises(WeightError, match="2_Dense has the tensors weight; wanted those of a Dense"):
        lit_jax.from_towers(vision, tmp_path / "t")


@pytest.mark.parametrize("tower", [tiny.BERT, tiny.DISTILBERT], ids=["bert", "distilbert"])
def test_a_dense_that_is_the_pooler_of_the_type_belongs_to_the_tower(tower, vision, tmp_path):
    rng = np.random.default_rng(0)  # As in LaBSE: tanh(dense(cls)) as two modules.
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((24, 24), (24,)))
    cls = {"embedding_dimension": 24, "pooling_mode": "cls"}
    write_text_model(tmp_path / "t", [(weight, bias, TANH)], pooling=cls, tower=tower)
    module, params = lit_jax.from_towers(vision, tmp_path / "t")
    assert (module.config.text_pooling, module.config.text_head) == ("pooler", Head())
    assert getattr(module.config.text, "pooling", "tanh") == "tanh"
    np.testing.assert_array_equal(params["text"]["pooler"]["kernel"], weight.T)
    np.testing.assert_array_equal(params["text"]["pooler"]["bias"], bias)


def test_a_router_that_lit_jax_did_not_write_is_a_dual_encoder(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path, module, params, tiny.processor(), layout="sentence_transformers")
    ours, same = lit_jax.load(tmp_path)
    shutil.rmtree(tmp_path / "heads")
    put(tmp_path / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    theirs, again = lit_jax.load(tmp_path)
    assert (theirs.config.vision, theirs.config.text) == (ours.config.vision, ours.config.text)
    assert again.pop("logit_scale") == np.float32(2.6592) and same.pop("logit_scale")
    chex.assert_trees_all_equal(again, same)
    towers = lit_jax.from_towers(tmp_path, tmp_path)[1]
    chex.assert_trees_all_equal(towers, again | {"logit_scale": towers["logit_scale"]})
    assert load_image_processor(tmp_path).size["height"] == 32


def test_a_clip_in_a_module_of_its_own_is_read_as_that_clip(tmp_path):
    module, params = tiny.dual(vision=tiny.CLIP_VISION, text=tiny.CLIP_TEXT)
    lit_jax.save(tmp_path / "0_CLIPModel", module, params, tiny.processor())
    clip = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    put(tmp_path / "modules.json", [clip])
    again, same = lit_jax.load(tmp_path)
    assert again.config == module.config
    chex.assert_trees_all_equal(same, params)
    assert load_processor(tmp_path).image_processor.size["height"] == 32


BAD = {  # Case -> (what is changed in a folder, the message).
    "custom": (
        ("modules.json", 1, "type", "modeling_x.Pool"),
        "type 'modeling_x.Pool', which is not read",
    ),
    "other": (
        ("modules.json", 1, "type", "sentence_transformers.models.LSTM"),
        "models.LSTM', which is not read",
    ),
    "missing": (
        ("modules.json", 1, "path", "9_Pooling"),
        "names the module folder '9_Pooling', which is not there",
    ),
    "outside": (("modules.json", 1, "path", "../t/1_Pooling"), "which is not there"),
    "order": (
        ("modules.json", 0, "type", "sentence_transformers.models.Dense"),
        "wanted Transformer, Pooling, Dense",
    ),
    "pooling": (
        ("1_Pooling/config.json", "pooling_mode", "weightedmean"),
        "mode .*weightedmean.*read are: cls",
    ),
    "poolings": (("1_Pooling/config.json", "pooling_mode", [["mean"], 3]), "has pooling_mode"),
    "prompt": (
        ("config_sentence_transformers.json", "prompts", "query", 3),
        "has the prompt 3; wanted a text",
    ),
    "activation": (
        ("2_Dense/config.json", "activation_function", ["x"]),
        "activation_function .*; wanted a name",
    ),
    "path": (("modules.json", 1, "path", 7), "names the module folder 7"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_a_folder_that_cannot_be_read_is_reported_in_one_sentence(change, says, vision, tmp_path):
    write_text_model(tmp_path / "t", [(np.ones((6, 24)),)] if "2_Dense" in change[0] else [])
    file, *keys, last, value = change
    tree = part = json.loads((tmp_path / "t" / file).read_text())
    for key in keys:
        part = part[key]
    part[last] = value
    put(tmp_path / "t" / file, tree)
    with pytest.raises(WeightError, match=says) as error:
        load_tokenizer(tmp_path / "t")
        lit_jax.from_towers(vision, tmp_path / "t")
    assert "\n" not in str(error.value)


def test_a_router_that_cannot_be_read_is_reported_in_one_sentence(tmp_path):
    lit_jax.save(tmp_path, *tiny.dual(), tiny.processor(), layout="sentence_transformers")
    whole = json.loads((tmp_path / "router_config.json").read_text())
    for change, says in {
        "types": ({"text_1_Dense": "mine.Dense"}, "has a module of type 'mine.Dense'"),
        "structure": (
            {"query": ["text_0_Transformer"]},
            "has the routes query; wanted one for each of image and text",
        ),
    }.items():
        part, message = says
        put(
            tmp_path / "router_config.json",
            whole | {change: whole[change] | part if change == "types" else part},
        )
        with pytest.raises(WeightError, match=message):
            lit_jax.load(tmp_path)


@pytest.mark.parametrize("tower", [tiny.BART, tiny.MBART], ids=["bart", "mbart"])
def test_a_type_whose_decoder_sentence_transformers_runs_is_refused(tower, vision, tmp_path):
    write_text_model(tmp_path / "t", tower=tower)
    says = f"is a {tower['model_type']}, and sentence-transformers would pool the output of its decoder"
    with pytest.raises(WeightError, match=says) as error:
        lit_jax.from_towers(vision, tmp_path / "t")
    assert "\n" not in str(error.value)
    module, params = tiny.dual(text=tower)
    with pytest.raises(LitJaxError, match=r"'m?bart' is no model of AutoModel"):
        lit_jax.save(tmp_path / "m", module, params, tiny.processor(), layout="sentence_transformers")


def test_a_text_model_alone_is_not_a_dual_encoder(tmp_path):
    write_text_model(tmp_path / "t")
    with pytest.raises(WeightError, match="single tower where two are wanted"):
        lit_jax.load(tmp_path / "t")
    with pytest.raises(LitJaxError, match="for texts alone; it has no image processor"):
        load_image_processor(tmp_path / "t")
