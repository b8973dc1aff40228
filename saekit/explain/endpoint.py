"""A judge behind an address: any server that speaks the chat completions of OpenAI. Nothing is sent unless asked."""

import json
import os
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from .judges import Cached, JudgeError

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that another try may cure


class Endpoint:
    """`Endpoint("http://localhost:8000/v1", "model")` asks `POST {url}/chat/completions`, at temperature 0.

    key: sent as a bearer token, `$OPENAI_API_KEY` unless given; it is neither shown nor kept. timeout: seconds for one
    answer; retries: further tries, after `pause`, 2 `pause`, 4 `pause` ... seconds. Raises ValueError for an address
    that is none, JudgeError, which names the address, for a server that cannot be reached, takes too long, refuses, or
    answers in another form. Wrap it in `Cached`, or use `endpoint`, which does.
    """

    def __init__(
        self, url: str, model: str, *, key: str | None = None, timeout: float = 60.0, retries: int = 2,
        pause: float = 1.0, tokens: int = 256,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(f"{parts.scheme}://{parts.hostname}: give an address such as 'http://localhost:8000/v1'")
        if timeout <= 0 or retries < 0 or not model:
            raise ValueError(f"model={model!r}, timeout={timeout}, retries={retries}: give a name, seconds, tries")
        self.url, self.model, self.name = url.rstrip("/"), model, f"{model} at {parts.netloc}"
        self.timeout, self.retries, self.pause, self.tokens = timeout, retries, pause, tokens
        self._key = os.environ.get("OPENAI_API_KEY", "") if key is None else key

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    def __call__(self, prompt: str) -> str:
        for again in range(self.retries + 1):
            if again:
                time.sleep(self.pause * 2 ** (again - 1))
            try:
                return _answer(self._ask(prompt))
            except HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                problem = f"it answered {error.code} {error.reason}: {said}"
                if error.code not in AGAIN:
                    break
            except TimeoutError:
                problem = f"no answer in {self.timeout:g} s"
            except (OSError, HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, LookupError, TypeError):
                problem = "it answered something else than a chat completion"
                break
        raise JudgeError(f"judge {self.name} failed: {problem}. What was answered before is kept; ask again later")

    def _ask(self, prompt: str) -> Any:
        body = {"model": self.model, "messages": [{"role": "user", "content": str(prompt)}], "temperature": 0,
                "max_tokens": self.tokens}  # fmt: skip
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers, method="POST")
        with urlopen(request, timeout=self.timeout) as response:
            return json.load(response)


def _answer(reply: Any) -> str:
    content = reply["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError(f"the content is {type(content).__name__}")
    return content


def endpoint(url: str, model: str, *, path: str | os.PathLike | None = None, **options: Any) -> Cached:
    """An `Endpoint` whose answers are kept on disk; see `Cached` for the path, `Endpoint` for the options."""
    return Cached(Endpoint(url, model, **options), path)
