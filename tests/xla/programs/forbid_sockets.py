"""Run the command line where any look-up or connection is an error; print the status as JSON."""

import json
import socket
import sys

from lightning_melanoma.cli import main

tries = []


def refuse(*args, **kwargs):
    tries.append(str(args))
    raise AssertionError(f"a socket: {args}")


socket.getaddrinfo = socket.gethostbyname = refuse
socket.socket.connect = socket.socket.connect_ex = refuse
main(sys.argv[1:])
print(json.dumps({"tries": tries, "used_xla": "torch_xla" in sys.modules}))
