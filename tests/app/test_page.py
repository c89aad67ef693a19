"""The page in a browser without a network: what people click, drag, drop and type, and what they see of it."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from odd_files import broken_files, encode, photograph

Open = Callable[[], Any]
HIDDEN, PATCHES = ".paint [aria-checked=true]", ".paint [data-cell]"
ATTENTION = ".beside .tiles"


@pytest.fixture(scope="module")
def context(chromium: Any) -> Iterator[Any]:
    """A browser that is at the page for the first time once, and not for every test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def open_page(context: Any, address: str) -> Iterator[Open]:
    """`open_page()`: a tab of its own, painted; whatever goes wrong in it, or asks for another host, fails the test."""
    wrong: list[str] = []
    tabs: list[Any] = []

    def opened() -> Any:
        page = context.new_page()
        tabs.append(page)
        page.on("console", lambda line: line.type in ("error", "warning") and wrong.append(line.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: outside(asked.url) and wrong.append(asked.url))
        page.goto(address)
        page.locator(f"{ATTENTION} img").first.wait_for()
        return page

    yield opened
    for tab in tabs:
        tab.close()
    assert wrong == []


def outside(url: str) -> bool:
    return not re.match(r"http://127\.0\.0\.1:|data:|blob:http://127\.0\.0\.1:", url)


@contextlib.contextmanager
def changed(page: Any, what: str) -> Iterator[None]:
    """Waits until what is done within has changed the HTML of a part of the page."""
    before = page.locator(what).first.inner_html()
    yield
    page.wait_for_function(
        "([what, before]) => { const now = document.querySelector(what); return now && now.innerHTML !== before; }",
        arg=[what, before],
    )


def paintings(page: Any) -> list[str]:
    """Addresses of all pictures that the runs painted."""
    return page.locator(".run img").evaluate_all("images => images.map(image => image.src)")


def test_it_opens_with_an_example_painted_by_every_run(open_page: Open) -> None:
    page = open_page()
    assert page.title() == "Perceptual MAE"
    assert page.locator(".run h3").all_inner_texts() == ["fine", "wide"]
    assert page.locator(".run img").count() == 10
    assert page.locator(PATCHES).count() == 16  # of the coarser run, 4 x 4
    assert page.locator(HIDDEN).count() == 12
    numbers = page.locator(".run .numbers").first.inner_text()
    assert re.search(r"75 % of the patches hidden\s+L1 0\.\d{4}\s+PSNR \d+\.\d dB", numbers)
    # Pictures are in the page itself, and each says what it is.
    images = page.locator("img")
    assert images.evaluate_all("all => all.every(each => each.src.startsWith('data:') && each.complete && each.alt)")


def test_picking_an_example_paints_it(open_page: Open) -> None:
    page = open_page()
    before = paintings(page)
    with changed(page, ".run"):
        page.locator("[data-example]").nth(2).click()
    assert not set(before) & set(paintings(page))
    assert page.locator("[data-example][aria-pressed=true]").get_attribute("data-example") == "2"


def test_the_slider_and_another_mask_hide_other_patches(open_page: Open) -> None:
    page = open_page()
    slider = page.locator("input[type=range]").first
    with changed(page, ".run"):
        slider.fill("0.5")
    assert page.locator(HIDDEN).count() == 8
    assert "50 % of the patches" in page.locator(".run .numbers").first.inner_text()
    with changed(page, ".run"):
        slider.fill("0")
    assert page.locator(HIDDEN).count() == 0
    assert "PSNR" not in page.locator(".run .numbers").first.inner_text()
    with changed(page, ".run"):
        slider.fill("0.75")
    masks = []
    for _ in range(3):
        masks.append(page.locator(PATCHES).evaluate_all("all => all.map(each => each.ariaChecked)"))
        with changed(page, ".run"):
            page.get_by_text("Another mask").click()
        assert page.locator(HIDDEN).count() == 12
    assert len({tuple(mask) for mask in masks}) > 1


def test_patches_are_painted_by_mouse(open_page: Open) -> None:
    page = open_page()
    with changed(page, ".run"):
        page.locator("input[type=range]").first.fill("0")
    patches = page.locator(PATCHES)
    with changed(page, ".run"):
        patches.nth(1).click()
    assert page.locator(HIDDEN).count() == 1
    with changed(page, ".run"):
        patches.nth(1).click()  # shown again
    assert page.locator(HIDDEN).count() == 0
    patches.nth(8).hover()
    page.mouse.down()
    for place in (9, 10, 11):  # a stroke over the whole row hides, and hides what it meets again
        box = patches.nth(place).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    patches.nth(2).hover()  # no longer painting
    page.wait_for_function("document.querySelector('.run .numbers').innerText.includes('25 %')")
    assert [index for index in range(16) if patches.nth(index).get_attribute("aria-checked") == "true"] == [
        8,
        9,
        10,
        11,
    ]


def test_everything_hidden_is_said_and_not_painted(open_page: Open) -> None:
    page = open_page()
    for _ in range(4):
        page.locator(".paint [aria-checked=false]").first.click()
    page.wait_for_function("document.querySelector('.run').innerText.includes('leave at least one')")


def test_patches_are_painted_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.locator("input[type=range]").first.fill("0")
    page.wait_for_function(f"document.querySelectorAll('{HIDDEN}').length === 0")
    page.locator(".paint [tabindex='0']").focus()
    page.keyboard.press("ArrowLeft")  # nowhere to go
    for key in ("ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('.run .numbers').innerText.includes('6 %')")
    assert page.locator(PATCHES).nth(5).get_attribute("aria-checked") == "true"
    assert page.locator(HIDDEN).count() == 1
    assert page.locator(".paint [tabindex='0']").count() == 1  # one stop of the Tab key


def test_a_clicked_patch_looks_elsewhere_than_the_class_token(open_page: Open) -> None:
    page = open_page()
    maps = page.locator(f"{ATTENTION} img")
    page.wait_for_selector(ATTENTION)  # neighbours may be there before
    assert maps.count() == 4  # the mean, and three heads
    seen = [maps.nth(1).get_attribute("src")]
    patches = page.locator(".point [data-cell]")
    assert patches.count() == 16
    for place in (0, 15):
        with changed(page, ATTENTION):
            patches.nth(place).click()
        assert page.locator(".point [aria-checked=true]").count() == 1
        seen.append(maps.nth(1).get_attribute("src"))
    with changed(page, ATTENTION):
        page.locator("input[type=range]").nth(1).fill("0")  # another block
    seen.append(maps.nth(1).get_attribute("src"))
    assert len(set(seen)) == 4
    with changed(page, ATTENTION):
        page.locator("input[type=range]").nth(1).fill("5")
    with changed(page, ATTENTION):
        page.get_by_text("From the class token").click()
    assert page.locator(".point [aria-checked=true]").count() == 0
    assert maps.nth(1).get_attribute("src") == seen[0]


def test_another_encoder_has_patches_of_its_own(open_page: Open) -> None:
    page = open_page()
    with changed(page, ATTENTION):
        page.get_by_label("wide").check()
    assert page.locator(".point [data-cell]").count() == 18
    assert page.locator(".point .cells").count() == 1


def test_an_image_finds_itself_among_its_neighbours(open_page: Open, pictures: Path) -> None:
    page = open_page()
    with changed(page, ".tiles:last-of-type figure"):
        page.locator("input[type=file]").set_input_files(pictures / "left" / "piece 5.png")
        page.get_by_text("piece 5.png, 100 × 100 pixels").wait_for()
    found = page.locator("figure:has(figcaption small)")
    page.wait_for_function("document.body.innerText.includes('cosine 1.000')")
    assert found.count() == 12
    assert found.first.inner_text().split("\n") == ["1. left", "left/piece 5.png", "cosine 1.000"]


def test_whatever_is_no_image_is_said_and_the_page_goes_on(open_page: Open) -> None:
    page = open_page()
    before = paintings(page)
    for name, content in broken_files().items():
        page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": content})
        page.wait_for_function("name => document.querySelector('.said')?.innerText.startsWith(name + ': ')", arg=name)
        assert "\n" not in page.locator(".said").inner_text()
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(2_000_001)}
    page.locator("input[type=file]").set_input_files(large)
    page.get_by_text("large.png: larger than 2 MB (see --max-upload)").wait_for()
    assert paintings(page) == before
    odd = {"<b>odd</b> `${1}` {{2}}.png": encode(photograph((1, 1)), "PNG"), "fine.jpg": encode(photograph(), "JPEG")}
    for name, content in odd.items():
        page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": content})
        page.get_by_text(f"{name}, {'1 × 1' if '1' in name else '120 × 90'} pixels").wait_for()
    page.wait_for_function("before => document.querySelector('.run img').src !== before", arg=before[0])
    assert page.locator(".said").count() == 0


