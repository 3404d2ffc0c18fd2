"""The table of pairs of towers, and whether a ranking beforehand held."""

import json

import pytest

from lit_jax.tools.align import pairs as tables
from lit_jax.tools.align.pairs import Pair, as_markdown, predictions, read, rows, write
from lit_jax.utils.errors import DataError


def pair(name, near, alignment, recall):
    metrics = {f"{way}_recall@5": recall for way in ("image_to_text", "text_to_image")}
    return Pair(name, "text", near, alignment, metrics, metrics, f"0-{name}")


# Mutual kNN orders them as the recall does; CKA in reverse, but for the first two.
PAIRS = [
    pair("a", 0.5, 0.2, 0.9),
    pair("b", 0.4, 0.1, 0.8),
    pair("c", 0.3, 0.3, 0.7),
    pair("d", 0.2, 0.4, 0.6),
]


def test_a_ranking_held_if_the_pair_that_it_put_first_came_out_best():
    near, alignment = predictions(PAIRS)
    assert near == ("mutual kNN", pytest.approx(1.0), 1) and near.held
    # Ranks 2 1 3 4 against 4 3 2 1: differences -2 -2 1 3, 1 - 6 * 18 / (4 * 15).
    assert alignment == ("CKA", pytest.approx(-0.8), 3) and not alignment.held
    assert near.sentence(4).endswith("The best pair had place 1 before training: the ranking held.")
    assert (
        "-0.80 over 4 pairs. The best pair had place 3 before training: the ranking did not"
        in alignment.sentence(4)
    )


def test_one_pair_is_not_ranked_and_equal_ones_are_not_correlated(tmp_path):
    assert predictions(PAIRS[:1]) == [] and "Rank" not in as_markdown(PAIRS[:1])
    alike = [pair(name, 0.5, 0.5, recall) for name, recall in (("a", 0.2), ("b", 0.1))]
    assert [one.correlation for one in predictions(alike)] == [None, None]
    assert "undefined over 2 pairs" in as_markdown(alike)
    assert [one.place for one in predictions([pair("a", 0.1, 0.1, 0.2), pair("b", 0.2, 0.2, 0.2)])] == [1, 1]
    write(tmp_path, alike)
    assert read(tmp_path) == alike  # There is no NaN in the file.


def test_the_table_has_the_place_of_each_pair_beside_its_recall(tmp_path):
    assert rows(PAIRS)[0] == ("a", "text", "0.500 (1)", "0.200 (3)", "0.900 / 0.900", "0.900 / 0.900")
    write(tmp_path, PAIRS)
    assert read(tmp_path) == PAIRS
    assert (tmp_path / tables.TABLE).read_text() == as_markdown(PAIRS)
    assert [one["held"] for one in json.loads((tmp_path / tables.RESULTS).read_text())["rankings"]] == [
        True,
        False,
    ]


@pytest.mark.parametrize("damage", ["{", '{"pairs": 3}', '{"pairs": [{"vision": "a"}]}', "{}"])
def test_a_damaged_table_is_one_sentence(damage, tmp_path):
    assert read(tmp_path) == []
    (tmp_path / tables.RESULTS).write_text(damage)
    with pytest.raises(DataError, match=r"align.json is damaged .*: align once more"):
        read(tmp_path)
    write(tmp_path, PAIRS)
    text = (tmp_path / tables.RESULTS).read_text().replace("0.5,", '"0.5",')
    (tmp_path / tables.RESULTS).write_text(text)
    with pytest.raises(DataError, match=r"align.json is damaged"):
        read(tmp_path)
