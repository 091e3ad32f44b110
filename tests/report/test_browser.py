"""The page in a real browser (headless Chromium from Debian, driven by selenium): quiet, offline, sortable, un-blurs,
narrow screens."""

from __future__ import annotations

import io
import json
import os
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from genward.benchmarks.erasure import ErasureBenchmark
from genward.core.blocks import Player, Section, Shot, Strip
from genward.report import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver and browser, (
        "these tests need Debian's chromium and chromium-driver: apt-get install chromium chromium-driver"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        "--no-first-run",
    ):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.get("about:blank")
    yield chrome
    chrome.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome, store: Any, metrics: dict[str, Any]) -> webdriver.Chrome:
    store.write("quick", metrics)
    path = build(store, "quick", sections=ErasureBenchmark.sections)
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    chromium.get(path.as_uri())
    return chromium


def click(page: webdriver.Chrome, element: WebElement) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def column(page: webdriver.Chrome, index: int) -> list[str]:
    cells = page.find_elements(By.CSS_SELECTOR, f".matrix tbody tr > :nth-child({index})")
    return [c.get_attribute("data-v") or "" for c in cells[:8]]


def heads(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, ".matrix")[0].find_elements(By.CSS_SELECTOR, "thead th")


def test_it_is_quiet_and_asks_for_nothing(page: webdriver.Chrome) -> None:
    events = [json.loads(e["message"])["message"] for e in page.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [
        r["request"]["url"] for r in asked if not r["documentURL"].startswith("chrome:")
    ]  # the browser's own start page is not ours
    assert [u for u in urls if not u.startswith("data:")] == [page.current_url]
    assert page.get_log("browser") == []


def test_hostile_text_stays_text(page: webdriver.Chrome, hostile: str) -> None:
    assert page.execute_script("return document.querySelectorAll('script').length") == 1
    assert page.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    assert hostile in [q.text for q in page.find_elements(By.TAG_NAME, "q")]


def test_headers_sort_up_down_and_back(page: webdriver.Chrome) -> None:
    before = column(page, 2)
    for state, order in (
        ("ascending", sorted(before, key=float)),
        ("descending", sorted(before, key=float, reverse=True)),
        ("none", before),
    ):
        click(page, heads(page)[1].find_element(By.TAG_NAME, "button"))
        assert heads(page)[1].get_attribute("aria-sort") == state
        assert [float(v) for v in column(page, 2)] == [float(v) for v in order]
    assert all(h.get_attribute("aria-sort") == "none" for h in heads(page))


def test_missing_values_sort_last_both_ways_and_text_sorts_by_keyboard(page: webdriver.Chrome) -> None:
    for _ in range(2):
        click(page, heads(page)[3].find_element(By.TAG_NAME, "button"))
        assert column(page, 4)[-1] == ""
    heads(page)[0].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heads(page)[0].get_attribute("aria-sort") == "ascending"
    assert heads(page)[3].get_attribute("aria-sort") == "none"
    assert column(page, 1) == sorted(column(page, 1))


def blur(page: webdriver.Chrome, shot: WebElement) -> bool:
    return "blur" in page.execute_script("return getComputedStyle(arguments[0].querySelector('img')).filter", shot)


def test_pictures_unblur_by_click_by_key_and_all_at_once(page: webdriver.Chrome) -> None:
    shots = page.find_elements(By.CSS_SELECTOR, "button.unsafe")
    assert shots and all(blur(page, s) for s in shots)
    click(page, shots[0])
    assert shots[0].get_attribute("aria-pressed") == "true"
    assert [blur(page, s) for s in shots[:2]] == [False, True]
    shots[1].send_keys(Keys.ENTER)
    shots[0].send_keys(Keys.SPACE)
    assert [blur(page, s) for s in shots[:2]] == [True, False]
    everything = page.find_element(By.CSS_SELECTOR, ".show-all")
    click(page, everything)
    assert not any(blur(page, s) for s in shots)
    click(page, everything)
    assert all(blur(page, s) for s in shots)


def test_pictures_are_decoded(page: webdriver.Chrome) -> None:
    assert page.execute_script(
        "return Promise.all([...document.images].map((i) => i.decode())).then(() => [...document.images].every((i) => "
        "i.naturalWidth > 0))"
    )


def test_filters_plots_tips_and_details(page: webdriver.Chrome) -> None:
    page.execute_script(
        "const s = document.querySelector('[data-filter=\"prompt variant\"]'); s.value = 'kind'; "
        "s.dispatchEvent(new Event('change'))"
    )
    assert [s.is_displayed() for s in page.find_elements(By.CSS_SELECTOR, ".strip")] == [False, True, False]
    page.execute_script(
        "const s = document.querySelector('[data-plots]'); s.value = '4'; s.dispatchEvent(new Event('change'))"
    )
    drawn = [
        s.get_attribute("aria-label") for s in page.find_elements(By.CSS_SELECTOR, ".plot svg") if s.is_displayed()
    ]
    assert drawn[0] == "Residual weapons against retention, description"
    mark = next(m for m in page.find_elements(By.CSS_SELECTOR, ".mark.defense") if m.is_displayed())
    page.execute_script("arguments[0].focus()", mark)
    assert page.find_element(By.ID, "tip").text == mark.get_attribute("aria-label")
    more = page.find_element(By.CSS_SELECTOR, ".more")
    assert not more.is_displayed()
    click(page, page.find_element(By.CSS_SELECTOR, "[data-details]"))
    assert more.is_displayed()


def at_width(page: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 1600])
def test_only_tables_and_plots_scroll_sideways(page: webdriver.Chrome, width: int) -> None:
    at_width(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    beyond = page.execute_script(
        """return [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, pre, .unseen')
             && e.getBoundingClientRect().right > innerWidth + 1 && e.getBoundingClientRect().width > 0)
             .map((e) => e.outerHTML.slice(0, 80))"""
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert beyond == []


WIDE = ("text: name", "text: synonym", "text: synonym-heldout", "text: description", "text: kind", "text: scene",
        "embedding-black: heldout", "embedding-white: heldout", "latent-black: empty", "latent-white: empty",
        "latent-black: heldout", "latent-white: heldout")  # fmt: skip
"""The columns of m-erasure's fullest preset"""


@pytest.mark.parametrize("columns", [6, 12])
def test_the_matrix_fits_a_laptop_with_all_columns_and_breaks_no_word(
    chromium: webdriver.Chrome, store: Any, metrics: dict[str, Any], columns: int
) -> None:
    """At 1280 pixels nothing scrolls inside, and no piece of a word between spaces, hyphens and the like stands on two
    lines."""
    first = [c for c in metrics["cells"] if c["concept"] == "weapons" and c["variant"] == "name"]
    metrics["cells"] = [{**c, "variant": v} for c in first for v in WIDE[:columns]]
    store.write("wide", metrics)
    chromium.get(build(store, "wide", sections=ErasureBenchmark.sections).as_uri())
    at_width(chromium, 1280)
    inside, broken, count = chromium.execute_script(
        """const scroll = [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1);
        const broken = [], walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
        const lines = (node, from, to) => {
          const range = document.createRange(); range.setStart(node, from); range.setEnd(node, to);
          return new Set([...range.getClientRects()].filter((r) => r.width > 0.5).map((r) => Math.round(r.top))).size;
        };
        let node;
        while ((node = walk.nextNode())) {
          if (!node.parentElement.closest('th, td, caption, svg') || node.parentElement.closest('details')) continue;
          for (const piece of node.data.matchAll(/[\\p{L}\\p{N}]+/gu))
            if (lines(node, piece.index, piece.index + piece[0].length) > 1) broken.push(piece[0]);
        }
        const heads = document.querySelector('.matrix').querySelectorAll('thead th').length;
        return [scroll.map((e) => e.getAttribute('aria-label')), broken, heads];"""
    )
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert inside == [] and count == columns + 2
    assert [w for w in broken if w not in WORDS_OF_EVIL] == []


WORDS_OF_EVIL = ("script", "alert", "img", "src", "http", "evil", "example", "onerror")
"""Of the hostile text, a word of ninety letters with nothing but marks between them"""


def test_labels_of_a_plot_do_not_collide(page: webdriver.Chrome) -> None:
    at_width(page, 1280)
    found = boxes(page, ".plot .scroll > svg", ".mark > text")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert found and all(len(labels) >= 7 for labels in found)
    apart(found, 1280)


def test_a_narrow_screen_has_the_plot_large_and_its_arms_in_a_list(page: webdriver.Chrome) -> None:
    at_width(page, 390)
    labels, ticks = boxes(page, ".plot .arms", "li"), boxes(page, ".plot .scroll > svg", ".tick")
    frames = boxes(page, ".plot .scroll > svg", ".axis")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert labels and all(len(found) >= 7 for found in labels)
    apart([*labels, *ticks], 390)
    for ((left, top, right, bottom, _),) in frames:
        assert 0 <= left and right <= 390 and right - left >= 250 and abs((right - left) - (bottom - top)) < 2
    assert all(bottom - top >= 10 for found in ticks for _, top, _, bottom, _ in found), "large enough to be read"


def boxes(page: webdriver.Chrome, within: str, which: str) -> list[list[tuple[float, float, float, float, str]]]:
    """Left, top, right, bottom and text of the parts of each visible element."""
    found = page.execute_script(
        """return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) =>
             [...e.querySelectorAll(arguments[1])].map((t) => {
               const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom, t.textContent]; }))""",
        within,
        which,
    )
    return [[tuple(box) for box in boxes] for boxes in found]


def apart(found: list[list[tuple[float, float, float, float, str]]], width: int) -> None:
    """No two boxes of one picture share more than two pixels of height, and all stand within the screen."""
    for labels in found:
        for k, (left, top, right, bottom, text) in enumerate(labels):
            assert left >= 0 and right <= width, text
            for other in labels[k + 1 :]:
                free = right <= other[0] or other[2] <= left or bottom <= other[1] + 2 or other[3] <= top + 2
                assert free, f"{text} and {other[4]}"


def test_arms_in_a_plot_can_be_told_apart_without_color(page: webdriver.Chrome) -> None:
    looks = page.execute_script(
        """const svg = document.querySelector('.plot .scroll > svg');
        return [...svg.querySelectorAll('.mark.defense')].map((m) => {
          const dot = m.querySelector('.key .dot'); return [getComputedStyle(dot).fill, dot.tagName,
            (dot.getAttribute('d') ?? '').replace(/^M[^a-z]*/, '')]; })"""
    )
    assert (
        len({fill for fill, *_ in looks}) == len(looks)
        and len({shape for _, *rest in looks for shape in [str(rest)]}) == 4
    )


def test_footnotes_hold_the_reasons(page: webdriver.Chrome) -> None:
    link = page.find_element(By.CSS_SELECTOR, ".matrix .foot a")
    note = page.find_element(By.ID, (link.get_attribute("href") or "").split("#")[1])
    assert note.text == "judge unsure on every picture" and note.is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_on_the_heat_map_can_be_read(page: webdriver.Chrome, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    colors = page.execute_script(
        """const c = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const rgb = (color) => {
          c.fillStyle = color; c.fillRect(0, 0, 1, 1);
          return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const style = (e) => getComputedStyle(e);
        const pair = (e) => [rgb(style(e).backgroundColor), rgb(style(e).color)];
        return [...document.querySelectorAll('.heat')].map(pair)"""
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(colors) > 40
    assert min(contrast(a, b) for a, b in colors) >= 4.0


def contrast(a: list[int], b: list[int]) -> float:
    """WCAG contrast of two sRGB colors."""

    def luminance(color: list[int]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_sounds_play_from_the_page_alone_and_hidden_ones_when_asked(chromium: webdriver.Chrome, store: Any) -> None:
    shot = Shot("uce", sha=store.keep(tone()), mime="audio/wav")
    blocks = (Player("a tone", data=tone()), Strip("a tone", "1", (shot,), unsafe=True))
    store.write("sound", {"run": {}, "arms": []})
    path = build(store, "sound", sections=lambda metrics: [Section("own", "Sounds", blocks)])
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    chromium.get(path.as_uri())
    seconds = chromium.execute_async_script(
        """const done = arguments[0], all = [...document.querySelectorAll('audio')];
        const length = (a) => new Promise((ok, no) => {
          a.onloadedmetadata = () => ok(a.duration); a.onerror = () => no(a.error.message);
          a.load(); a.preload = 'metadata';
        });
        Promise.all(all.map(length)).then(done, (error) => done(String(error)));"""
    )
    assert seconds == [0.25, 0.25]
    player, hidden = chromium.find_elements(By.TAG_NAME, "audio")
    assert player.is_displayed() and not hidden.is_displayed()
    button = chromium.find_element(By.CSS_SELECTOR, "button.unsafe")
    click(chromium, button)
    assert hidden.is_displayed() and button.get_attribute("aria-pressed") == "true"
    everything = chromium.find_element(By.CSS_SELECTOR, ".show-all")
    assert everything.text == "Hide them again"
    click(chromium, everything)
    assert not hidden.is_displayed() and everything.text == "Show all hidden samples"
    assert chromium.get_log("browser") == []


def tone() -> bytes:
    """A quarter of a second of sound."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(b"".join((3_000 * (k // 20 % 2)).to_bytes(2, "little") for k in range(2_000)))
    return buffer.getvalue()


def test_it_works_from_a_path_with_odd_letters(
    chromium: webdriver.Chrome, store: Any, metrics: dict[str, Any], tmp_path: Path
) -> None:
    store.write("quick", metrics)
    path = build(store, "quick", tmp_path / "a b#c?é" / "r%20.html", sections=ErasureBenchmark.sections)
    chromium.get_log("browser")
    chromium.get(path.as_uri())
    assert "genward report" in chromium.title
    assert chromium.get_log("browser") == []
