#!/usr/bin/env python3
"""A directory in Python: it answers the mapping misses of a table, so that nobody has to know every address beforehand.

    python3 examples/python/directory.py --socket /run/lamina/lamina.sock --as vnet --table blue --directory who-is-where.json

The file says who is where: {"10.0.0.11": {"mac": "02:00:00:00:00:11", "remote": "192.168.50.2"}}. The table has `on-miss: wait`:
a packet to an address that it lacks waits in the switch until this program has answered, and goes on then. That an address is
nobody's is an answer, too. Each line that it prints is JSON.
"""

import argparse
import json
import pathlib

from controller import PROTO, Controller, show


def answer(controller, table, address, tenant, known):
    """Answers one miss: with the entry, or with the word that there is none."""
    host, policy = controller.host, controller.policy
    if known is None:
        name = f"{address}@{tenant}" if tenant else address
        entry = host.Ref(kind=host.KIND_MAPPING_ENTRY, mapping=table, name=name)
        controller.apply(host.Operation(delete=host.Delete(ref=entry)))
        show("unknown", address=address)
        return
    entry = policy.MappingEntry(address=address, tenant=tenant or None, mac=known["mac"], remote=known["remote"])
    # Transient: after a restart of the daemon it is asked for again.
    put = host.PutMappingEntries(mapping=table, entries=[entry], transient=True)
    controller.apply(host.Operation(put_mapping_entries=put))
    show("answered", address=address, remote=known["remote"])


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", default="/run/lamina/lamina.sock")
    parser.add_argument("--as", dest="controller", required=True, help="the table's owner, or an agent of it")
    parser.add_argument("--table", required=True)
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO, help="the folder of the protobuf files")
    arguments = parser.parse_args()
    controller = Controller(arguments.socket, arguments.controller, arguments.proto)
    host = controller.host
    directory = json.loads(arguments.directory.read_text())

    request = host.EventsRequest(controller=arguments.controller, kinds=[host.EVENT_KIND_MAPPING_MISS])
    events = controller.stub.Events(request)
    # With its first header the switch knows that somebody answers: packets wait from now on.
    events.initial_metadata()
    show("listening", table=arguments.table)
    for event in events:
        if event.kind == host.EVENT_KIND_MAPPING_MISS and event.table == arguments.table:
            answer(controller, event.table, event.address, event.tenant, directory.get(event.address))


if __name__ == "__main__":
    main()
