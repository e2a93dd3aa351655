#!/usr/bin/env python3
"""A controller in Python: its client is generated from the protobuf files of the host API, nothing else is needed.

    pip install grpcio grpcio-tools googleapis-common-protos
    python3 examples/python/controller.py --socket /run/lamina/lamina.sock --port vm1

On the port it keeps a layer that lets the guest be reached by ping and by TCP port 443 only. It puts the layer, lists what
is there now, follows what others see of it, and shows how a mistake is told. Each line that it prints is JSON.

Two things are worth copying. A Unix socket has no host name, so the name that gRPC sends is set (`default_authority`).
And a refusal's details are in the status, as a `Refusal`: a program decides by `code`, a person reads `message` and `help`.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import json_format
from google.rpc import status_pb2
from grpc_tools import protoc
import grpc_tools

PROTO = pathlib.Path(__file__).resolve().parents[2] / "crates" / "api" / "proto"


def generate(proto):
    """Generates the client from the files in `proto`; returns the modules of the messages and of the service."""
    folder = tempfile.TemporaryDirectory(prefix="lamina-python-")
    files = sorted(str(file) for file in proto.rglob("*.proto"))
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    failed = protoc.main(
        ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={folder.name}", f"--grpc_python_out={folder.name}"]
        + files
    )
    if failed:
        sys.exit(f"the protobuf files in {proto} cannot be compiled")
    sys.path.insert(0, folder.name)
    host, policy, service = (
        importlib.import_module(f"lamina.v1.{name}") for name in ("host_pb2", "policy_pb2", "host_pb2_grpc")
    )
    folder.cleanup()
    return host, policy, service


class Controller:
    """The API as one controller uses it."""

    def __init__(self, socket, name, proto=PROTO):
        self.host, self.policy, service = generate(proto)
        self.name = name
        channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "lamina")])
        self.stub = service.HostStub(channel)

    def apply(self, *operations, dry_run=False):
        """One transaction: all of it, or an error and nothing."""
        options = self.host.ApplyOptions(controller=self.name, dry_run=dry_run)
        # The first part has the options. Operations of a large transaction go into many parts.
        parts = [self.host.ApplyRequest(options=options)]
        parts += [self.host.ApplyRequest(operations=[operation]) for operation in operations]
        return self.stub.Apply(iter(parts))

    def list(self, **selector):
        """The objects that agree with the selector's fields."""
        return self.stub.List(self.host.ListRequest(selector=self.host.Ref(**selector)))

    def watch(self, after_revision, **selector):
        """Changes after a revision, as they come."""
        request = self.host.WatchRequest(selector=self.host.Ref(**selector), after_revision=after_revision)
        return self.stub.Watch(request)

    def mistakes(self, error):
        """What a refused transaction's error says: its mistakes."""
        refusal = self.host.Refusal()
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Is(refusal.DESCRIPTOR):
                        detail.Unpack(refusal)
        return refusal.mistakes


def rule(policy, name, **conditions):
    """A rule that begins a conversation. Fields are written as in a policy document, `l4_dst` for `l4.dst`."""
    when = {field.replace("_", "."): policy.Values(values=[value]) for field, value in conditions.items()}
    return policy.Rule(
        name=name, when=when, action=policy.Action(allow=policy.Nothing()), stateful=policy.Stateful()
    )


def reachable(controller, port, rules):
    """The operation that puts the layer `python` with `rules`."""
    policy, host = controller.policy, controller.host
    layer = policy.Layer(
        name="python",
        priority=20,
        default=policy.LayerDefault(inbound="block", outbound="pass"),
        inbound=[policy.Group(group="reachable", rules=rules)],
    )
    return host.Operation(put_layer=host.PutLayer(port=port, layer=layer))


def show(what, **values):
    """Prints a line."""
    print(json.dumps({"what": what, **values}), flush=True)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", default="/run/lamina/lamina.sock")
    parser.add_argument("--as", dest="controller", default="python", help="the controller to act as")
    parser.add_argument("--port", required=True, help="the port to keep the layer on")
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO, help="the folder of the protobuf files")
    arguments = parser.parse_args()
    controller = Controller(arguments.socket, arguments.controller, arguments.proto)
    host, policy = controller.host, controller.policy

    before = controller.stub.Status(host.StatusRequest()).revision
    changes = controller.watch(before, port=arguments.port)
    ping = rule(policy, "ping", icmp_type="8")
    https = rule(policy, "https", ip_proto="tcp", l4_dst="443")
    for _ in range(2):
        # The second time nothing changes: a controller that starts again may say everything once more.
        reply = controller.apply(reachable(controller, arguments.port, [ping, https]))
        show("applied", revision=reply.revision, created=reply.created, unchanged=reply.unchanged)

    for listed in controller.list(kind=host.KIND_RULE, port=arguments.port, layer="python"):
        conditions = {field: list(values.values) for field, values in listed.rule.when.items()}
        show("listed", rule=listed.ref.name, owner=listed.owner, when=conditions)

    for change in changes:
        if change.kind == host.CHANGE_KIND_CREATED:
            show("watched", object=json_format.MessageToDict(change.object.ref), revision=change.revision)
            if change.object.ref.kind == host.KIND_RULE and change.object.ref.name == "ping":
                break
    changes.cancel()

    try:
        mistaken = rule(policy, "ping", ip_src="$nobody-made-this")
        controller.apply(reachable(controller, arguments.port, [mistaken]))
    except grpc.RpcError as error:
        for mistake in controller.mistakes(error):
            show("refused", status=error.code().name, code=mistake.code, message=mistake.message, help=mistake.help)


if __name__ == "__main__":
    main()
