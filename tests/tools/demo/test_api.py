"""Programs get in JSON what the functions return, many at once as one by one, and a sentence for each mistake."""

import base64
import concurrent.futures
import json
import types

import numpy as np
import pytest

import lit_jax
from lit_jax.tools.demo import api, api_fields, guards
from lit_jax.tools.demo.answers import title_of
from tests.browser import Visit, browser  # noqa: F401
from tests.tools.demo.pages import asked, served


@pytest.fixture(scope="module")
def bare(model, index):
    """The address of the interface without the page."""
    return served(model, index, has_page=False)


def file(place, name):
    return base64.b64encode((place / name).read_bytes()).decode()


def ask(address, question, **fields):
    status, _, text = asked(f"{address}api/{question}", json.dumps(fields).encode())
    return status, json.loads(text)


def test_embed_classify_and_search_answer_as_the_functions_do(place, model, index, bare):
    names = ["pairs/003.png", "pairs/004.png"]
    pictures = [place / name for name in names]
    images = [file(place, name) for name in names]
    texts = ["a red circle", "مربع 🟥"]
    status, found = ask(bare, "embed", texts=texts, images=images)
    assert status == 200 and found["model"] == "model"
    np.testing.assert_allclose(found["texts"], model.texts(texts), atol=1e-6)
    np.testing.assert_allclose(found["images"], model.pictures(pictures), atol=1e-6)

    labels = ["red", "blue", "green square"]
    images[0] = f"data:image/png;base64,{images[0]}"
    for prompts in ("name", "photo"):
        _, found = ask(bare, "classify", images=images, labels=labels, prompts=prompts)
        wanted = lit_jax.classify(pictures, labels, model, prompts=prompts)
        for row, shares in zip(found["results"], wanted, strict=True):
            assert [hit["label"] for hit in row] == [*shares]
            np.testing.assert_allclose([hit["probability"] for hit in row], [*shares.values()], atol=1e-5)

    for query, options in (({"text": texts[0]}, {"query": texts[0]}), ({"image": images[1]}, {})):
        _, found = ask(bare, "search", **query, top=5)
        options = options or {"picture": pictures[1]}
        wanted = lit_jax.search(index, model=model, top=5, **options)
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in wanted]
        np.testing.assert_allclose(
            [hit["score"] for hit in found["hits"]], [hit.score for hit in wanted], atol=1e-6
        )


