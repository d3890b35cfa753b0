"""The web page in headless Chromium: from dropping a crop to the exported case."""

import io
import os
import re
import shutil
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from indexer.gallery import Gallery
from service.keys import create_key
from service.roles import Role
from tests.conftest import SHARED
from tests.indexer.archives_made import run_index
from tests.service.conftest import run_here, serving
from tests.service.test_search import png

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def frames(tmp_path: Path, pictures: Path) -> Path:
    """A gallery of real frames where there are some, else of drawn ones."""
    real = SHARED / "data" / "prw_mini" / "frames"
    sources = [pictures / "door", pictures / "yard"]
    if real.is_dir():
        for camera in ("door", "yard"):
            (tmp_path / camera).mkdir()
        for number, path in enumerate(sorted(real.glob("*.jpg"))):
            camera = ("door", "yard")[number % 2]
            name = f"2026-05-04_10-{number:02}-00.jpg"
            shutil.copyfile(path, tmp_path / camera / name)
        sources = [tmp_path / "door", tmp_path / "yard"]
    run_index(tmp_path / "frames", sources)
    return tmp_path / "frames"


@contextmanager
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Open the page; what it complains about, and whatever it asks others for, fails the test."""
    complaints: list[str] = []
    with browser.new_context(**context) as made:
        page = made.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))

        def told(message: Any) -> None:
            # The browser itself tells of refusals; the page shows them.
            if message.type == "error" and "Failed to load resource" not in message.text:
                complaints.append(message.text)

        page.on("console", told)
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "blob:", "data:"))
                else complaints.append(f"asked {request.url}")
            ),
        )
        page.goto(f"{address}/")
        yield page
        assert complaints == []


def picture(page: Page, name: str) -> None:
    """Keep what is to be looked at, where a folder is named for it."""
    if folder := os.environ.get("BINET_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def drop(page: Page, data: bytes) -> None:
    script = """text => {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        return carried;
    }"""
    carried = page.evaluate_handle(script, b64encode(data).decode())
    page.dispatch_event("#drop", "drop", {"dataTransfer": carried})


def part(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("button", name=name).click()


def give_key(page: Page, secret: str) -> None:
    part(page, "Key")
    page.get_by_role("textbox", name="Key").fill(secret)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#key")).to_be_hidden()


def results(page: Page) -> Any:
    return page.locator("#list > li")


def test_from_a_dropped_crop_to_the_exported_case(browser: Browser, frames: Path) -> None:
    with serving(frames) as (address, service), opened(browser, address) as page:
        one, two = (create_key(service.store, n, Role.VIEWER)[1] for n in ("one", "two"))
        expect(page.locator("#problem")).to_contain_text("Give a key")
        give_key(page, "binet_wrong")
        expect(page.locator("#problem")).to_contain_text("not valid")
        give_key(page, one)
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#cameras")).to_be_visible()

        part(page, "Cases")
        expect(page.locator("#case-list")).to_contain_text("There is no case yet")
        page.get_by_label("New case").fill("lost child")
        page.get_by_role("button", name="Make it").click()
        expect(page.locator("#case")).to_contain_text("Nothing is in this case")
        part(page, "Search")

        drop(page, png(1))
        expect(page.get_by_label("person 1")).to_be_visible()
        page.get_by_label("the whole picture").check()
        page.locator("#case-choice").select_option("lost child")
        page.get_by_label("Reason").fill("asked by the mother")
        page.get_by_label("Put together by").select_option("box")
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(page.locator("#status")).to_contain_text("Similar, not identified")
        assert results(page).count() > 5
        # Pictures are there, not only their frames.
        expect(page.locator("#list img").first).not_to_have_js_property("naturalWidth", 0)
        expect(page.locator(".lane")).to_have_count(2)
        picture(page, "results")

        before = results(page).count()
        page.get_by_role("button", name="More like result 1", exact=True).click()
        expect(page.locator("#chosen li")).to_have_count(1)
        expect(results(page)).to_have_count(before - 1)  # the box that is asked for is not found
        page.get_by_role("button", name="Not like result 2", exact=True).click()
        expect(page.locator("#chosen li")).to_have_count(2)
        page.get_by_role("button", name="Remove: not this").click()
        expect(page.locator("#chosen li")).to_have_count(1)
        expect(page.locator("#results")).to_have_attribute("aria-busy", "false")

        page.get_by_role("button", name="Frame of result 1", exact=True).click()
        expect(page.locator("#frame")).to_be_visible()
        expect(page.locator("#frame-picture")).not_to_have_js_property("naturalWidth", 0)
        picture(page, "frame")
        page.keyboard.press("Escape")
        expect(page.locator("#frame")).to_be_hidden()

        page.get_by_role("button", name="Put result 1 into the case", exact=True).click()
        expect(page.locator("#status")).to_contain_text("Proposed in the case")
        part(page, "Cases")
        page.get_by_role("button", name="lost child").click()
        page.get_by_label(re.compile("Note to box")).fill("the red coat")
        page.get_by_role("button", name=re.compile("Confirm box")).click()
        expect(page.locator("#case .state")).to_have_text("confirmed once")
        page.get_by_role("button", name=re.compile("Confirm box")).click()
        expect(page.locator("#problem")).to_contain_text("a second one has to agree")
        give_key(page, two)
        page.get_by_role("button", name=re.compile("Confirm box")).click()
        expect(page.locator("#case .state")).to_have_text("confirmed")
        picture(page, "case")
        # Viewers are not offered what they may not do.
        delete = page.get_by_role("button", name="Delete the case")
        expect(delete).to_have_count(0)
        with page.expect_download() as download:
            page.get_by_role("button", name="Export as ZIP").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            names = archive.namelist()
            assert {"case.json", "audit.jsonl", "SHA256SUMS"} <= set(names)
            (crop,) = (name for name in names if name.startswith("crops/"))
            Image.open(io.BytesIO(archive.read(crop))).verify()
        part(page, "Indexing")
        expect(page.locator("#stats")).to_contain_text("boxes in")
        expect(page.get_by_role("button", name="Index it")).to_have_count(0)
        give_key(page, create_key(service.store, "three", Role.OPERATOR)[1])
        expect(page.get_by_role("button", name="Index it")).to_be_visible()
        part(page, "Cases")
        page.on("dialog", lambda dialog: dialog.accept())
        delete.click()
        expect(page.locator("#case")).to_be_hidden()
        expect(page.locator("#case-list")).to_contain_text("There is no case yet")


def test_people_of_a_scene_and_a_drawn_box(browser: Browser, folder: Path) -> None:
    with serving(folder, allow_local=True) as (address, service), opened(browser, address) as page:
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(page.locator("#problem")).to_contain_text("Give a picture")
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no"})
        expect(page.locator("#problem")).to_contain_text("no picture that can be shown")
        scene: FilePayload = {
            "name": "scene.png",
            "mimeType": "image/png",
            "buffer": png(3, (300, 200)),
        }
        page.set_input_files("#file", scene)
        expect(page.get_by_label("person 1")).to_be_visible()
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 80, box["y"] + 120)
        page.mouse.up()
        expect(page.get_by_label("the drawn box")).to_be_checked()
        assert float(page.locator("#y2").input_value()) > 100
        page.get_by_role("checkbox", name="yard").check()
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(results(page).first).to_contain_text("yard")
        expect(page.locator("#list")).not_to_contain_text("door")
        page.get_by_label("Similarity at least").fill("1")
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(page.locator("#status")).to_contain_text("Nobody similar was found")
        expect(results(page)).to_have_count(0)
        assert service.worker.state == "ready"


def test_results_are_not_replaced_under_a_pressed_button(browser: Browser, folder: Path) -> None:
    with serving(folder, allow_local=True) as (address, _), opened(browser, address) as page:
        drop(page, png(1))
        expect(page.get_by_label("person 1")).to_be_visible()
        page.get_by_label("the whole picture").check()
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(page.locator("#status")).to_contain_text("similar boxes")
        page.get_by_role("button", name="Frame of result 1", exact=True).hover()
        page.mouse.down()
        with page.expect_response("**/v1/search") as answer:
            page.locator("#search").evaluate("form => form.requestSubmit()")
        answer.value.finished()
        page.evaluate("() => new Promise(requestAnimationFrame)")
        expect(page.locator("#status")).to_have_text("Searching…")
        page.mouse.up()
        expect(page.locator("#frame")).to_be_visible()
        expect(page.locator("#status")).to_contain_text("similar boxes")


def test_jobs_are_followed(browser: Browser, tmp_path: Path, pictures: Path) -> None:
    place = tmp_path / "gallery"
    Gallery.open(place, create=True).close()
    settings = {"roots": (pictures,), "run_job": partial(run_here, place), "allow_local": True}
    with serving(place, **settings) as (address, _), opened(browser, address) as page:
        part(page, "Indexing")
        expect(page.locator("#health")).to_contain_text("the gallery is empty")
        expect(page.locator("#job-list")).to_contain_text("Nothing was indexed")
        page.get_by_label("Source below").fill("elsewhere")
        page.get_by_role("button", name="Index it").click()
        expect(page.locator("#problem")).to_contain_text("There is no 'elsewhere'")
        page.get_by_label("Source below").fill("yard")
        page.get_by_label("Camera").fill("yard")
        page.get_by_role("button", name="Index it").click()
        expect(page.locator("#job-list")).to_contain_text("done")
        expect(page.locator("#job-list")).to_contain_text("3 files indexed, 0 failed, of 3")
        expect(page.locator("#health")).to_be_empty()
        picture(page, "jobs")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_aside(
    browser: Browser, folder: Path, scheme: str
) -> None:
    context = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    with (
        serving(folder, allow_local=True) as (address, _),
        opened(browser, address, **context) as page,
    ):
        drop(page, png(1))
        expect(page.get_by_label("person 1")).to_be_visible()
        page.get_by_label("the whole picture").check()
        page.get_by_role("button", name="Search", exact=True).last.click()
        expect(page.locator("#status")).to_contain_text("similar boxes")
        picture(page, f"phone-{scheme}")
        for name in ("Search", "Cases", "Indexing"):
            part(page, name)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(wide) <= 0, name


def test_it_can_be_used_without_a_mouse(browser: Browser, folder: Path) -> None:
    with serving(folder, allow_local=True) as (address, _), opened(browser, address) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the results")).to_be_focused()
        part(page, "Search")
        page.locator("#file").focus()
        page.set_input_files(
            "#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(1, (60, 90))}
        )
        expect(page.get_by_label("person 1")).to_be_visible()
        page.get_by_text("Box by numbers").focus()
        page.keyboard.press("Enter")
        for name, value in (("left", "5"), ("top", "5"), ("right", "40"), ("bottom", "80")):
            page.get_by_label(name, exact=True).focus()
            page.keyboard.press("Control+A")
            page.keyboard.type(value)
        page.get_by_role("button", name="Use this box").press("Enter")
        expect(page.get_by_label("the drawn box")).to_be_checked()
        page.get_by_label("Reason").press("Enter")
        expect(page.locator("#status")).to_contain_text("similar boxes")
        # Everything that can be pressed or filled in has a name.
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select")].filter((element) =>
                !element.labels?.length && !element.ariaLabel && !element.textContent.trim()
            ).map((element) => element.outerHTML)"""
        )
        assert unnamed == []


def test_only_its_own_files_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = set(re.findall(r"page/([\w.]+)", page.text))
    assert names == {"page.css", "main.js"}
    for name in names:
        assert client.get(f"/page/{name}").status_code == 200
    for bad in ("..%2fapp.py", "index.html", "%2e%2e/app.py", "nothing.js", "..\\app.py"):
        assert client.get(f"/page/{bad}").status_code == 404
