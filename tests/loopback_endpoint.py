"""A server on loopback that speaks OpenAI's API and can be made to fail, for tests of models behind an endpoint."""

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-0123456789abcdefghij"


class LoopbackEndpoint:
    """Answers requests with ``answer(body)``: a text, or a whole choice.

    Attributes:
        faults: for the next requests, each once: a status; (status, headers); "cut", "garbage", "empty", "stranger"; or a
            number of seconds to wait, as a float.
        bodies: of all requests.
        answered: bodies of the requests that got an answer.
        keys: of all requests.
    """

    def __init__(self, answer=lambda body: "The answer is 7.", *, model="tiny", key=KEY):
        self.answer, self.model, self.key = answer, model, key
        self.faults, self.bodies, self.answered, self.keys = deque(), [], [], []
        self.busy, self.most_busy, self.lock = 0, 0, threading.Lock()
        self.port, self.server = 0, None

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self):
        """Start, or start again at the same address."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.respond(self)

            def log_message(self, *args):
                pass

        ThreadingHTTPServer.daemon_threads = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def respond(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization", "").removeprefix("Bearer "))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            fault = self.faults.popleft() if self.faults else None
        try:
            self._respond(handler, body, fault)
        finally:
            with self.lock:
                self.busy -= 1

    def _respond(self, handler, body, fault):
        if isinstance(fault, float):
            time.sleep(fault)
        if self.key and self.keys[-1] != self.key:
            send(handler, 401, {"error": {"message": f"Incorrect API key provided: {self.keys[-1]}"}})
        elif isinstance(fault, int):
            send(handler, fault, {"error": {"message": f"fault {fault}"}})
        elif isinstance(fault, tuple):
            send(handler, fault[0], {"error": {"message": "wait"}}, fault[1])
        elif fault == "cut":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            handler.close_connection = True
        elif fault == "garbage":
            send(handler, 200, b"<html>not JSON</html>")
        elif fault == "empty":
            send(handler, 200, {"model": self.model, "choices": []})
        else:
            response = self.response(body) | ({"model": "stranger"} if fault == "stranger" else {})
            self.answered.append(body)
            send(handler, 200, response)

    def response(self, body):
        choice = self.answer(body)
        text = choice["text"] if isinstance(choice, dict) else choice
        rest = {"finish_reason": "stop", **(choice if isinstance(choice, dict) else {}), "index": 0}
        if "messages" in body:
            rest["message"] = {"role": "assistant", "content": text}
            rest.pop("text", None)
            prompt = body["messages"][0]["content"]
        else:
            rest["text"], prompt = text, body["prompt"]
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        return {"id": "x", "model": self.model, "choices": [rest], "usage": usage}


def send(handler, status, content, headers=None):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