@pytest.mark.usefixtures("any_types")
def test_a_model_is_called_what_its_card_says_or_as_its_folder(tmp_path):
    named, unnamed = (types.SimpleNamespace(name=str(tmp_path / name)) for name in ("export", "other"))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text(
        "---\nmodel-index:\n- name: LiT on \u202eemoji\n---\n", "utf-8"
    )
    assert title_of(named) == r"LiT on \u202eemoji"
    assert title_of(unnamed) == "other"


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_questions_at_once_get_the_answers_of_one_at_a_time(place, bare, count):
    few, most = range(count // 10), range(count * 2 // 5)
    questions = [("embed", {"texts": [f"text {number} " * (1 + number % 3)]}) for number in most]
    questions += [("embed", {"images": [file(place, f"pairs/{i % 24:03}.png")]}) for i in most]
    questions += [("search", {"text": f"picture {number}"}) for number in few]
    questions += [
        ("classify", {"images": [file(place, "pairs/001.png")], "labels": ["a", f"b{i % 3}"]}) for i in few
    ]
    assert len(questions) == count
    one_by_one = [ask(bare, kind, **fields) for kind, fields in questions]
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        at_once = [*threads.map(lambda question: ask(bare, question[0], **question[1]), questions)]
    assert {status for status, _ in one_by_one + at_once} == {200}
    for (_, wanted), (_, found) in zip(one_by_one, at_once, strict=True):
        np.testing.assert_allclose(numbers(found), numbers(wanted), atol=2e-6)
        assert names(found) == names(wanted)


def numbers(tree):
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    here = [tree] if isinstance(tree, float) else []
    return here + [number for value in values for number in numbers(value)]


def names(tree):
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    here = [tree] if isinstance(tree, str) else []
    return here + [name for value in values for name in names(value)]


@pytest.mark.parametrize(
    ("question", "fields", "says"),
    [
        ("embed", {}, "There is nothing to embed; give texts or images"),
        ("embed", {"texts": "a"}, "texts is a text; want a list"),
        ("embed", {"texts": ["a", 1]}, "texts[1] is a whole number; want a text"),
        ("embed", {"texts": ["a"] * 1025}, "texts has 1,025 items; give at most 1,024"),
        ("embed", {"texts": ["a" * 1001]}, "texts[0] has 1,001 characters; give at most 1,000"),
        ("embed", {"text": ["a"]}, "a field 'text', which /api/embed does not know; want texts"),
        ("embed", {"images": ["?"]}, "Image 0 is not base64"),
        ("embed", {"images": ["https://example.org/cat"]}, "Image 0 is not base64"),
        ("embed", {"images": ["aaaa"]}, "Not an image: 3 bytes"),
        ("embed", {"images": ["notes.txt"]}, "Not an image: 10 bytes"),
        ("embed", {"images": ["vast.png"]}, "allowed; make it smaller"),
        ("classify", {"images": [], "labels": ["a", "b"]}, "There are no pictures to classify"),
        ("classify", {"images": ["pairs/000.png"]}, "There are no labels to choose from"),
        ("classify", {"images": ["pairs/000.png"], "labels": ["a"]}, "A single label, 'a', gets 100 %"),
        ("classify", {"labels": ["a", "b"], "prompts": "x"}, "prompts is 'x'; want one of name, plain"),
        ("search", {}, "Give one query: a text that is not blank, or an image"),
        ("search", {"text": " "}, "Give one query"),
        ("search", {"text": "a", "image": "pairs/000.png"}, "Give one query"),
        ("search", {"text": "a", "top": 0}, "top is 0; want 1 to 100"),
        ("search", {"text": "a", "top": True}, "top is a boolean; want a whole number"),
        ("search", {"text": None}, "text is null; want a text"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_what_a_question_cannot_have_is_said_in_one_sentence(place, bare, question, fields, says):
    fields = json.loads(
        json.dumps(fields), object_hook=lambda tree: {k: filled(place, v) for k, v in tree.items()}
    )
    status, found = ask(bare, question, **fields)
    assert status == 400 and [*found] == ["error"]
    assert says.lower() in found["error"].lower() and "\n" not in found["error"]


def filled(place, value):
    """`value` with files of the place in the place of their names."""
    if isinstance(value, list):
        return [filled(place, item) for item in value]
    return file(place, value) if isinstance(value, str) and value.endswith((".png", ".txt")) else value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is not JSON"),
        (b"[1]", "the body is a list; want an object"),
        (b'{"texts": ["a"], "texts": ["b"]}', "the body is not JSON that can be read"),
        (b"[" * 100_000, "the body is not JSON that can be read"),
        (b'{"texts": ["\xff"]}', "the body is not JSON that can be read"),
        (b'{"\x1b[31m": 1}', "the body is not JSON that can be read"),
        (b'{"\\u001b[31m": 1}', r"'\x1b[31m', which /api/embed does not know"),
        (b'{"texts": ["\\ud800"]}', None),
    ],
)
def test_a_body_that_is_no_question_gets_a_sentence(bare, body, says):
    status, headers, text = asked(f"{bare}api/embed", body)
    assert headers["Content-Type"] == "application/json"
    if says is None:  # Half a character: the tokenizer decides.
        assert status in (200, 400)
        return
    assert status == 400 and says.lower() in json.loads(text)["error"].lower()


def test_a_picture_in_lines_of_base64_or_after_a_head_in_capitals_is_the_same_picture(place, bare):
    content = (place / "pairs/000.png").read_bytes()
    in_lines = base64.encodebytes(content).decode()  # As `base64 cat.jpg` and MIME write it.
    forms = [
        file(place, "pairs/000.png"),
        in_lines,
        in_lines.replace("\n", "\r\n"),
        f"DATA:image/png;base64,{in_lines}",
    ]
    status, found = ask(bare, "embed", images=forms)
    assert status == 200 and found["images"] == [found["images"][0]] * len(forms)


def test_a_path_a_method_and_a_host_that_are_not_served_are_told_what_is(bare):
    for path, data, headers, status, says in (
        ("api/nothing", None, {}, 404, "There is nothing at /api/nothing; /api says what can be asked"),
        ("api/embed", None, {}, 405, "/api/embed does not take GET; use POST"),
        ("api/model", b"{}", {}, 405, "/api/model does not take POST; use "),
        (
            "api/model",
            None,
            {"Host": "box"},
            400,
            "answer to the name 'box'; start it with --allow-host NAME",
        ),
    ):
        found, answered, text = asked(f"{bare}{path}", data, **headers)
        assert found == status and says in json.loads(text)["error"]
        assert answered["Content-Type"] == "application/json"


def test_limits_and_strangers_are_answered_in_json(bare):
    for status, data, headers in (
        (403, b"{}", {"Sec_Fetch_Site": "cross-site"}),
        (413, bytes(guards.MOST + 1), {}),
    ):
        found, _, text = asked(f"{bare}api/embed", data, **headers)
        assert found == status and json.loads(text)["error"]
    for path in ("", "classify", "picture/0"):
        assert asked(bare + path)[0] == 404


def test_bodies_that_are_too_many_together_are_refused_for_a_while(bare, monkeypatch):
    monkeypatch.setattr(api, "HELD", 10)
    status, found = ask(bare, "embed", texts=["a"])
    assert status == 503 and "Too many questions" in found["error"]
    monkeypatch.undo()
    assert ask(bare, "embed", texts=["a"])[0] == 200


def test_the_description_names_every_field_and_the_model_says_what_it_is(model, index, bare):
    description = json.loads(asked(f"{bare}api/openapi.json")[2])
    for path, (_, fields) in api_fields.QUESTIONS.items():
        body = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert [*body["properties"]] == [*fields]
    for path in ("api", "api/model", "api/openapi.json"):
        assert str(model.name) not in asked(bare + path)[2]  # Not where it lies on this machine.
    found = json.loads(asked(f"{bare}api/model")[2])
    assert found["dimensions"] == model.config.width and found["pictures"] == index.pictures


def test_the_description_is_valid_openapi(bare):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(json.loads(asked(f"{bare}api/openapi.json")[2]))


def test_without_an_index_search_says_what_to_give(model):
    status, found = ask(served(model, has_page=False), "search", text="a")
    assert status == 400 and "start the server with --index" in found["error"]


def test_the_page_of_the_interface_fits_a_phone_and_its_example_works(browser, bare, tmp_path):  # noqa: F811
    with Visit(browser, f"{bare}api", "phone") as visit:
        assert visit.fits() and visit.said == []
        python = visit.page.locator("pre").nth(1).text_content()
        visit.shot(tmp_path / "api.png")
    assert "PIL" not in python
    values = {}
    exec(python.replace('open("cat.jpg", "rb").read()', "PICTURE"), {"PICTURE": BLACK}, values)
    assert len(values["vectors"]) == 1
    assert [visit.asked[0]] == [f"{bare}api"] and all(url.startswith((bare, "data:")) for url in visit.asked)


BLACK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
