"""The page of a model in a browser: the numbers of the commands, one sentence for a mistake, no request outwards."""

import pytest

import lit_jax
from lit_jax.inference.embedder import Embedder
from lit_jax.tools.demo import app, guards
from lit_jax.utils.errors import ConfigError, DataError
from tests.browser import SCHEMES, SIZES, Visit, browser, is_dark  # noqa: F401
from tests.tools.demo.pages import asked, posted, served

LABELS = ["red square", "a blue circle", "مربع 🟥", "<b>white</b>", "green " * 60]


def shown(visit, form, rows):
    place = visit.page.locator(f"#{form} .result")
    place.locator(rows).first.wait_for(timeout=60_000)
    return place


@pytest.mark.sampled(4)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_page_says_what_classify_and_search_say_and_asks_nobody_else(
    browser,  # noqa: F811
    place,
    model,
    index,
    address,
    tmp_path,
    size,
    scheme,
):
    picture = str(place / "pairs" / "003.png")
    with Visit(browser, address, size, scheme) as visit:
        assert visit.fits()
        visit.page.fill("textarea", "\n".join(LABELS))
        visit.page.set_input_files("#classify input[type=file]", picture)
        result = shown(visit, "classify", "data")
        (wanted,) = lit_jax.classify(picture, LABELS, model)
        texts = [text.strip() for text in result.locator("li > span").all_text_contents()]
        values = [element.get_attribute("value") for element in result.locator("data").all()]
        assert [*zip(texts, map(float, values), strict=True)] == [*wanted.items()]

        visit.page.fill("input[name=query]", "a red circle")
        visit.page.press("input[name=query]", "Enter")
        by_text = shown(visit, "search", "li")
        assert hits(by_text) == lit_jax.search(index, "a red circle", model=model, top=app.FOUND)
        for image in visit.page.locator(".hits img").all():
            image.evaluate(
                "image => image.decode()", timeout=60_000
            )  # Waits, and fails for a broken picture.
        assert visit.fits()
        shot = visit.shot(tmp_path / f"demo_{size}_{scheme}.png")
        assert shot.shape[1] == SIZES[size][0] and is_dark(shot) == (scheme == "dark")

        with visit.page.expect_response("**/search"):
            visit.page.set_input_files("#search input[type=file]", picture)
        visit.page.locator("#search .hits li[data-number='3']:first-child").wait_for()
        assert hits(by_text) == lit_jax.search(index, picture=picture, model=model, top=app.FOUND)
        assert visit.said == []
        assert all(url.startswith((address, "data:", f"blob:{address}")) for url in visit.asked)


def hits(result):
    rows = result.locator("li").all()
    return [
        lit_jax.inference.search.Hit(
            row.locator(".id").text_content(),
            float(row.locator("data").get_attribute("value")),
            int(row.get_attribute("data-number")),
        )
        for row in rows
    ]


