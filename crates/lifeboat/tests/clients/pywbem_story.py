"""The story over CIM-XML, with pywbem: `pywbem_story.py FACTS.json`. Facts: addresses, users, and the VM."""

import json
import sys

import pywbem

import story
from story import Host, Refused, equal, expect

KINDS = {
    2: "denied",
    3: "namespace",
    4: "parameter",
    5: "class",
    6: "not found",
    7: "unsupported",
    14: "language",
    15: "query",
    16: "method",
    17: "method",
    21: "context",
    25: "filter",
}


class Thing:
    """An instance as pywbem typed it."""

    def __init__(self, instance, ref=None):
        self.instance = instance
        self.cls = instance.classname
        self.ref = ref if ref is not None else instance.path

    def value(self, name):
        return self.instance[name] if name in self.instance else None

    def text(self, name):
        value = self.value(name)
        expect(value is None or isinstance(value, (str, pywbem.CIMDateTime)), f"{self.cls}.{name} is {value!r}, no text")
        return None if value is None else str(value)

    def number(self, name):
        value = self.value(name)
        if isinstance(value, list):
            value = value[0]
        expect(value is None or isinstance(value, pywbem.CIMInt), f"{self.cls}.{name} is {value!r}, no number")
        return None if value is None else int(value)

    def flag(self, name):
        value = self.value(name)
        expect(value is None or isinstance(value, bool), f"{self.cls}.{name} is {value!r}, no boolean")
        return value

    def texts(self, name):
        value = self.value(name)
        expect(value is None or isinstance(value, list), f"{self.cls}.{name} is {value!r}, no array")
        return value or []


