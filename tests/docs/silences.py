#!/usr/bin/env python3
"""Stands in for Alertmanager where amtool asks for a silence: takes one of an alert that the chart has, and of no other.

Prints its address as the first line; ends with SIGTERM, or after ten minutes. Usage: silences.py ALERTS
"""

import json
import re
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ALERTS = set(re.findall(r"^ +- alert: (\w+)$", Path(sys.argv[1]).read_text(encoding="utf-8"), re.M))


class Silences(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        silence = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        matchers = {matcher["name"]: matcher["value"] for matcher in silence["matchers"] if matcher["isEqual"]}
        known = self.path == "/api/v2/silences" and matchers.get("alertname") in ALERTS and silence["comment"]
        self.send_response(200 if known else 400)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"silenceID": str(uuid.uuid4())} if known else "no such alert").encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Silences)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(600)
