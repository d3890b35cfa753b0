"""The other end of `forked.commands`: `forked_client.py SOCKET ARGUMENT...`; it imports little."""

import json
import os
import socket
import sys
from pathlib import Path

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    call = [sys.argv[2:], str(Path.cwd()), dict(os.environ)]
    connection.sendall(json.dumps(call).encode() + b"\n")
    with connection.makefile("rb") as reply:
        answer = json.loads(reply.read())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