def test_a_picture_that_is_dropped_and_a_bad_one_each_get_their_answer(browser, place, address):  # noqa: F811
    bad = {
        "notes.txt": "Not an image: 10 bytes that are none of JPEG",
        "vast.png": "Image of 10000x10000 pixels, more than the 64,000,000 allowed",
        "large.png": "The file is larger than 20 MB; give a smaller picture.",
    }
    with Visit(browser, address) as visit:
        visit.page.click("#classify button:not(.example)")
        assert "There is no picture yet" in shown(visit, "classify", ".mistake").text_content()
        drop = """([selector, text]) => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.png"));
            document.querySelector(selector).dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
        visit.page.fill("textarea", "red, blue")
        visit.page.evaluate(drop, ["#classify .drop", "nothing"])
        visit.page.locator("#classify .mistake", has_text="7 bytes").wait_for()
        for name, sentence in bad.items():
            visit.page.set_input_files("#classify input[type=file]", str(place / name))
            visit.page.locator("#classify .mistake", has_text=sentence).wait_for()
            assert visit.page.locator("#classify .result > *").count() == 1
        visit.page.set_input_files("#classify input[type=file]", str(place / "pairs" / "000.png"))
        shown(visit, "classify", ".labels")
        visit.page.fill("textarea", "red, red")
        visit.page.click("#classify button:not(.example)")
        assert "appear more than once" in shown(visit, "classify", ".mistake").text_content()


@pytest.mark.parametrize(
    ("form", "fields", "says"),
    [
        (
            "classify",
            {"picture": "notes.txt", "labels": "a,b"},
            "Not an image: 10 bytes that are none of JPEG",
        ),
        ("classify", {"picture": "vast.png", "labels": "a,b"}, "allowed; make it smaller"),
        ("classify", {"picture": "cut.png", "labels": "a,b"}, "PNG image is cut off or damaged"),
        ("classify", {"labels": "a,b"}, "There is no picture yet: drop one"),
        ("classify", {"picture": "pairs/000.png"}, "There are no labels to choose from; give some"),
        ("classify", {"picture": "pairs/000.png", "labels": " \n,"}, "There are no labels to choose from"),
        (
            "classify",
            {"picture": "pairs/000.png", "labels": "a,a"},
            "appear more than once: 'a'; give each once",
        ),
        (
            "classify",
            {"picture": "pairs/000.png", "labels": "a", "prompts": "x"},
            "Prompts 'x' are unknown; wanted one of name",
        ),
        ("search", {}, "Give one query: a text that is not blank, or a picture"),
        ("search", {"query": " "}, "Give one query"),
        ("search", {"picture": "notes.txt"}, "Not an image"),
        ("search", {"picture": "vast.png"}, "allowed; make it smaller"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_what_a_form_cannot_answer_it_says_in_one_sentence(place, address, form, fields, says):
    fields = {
        name: (place / value).read_bytes() if name == "picture" else value for name, value in fields.items()
    }
    status, said = posted(address + form, **fields)
    assert status == 400 and says in said and "\n" not in said


def test_other_names_other_pages_and_endless_uploads_are_refused(address):
    status, headers, _ = asked(address)
    assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    assert asked(address, Host="evil.example")[0] == 400
    assert asked(f"{address}search", b"", Sec_Fetch_Site="cross-site")[0] == 403
    form = "multipart/form-data; boundary=x"
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
    status, _, said = asked(f"{address}classify", head + bytes(guards.MOST), Content_Type=form)
    assert status == 413 and "larger than 20 MB" in said
    for name in ("picture/24", "picture/-1", "__init__.py", "base.html"):
        assert asked(address + name)[0] == 404, name


def test_examples_several_pictures_and_large_hits_work(browser, place, address, tmp_path):  # noqa: F811
    with Visit(browser, address, "phone") as visit:
        assert visit.page.locator("#classify .example").count() == app.EXAMPLES
        visit.page.locator("#classify .example").nth(1).click()
        shown(visit, "classify", ".labels li")
        assert visit.page.input_value("textarea").splitlines()
        files = [str(place / "pairs" / "003.png"), str(place / "notes.txt"), str(place / "pairs" / "004.png")]
        visit.page.set_input_files("#classify input[type=file]", files)
        visit.page.locator("#classify .answer").nth(2).wait_for()
        answers = visit.page.locator("#classify .answer")
        assert answers.locator(".labels").count() == 2 and answers.locator(".mistake").count() == 1
        visit.page.locator("#search .example").first.click()
        visit.page.locator("#search .hits a").first.wait_for()
        assert visit.page.locator("#search .hits li").first.locator("span").count() == 2  # Caption and name.
        large = visit.page.locator("#search .hits a").first.get_attribute("href")
        visit.page.wait_for_load_state("networkidle")
        broken = "all => all.filter(i => !i.naturalWidth).map(i => i.src)"
        assert visit.page.locator("img:visible").evaluate_all(broken) == []
        assert visit.fits() and all("400 (Bad Request)" in line for line in visit.said)  # Of notes.txt.
        visit.shot(tmp_path / "examples.png")
    assert asked(f"{address}{large}")[1]["Content-Type"] == "image/webp"


def test_what_cannot_be_served_is_said_in_one_sentence(place, model, index, address):
    with pytest.raises(ConfigError, match="belongs to an index"):
        app.make_app(model, pictures=f"folder:{place / 'pairs'}")
    with pytest.raises(DataError, match="made by another model"):
        app.make_app(Embedder(place / "other"), index)


def test_without_an_index_the_page_says_how_to_make_one(model):
    address = served(model)
    assert "lit-jax embed PICTURES --model model" in asked(address)[2]
    status, _, said = asked(f"{address}search", b"")
    assert status == 400 and "start the demo with --index" in said
