"""How fast the host API takes policy: 50,000 rules at once, one rule of them, mappings in bulk.

    PYTHONPATH=target/python python3 bench/api.py SOCKET

SOCKET is that of a running daemon with nothing in it. `cargo xtask ci programs` installs what the client needs. The figure is
the daemon's own: from the end of the request to the moment when every worker runs the policy.
"""

import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parent.parent / "crates/api/proto"
GENERATED = tempfile.mkdtemp()
FILES = ["lamina/v1/policy.proto", "lamina/v1/host.proto"]
protoc.main(["", f"-I{PROTO}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}", *FILES])
sys.path.insert(0, GENERATED)

from lamina.v1 import host_pb2 as host, host_pb2_grpc, policy_pb2 as policy  # noqa: E402

RULES = 50_000
CHANGES = 1_500
MAPPINGS = 200_000
channel = grpc.insecure_channel(f"unix:{sys.argv[1]}", options=[("grpc.default_authority", "localhost")])
client = host_pb2_grpc.HostStub(channel)


def apply(operations):
    options = host.ApplyOptions(controller="bench")
    parts = [host.ApplyRequest(options=options)] + [host.ApplyRequest(operations=[one]) for one in operations]
    return client.Apply(iter(parts)).effective_after / 1e6


def rule(number, port):
    made = policy.Rule(name=f"r{number}", priority=number)
    made.when["ip.src"].values.append(f"10.{number >> 8 & 255}.{number & 255}.0/24")
    made.when["l4.dst"].values.append(str(port))
    made.action.allow.SetInParent()
    return made


def put(rules):
    inbound = host.DIRECTION_INBOUND
    return host.Operation(put_rules=host.PutRules(port="vm", layer="acl", direction=inbound, group="in", rules=rules))


def entry(number):
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return policy.MappingEntry(address=address, mac="02:00:00:00:00:02", remote="192.168.1.2")


layer = policy.Layer(name="acl", priority=10, inbound=[policy.Group(group="in")])
apply([
    host.Operation(put_port=host.PutPort(name="vm", port=policy.Port(mac="02:00:00:00:00:01"))),
    host.Operation(put_layer=host.PutLayer(port="vm", layer=layer)),
    host.Operation(put_resource=host.PutResource(name="blue", mapping=policy.Mapping())),
])
whole = apply([put([rule(n, 80) for n in range(i, i + 2000)]) for i in range(0, RULES, 2000)])
print(f"{RULES} rules in one transaction: {whole:.0f} ms")
times = sorted(apply([put([rule(i * 37 % RULES, 81 + i % 1000)])]) for i in range(CHANGES))
print(f"one rule of them: median {times[CHANGES // 2]:.2f} ms, p99 {times[CHANGES * 99 // 100]:.2f} ms")
for transient in (True, False):
    bulk = [
        host.Operation(put_mapping_entries=host.PutMappingEntries(
            mapping="blue", entries=[entry(n) for n in range(i, i + 20_000)], transient=transient))
        for i in range(0, MAPPINGS, 20_000)
    ]
    kind = "transient" if transient else "durable"
    print(f"{kind} mappings: {MAPPINGS / apply(bulk) * 1000:.0f} per second")
