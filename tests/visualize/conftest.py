"""A run on the digits with snapshots, and a browser to look at its pages."""

import re
import shutil
import subprocess

import pytest

from fastconv.cli import main


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run of three epochs whose weights were kept after the first and the third."""
    path = tmp_path_factory.mktemp("see") / "digits"
    flags = ["--epochs", "3", "--snapshots", "1,3", "--output", str(path)]
    assert main(["train", *flags]) == 0
    return path


# What a page is asked once it has loaded. It is added to a copy: the pages have no scripts.
_QUESTIONS = """<script>
var errors = [];
addEventListener("error", e => errors.push(e.message || e.target.src || "error"), true);
addEventListener("load", () => {
  const images = [...document.images];
  document.title = "ANSWER " + JSON.stringify({
    images: images.length,
    broken: images.filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    nameless: images.filter(i => i.alt.trim().length < 10).map(i => i.src),
    errors: errors,
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
  }) + " END";
});
</script>"""


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """Opens a page in headless Chromium at a width in pixels; what the browser found."""
    import json

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(names)} is installed")

    def open_page(path, width):
        copy = path.with_name(f"asked-{path.name}")
        copy.write_text(path.read_text(encoding="utf-8").replace("<head>", f"<head>{_QUESTIONS}"))
        # A frame has the width it is given; a window is never narrower than some 500 pixels.
        profile = tmp_path_factory.mktemp("chromium")
        outer = path.with_name(f"frame-{width}-{path.name}")
        outer.write_text(
            f'<!DOCTYPE html><body style="margin:0"><iframe src="{copy.name}" width="{width}" '
            'height="900" style="border:0"></iframe>'
            "<script>addEventListener('load', () => setTimeout(() => {"
            "document.title = frames[0].document.title }, 0))</script>"
        )
        try:
            process = subprocess.run(
                [
                    program,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    "--allow-file-access-from-files",
                    "--enable-logging=stderr",
                    f"--user-data-dir={profile}",
                    f"--window-size={max(width, 600)},1000",
                    "--virtual-time-budget=10000",
                    "--dump-dom",
                    outer.as_uri(),
                ],
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            copy.unlink()
            outer.unlink()
        answer = re.search(r"ANSWER (.*) END", process.stdout)
        assert answer, process.stdout[-2000:] + process.stderr[-2000:]
        found = json.loads(answer[1].replace("&amp;", "&"))
        found["console"] = [x for x in process.stderr.splitlines() if "CONSOLE" in x]
        return found

    return open_page
