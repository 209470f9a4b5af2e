"""A server that says what the real one says, from a script: to see the page at work and to test it without a model.

`python -m tests.router.serving.page_server` serves it until it is interrupted.
"""

from __future__ import annotations

import json
import time
from importlib.resources import files
from threading import Event
from typing import Any

from specialists.domain import load

from ..loopback import Handler, Loopback

PAGE = files("router") / "serving" / "page"
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
KNOWN = {  # name: description, accuracy, its interval, base, majority, heuristic; as the README has them
    "cron": ("A schedule in words as a five-field cron expression", 0.937, [0.903, 0.959], 0.003, 0.0, 0.243),
    "dates": (
        "Calendar dates: weekdays, differences, sums, leap years, the nth weekday of a month",
        *(0.943, [0.911, 0.964], 0.047, 0.087, 0.46),
    ),
    "scheduling": (
        "Meeting rooms: do meetings fit, how many rooms they need, when one more can start",
        *(0.957, [0.927, 0.975], 0.027, 0.29, 0.48),
    ),
}
WORKED = {
    "cron": "30 6 weekdays\nmin 30\nhour 6\ndow 1-5\nAnswer: 30 6 * * 1-5",
    "dates": "2031-03-14\n31-28=3 common\n3:14\n14+3=17\n17-14=3 Friday\nAnswer: Friday",
    "scheduling": "Fit in 2\n0900+A\n1030-A\n1000+B\n1100-B\n1045+C\n1200-C\nfree 2 until 12\n09 10 30\n0900+A1\n"
    "1000+B0\n1030-A1\n10 45\n1045+C0\n11 00\n1100-B1\n12 00\n1200-C2\nAnswer: YES",
}
WORDS = {"cron": ("cron", "every"), "dates": ("day", "date"), "scheduling": ("room", "meeting")}


def specialists() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "version": "1.0.0",
            "channel": "stable",
            "base": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
            "description": about,
            "accuracy": accuracy,
            "exemplars": load(name).exemplars(),
            "n": 300,
            "interval": interval,
            "baselines": [
                {"name": "base", "accuracy": base},
                {"name": "majority", "accuracy": majority},
                {"name": "heuristic", "accuracy": heuristic},
            ],
            "served": 12,
            "note": None,
        }
        for name, (about, accuracy, interval, base, majority, heuristic) in KNOWN.items()
    ]


def stats(uptime: float) -> dict[str, Any]:
    return {
        "uptime_seconds": uptime,
        "waiting": 0,
        "under_way": 1,
        "requests": 1234,
        "tokens": 98765,
        "refused": 2,
        "per_specialist": {
            name: {"requests": 411, "tokens": 32921, "tokens_per_second": 287.4} for name in KNOWN
        },
        "savings": {"dollars": 0.0494, "model": "claude-haiku-5-5", "prices_as_of": "2026-11"},
        "spent": 0.0,
        "fallback": "base",
        "recent": [[float(ago), 150 + (ago * 37) % 220 if ago % 60 < 40 else 0] for ago in range(0, 120, 2)],
        "base": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "problems": ["old@1.0.0 is left out: its adapter is of another base."],
    }


def decision(question: str, model: str) -> dict[str, Any]:
    """As the router would decide, by words in the question."""
    found = [name for name, words in WORDS.items() if any(word in question.lower() for word in words)]
    best = found[0] if found else "dates"
    scores = {name: 0.97 if name in found[:1] else 0.02 for name in KNOWN} | ({} if found else {best: 0.11})
    named = model not in ("auto", "base")
    chosen = model if named else best if found and model == "auto" else None
    second = next(name for name in KNOWN if name != best)
    reason = f"{best} reaches 0.97, and 0.50 is enough"
    if not found:
        reason = f"no specialist reaches 0.50; {best} comes closest with 0.11"
    decided = {
        "question": question,
        "specialist": chosen,
        "version": "1.0.0" if chosen else None,
        "confidence": scores[best],
        "threshold": 0.5,
        "runner_up": {
            "specialist": second if found else best,
            "confidence": scores[second if found else best],
        },
        "exemplars": [
            {"text": text, "specialist": best, "similarity": 0.91 - at / 10}
            for at, text in enumerate(load(best).exemplars()[:3])
        ],
        "reason": reason,
        "scores": scores,
    }
    if model != "auto":
        by_name = {"confidence": None, "threshold": None, "runner_up": None, "exemplars": []}
        decided |= {**by_name, "reason": f"{chosen or 'the base'} was asked for by name"}
        del decided["scores"]
    return decided


class PageServer(Loopback):
    """with PageServer() as server: open server.url. pace: seconds between the lines of an answer."""

    def __init__(self, pace: float = 0.01) -> None:
        self.asked: list[dict[str, Any]] = []
        self.cut = Event()  # a reader went away before its answer had ended
        started = time.monotonic()
        server = self

        class Answering(Handler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/") or "index.html"
                if path in ("specialists", "stats"):
                    self.say(specialists() if path == "specialists" else stats(time.monotonic() - started))
                elif path.rpartition(".")[2] in TYPES and "/" not in path and (PAGE / path).is_file():
                    self.reply(200, (PAGE / path).read_bytes(), TYPES[path.rpartition(".")[2]])
                else:
                    self.reply(404, b'{"error": {"message": "There is nothing here."}}', "application/json")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                try:
                    self.stream(body["messages"][-1]["content"], body["model"])
                except OSError:
                    server.cut.set()

            def stream(self, question: str, model: str) -> None:
                decided = decision(question, model)
                name = decided["specialist"]
                text = WORKED[name] if name else "Lisbon is the capital of Portugal."
                if "long" in question:
                    text = "\n".join([text] * 20)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                self.event(choices=[{"index": 0, "delta": {"role": "assistant"}}], router=decided)
                for line in text.splitlines(keepends=True):
                    time.sleep(pace)
                    self.event(choices=[{"index": 0, "delta": {"content": line}}])
                    if "broken" in question:
                        error = {"message": "The engine failed", "type": "server_error", "code": None}
                        return self.event(error=error)
                told = {
                    "answer": text.rpartition("Answer: ")[2],
                    "text": text,
                    "status": "answered" if name else "handed_on",
                    "tokens": len(text) // 2,
                    "seconds": 0.42,
                }
                self.event(
                    choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], router=decided | told
                )
                self.event(choices=[], usage={"prompt_tokens": 43, "completion_tokens": len(text) // 2})
                self.wfile.write(b"data: [DONE]\n\n")

            def event(self, **values: Any) -> None:
                self.wfile.write(f"data: {json.dumps(values)}\n\n".encode())

            def say(self, value: Any) -> None:
                self.reply(200, json.dumps(value).encode(), "application/json")

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", POLICY)
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Answering)


if __name__ == "__main__":
    with PageServer(pace=0.15) as serving:
        print(serving.url, flush=True)
        Event().wait()
