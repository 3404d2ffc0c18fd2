"""`tfds:`: sets of every kind are read as records, and every mistake is an error of one sentence."""

import json
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import PrepareOptions, prepare
from lit_jax.utils.errors import DataError
from tests.data.conftest import png

F = tfds.features


@pytest.fixture
def build(tmp_path, monkeypatch):
    """`build(features, examples)`: the set lit_tiny, version 1.2.0, where TFDS looks for its sets."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # Read from TFDS_DATA_DIR at import.
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

    def make(features, examples):
        features, out = F.FeaturesDict(features), tmp_path / "lit_tiny" / "1.2.0"
        out.mkdir(parents=True)
        writer = ArrayRecordWriter(str(out / "lit_tiny-train.array_record-00000-of-00001"), "group_size:1")
        for example in examples:
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        names = tfds.core.ShardedFileTemplate(
            dataset_name="lit_tiny",
            split="train",
            filetype_suffix="array_record",
            data_dir=out,
            template=template,
        )
        split = tfds.core.SplitInfo(
            name="train", shard_lengths=[len(examples)], num_bytes=0, filename_template=names
        )
        tfds.folder_dataset.write_metadata(
            data_dir=out,
            features=features,
            split_infos=[split],
            filename_template=template,
            check_data=False,
            license="MIT",
        )

    return make


@pytest.fixture
def prepared(folder, tmp_path):
    return prepare(
        open_source(str(folder)),
        tmp_path / "set",
        name="tiny",
        split="train",
        options=PrepareOptions(shards=4),
    )


@pytest.mark.parametrize(
    ("key", "feature", "given", "captions"),
    [
        (
            "captions",
            F.Sequence({"id": np.int64, "text": F.Text()}),
            [{"id": 1, "text": "é"}, {"id": 2, "text": "b"}],
            2,
        ),
        ("captions", F.Sequence(F.Text()), ["é", "b"], 2),
        ("caption", F.Text(), "é", 1),
        ("text", F.Text(), "é", 1),
        ("other", F.Text(), "é", 0),
    ],
)
def test_captions_of_every_shape_are_lists_of_text(build, key, feature, given, captions):
    features = {"image": F.Image(), "image/id": np.int64, key: feature}
    build(features, [{"image": png(0), "image/id": 12, key: given}])
    source = open_source("tfds:lit_tiny/train")
    assert source[0] == {"image": png(0), "captions": ["é", "b"][:captions], "id": "12"}
    assert source.class_names is None and source.license == "MIT"


def test_a_classification_set_has_labels_and_the_sole_image_is_the_image(build):
    names = ["cat", "dog"]
    build({"picture": F.Image(), "label": F.ClassLabel(names=names)}, [{"picture": png(0), "label": "dog"}])
    source = open_source("tfds:lit_tiny:1.2.0/train")
    assert source[0] == {"image": png(0), "captions": [], "id": "0", "label": 1}
    assert source.class_names == ("cat", "dog")


def test_a_slice_is_a_source_of_its_own(prepared):
    half = open_source(f"tfds:{prepared}/train[50%:]")
    assert len(half) == 20 and half[0]["id"] == "r20"
    assert half.fingerprint() != open_source(f"tfds:{prepared}/train").fingerprint()
    both = open_source(f"tfds:{prepared}/train[:2]+train[38:]")
    assert [both[i]["id"] for i in range(4)] == ["r0", "r1", "r38", "r39"]
    with pytest.raises(IndexError):
        half[20]
    with pytest.raises(IndexError):
        half[-1]


def test_the_fingerprint_follows_the_content_and_not_the_place(prepared, folder, tmp_path):
    again = prepare(
        open_source(str(folder)),
        tmp_path / "again",
        name="tiny",
        split="train",
        options=PrepareOptions(shards=4),
    )
    before = open_source(f"tfds:{prepared}/train").fingerprint()
    assert open_source(f"tfds:{again}/train").fingerprint() == before
    (folder / "07.png").write_bytes(png(99))
    other = prepare(
        open_source(str(folder)),
        tmp_path / "other",
        name="tiny",
        split="train",
        options=PrepareOptions(shards=4),
    )
    assert open_source(f"tfds:{other}/train").fingerprint() != before


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("{set}/nope", r"no split 'nope'; there are train \(40 records\)"),
        ("{set}/train[:0%]", "has no records"),
        ("{set}/train[:", "no split"),
        ("{root}/train", "is not a prepared set, since it holds no dataset_info.json"),
        ("{root}/nowhere/train", "is not a prepared set"),
        ("lit_jax_has_no_such_set/train", "neither a prepared directory nor a set under"),
        ("lit_jax_has_no_such_set:9.9.9/train", "neither a prepared directory nor a set under"),
        ("train", "'train' names no split; want tfds:NAME"),
        ("", "tfds: names nothing; want tfds:NAME"),
    ],
)
def test_a_set_that_does_not_exist_is_refused_in_a_sentence(prepared, tmp_path, where, words):
    with pytest.raises(DataError, match=words) as error:
        open_source("tfds:" + where.format(set=prepared, root=tmp_path))
    assert "\n" not in str(error.value)


def test_a_set_of_several_splits_asks_which(prepared):
    assert open_source(f"tfds:{prepared}").spec == f"tfds:{prepared}/train"
    prepare(open_source(f"tfds:{prepared}/train[:3]"), prepared, name="tiny", split="test")
    with pytest.raises(DataError, match=r"which split\? .* train \(40 records\), test \(3 records\)"):
        open_source(f"tfds:{prepared}")


def test_a_missing_shard_is_named(prepared):
    (prepared / "tiny-train.array_record-00002-of-00004").unlink()
    with pytest.raises(DataError, match=r"shard tiny-train\.array_record-00002-of-00004 is missing"):
        open_source(f"tfds:{prepared}/train")
    assert len(open_source(f"tfds:{prepared}/train[:20]")) == 20


def stored_as(prepared, file_format):
    info = json.loads((prepared / "dataset_info.json").read_text())
    (prepared / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": file_format}))
    (prepared / "SHA256SUMS").unlink()  # Other software writes none.


@pytest.fixture
def tfrecord(prepared):
    """The prepared set as TFRecord: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    for shard in sorted(prepared.glob("*.array_record-*")):
        with (
            ArrayRecordDataSource(str(shard)) as records,
            open(str(shard).replace("array_record", "tfrecord"), "wb") as file,
        ):
            for record in records.__getitems__(range(len(records))):
                file.write(struct.pack("<Q", len(record)) + b"crc." + record + b"crc.")
    stored_as(prepared, "tfrecord")
    return prepared


