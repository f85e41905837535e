"""The page of models in a real browser: Debian's Chromium, without a window, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timm_backbones_ext.catalog.listing import describe_variant
from timm_backbones_ext.catalog.page import render_page

NAMES = ("ext_resnet50_dcn", "ext_test_resnet", "ext_resnet50_eca", "ext_convnext_atto", "ext_resnet20_cifar")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "models.html"
    file.write_text(render_page(map(describe_variant, NAMES)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: run `make test-page`")
    if CHROMIUM is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * (os.name == "posix"))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened; nothing in the console and no request but that for the file when the test is over."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.set_default_timeout(10_000)
    page.goto(file.as_uri())
    page.wait_for_selector("button.name")
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def shows(page: Any, *names: str) -> None:
    """The table shows these models, in this order, once it is drawn again."""
    api = pytest.importorskip("playwright.sync_api")
    api.expect(page.locator("#models tbody button.name")).to_have_text(list(names))


def test_the_page_is_one_file_below_1500_kb(file: Path) -> None:
    assert 500_000 < file.stat().st_size < 1_500_000


def test_it_shows_every_model_those_with_weights_first(page: Any) -> None:
    shows(page, *NAMES)


def test_a_search_finds_models_by_part_of_their_name(page: Any) -> None:
    page.get_by_role("searchbox", name="Search:").fill("resnet50 dc")
    shows(page, "ext_resnet50_dcn")


def test_boxes_filter_by_family_edit_licence_exactness_and_evidence(page: Any) -> None:
    for word, left in (
        ("convnext", ["ext_convnext_atto"]),
        ("eca", ["ext_resnet50_eca"]),
        ("cc-by-nc-4.0", ["ext_resnet50_dcn", "ext_resnet50_eca"]),
        ("eval+train", ["ext_resnet50_dcn", "ext_resnet50_eca"]),
        ("warm insertion", ["ext_resnet50_dcn"]),
    ):
        page.locator(".dtsp-searchPane .dtsp-name", has_text=word).first.click()
        shows(page, *left)
        page.get_by_role("button", name="Clear All").click()
    shows(page, *NAMES)


def test_numbers_are_filtered_by_comparison_and_sorted_as_numbers(page: Any) -> None:
    field = page.locator("#models thead tr").nth(1).locator("th, td").nth(5)  # parameters
    field.locator("select").select_option("less")
    field.locator("input").fill("4")
    shows(page, "ext_test_resnet", "ext_convnext_atto", "ext_resnet20_cifar")
    field.locator("input").fill("")
    gmacs = page.get_by_role("columnheader", name="GMACs").first
    by_gmacs = ("ext_resnet20_cifar", "ext_test_resnet", "ext_convnext_atto", "ext_resnet50_eca", "ext_resnet50_dcn")
    gmacs.click()
    shows(page, *by_gmacs)
    gmacs.click()
    shows(page, *reversed(by_gmacs))


def test_the_keyboard_reaches_search_order_and_the_panel(page: Any) -> None:
    page.get_by_role("searchbox", name="Search:").focus()
    page.keyboard.type("eca")
    shows(page, "ext_resnet50_eca")
    for _ in range(60):  # through headers and fields to the first name
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "name":
            break
    page.keyboard.press("Enter")
    panel = page.locator("#about-ext_resnet50_eca")
    assert panel.is_visible()
    page.keyboard.press("Escape")
    assert panel.is_hidden()


def test_the_panel_has_two_lines_to_copy_that_make_the_model(page: Any) -> None:
    page.get_by_role("button", name="ext_resnet50_dcn", exact=True).click()
    panel = page.locator("#about-ext_resnet50_dcn")
    assert "Faster R-CNN R50 37.4 -> 41.3 AP" in panel.inner_text()
    assert "ext_resnet50_dcn.a1_in1k: apache-2.0" in panel.inner_text()
    panel.get_by_role("button", name="Copy").click()
    panel.get_by_role("button", name="Copied").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines == ["import timm", 'model = timm.create_model("ext_resnet50_dcn", pretrained=True)']
    panel.get_by_role("button", name="Close").click()
    assert panel.is_hidden()


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_a_narrow_screen_is_not_scrolled_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="ext_resnet50_dcn", exact=True).click()
    box = page.locator("#about-ext_resnet50_dcn").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_dark_mode_is_that_of_the_system(page: Any) -> None:
    shade = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(shade) == "rgb(18, 18, 20)"
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{shade} !== 'rgb(18, 18, 20)'")
