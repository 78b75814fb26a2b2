"""A service in this process that answers as it is told: at once, late, in part, wrongly or never."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Asked:
    """One request: its number from 0, path, headers and JSON body; and what may be done with it."""

    def __init__(self, handler, number):
        self._handler, self.number, self.path, self.headers = handler, number, handler.path, handler.headers
        self.body = json.loads(handler.rfile.read(int(self.headers["Content-Length"])))

    @property
    def prompt(self):
        return self.body["prompt"] if "prompt" in self.body else self.body["messages"][-1]["content"]

    def send(self, status, value=b"", headers=(), announce=None):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self._handler.send_response(status)
        for name, text in {"Content-Length": str(announce or len(raw)), **dict(headers)}.items():
            self._handler.send_header(name, text)
        self._handler.end_headers()
        self._handler.wfile.write(raw)

    def answer(self, text, finish="stop"):
        said = {"message": {"role": "assistant", "content": text}} if "messages" in self.body else {"text": text}
        self.send(200, {"model": "toy-1", "choices": [{"index": 0, "finish_reason": finish, **said}]})


@contextmanager
def service(reply):
    """Yield (the address of the interface, the list of what was asked); `reply(asked)` answers one request."""
    asked, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with lock:
                one = Asked(self, len(asked))
                asked.append(one)
            reply(one)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_):  # whoever asked has left
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
