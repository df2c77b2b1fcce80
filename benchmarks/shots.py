r"""Pictures of a page for the documentation, taken in Chromium: the first screen, and figures by how their titles begin.

python benchmarks/shots.py comparisons/resnet20/index.html resnet20 "The way of" "Which layers were regrown"
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("name", help="files are docs/images/NAME-0.png, NAME-1.png, ...")
    parser.add_argument("titles", nargs="*")
    args = parser.parse_args()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1180}, color_scheme="light")
        page.goto(args.page.resolve().as_uri())
        page.wait_for_selector(".main-svg")
        page.add_style_tag(content=".top, .choices { position: static !important }")
        page.screenshot(path=IMAGES / f"{args.name}-0.png")
        for i, title in enumerate(args.titles, 1):
            figure = page.locator("figure.fig", has=page.locator(".fig-title", has_text=title)).first
            figure.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            figure.screenshot(path=IMAGES / f"{args.name}-{i}.png")
        browser.close()


if __name__ == "__main__":
    main()
