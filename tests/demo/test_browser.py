"""The demo's page in a real browser: choose, drop, several at once, remove, note, reload."""

import pytest
from browser_testing import Browser, find_chromium
from PIL import Image

if find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

CARDS = "document.querySelectorAll('#pictures > li').length"
NAMES = "[...document.querySelectorAll('#pictures h3')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def address(demo_process):
    return demo_process()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def page(browser, address):
    """A new visitor with the page open."""
    browser.size(1100, 900)
    browser.open(f"{address}/")
    return browser


@pytest.fixture
def files(tmp_path, encode):
    paths = [tmp_path / f"{name}.png" for name in ("one", "two", "three")]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(seed, size=(320, 200)))
    return paths


def test_choose(page, files):
    page.choose("#files", files[:1])
    page.wait(f"{CARDS} === 1")
    assert page.ask(NAMES) == ["one.png"]
    bars = "[...document.querySelectorAll('.bar')].map(e => e.getBoundingClientRect().width)"
    widths = page.ask(bars)
    assert len(widths) == 5 and widths == sorted(widths, reverse=True) and widths[0] > 10
    page.wait("document.querySelector('.card img').naturalWidth === 256")
    assert page.ask("document.querySelector('#none').hidden")
    assert page.errors == []


def test_drop_several(page, files):
    page.drop("#drop", files)
    page.wait(f"{CARDS} === 3")
    assert sorted(page.ask(NAMES)) == ["one.png", "three.png", "two.png"]
    page.wait("document.querySelector('#status').textContent === '3 done'")
    assert page.errors == []


def test_a_drop_beside_the_box_does_not_leave_the_page(page, files):
    page.drop("h1", files[:1])
    page.wait(f"{CARDS} === 1")
    assert page.ask("location.pathname") == "/"


def test_bad_files_among_good_ones(page, files, tmp_path):
    text, empty, large = (tmp_path / n for n in ("<b>notes.png", "empty.png", "large.jpg"))
    text.write_text("no picture")
    empty.write_bytes(b"")
    large.write_bytes(b"\xff\xd8\xff" + bytes(10_000_000))
    page.choose("#files", [text, files[0], empty, large, files[1]])
    page.wait("document.querySelector('#status').textContent === '2 done, 3 refused'")
    reasons = page.ask("[...document.querySelectorAll('#problems li')].map(e => e.textContent)")
    assert sorted(reasons) == [
        "<b>notes.png: Not a JPEG, PNG or GIF: the file's contents are of another kind.",
        "empty.png: The file is empty (0 bytes).",
        "large.jpg: The file is larger than 10 MB.",
    ]
    assert page.ask(CARDS) == 2 and page.ask("document.querySelector('#problems b')") is None


def test_remove_one_and_all(page, files):
    page.choose("#files", files)
    page.wait(f"{CARDS} === 3")
    page.click(".card:nth-child(2) .remove")
    page.wait(f"{CARDS} === 2")
    assert page.ask("document.activeElement.id") == "heading"
    page.reload()
    page.wait(f"{CARDS} === 2")
    page.click("#remove-all")
    page.wait(f"{CARDS} === 0")
    assert not page.ask("document.querySelector('#none').hidden")
    page.reload()
    page.wait("document.querySelector('#none').hidden === false")
    assert page.ask(CARDS) == 0 and page.errors == []


def test_note_and_reload(page, files):
    page.choose("#files", files[:2])
    page.wait(f"{CARDS} === 2")
    kept = page.ask(NAMES)
    page.click(".card:first-child input[name=label]")
    page.type("7")
    page.click(".card:first-child input[name=note]")
    page.type("<i>not among the classes</i>")
    page.press("Enter", "\r")
    page.wait("document.querySelector('.card .saved').textContent === 'Saved'")
    page.reload()
    page.wait(f"{CARDS} === 2")
    assert page.ask(NAMES) == kept
    values = "[...document.querySelectorAll('.card:first-child input')].map(e => e.value)"
    assert page.ask(values) == ["7", "<i>not among the classes</i>"]
    # The class list is what the field suggests from.
    field = "document.querySelector('.card input[name=label]')"
    assert page.ask(f"[...{field}.list.options].map(o => o.value)") == [str(n) for n in range(10)]


