"""A contender of an election by an unmodified kazoo: says when it leads, and ends when it can't be sure any more."""
import os
import sys
import threading
import time

from kazoo.client import KazooClient, KazooState

servers, path, name = sys.argv[1:4]


def say(what):
    session = (client.client_id or (0,))[0] & 0xFFFFFFFFFFFFFFFF
    sys.stdout.write("%s %s %d %x\n" % (what, name, time.time_ns(), session))
    sys.stdout.flush()


client = KazooClient(hosts=servers, timeout=2.0)


def listen(state):
    if state != KazooState.CONNECTED:
        say("E")
        os._exit(0)


client.start(timeout=30)
client.add_listener(listen)


def lead():
    say("L")
    threading.Event().wait()


client.Election(path, name).run(lead)
