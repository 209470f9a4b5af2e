"""The errors of Anthropic's SDK as one sentence each that says what to do. Imported only where the SDK already is."""

from __future__ import annotations

import anthropic
import httpx2

from specialists.errors import BadInput, RouterError, Unavailable

SHOWN = 200  # characters of the API's own words

_LOST = (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError)


def may_be_billed(error: anthropic.APIConnectionError) -> bool:
    """Whether the request had been sent before the connection failed, so that an answer may have been made."""
    return isinstance(error.__cause__, _LOST)


def plain(error: anthropic.AnthropicError, model: str, client: anthropic.Anthropic) -> RouterError:
    """The error for the user: BadInput where the request or the model must change, else Unavailable."""
    tries = "1 try" if client.max_retries == 0 else f"{client.max_retries + 1} tries"
    if isinstance(error, anthropic.APIStatusError):
        return _status(error, model, tries)
    if isinstance(error, anthropic.APITimeoutError):
        return Unavailable(
            f"{client.base_url} gave no answer in time in {tries}; try again, or allow less text."
        )
    if isinstance(error, anthropic.APIConnectionError):
        if may_be_billed(error):
            return Unavailable(
                f"The connection to {client.base_url} broke off in {tries}; try again in a while."
            )
        return Unavailable(
            f"{client.base_url} could not be reached in {tries}; check the network, the proxy settings and "
            "ANTHROPIC_BASE_URL."
        )
    return Unavailable(
        f"Claude could not be asked ({_words(str(error))}); check ANTHROPIC_API_KEY and the settings."
    )


def _status(error: anthropic.APIStatusError, model: str, tries: str) -> RouterError:
    code = error.status_code
    said = _words(error.api_message or "no reason given")
    if code == 401:
        return Unavailable(
            f"Anthropic does not accept the key (401: {said}); set ANTHROPIC_API_KEY to a valid one."
        )
    if code in (402, 403):
        return Unavailable(
            f"The key may not ask {model} ({code}: {said}); settle that on console.anthropic.com, or use another key."
        )
    if code == 404:
        return BadInput(
            f"Anthropic does not know {model} ({said}); choose another model, or check ANTHROPIC_BASE_URL."
        )
    if code == 429:
        return Unavailable(
            f"Anthropic's rate limit still held after {tries} (429: {said}); wait some minutes, then try again."
        )
    if code >= 500 or code in (408, 409):
        return Unavailable(
            f"Anthropic could not answer in {tries} ({code}: {said}); try again in a few minutes."
        )
    return BadInput(f"Anthropic did not take the request ({code}: {said}); change what that names.")


def _words(text: str) -> str:
    """A server's words on one line, without what could steer a terminal."""
    line = " ".join(text.split())[:SHOWN].rstrip(".")
    return "".join(letter for letter in line if letter.isprintable())
