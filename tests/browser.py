"""Pages in a real browser without a window: what they show once their scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(NAMES)}")


def shown(page: Path, profile: Path, script: str = "", dark: bool = False) -> str:
    """The page's elements after its scripts and, at the end of it, ``script``; without a network.

    Errors of scripts are the attribute ``errors`` of the root. profile: an empty folder.
    """
    copy = profile / "page.html"
    listen = """<script>
    addEventListener("error", e => document.documentElement.setAttribute("errors", e.message));
    addEventListener(
        "unhandledrejection",
        e => document.documentElement.setAttribute("errors", e.reason)
    );
    </script>"""
    content = page.read_text(encoding="utf-8")
    copy.write_text(f"{listen}{content}<script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",  # root, as in containers, can have none
            "--disable-gpu",
            "--proxy-server=127.0.0.1:9",  # nothing answers there
            f"--user-data-dir={profile}/profile",
            "--virtual-time-budget=60000",  # until all is quiet, at most this
            "--window-size=1280,900",
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            f"--screenshot={profile}/screen.png",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
