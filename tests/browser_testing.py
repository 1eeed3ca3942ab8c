"""A headless Chromium that tests drive as a person would: by mouse, keyboard, files and drops.

It speaks the browser's DevTools protocol over two pipes, JSON messages that end in a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 30


def find_chromium():
    """The program, or None."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One window with one page. Everything that it complains of is kept in ``errors``."""

    def __init__(self, profile):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",  # a page's picture is as wide as the window
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        # The protocol's pipes must be the file descriptors 3 and 4.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", find_chromium(), *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in, self._rest = ours_out, ours_in, b""
        self._number, self._session, self.errors, self._loaded = 0, None, [], False
        target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self(f"{domain}.enable")

    def close(self):
        self._process.terminate()
        self._process.wait(10)
        os.close(self._in)
        os.close(self._out)

    # -- the protocol -----------------------------------------------------------------------------

    def __call__(self, method, **parameters):
        """Send a command; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _receive(self, deadline):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif event.get("method") == "Page.loadEventFired":
            self._loaded = True

    # -- what a person does -----------------------------------------------------------------------

    def size(self, width, height, mobile=False):
        """The window's size in pixels."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def open(self, url):
        """Go to a page and wait until it has loaded."""
        self._loaded = False
        self("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self):
        self.ask("window.old = true")
        self("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def ask(self, expression):
        """A JavaScript expression's value."""
        answer = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=_SECONDS):
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.ask(expression):
                    return
            except AssertionError:  # the page is just changing
                pass
            assert time.monotonic() < deadline, f"not true in {seconds} s: {expression}"
            time.sleep(0.05)

    def middle(self, selector):
        """Where an element is, after it was moved into sight."""
        place = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f"return [r.x + r.width / 2, r.y + r.height / 2] }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return {"x": place[0], "y": place[1]}

    def click(self, selector):
        place = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def type(self, text):
        """Into what has the focus."""
        self("Input.insertText", text=text)

    def press(self, key, text=""):
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose(self, selector, files):
        """Files in the dialog of a file input."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, selector, files):
        """Files dragged from the desktop onto an element."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        place = self.middle(selector)
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, data=data, **place)

    def screenshot(self, path, whole=True):
        """What is seen, as PNG."""
        picture = self("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(picture))
