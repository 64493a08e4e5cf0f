"""The page in headless Chromium (Debian's package `chromium`), driven by Playwright; skipped where one is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import HOSTILE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """The page in a new tab, without an error in the console then and at the end."""
    tab, problems = browser.new_page(viewport={"width": 1200, "height": 900}), []
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(page.as_uri())
    tab.wait_for_selector(".tabulator-row")
    yield tab
    tab.close()
    assert problems == []


def first_column(tab: Any) -> Any:
    """What an expectation waits for: the page shows a changed table a moment later."""
    return playwright.expect(tab.locator(".tabulator-row .tabulator-cell[tabulator-field=column_0]"))


def column(tab: Any, title: str) -> Any:
    return tab.locator(".tabulator-col", has=tab.get_by_text(title, exact=True))


def test_seeds_are_one_row_or_a_row_each(tab: Any) -> None:
    first_column(tab).to_have_count(5)
    tab.get_by_label("a row each").check()
    first_column(tab).to_have_count(9)


def test_click_on_a_title_sorts_and_missing_values_are_last(tab: Any) -> None:
    expected = [f"alpha_{alpha}_temperature_{temperature}" for alpha in ("0.9", "0.5") for temperature in (10, 4)]
    title = column(tab, "val best").locator(".tabulator-col-title")
    title.click()
    first_column(tab).to_have_text([*expected, HOSTILE])
    title.click()
    first_column(tab).to_have_text([*reversed(expected), HOSTILE])


def test_numbers_in_texts_are_sorted_by_their_value(tab: Any) -> None:
    order = tab.evaluate("['0.277', '0.1427', '10', '9', 'b10', 'b9'].sort(inNaturalOrder)")
    assert order == ["0.1427", "0.277", "9", "10", "b9", "b10"]


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("temperature", ">= 5", ["alpha_0.9_temperature_10", "alpha_0.5_temperature_10"]),
        ("alpha", "0.5", ["alpha_0.5_temperature_10", "alpha_0.5_temperature_4"]),
        ("val best", "> 80", ["alpha_0.9_temperature_10", "alpha_0.9_temperature_4"]),
        ("path", "SCRIPT", [HOSTILE]),
    ],
)
def test_filters_compare_numbers_or_find_a_text(title: str, text: str, expected: list[str], tab: Any) -> None:
    column(tab, title).locator("input").press_sequentially(text)
    first_column(tab).to_have_text(expected)


def test_click_on_a_row_shows_its_runs_and_marks_what_differs(tab: Any) -> None:
    tab.get_by_text("alpha_0.5_temperature_4", exact=True).click()
    details = tab.locator("#details")
    links = details.locator("a")
    assert [links.nth(i).get_attribute("href") for i in range(links.count())] == [
        f"alpha_0.5_temperature_4_seed_{seed}/" for seed in (0, 1)
    ]
    marked = details.locator("tr.differs").all_inner_texts()
    assert "loss.kd.alpha\t0.5" in [text.strip() for text in marked]
    assert not any("num_channels" in text for text in marked)
    assert "student.num_channels\t8" in details.inner_text()


def test_failed_run_with_a_hostile_name_is_text(tab: Any) -> None:
    tab.get_by_text(HOSTILE, exact=True).click()
    details = tab.locator("#details").inner_text()
    assert "the loss is <b>nan</b>" in details
    assert "<i>loss</i> is nan" in details
    assert "pwned" not in tab.title()


def test_heat_map_and_curves_are_drawn(tab: Any) -> None:
    for name in ("heat_map", "curves"):
        assert tab.locator(f"#{name} canvas").first.is_visible()
    series = tab.evaluate("echarts.getInstanceByDom(document.getElementById('heat_map')).getOption().series[0].data")
    assert {tuple(cell["value"]) for cell in series} == {(0, 0, 62.5), (1, 0, 72.5), (0, 1, 65.5), (1, 1, 75.5)}


def test_parameters_of_the_heat_map_can_be_chosen(tab: Any) -> None:
    tab.select_option("#down", "loss.kd.alpha")
    tab.select_option("#across", "loss.kd.temperature")
    series = tab.evaluate("echarts.getInstanceByDom(document.getElementById('heat_map')).getOption().series[0].data")
    assert {tuple(cell["value"]) for cell in series} == {(0, 0, 62.5), (0, 1, 72.5), (1, 0, 65.5), (1, 1, 75.5)}


def test_narrow_window_does_not_scroll_sideways(tab: Any) -> None:
    tab.set_viewport_size({"width": 380, "height": 700})
    tab.reload()
    tab.wait_for_selector(".tabulator-row")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