class CimXml(Host):
    def __init__(self, name, port, facts, who="administrator"):
        self.name, self.port, self.facts = name, port, facts
        self.connection = self.connect(who)
        self.classes = {}

    def connect(self, who, **more):
        return pywbem.WBEMConnection(
            f"https://127.0.0.1:{self.port}",
            tuple(self.facts["users"][who]) if who else None,
            default_namespace="root/virtualization/v2",
            ca_certs=self.facts["ca"],
            timeout=120,
            **more,
        )

    def call(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except pywbem.CIMError as error:
            expect(error.status_description, f"CIM error {error.status_code} without words")
            raise Refused(KINDS.get(error.status_code, error.status_code), error.status_description) from None

    def query(self, wql):
        return [Thing(i) for i in self.call(self.connection.ExecQuery, "WQL", wql)]

    def instances(self, cls):
        found = self.call(self.connection.EnumerateInstances, cls)
        return [Thing(i) for i in found]

    def names(self, cls):
        return self.call(self.connection.EnumerateInstanceNames, cls)

    def get(self, ref):
        return Thing(self.call(self.connection.GetInstance, ref), ref)

    def related(self, ref, association=None, result=None):
        found = self.call(self.connection.Associators, ref, AssocClass=association, ResultClass=result)
        return [Thing(i) for i in found]

    def links(self, ref, association):
        found = self.call(self.connection.References, ref, ResultClass=association)
        return [Thing(i) for i in found]

    def invoke(self, ref, method, **arguments):
        parameters = [self.parameter(n, v) for n, v in arguments.items()]
        value, out = self.call(self.connection.InvokeMethod, method, ref, parameters)
        expect(isinstance(value, pywbem.Uint32), f"{method} returned {value!r}")
        return int(value), {n: self.output(n, v) for n, v in out.items()}

    @staticmethod
    def parameter(name, value):
        if value is None and name == "SnapshotSettingData":
            return pywbem.CIMParameter(name, "reference", value=None)
        if isinstance(value, int) and not isinstance(value, bool):
            return name, pywbem.Uint16(value)
        return name, value

    @classmethod
    def output(cls, name, value):
        if isinstance(value, list):
            return [cls.output(name, v) for v in value]
        return Thing(value) if isinstance(value, pywbem.CIMInstance) else value

    def declared(self, cls):
        if cls not in self.classes:
            self.classes[cls] = self.call(self.connection.GetClass, cls, LocalOnly=False)
        return self.classes[cls]

    def changed(self, thing, **changes):
        instance = thing.instance.copy()
        instance.path = None
        self.fill(instance, changes)
        return instance

    def made(self, cls, **properties):
        instance = pywbem.CIMInstance(cls)
        self.fill(instance, properties)
        return instance

    def fill(self, instance, properties):
        declared = self.declared(instance.classname).properties
        for name, value in properties.items():
            kind = declared[name]
            if value is not None and not isinstance(value, list):
                value = pywbem.cimvalue(value, kind.type)
            instance[name] = pywbem.CIMProperty(name, value, type=kind.type, is_array=kind.is_array)

    # What only this protocol has.

    def refused(self, kind, function, *args, **kwargs):
        try:
            found = self.call(function, *args, **kwargs)
        except Refused as error:
            equal(error.kind, kind, f"the error of {function.__name__}{args}")
            return
        raise story.WrongAnswer(f"{function.__name__}{args} gave {found}")

    def wrong_calls(self, told):
        connection, vm, service = self.connection, told.vm(self).ref, told.service(self).ref
        self.refused("namespace", connection.EnumerateInstances, "Msvm_ComputerSystem", namespace="root/nowhere")
        self.refused("class", connection.EnumerateInstances, "Msvm_Nothing")
        self.refused("class", connection.GetClass, "Msvm_Nothing")
        lost = vm.copy()
        lost["Name"] = "00000000-0000-0000-0000-000000000001"
        self.refused("not found", connection.GetInstance, lost)
        self.refused("not found", connection.Associators, lost)
        self.refused("not found", connection.InvokeMethod, "RequestStateChange", lost, RequestedState=pywbem.Uint16(2))
        self.refused("method", connection.InvokeMethod, "MakeCoffee", service)
        self.refused("language", connection.ExecQuery, "SQL", "SELECT * FROM Msvm_ComputerSystem")
        self.refused("query", connection.ExecQuery, "WQL", "SELECT * FORM Msvm_ComputerSystem")
        self.refused("unsupported", connection.CreateInstance, pywbem.CIMInstance("Msvm_ComputerSystem"))
        self.refused("unsupported", connection.DeleteInstance, vm)
        # A reference to a VM of another host.
        told.unserved(self, "CommitFailover", story.FILE_NOT_FOUND, ComputerSystem=lost)
        self.reads(told, vm)
        self.pulls()
        self.roles(told)

    def reads(self, told, vm):
        connection = self.connection
        cls = self.declared("Msvm_ReplicationService")
        equal(len(set(cls.methods) & METHODS), len(METHODS), "methods of the service that its class declares")
        parameter = cls.methods["InitiateFailover"].parameters["SnapshotSettingData"]
        equal(parameter.type, "reference", "type of a parameter")
        names = connection.EnumerateClassNames(DeepInheritance=True)
        for name in ("CIM_ComputerSystem", "Msvm_ComputerSystem", "Msvm_ReplicationRelationship", "Msvm_ConcreteJob"):
            expect(name in names, f"class {name} is not listed")
        expect("Msvm_ComputerSystem" in connection.EnumerateClassNames(ClassName="CIM_ComputerSystem"), "the subclasses of a class")
        base = connection.EnumerateInstanceNames("CIM_ComputerSystem")
        expect(vm.keybindings["Name"] in [n["Name"] for n in base], "an instance by its base class")
        some = connection.GetInstance(vm, PropertyList=["ElementName", "EnabledState"])
        expect(set(some.keys()) <= {"ElementName", "EnabledState"}, f"properties of a PropertyList: {some.keys()}")
        lower = vm.copy()
        lower["Name"] = vm["Name"].lower()
        equal(connection.GetInstance(lower)["ElementName"], "story", "a VM by its GUID in small letters")
        ends = connection.AssociatorNames(vm, AssocClass="Msvm_SettingsDefineState")
        equal(len(ends), 1, "names of associated instances")
        links = connection.ReferenceNames(vm, ResultClass="Msvm_SettingsDefineState")
        equal(len(links), 1, "names of associations")
        link = connection.GetInstance(links[0])
        equal(link["ManagedElement"]["Name"], told.guid, "an association by its own name")
        server = pywbem.WBEMServer(self.connect("viewer"))
        equal(server.interop_ns.lower(), "root/interop", "the interop namespace")
        expect("root/virtualization/v2" in [n.lower() for n in server.namespaces], f"namespaces: {server.namespaces}")

    def pulls(self):
        connection = self.connection
        all_of_it = len(connection.EnumerateInstances("Msvm_StorageAllocationSettingData"))
        expect(all_of_it >= 2, "disks")
        opened = connection.OpenEnumerateInstances("Msvm_StorageAllocationSettingData", MaxObjectCount=1)
        found, context = list(opened.instances), opened.context
        equal((len(found), opened.eos), (1, False), "the first of an enumeration")
        while context is not None:
            pulled = connection.PullInstancesWithPath(context, MaxObjectCount=1)
            found += pulled.instances
            used, context = context, None if pulled.eos else pulled.context
        equal(len(found), all_of_it, "instances that were pulled")
        equal(len({str(f.path) for f in found}), all_of_it, "different instances that were pulled")
        self.refused("context", connection.PullInstancesWithPath, used, MaxObjectCount=1)
        opened = connection.OpenEnumerateInstancePaths("Msvm_StorageAllocationSettingData", MaxObjectCount=0)
        equal(list(opened.paths), [], "an enumeration that is opened with nothing")
        connection.CloseEnumeration(opened.context)
        self.refused("context", connection.PullInstancePaths, opened.context, MaxObjectCount=1)
        opened = connection.OpenQueryInstances("WQL", "SELECT * FROM Msvm_ComputerSystem", MaxObjectCount=100)
        equal(opened.eos, True, "a query that fits into its first answer")
        pulling = self.connect("viewer", use_pull_operations=True)
        equal(
            len(list(pulling.IterEnumerateInstances("Msvm_StorageAllocationSettingData", MaxObjectCount=1))),
            all_of_it,
            "instances of an iteration",
        )

    def roles(self, told):
        viewer = CimXml(self.name, self.port, self.facts, "viewer")
        told.unserved(viewer, "RevertFailover", story.ACCESS_DENIED)
        operator = CimXml(self.name, self.port, self.facts, "operator")
        told.unserved(operator, "RevertFailover", story.INVALID_STATE)
        settings = operator.made("Msvm_ReplicationServiceSettingData", RecoveryServerEnabled=False)
        told.refused(
            operator, told.service(operator).ref, "ModifyServiceSettings", story.ACCESS_DENIED, SettingData=settings
        )
        certificate, key = self.facts["certificate"]
        shown = self.connect(None, x509={"cert_file": certificate, "key_file": key})
        equal(len(shown.EnumerateInstanceNames("Msvm_ReplicationService")), 1, "what the owner of a certificate sees")
        self.facts["users"]["nobody"] = [self.facts["users"]["administrator"][0], "wrong"]
        try:
            CimXml(self.name, self.port, self.facts, "nobody").names("Msvm_ComputerSystem")
        except pywbem.AuthError:
            return
        raise story.WrongAnswer("a wrong password was taken")


METHODS = {
    "AddAuthorizationEntry",
    "ChangeReplicationModeToPrimary",
    "CommitFailover",
    "CreateReplicationRelationship",
    "GetReplicationStatistics",
    "GetReplicationStatisticsEx",
    "GetSystemCertificates",
    "ImportInitialReplica",
    "InitiateFailback",
    "InitiateFailover",
    "ModifyAuthorizationEntry",
    "ModifyReplicationSettings",
    "ModifyServiceSettings",
    "RemoveAuthorizationEntry",
    "RemoveReplicationRelationship",
    "RemoveReplicationRelationshipEx",
    "RequestStateChange",
    "ResetReplicationStatistics",
    "ResetReplicationStatisticsEx",
    "Resynchronize",
    "ReverseReplicationRelationship",
    "RevertFailover",
    "SetAuthorizationEntry",
    "SetFailoverNetworkAdapterSettings",
    "StartReplication",
    "StartService",
    "StopService",
    "TestReplicaSystem",
    "TestReplicationConnection",
}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        facts = json.load(file)
    alpha = CimXml("alpha.test", facts["alpha"]["cimxml"], facts)
    beta = CimXml("beta.test", facts["beta"]["cimxml"], facts)
    story.run(story.Story(alpha, beta, facts))


if __name__ == "__main__":
    main()
