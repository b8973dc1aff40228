"""JupyterLab in a headless Chromium, with no way out to a network. Shared by the browser tests and the tour."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

TOKEN = "test"
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # cells out of sight stay in the page
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


def find_chromium() -> str | None:
    """Any Chromium or Chrome: $CHROMIUM, then PATH, then where macOS keeps it."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    mac = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium")]
    return next((path for name in names + mac if name and (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser. Playwright starts it as a process group of its own and ends that group."""
    flags = ["--disable-dev-shm-usage", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def server(root: Path, home: Path) -> Iterator[str]:
    """JupyterLab on the notebooks in `root`, its settings and state in `home`; yields its address."""
    for name, text in SETTINGS.items():
        path = home / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    options = {
        "--ServerApp.port": port,
        "--ServerApp.port_retries": 0,
        "--ServerApp.ip": "127.0.0.1",
        "--ServerApp.root_dir": root,
        "--IdentityProvider.token": TOKEN,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    log = home / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command + [f"{option}={value}" for option, value in options.items()],
            env=os.environ | {variable: str(home / place) for variable, place in places.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(f"{address}/api/status?token={TOKEN}", process, log)
            yield address
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _end(process: subprocess.Popen) -> None:
    """Ends the server's whole process group; asked nicely first, because the server then ends its kernels."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            return


class Notebook:
    """One notebook open in Lab's single-document view."""

    def __init__(self, browser: Browser, address: str, name: str):
        self.outside: list[str] = []  # requests to anywhere but the server
        self.console: list[str] = []  # errors that the page's scripts reported or threw
        self.page: Page = browser.new_page(viewport={"width": 1000, "height": 900})
        self.page.route("**/*", self._guard)
        self.page.on("console", lambda said: self.console.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.goto(f"{address}/doc/tree/{name}?token={TOKEN}&reset")
        self.page.wait_for_function(f"() => {STATE}?.status === 'idle'", timeout=60_000)

    def _guard(self, route: Route) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def command(self, name: str, **arguments: object) -> None:
        """Runs one of Lab's commands, without waiting for what it started."""
        self.page.evaluate("([name, args]) => void window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def run_all(self, timeout: float) -> list[dict]:
        """Runs every cell; returns the outputs, in nbformat. Ends early when a cell raises, as Run All does."""
        self.command("notebook:run-all-cells")
        done = f"() => {{ const s = {STATE}; return s.status === 'idle' && (s.pending === 0 || s.failed) }}"
        self.page.wait_for_function(done, timeout=timeout * 1000)
        return self.page.evaluate(f"() => {STATE}.outputs")

    def cell(self, number: int) -> Locator:
        """A cell, counted from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def errors(self) -> list[str]:
        """Tracebacks on the page, which also finds those in Output widgets."""
        kinds = ["error", "stderr"]
        found = self.page.locator(", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in kinds))
        return [text for text in found.all_inner_texts() if "Traceback" in text or "Error" in text]

    def painted(self) -> int:
        """How many figures of ours or plotly's have a size on the page."""
        figures = self.page.locator(".jp-OutputArea-output :is(.js-plotly-plot .main-svg, svg, canvas, img)")
        return sum(
            1 for box in (f.bounding_box() for f in figures.all()) if box and min(box["width"], box["height"]) > 40
        )

    def photograph(self, folder: Path, name: str, width: int = 1000) -> None:
        """The whole notebook, light and dark."""
        height = self.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
        self.page.set_viewport_size({"width": width, "height": min(height + 100, 16_000)})
        self.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
        for theme in ("light", "dark"):
            self.theme(theme)
            self.page.screenshot(path=folder / f"{name}.{theme}.png")

    def theme(self, name: str) -> None:
        """Changes to the light or the dark theme."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.title()}")
        light = "true" if name == "light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")

    def close(self) -> None:
        self.page.close()


# The notebook's state, as JavaScript: the kernel's status, cells not yet run, whether one failed, all outputs.
STATE = """(() => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    const model = panel?.content?.model;
    if (!model) return undefined;
    const cells = [...model.cells].filter(cell => cell.type === 'code');
    const outputs = cells.flatMap(cell => cell.outputs.toJSON());
    return {
        status: panel.sessionContext.session?.kernel?.status,
        pending: cells.filter(cell => !cell.executionCount).length,
        failed: outputs.some(output => output.output_type === 'error'),
        outputs,
    };
})()"""