def test_an_image_can_be_dropped_anywhere(open_page: Open) -> None:
    page = open_page()
    data = page.evaluate_handle(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg"));
          return data;
        }""",
        list(encode(photograph(), "JPEG")),
    )
    page.dispatch_event("h1", "dragover", {"dataTransfer": data})
    assert page.locator(".dragging .drop").count() == 1
    page.dispatch_event("h1", "drop", {"dataTransfer": data})
    page.get_by_text("dropped.jpg, 120 × 90 pixels").wait_for()
    assert page.locator(".dragging").count() == 0


def test_two_tabs_have_an_image_each(open_page: Open) -> None:
    one, other = open_page(), open_page()
    with changed(one, ".run"):
        one.locator("[data-example]").nth(1).click()
    with changed(other, ".run"):
        other.locator("[data-example]").nth(2).click()
    originals = paintings(one)[0], paintings(other)[0]
    assert len(set(originals)) == 2
    for page, original in zip((one, other), originals, strict=True):
        with changed(page, ".run"):
            page.locator(PATCHES).first.click()
        assert paintings(page)[0] == original


def test_it_fits_a_telephone(open_page: Open) -> None:
    page = open_page()
    page.set_viewport_size({"width": 420, "height": 800})
    # Gradio clips what is too wide: it has to be looked for.
    ends = page.locator("img, h1, h2, p, button, input").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().right)"
    )
    assert 350 < max(ends) <= 420


def test_nothing_is_kept(open_page: Open, served: Any, tmp_path: Path) -> None:
    page = open_page()
    picture = tmp_path / "secret.jpg"
    picture.write_bytes(encode(photograph(), "JPEG"))
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_text("secret.jpg, 120 × 90 pixels").wait_for()
    assert [path for path in served.temporary.rglob("*") if path.is_file()] == []
    # Nor does gradio keep it in the browser, as the history of what was asked.
    assert page.evaluate("async () => (await indexedDB.databases()).length + localStorage.length") == 0
