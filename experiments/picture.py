"""Draw a figure as a picture: `python experiments/picture.py OUT/figure.html figure.png`."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--virtual-time-budget=8000",
    "--force-device-scale-factor=2",
)


def picture(page: Path, out: Path, *, width: int) -> None:
    """A screenshot of a page that plotly wrote, as high as its figure."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"no browser found; install one of {', '.join(BROWSERS)}")
    source = page.read_text(encoding="utf-8")
    height = int(re.findall(r'"height":(\d+)', source)[-1])
    still = source.replace("<body>", '<body style="margin:0;background:white">').replace(
        '"responsive": true', '"responsive": true, "displayModeBar": false'
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "figure.html"
        copy.write_text(still, encoding="utf-8")
        size = f"--window-size={width},{height + 12}"
        kept = f"--user-data-dir={folder}/profile"
        shot = f"--screenshot={out.resolve()}"
        subprocess.run([browser, *QUIET, size, kept, shot, f"file://{copy}"], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="a figure.html that an experiment wrote")
    parser.add_argument("out", type=Path, help="the picture, PNG")
    parser.add_argument("--width", type=int, default=900)
    given = parser.parse_args()
    picture(given.page, given.out, width=given.width)


if __name__ == "__main__":
    main()
