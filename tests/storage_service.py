"""Google's storage service on loopback: its emulator, behind a proxy that can fail on purpose."""

import http.client
import http.server
import json
import random
import threading
import urllib.parse
from collections import Counter
from pathlib import Path

from gcp_storage_emulator.server import create_server

# The emulator answers one request at a time; what does not find room to wait waits for a second.
http.server.HTTPServer.request_queue_size = 64

FAULTS = ("503", "429", "cut", "short")


class StorageService:
    """A running service; `url` is what ``STORAGE_EMULATOR_HOST`` must say.

    Attributes:
        fault_rate: share of the requests for objects' content and for listings that fail.
        denied: status to answer everything with, as for a bucket that one may not read; not where
            a request brings `token`.
        faults: those made so far, by kind.
        requests: those answered or failed so far, by kind: `content`, `metadata`.
        bytes_sent: of objects' content, by the object's name, where a whole answer was sent.
    """

    def __init__(self, seed: int = 0) -> None:
        self.fault_rate = 0.0
        self.denied: int | None = None
        self.denials = 0
        self.token: str | None = None
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._random = random.Random(seed)
        self._emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
        self._emulator.start()
        # It binds before it says that it runs, but tells its port nowhere else.
        self.emulator_port = self._emulator._api._httpd.server_port
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.service = self
        # The interval at which it looks whether it is to stop, in seconds.
        threading.Thread(target=self._proxy.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def put(self, name: str, content: bytes, bucket: str = "bucket") -> None:
        """Store an object, in place of an older one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator_port)
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        connection.request(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{query}",
            content,
            {"Content-Type": "application/octet-stream"},
        )
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()

    def delete(self, name: str) -> None:
        """Remove an object."""
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator_port)
        connection.request("DELETE", f"/storage/v1/b/bucket/o/{urllib.parse.quote(name, safe='')}")
        assert connection.getresponse().status < 300
        connection.close()

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Store each file of a folder below `prefix`."""
        for path in sorted(folder.iterdir()):
            self.put(f"{prefix}/{path.name}", path.read_bytes())

    def draw_fault(self) -> str | None:
        with self.lock:
            if self._random.random() >= self.fault_rate:
                return None
            fault = self._random.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def close(self) -> None:
        for server in (self._proxy, self._emulator._api._httpd):
            server.shutdown()
            server.server_close()


class _Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    service: StorageService

    def handle_error(self, request, client_address):
        """Say nothing of clients that hang up, as one does whose request is cancelled."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Proxy

    def log_message(self, *args):
        pass

    def do_POST(self):
        # Of Google's accounts: a token for a signed request.
        token = {"access_token": self.server.service.token, "expires_in": 3600}
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, json.dumps(token).encode())

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        service = self.server.service
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        is_content = with_body and not path.startswith("/storage/v1/")
        with service.lock:
            service.requests["content" if is_content else "metadata"] += 1
        is_known = service.token and self.headers.get("Authorization") == f"Bearer {service.token}"
        if service.denied and not is_known:
            with service.lock:
                service.denials += 1
            message = "Anonymous caller does not have storage.objects.list access to the bucket."
            self._send(service.denied, _error(service.denied, message), with_body=with_body)
            return
        fault = service.draw_fault()
        if fault in ("503", "429"):
            self._send(int(fault), _error(int(fault), "try later"), with_body=with_body)
            return
        status, headers, body = self._ask_emulator(service.emulator_port)
        if fault is None and is_content and status < 400:
            with service.lock:
                service.bytes_sent[path.rpartition("/")[2]] += len(body)
        self._send(status, body, headers, with_body=with_body, fault=fault)

    def _ask_emulator(self, port: int) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {name: self.headers[name] for name in ("Range",) if name in self.headers}
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        kept = ("Content-Type", "Content-Range", "ETag")
        return (
            answer.status,
            {key: answer.headers[key] for key in kept if key in answer.headers},
            body,
        )

    def _send(self, status, body, headers=None, *, with_body=True, fault=None) -> None:
        # A body that ends too early where the connection is cut, or where all seems well.
        cut = len(body) // 2 if fault in ("cut", "short") and with_body else len(body)
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        is_honest = fault != "short" or not (headers or {}).get("Content-Range")
        self.send_header("Content-Length", str(len(body) if is_honest else cut))
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        self.close_connection = True


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message}}).encode()
