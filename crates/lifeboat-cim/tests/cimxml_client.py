"""pywbem as the client of a server that the calling test plays.

Requests go to standard output, one a line (CIMOperation, CIMMethod, CIMObject and the body in base64, separated by tabs);
the test answers each with a line of base64 on standard input. What pywbem makes of the answers is compared here.
"""

import base64
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pywbem
from pywbem import CIMDateTime, CIMInstance, CIMInstanceName, Uint16, Uint32, WBEMConnection

SPACE = "root/virtualization/v2"
NAMES = ["0A", "0B", "0C"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fields = [self.headers[n] for n in ("CIMOperation", "CIMMethod", "CIMObject")]
        print("\t".join(fields + [base64.b64encode(body).decode()]), flush=True)
        answer = base64.b64decode(sys.stdin.readline())
        self.send_response(200)
        self.send_header("Content-Type", 'application/xml; charset="utf-8"')
        self.send_header("CIMOperation", "MethodResponse")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def vm(name):
    keys = {"CreationClassName": "Msvm_ComputerSystem", "Name": name}
    return CIMInstanceName("Msvm_ComputerSystem", keys, namespace=SPACE)


def hostless(value):
    """Paths of this server come with its name in some answers and without it in others."""
    if isinstance(value, list):
        return [hostless(v) for v in value]
    if isinstance(value, CIMInstanceName):
        value = value.copy()
        value.host = None
    return value


def same(found, expected):
    found, expected = hostless(found), hostless(expected)
    assert found == expected, f"{found!r} instead of {expected!r}"


def status_of(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except pywbem.CIMError as error:
        same(error.status_code, code)
        return error.status_description
    raise AssertionError(f"{call} was not refused")


def check_vm(instance, name, path=True):
    same(instance.classname, "Msvm_ComputerSystem")
    same(instance["ElementName"], "über <&> \"q\"\r\n" + name)
    same(instance["OperationalStatus"], [2, 32768])
    assert isinstance(instance["OperationalStatus"][0], Uint16)
    same(instance["EnabledState"], 2)
    same(instance["InstallDate"], CIMDateTime("20240301100000.000000+000"))
    same(instance["OtherEnabledState"], None)
    if path:
        same(instance.path, vm(name))


def reads(conn):
    found = conn.EnumerateInstances("Msvm_ComputerSystem")
    for instance, name in zip(found, NAMES, strict=True):
        check_vm(instance, name)
    same(conn.EnumerateInstanceNames("Msvm_ComputerSystem"), [vm(n) for n in NAMES])
    one = conn.GetInstance(vm("0b"))
    check_vm(one, "0B", path=False)
    part = conn.GetInstance(vm("0B"), PropertyList=["elementname", "Nothing"], IncludeClassOrigin=True)
    same(list(part.properties), ["ElementName"])
    assert part.properties["ElementName"].class_origin
    same(list(conn.GetInstance(vm("0B"), PropertyList=[]).properties), [])
    for instance, name in zip(conn.ExecQuery("WQL", "select * from Msvm_ComputerSystem"), NAMES, strict=True):
        check_vm(instance, name)
    status_of(6, conn.GetInstance, vm("0D"))
    status_of(5, conn.EnumerateInstances, "Msvm_Nothing")
    status_of(3, conn.EnumerateInstances, "Msvm_ComputerSystem", namespace="root/nothing")
    same(status_of(7, conn.CreateInstance, CIMInstance("Msvm_ComputerSystem", {"Name": "x"}), namespace=SPACE), "no \"writing\"\n<here>")
    status_of(7, conn.DeleteInstance, vm("0A"))
    status_of(7, conn.ModifyInstance, CIMInstance("Msvm_ComputerSystem", {"Caption": "x"}, path=vm("0A")))


def associations(conn):
    links = conn.References(vm("0A"), ResultClass="Msvm_SettingsDefineState", Role="ManagedElement")
    same([link["ManagedElement"] for link in links], [vm("0A")])
    same(links[0].path["ManagedElement"], vm("0A"))
    names = conn.ReferenceNames(vm("0A"))
    same(names, [link.path for link in links])
    ends = conn.Associators(vm("0A"), AssocClass="Msvm_SettingsDefineState", ResultRole="SettingData")
    same([e["InstanceID"] for e in ends], ["Microsoft:0A\\HVR"])
    same(ends[0].path.host is not None, True)
    same(conn.AssociatorNames(vm("0A")), [e.path for e in ends])
    same(conn.GetInstance(names[0]).classname, "Msvm_SettingsDefineState")


def pulls(conn):
    pages = list(conn.IterEnumerateInstances("Msvm_ComputerSystem", MaxObjectCount=2))
    for instance, name in zip(pages, NAMES, strict=True):
        check_vm(instance, name)
    same(list(conn.IterEnumerateInstancePaths("Msvm_ComputerSystem", MaxObjectCount=1)), [vm(n) for n in NAMES])
    same(len(list(conn.IterReferenceInstances(vm("0A"), MaxObjectCount=10))), 1)
    same(len(list(conn.IterReferenceInstancePaths(vm("0A"), MaxObjectCount=10))), 1)
    same(len(list(conn.IterAssociatorInstances(vm("0A"), MaxObjectCount=10))), 1)
    same(len(list(conn.IterAssociatorInstancePaths(vm("0A"), MaxObjectCount=10))), 1)
    queried = conn.IterQueryInstances("WQL", "select * from Msvm_ComputerSystem", MaxObjectCount=2)
    for instance, name in zip(queried.generator, NAMES, strict=True):
        check_vm(instance, name, path=False)
    opened = conn.OpenEnumerateInstances("Msvm_ComputerSystem", MaxObjectCount=0, OperationTimeout=30)
    same((opened.instances, opened.eos), ([], False))
    conn.CloseEnumeration(opened.context)
    status_of(21, conn.PullInstancesWithPath, ("nothing", SPACE), 1)


def classes(conn):
    whole = conn.GetClass("Msvm_ReplicationService", LocalOnly=False, IncludeClassOrigin=True)
    same(whole.properties["Name"].qualifiers["Key"].value, True)
    create = whole.methods["CreateReplicationRelationship"]
    same(create.return_type, "uint32")
    assert create.parameters["ComputerSystem"].type == "reference" and create.parameters["ComputerSystem"].qualifiers["In"].value
    assert create.parameters["Job"].qualifiers["Out"].value
    local = conn.GetClass("Msvm_ReplicationService", IncludeQualifiers=False)
    assert len(local.properties) < len(whole.properties) and not local.qualifiers
    same([q.qualifiers for q in local.methods.values() if q.qualifiers], [])
    everything = conn.EnumerateClasses(DeepInheritance=True, LocalOnly=False)
    same([c.classname for c in everything], conn.EnumerateClassNames(DeepInheritance=True))
    assert len(everything) > 50
    key = conn.GetQualifier("Key")
    assert key.type == "boolean" and key.scopes["PROPERTY"] and not key.overridable
    assert any(q.name == "EmbeddedInstance" and q.scopes["PARAMETER"] for q in conn.EnumerateQualifiers())


def methods(conn):
    service = CIMInstanceName("Msvm_ReplicationService", {"Name": "replicasvc", "SystemName": "h\\\"x\""}, namespace=SPACE)
    setting = CIMInstance("Msvm_ReplicationSettingData", {"ReplicationInterval": Uint16(300), "IncludedDisks": ["a\\b", "c"]})
    result, out = conn.InvokeMethod("CreateReplicationRelationship", service, ComputerSystem=vm("0A"), ReplicationSettingData=setting)
    same(result, Uint32(4096))
    same(out["Job"].keybindings["InstanceID"], "JOB-1")
    same(out["Job"].namespace, SPACE)
    params = [("ComputerSystem", vm("0A"))]
    result, out = conn.InvokeMethod("GetReplicationStatistics", service, params)
    same(result, 0)
    same([s.classname for s in out["ReplicationStatistics"]], ["Msvm_ReplicationStatistics"] * 2)
    same(out["ReplicationStatistics"][0]["StartStatisticTime"], CIMDateTime("20240301100000.000000+000"))
    assert "ReplicationHealthIssues" not in out
    result, _ = conn.InvokeMethod("InitiateFailover", service, [("ComputerSystem", vm("0A")), ("SnapshotSettingData", None)])
    same(result, 32775)
    status_of(4, conn.InvokeMethod, "InitiateFailover", service, [("ComputerSystem", "text")])
    status_of(17, conn.InvokeMethod, "Nothing", service)
    same(conn.InvokeMethod("StopService", "Msvm_ReplicationService")[0], 32770)


def main():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    conn = WBEMConnection(f"http://127.0.0.1:{server.server_port}", default_namespace=SPACE, use_pull_operations=True)
    for part in (reads, associations, pulls, classes, methods):
        part(conn)


main()
