#!/usr/bin/python3
"""What the demo needs beside the lifeboat command: talk to the guest's agent, read JSON and the guest's console.
Only the standard library. Nothing here knows how Lifeboat works; the verdicts come from the guest.

  tools.py ports N              N free TCP ports of the loopback address
  tools.py guest SOCKET SCRIPT  run a shell script in the guest, through its agent
  tools.py get PATH             one value of the JSON document on standard input, as a.b.0.c
  tools.py acked CONSOLE STREAM  number and time (ms) of the last record the guest reported as durable
  tools.py sealed REPLICA       files of the sealed recovery points of a replica's directory, base included
  tools.py pids DIR             daemons and QEMU processes whose command line names a file below DIR
"""

import base64
import json
import os
import socket
import sys
import time


def ports(count):
    # All bound before the first is given back, so that they differ.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(count))]
    print(*(s.getsockname()[1] for s in sockets))


class Agent:
    """The QEMU guest agent behind a Unix socket: one JSON document per line each way."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")
        number = os.getpid()
        # 0xff makes the agent forget half a request of somebody who was here before; it answers that with an error.
        self.socket.sendall(b"\xff")
        self.send("guest-sync", id=number)
        while self.receive().get("return") != number:
            pass

    def send(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def receive(self):
        line = self.lines.readline().lstrip(b"\xff")
        if not line:
            sys.exit("the guest agent closed the connection")
        return json.loads(line)

    def ask(self, command, **arguments):
        self.send(command, **arguments)
        answer = self.receive()
        if "error" in answer:
            sys.exit(f"the guest agent refused: {answer['error'].get('desc')}")
        return answer.get("return")


def guest(path, script):
    agent = Agent(path)
    started = agent.ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
    while True:
        status = agent.ask("guest-exec-status", pid=started["pid"])
        if status["exited"]:
            break
        time.sleep(0.1)
    for stream in ("out-data", "err-data"):
        sys.stdout.write(base64.b64decode(status.get(stream, "")).decode(errors="replace"))
    sys.exit(status.get("exitcode", 1))


def get(path):
    value = json.load(sys.stdin)
    for step in path.split("."):
        value = None if value is None else value[int(step)] if isinstance(value, list) else value.get(step)
    print("" if value is None else value)


def acked(console, stream):
    last = None
    with open(console, errors="replace") as lines:
        for line in lines:
            words = line.split()
            # The line that was being printed when the host died may lack its end.
            if words[:2] == ["ACK", stream] and len(words) == 4 and line.endswith("\n"):
                last = words[2:]
    if not last:
        sys.exit("the guest reported no durable record")
    print(*last)


def sealed(replica):
    with open(os.path.join(replica, "manifest.json")) as file:
        manifest = json.load(file)
    files = {layer["file"] for point in manifest["points"] for layer in point["layers"]}
    files |= {f"disks/{disk}/base.raw" for disk in os.listdir(os.path.join(replica, "disks"))}
    print(*sorted(f for f in files if os.path.exists(os.path.join(replica, f))), sep="\n")


def pids(directory):
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]).startswith(("lifeboat", "qemu")) and any(directory + "/" in w for w in words):
            print(entry)


if __name__ == "__main__":
    commands = {"ports": ports, "guest": guest, "get": get, "acked": acked, "sealed": sealed, "pids": pids}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    try:
        commands[sys.argv[1]](*sys.argv[2:])
    except (OSError, ValueError) as error:
        sys.exit(f"tools.py {sys.argv[1]}: {error}")
