import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.parallel.sharding import make_mesh
from lit_jax.train import tower_cache
from lit_jax.train.tower_cache import TowerCache
from lit_jax.utils.errors import ConfigError
from tests import tiny


@pytest.fixture
def source(tmp_path):
    return open_source(tiny.write_pairs(tmp_path / "pairs", n=10))


def means(calls):
    """A stand-in for a tower: the mean colour of each picture."""

    def pool(images):
        calls.append(len(images))
        return jnp.mean(images.astype(jnp.float32), axis=(1, 2))

    return pool


def pooled(folder, source, calls, key="k" * 64):
    decode = make_decode(tiny.image_processor())
    return TowerCache(folder, means(calls), decode, make_mesh(), batch_size=8).pooled(key, source)


def test_every_picture_has_its_own_row_and_is_computed_once(tmp_path, source):
    calls = []
    found = pooled(tmp_path / "cache", source, calls)
    decode = make_decode(tiny.image_processor())
    want = np.stack([decode(source[i]["image"]).mean(axis=(0, 1)) for i in range(10)])
    np.testing.assert_allclose(found, want, rtol=1e-5)
    again = pooled(tmp_path / "cache", source, calls)
    np.testing.assert_array_equal(again, found)
    assert calls == [8, 8]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def damages(content):
    yield "a bit of a row", content[:150] + bytes([content[150] ^ 4]) + content[151:]
    yield "a bit of the sums", content[:-60] + bytes([content[-60] ^ 4]) + content[-59:]
    yield "cut", content[:-7]
    yield "empty", b""
    yield "zeros", bytes(len(content))
    yield "no magic", b"X" + content[1:]
    yield "another shape", content.replace(b"(10, 3)", b"(5, 6) ")


def test_a_damaged_file_is_computed_again_with_one_line(tmp_path, source, caplog):
    first, calls = np.array(pooled(tmp_path / "cache", source, [])), []
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        caplog.clear()
        np.testing.assert_array_equal(pooled(tmp_path / "cache", source, calls), first, what)
        (line,) = caplog.records
        assert f"{path.name} is damaged" in line.getMessage() and "it is computed again" in line.getMessage()
        assert path.read_bytes() == content and len(list((tmp_path / "cache").iterdir())) == 1
    path.unlink()
    (path / "folder").mkdir(parents=True)
    np.testing.assert_array_equal(pooled(tmp_path / "cache", source, calls), first)
    assert len(calls) == 2 * 8


def test_a_broken_picture_has_a_row_of_nan(tmp_path):
    source = open_source(tiny.write_pairs(tmp_path / "pairs", n=200))
    (tmp_path / "pairs" / "003.png").write_bytes(b"no picture")
    found = pooled(tmp_path / "cache", source, [])
    assert np.isnan(found[3]).all() and np.isfinite(np.delete(found, 3, axis=0)).all()


def test_a_failure_leaves_no_half_written_file(tmp_path, source):
    def pool(images):
        raise RuntimeError("out of memory")

    decode = make_decode(tiny.image_processor())
    with pytest.raises(RuntimeError):
        TowerCache(tmp_path, pool, decode, make_mesh(), batch_size=8).pooled("k", source)
    assert list(tmp_path.glob("*.npy")) == list(tmp_path.glob("*.part")) == []


def test_what_a_kill_leaves_of_a_draft_is_removed_once_the_rows_have_their_name(tmp_path, source):
    first = np.array(pooled(tmp_path / "cache", source, []))
    (path,) = (tmp_path / "cache").iterdir()
    # As after a kill between naming the rows and removing the draft.
    path.with_suffix(".log.part").write_text('{"records": 8}\n')
    np.testing.assert_array_equal(pooled(tmp_path / "cache", source, calls := []), first)
    assert list((tmp_path / "cache").iterdir()) == [path] and not calls


def test_the_name_changes_with_whatever_could_change_the_rows(tmp_path, source):
    module, params = tiny.dual()
    config, weights = module.config.vision, params["vision"]
    other = jax.tree.map(lambda x: x + np.float32(1e-6), weights)
    more = open_source(tiny.write_pairs(tmp_path / "more", n=11))
    small, large = tiny.image_processor(32), tiny.image_processor(48)
    keys = [
        tower_cache.fingerprint(config, weights, small, source.fingerprint(), jnp.float32),
        tower_cache.fingerprint(config, other, small, source.fingerprint(), jnp.float32),
        tower_cache.fingerprint(config, weights, large, source.fingerprint(), jnp.float32),
        tower_cache.fingerprint(config, weights, small, more.fingerprint(), jnp.float32),
        tower_cache.fingerprint(config, weights, small, source.fingerprint(), jnp.bfloat16),
        tower_cache.fingerprint(
            tiny.dual(vision=tiny.DINOV2)[0].config.vision, weights, small, source.fingerprint(), jnp.float32
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert tower_cache.fingerprint(config, weights, small, source.fingerprint(), jnp.float32) == keys[0]


def test_a_tuned_tower_and_augmented_pictures_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"vision/pooler/bias is tuned.*vision_pooling='cls'"):
        tower_cache.check_cacheable({"vision": {"pooler": {"bias": np.zeros(2)}}}, "none")
    with pytest.raises(ConfigError, match="augment is 'flip'"):
        tower_cache.check_cacheable({"text": {}}, "flip")
    tower_cache.check_cacheable({"text": {}}, "none")