def test_tfrecord_is_read_by_number_and_without_tensorflow(tfrecord, folder):
    want = open_source(str(folder))
    for split, records in (
        ("train", range(40)),
        ("train[25%:]", range(10, 40)),
        ("train[39:]+train[5:7]", [39, 5, 6]),
    ):
        source = open_source(f"tfds:{tfrecord}/{split}")
        assert [source[i] for i in range(len(source))] == [want[i] for i in records]


def test_a_tfrecord_shard_that_is_cut_off_is_named(tfrecord):
    shard = tfrecord / "tiny-train.tfrecord-00002-of-00004"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(
        DataError, match=r"shard tiny-train\.tfrecord-00002-of-00004 is cut off; fetch it again"
    ):
        open_source(f"tfds:{tfrecord}/train")


def test_a_set_without_random_access_is_refused(prepared):
    stored_as(prepared, "riegeli")
    with pytest.raises(DataError, match="stored as riegeli, which has no random access"):
        open_source(f"tfds:{prepared}/train")


def test_the_feature_of_the_captions_can_be_chosen(build):
    build(
        {"image": F.Image(), "text": F.Text(), "alt": F.Text()}, [{"image": png(0), "text": "a", "alt": "b"}]
    )
    assert open_source("tfds:lit_tiny/train", caption="alt")[0]["captions"] == ["b"]
    with pytest.raises(DataError, match="no feature 'alt2'; there are"):
        open_source("tfds:lit_tiny/train", caption="alt2")


def test_a_set_without_pictures_is_refused(build):
    build({"text": F.Text()}, [{"text": "a"}])
    with pytest.raises(DataError, match="has 0 image features among text"):
        open_source("tfds:lit_tiny/train")


def test_text_that_is_not_utf8_breaks_its_record_alone(build):
    build(
        {"image": F.Image(), "text": F.Text()},
        [{"image": png(0), "text": b"a\xff"}, {"image": png(1), "text": "b"}],
    )
    source = open_source("tfds:lit_tiny/train")
    with pytest.raises(DataError, match="text 0 is invalid UTF-8 at byte 1"):
        source[0]
    assert source[1]["captions"] == ["b"]
