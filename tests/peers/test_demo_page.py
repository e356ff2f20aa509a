"""The live page of the demo in a real browser, while there is a failure to see.

`SCREENSHOT=docs/live-page.png pytest tests/peers/test_demo_page.py` makes the screenshot of the README.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

from browsers import CHROMIUM, OPTIONS, sync_playwright
from demo_program import running
from durable.servers import need

with contextlib.suppress(ImportError):
    from playwright.sync_api import expect

PATIENCE = 30_000  # milliseconds
SCREENSHOT = os.environ.get("SCREENSHOT")


def test_the_page_of_the_demo_shows_the_failure_and_the_notification():
    need(sync_playwright, "playwright for Python")
    need(CHROMIUM.exists(), str(CHROMIUM))
    with (
        running("--port", "0", "--cycle", "30" if SCREENSHOT else "10") as demo,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = chromium.new_page(viewport={"width": 1440, "height": 1200})
        page.goto(demo.wait_for(r"The live page: +(\S+)\n")[1])
        if SCREENSHOT:  # the second failure, when there is a history
            demo.wait_for(r"FIRING CircuitBreakerOpen.*FIRING CircuitBreakerOpen")
        breakers, alerts, notified = (
            page.get_by_role("region", name=name) for name in ("Circuit breakers", "Alerts", "Notifications")
        )
        expect(notified).to_contain_text("first notification", timeout=PATIENCE)
        expect(breakers).to_contain_text("503 Backend unavailable", timeout=PATIENCE)
        expect(alerts).to_contain_text("alertname=CircuitBreakerOpen", timeout=PATIENCE)
        if SCREENSHOT:
            expect(breakers.locator(".badge")).to_have_text("open")
            page.wait_for_timeout(1_500)
            page.screenshot(path=SCREENSHOT)
            make_small(SCREENSHOT)
        chromium.close()


def make_small(picture: str) -> None:
    """Reduce the colours of a screenshot if pngquant is installed."""
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--output", picture, "128", picture], check=True)
