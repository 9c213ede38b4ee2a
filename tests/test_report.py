"""The report, seen as a reader sees it: in a browser, without a network."""

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from robust_tangents.papers import CITED, TOGETHER

CATEGORIES = {"Claims", TOGETHER, *CITED.values()}


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium that notes its console and every request."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1500,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture(scope="module", params=["html", "zip"])
def report(request: pytest.FixtureRequest, smoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report of the finished study."""
    path = tmp_path_factory.mktemp("report") / f"report.{request.param}"
    smoke.snakemake("--report", str(path))
    if path.suffix == ".html":
        return path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
    return path.parent / "report" / "report.html"


def wait(browser: webdriver.Chrome) -> WebDriverWait:
    return WebDriverWait(browser, 20)


def click(browser: webdriver.Chrome, text: str) -> None:
    """Click the item of the menu or the link that reads so."""
    found = f"//a[normalize-space(.)={text!r}]"
    wait(browser).until(lambda browser: browser.find_elements(By.XPATH, found))[0].click()


def rows(browser: webdriver.Chrome) -> list[WebElement]:
    """Results of the category that is open."""
    found = wait(browser).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, "tbody tr"))
    return [row for row in found if row.find_elements(By.CSS_SELECTOR, "a[type=button]")]


def width_of_picture(browser: webdriver.Chrome) -> int:
    """Pixels, as the file has them, of the picture that is open; 0 as long as it is not loaded."""
    script = "return Math.max(0, ...[...document.querySelectorAll('.h-screen img')].map(i => i.naturalWidth))"
    return browser.execute_script(script)


def asked_for(browser: webdriver.Chrome) -> set[str]:
    """Schemes of all addresses that the browser asked for."""
    log = "\n".join(entry["message"] for entry in browser.get_log("performance"))
    urls = re.findall(r'"Network\.requestWillBeSent".*?"request":\{.*?"url":"([^"]*)"', log)
    return {url.split(":")[0] for url in urls}


def test_a_reader_finds_claims_and_every_figure(browser, report, smoke):
    browser.get(report.as_uri())
    front = wait(browser).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, ".prose"))[0]
    assert "Which claims hold" in front.text
    assert "inconclusive" in front.text
    # The page is centred and cannot be scrolled above its top: all of it has to fit.
    assert front.rect["y"] >= 0
    click(browser, "Claims")
    assert len(rows(browser)) == 1

    drawn = {path.stem for path in (smoke.results / "figures").glob("*.svg")}
    shown = set()
    browser.get(report.as_uri())
    items = wait(browser).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, "li a span"))
    assert {item.text for item in items} >= CATEGORIES
    for category in CATEGORIES:
        browser.get(report.as_uri())
        wait(browser).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, "li a span"))
        browser.find_element(By.XPATH, f'//li/a[normalize-space(.)="{category}"]').click()
        for row in rows(browser):
            name = row.find_element(By.TAG_NAME, "td").text
            view, about = row.find_elements(By.CSS_SELECTOR, "a[type=button]")[:2]
            view.click()
            if category == "Claims":
                frame = wait(browser).until(lambda browser: browser.find_elements(By.TAG_NAME, "iframe"))[0]
                browser.switch_to.frame(frame)
                assert "Which claims hold" in browser.find_element(By.TAG_NAME, "h1").text
                assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) >= 57
                browser.switch_to.default_content()
                continue
            wait(browser).until(lambda browser: width_of_picture(browser) > 100)
            shown.add(name)
            assert about.is_displayed()
    assert shown == drawn

    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    assert asked_for(browser) <= {"file", "data", "blob"}


def test_every_figure_has_a_caption_that_says_what_was_run(report, smoke):
    page = report.read_text()
    captions = re.findall(r'"caption": "(.*?)(?<!\\)"', page)
    assert len(captions) > len(list((smoke.results / "figures").glob("*.svg")))
    for caption in captions:
        if "workflow/claims.yaml" in caption:
            continue
        for word in ("Data:", "seed"):
            assert word in caption, caption