def test_the_newest_stands_first_whatever_is_answered_first(page, files):
    page.choose("#files", files)
    page.wait(f"{CARDS} === 3")
    page.reload()
    page.wait(f"{CARDS} === 3")
    kept = page.ask(NAMES)
    page.ask("fetch('/api/images').then(a => a.json()).then(p => { window.kept = p; return 0; })")
    for order in ("[2, 0, 1]", "[1, 2, 0]", "[2, 1, 0]"):
        page.ask(f"list.replaceChildren(); {order}.forEach(n => show(window.kept[n])); 0")
        assert page.ask(NAMES) == kept


def test_pictures_on_demand(page, files):
    page.choose("#files", files[:1])
    page.wait(f"{CARDS} === 1")
    for kind in ("occlusion", "deconvnet"):
        button = f".look[data-kind={kind}]"
        page.click(button)
        page.wait(f"document.querySelector('{button}').getAttribute('aria-pressed') === 'true'")
        page.wait("document.querySelector('.card img').src.startsWith('blob:')")
        page.wait("document.querySelector('.card img').naturalWidth === 256")
    assert page.ask("document.querySelectorAll('[aria-pressed=true]').length") == 1
    page.click(button)
    page.wait("document.querySelector('.card img').src.endsWith('picture.png')")
    assert page.errors == []


def test_another_visitor_sees_nothing(page, files, address, tmp_path):
    page.choose("#files", files[:1])
    page.wait(f"{CARDS} === 1")
    source = page.ask("document.querySelector('.card img').src")
    other = Browser(tmp_path / "other")
    try:
        other.open(f"{address}/")
        other.wait("!document.querySelector('#none').hidden")
        assert other.ask(CARDS) == 0
        assert other.ask(f"fetch('{source}').then(a => a.status)") == 404
    finally:
        other.close()


def test_by_keyboard_alone(page):
    """Tab reaches everything in order, and Space and Enter work it."""
    focus = "(e => e.id || e.name || e.className || e.tagName)(document.activeElement)"
    page.press("Tab")
    assert page.ask(focus) == "files"
    page.press("Tab")
    assert page.ask(focus) == "examples"
    page.press("Enter", "\r")
    page.wait(f"{CARDS} === 6")
    reached = []
    for _ in range(8):
        page.press("Tab")
        reached.append(page.ask(focus))
    assert reached[:6] == ["remove-all", "remove", "look", "look", "label", "note"]
    page.ask("document.querySelector('.remove').focus()")
    page.press("Enter", "\r")
    page.wait(f"{CARDS} === 5")


def test_everything_has_a_name(page, files):
    """What a screen reader says: each control and picture has a name, the results are told."""
    page.choose("#files", files[:2])
    page.wait(f"{CARDS} === 2")
    page("Accessibility.enable")
    nodes = page("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "combobox", "image", "link", "heading", "DisclosureTriangle")
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]
    assert len(found) > 15
    assert [role for role, name in found if not name.strip()] == []
    names = {name for _, name in found}
    assert {"Remove one.png", "Remove two.png", "It shows", "Note", "Remove all"} <= names
    assert page.ask("document.documentElement.lang") == "en"
    assert page.ask("document.querySelector('#status').getAttribute('role')") == "status"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_it_fits_the_width(width, page, files, tmp_path):
    page.size(width, 800, mobile=width < 500)
    page.choose("#files", files[:2])
    page.wait(f"{CARDS} === 2")
    page.ask("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.ask("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('button')].filter(b => !b.hidden)"
    assert page.ask(f"Math.min(...{small}.map(b => b.getBoundingClientRect().height))") >= 44
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == width


def test_the_interface_page(page, address):
    page.size(390, 800, mobile=True)
    page.open(f"{address}/api")
    assert page.ask("document.querySelectorAll('section').length") > 8
    assert page.ask("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
