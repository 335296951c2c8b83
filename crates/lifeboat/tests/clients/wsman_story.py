"""The story over WS-Management: `wsman_story.py FACTS.json`. Alpha is spoken to in one family of resource URIs, as PowerShell
does, beta in the other, as libvirt does."""

import json
import sys
import xml.etree.ElementTree as ET

import story
import wsman_client as wire
from story import Host, Refused, equal, expect
from wsman_client import Epr, Fault, Instance, Wsman, rule

# Types of what the story sends inside embedded instances; a tool has them from the class.
TYPES = {
    "AuthenticationType": "uint16",
    "RecoveryServerPortNumber": "uint16",
    "ReplicationInterval": "uint16",
    "RecoveryHistory": "uint16",
    "ApplicationConsistentSnapshotInterval": "uint16",
    "CompressionEnabled": "boolean",
    "BypassProxyServer": "boolean",
    "ReplicateHostKvpItems": "boolean",
    "AutoResynchronizeEnabled": "boolean",
    "AutoResynchronizeIntervalStart": "datetime",
    "AutoResynchronizeIntervalEnd": "datetime",
    "EnableWriteOrderPreservationAcrossDisks": "boolean",
    "RecoveryServerEnabled": "boolean",
    "MonitoringInterval": "uint32",
    "MonitoringStartTime": "datetime",
    "DHCPEnabled": "boolean",
    "ProtocolIFType": "uint16",
}
ARRAYS = {"IncludedDisks", "Notes", "IPAddresses", "Subnets", "DefaultGateways", "DNSServers"}

SUBCODES = {
    ("a:DestinationUnreachable", "InvalidResourceURI"): "class",
    ("a:DestinationUnreachable", "ResourceNotFound"): "not found",
    ("w:InvalidSelectors", "InsufficientSelectors"): "selectors",
    ("w:InvalidSelectors", "UnexpectedSelectors"): "selectors",
    ("w:InvalidSelectors", "TypeMismatch"): "selectors",
    ("a:ActionNotSupported", ""): "method",
    ("n:CannotProcessFilter", ""): "query",
    ("n:FilterDialectRequestedUnavailable", ""): "language",
    ("n:InvalidEnumerationContext", ""): "context",
    ("w:SchemaValidationError", ""): "schema",
    ("w:AccessDenied", ""): "denied",
    ("w:InvalidParameter", ""): "parameter",
    ("w:UnsupportedFeature", "EnumerationMode"): "mode",
    ("w:UnsupportedFeature", "AddressingMode"): "addressing",
    ("w:EncodingLimit", "MinimumEnvelopeLimit"): "envelope",
    ("s:MustUnderstand", ""): "header",
}


class Thing:
    """An instance, all text, read as the reader wants it."""

    def __init__(self, instance, ref=None):
        self.instance = instance
        self.cls = instance.cls
        self.ref = ref or instance.epr

    def text(self, name):
        value = self.instance.properties.get(name)
        expect(value is None or isinstance(value, str), f"{self.cls}.{name} is {value!r}, no text")
        return value

    def number(self, name):
        value = self.instance.properties.get(name)
        if isinstance(value, list):
            value = value[0]
        expect(value is None or value.isdigit(), f"{self.cls}.{name} is {value!r}, no number")
        return None if value is None else int(value)

    def flag(self, name):
        value = self.instance.properties.get(name)
        expect(value in (None, "true", "false"), f"{self.cls}.{name} is {value!r}, no boolean")
        return None if value is None else value == "true"

    def texts(self, name):
        value = self.instance.properties.get(name)
        if value is None:
            return []
        return value if isinstance(value, list) else [value]


class WsMan(Host):
    def __init__(self, name, port, facts, family, who="administrator"):
        user, password = facts["users"][who]
        self.name, self.facts, self.port, self.family = name, facts, port, family
        self.client = Wsman("127.0.0.1", port, user, password, facts["ca"], family=family)
        self.like_powershell = family != "wmi"

    def call(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Fault as fault:
            key = (fault.subcode or fault.code, fault.detail)
            raise Refused(SUBCODES.get(key, key), fault.reason) from None

    def listed(self, cls, filter_xml=""):
        """Objects with their references: in one piece as PowerShell asks, or one by one."""
        if self.like_powershell:
            return self.enumerate(cls, filter_xml, "EnumerateObjectAndEPR", optimize=32000)
        return self.enumerate(cls, filter_xml, "EnumerateObjectAndEPR")

    def enumerate(self, cls, filter_xml="", mode=None, **how):
        return [Thing(i) for i in self.call(self.client.enumerate, cls, filter_xml, mode, **how)]

    def query(self, wql):
        if not wql.split()[1].startswith("*"):
            columns = {c.strip().lower() for c in wql.lower().partition(" from ")[0].removeprefix("select ").split(",")}
            found = self.call(self.client.enumerate, "*", Wsman.wql(wql))
            for item in found:
                equal({c.lower() for c in item}, columns, "columns of the selection")
            return [Thing(Instance("XmlFragment", None, i)) for i in found]
        return self.listed("*", Wsman.wql(wql))

    def instances(self, cls):
        return self.listed(cls)

    def names(self, cls):
        return self.call(self.client.enumerate, cls, mode="EnumerateEPR")

    def get(self, ref):
        return Thing(self.call(self.client.get_epr, ref), ref)

    def path(self, ref):
        """The object path of a reference, as it stands in a query."""

        def quoted(text):
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        keys = ",".join(f"{n}={quoted(v)}" for n, v in ref.selectors.items() if n != "__cimnamespace")
        return f"{ref.cls}.{keys}"

    def related(self, ref, association=None, result=None):
        if self.like_powershell:
            return self.listed("*", Wsman.associated(ref, association, result))
        where = "".join(
            f" {n} = {v}" for n, v in (("AssocClass", association), ("ResultClass", result)) if v is not None
        )
        return self.listed("*", Wsman.wql(f"ASSOCIATORS OF {{{self.path(ref)}}}" + (f" WHERE{where}" if where else "")))

    def links(self, ref, association):
        if self.like_powershell:
            return self.listed("*", Wsman.associated(ref, association, associations=True))
        return self.listed("*", Wsman.wql(f"REFERENCES OF {{{self.path(ref)}}} WHERE ResultClass = {association}"))

    def invoke(self, ref, method, **arguments):
        value, out = self.call(self.client.invoke, ref, method, list(arguments.items()))
        return value, {n: self.output(n, v) for n, v in out.items()}

    @classmethod
    def output(cls, name, value):
        if name in ("ReplicationStatistics", "ReplicationHealthIssues", "Errors", "EncodedCertificates"):
            # An array of one looks like a single value here.
            value = [] if value is None else value if isinstance(value, list) else [value]
            return [cls.output("", v) for v in value]
        if isinstance(value, str) and value.lstrip().startswith("<INSTANCE"):
            return Thing(wire.read_embedded(value))
        return value

    def changed(self, thing, **changes):
        properties = {}
        for name, value in {**thing.instance.properties, **changes}.items():
            if value is None or isinstance(value, (Epr, Instance)):
                continue
            if name in ARRAYS and not isinstance(value, list):
                value = [value]
            properties[name] = (TYPES.get(name, "string"), value)
        return self.wrapped(wire.embedded(thing.cls, properties))

    def made(self, cls, **properties):
        return self.wrapped(wire.embedded(cls, {n: (TYPES.get(n, "string"), v) for n, v in properties.items()}))

    def wrapped(self, text):
        """Escaped, or in a CDATA section as scripts do."""
        return text if self.like_powershell else wire.cdata(text)

    # What only this protocol has.

    def refused(self, kind, function, *args, **kwargs):
        try:
            found = self.call(function, *args, **kwargs)
        except Refused as error:
            equal(error.kind, kind, f"the fault of {function.__name__}{args}")
            expect(error.words.strip(), "a fault has words")
            return
        raise story.WrongAnswer(f"{function.__name__}{args} gave {found}")

    def wrong_calls(self, told):
        for family in ("wmi", "dmtf"):
            host = WsMan(self.name, self.port, self.facts, family)
            host.faults(told)
            host.reads(told)
            host.shapes(told)
        self.raw_calls()
        self.identify()
        self.roles(told)

    def faults(self, told):
        client, vm, service = self.client, told.vm(self).ref, told.service(self).ref
        self.refused("class", client.enumerate, "Msvm_Nothing")
        self.refused("class", client.get, "Msvm_Nothing", {"Name": "x"})
        nowhere = WsMan(self.name, self.port, self.facts, self.family)
        nowhere.client.namespace = "root/nowhere"
        self.refused("class", nowhere.client.enumerate, "Msvm_ComputerSystem")
        lost = Epr(vm.uri, {**vm.selectors, "Name": "00000000-0000-0000-0000-000000000001"})
        self.refused("not found", client.get_epr, lost)
        self.refused("selectors", client.get_epr, Epr(vm.uri, {**vm.selectors, "Colour": "red"}))
        self.refused("method", client.invoke, service, "MakeCoffee")
        self.refused("query", client.enumerate, "*", Wsman.wql("SELECT * FORM Msvm_ComputerSystem"))
        self.refused("query", client.enumerate, "*", Wsman.wql(""))
        self.refused("language", client.enumerate, "Msvm_ComputerSystem", '<w:Filter Dialect="urn:nothing">x</w:Filter>')
        self.refused("mode", client.enumerate, "Msvm_ComputerSystem", mode="EnumerateNothing")
        self.refused("context", client.pull, vm.uri, client.selectors(), ET.fromstring("<c>no such thing</c>"), 1, None)
        self.refused("method", client.get_epr, vm, "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete")
        told.unserved(self, "CommitFailover", story.FILE_NOT_FOUND, ComputerSystem=lost)

    def reads(self, told):
        client, vm = self.client, told.vm(self).ref
        disks = "Msvm_StorageAllocationSettingData"
        one_by_one = client.enumerate(disks)
        expect(len(one_by_one) >= 2, "disks")
        names = {d["InstanceID"] for d in one_by_one}
        for how in ({"optimize": 1}, {"optimize": 32000}, {"pull_max": 1}, {"pull_max": 100}):
            again = client.enumerate(disks, **how)
            equal({d["InstanceID"] for d in again}, names, f"disks, enumerated with {how}")
        references = client.enumerate(disks, mode="EnumerateEPR")
        equal({r.selectors["InstanceID"] for r in references}, names, "references of the disks")
        both = client.enumerate(disks, mode="EnumerateObjectAndEPR", optimize=32000)
        equal({b.epr.selectors["InstanceID"] for b in both}, names, "references beside the disks")
        for reference in references:
            equal(reference.uri, client.uri(disks), "family of a resource URI")
            equal("__cimnamespace" in reference.selectors, self.family != "wmi", "__cimnamespace in a reference")
        equal(len(client.enumerate(disks, stop_after=1)), 1, "an enumeration that is released")
        base = client.enumerate("CIM_ComputerSystem", optimize=32000)
        equal({b.cls for b in base}, {"Msvm_ComputerSystem"}, "classes of the instances of a base class")
        equal(len(client.enumerate("*", Wsman.wql("select * from Msvm_ComputerSystem where Name = 'x'"))), 0, "nothing")
        by_selectors = client.enumerate("Msvm_ComputerSystem", Wsman.selected({"ElementName": "story"}))
        equal([b["Name"] for b in by_selectors], [told.guid], "a VM by a selector filter")
        like_virsh = "select * from Msvm_ComputerSystem where Description = \"Microsoft Virtual Machine\" "
        equal([b["Name"] for b in client.enumerate("*", Wsman.wql(like_virsh))], [told.guid], "VMs as virsh asks for them")
        small = {"creationclassname": "MSVM_ComputerSystem", "NAME": told.guid.lower()}
        equal(client.get("Msvm_ComputerSystem", small)["ElementName"], "story", "a VM in small letters")
        equal(client.get("Msvm_ComputerSystem", {"Name": told.guid})["ElementName"], "story", "a VM by a part of its keys")
        equal(client.get("Msvm_ReplicationService")["Name"], "replicasvc", "the only service without selectors")
        described = client.describe("Msvm_ReplicationService")
        equal(described.get("NAME"), "Msvm_ReplicationService", "the class that is described")
        methods = {m.get("NAME") for m in described if wire.local(m) == "METHOD"}
        expect({"InitiateFailover", "RevertFailover", "CommitFailover"} <= methods, f"methods of the class: {methods}")
        self.refused("class", client.describe, "Msvm_Nothing")
        found = client.get_epr(vm)
        for name in ("InstallDate", "OtherEnabledState", "ReplicationHealth", "EnhancedSessionModeState"):
            expect(name in found.properties, f"{name} is not there: a property without a value is nil")
        equal(found.properties["OtherEnabledState"], None, "a property without a value")

    def shapes(self, told):
        """The shapes in which references and embedded instances come."""
        client, service, vm = self.client, told.service(self).ref, told.vm(self).ref
        path = f"\\\\{self.name}\\root\\virtualization\\v2:{self.path(vm)}"
        without_address = vm.xml().partition("</a:Address>")[2]
        references = [
            vm,
            wire.Raw(f"<a:EndpointReference>{vm.xml()}</a:EndpointReference>"),
            wire.Raw(without_address),
            path,
            path.partition(":")[2],
            Epr(vm.uri, {**vm.selectors, "Name": told.guid.lower()}),
        ]
        for reference in references:
            value, out = client.invoke(service, "CommitFailover", [("ComputerSystem", reference)])
            equal((value, out.get("Job")), (story.INVALID_STATE, None), f"CommitFailover of {reference}")
        value, _ = client.invoke(Epr(service.uri, client.selectors()), "CommitFailover", [("ComputerSystem", vm)])
        equal(value, story.INVALID_STATE, "a method of the only service, without its keys")
        instance = wire.embedded("Msvm_ReplicationSettingData", {"RecoveryHistory": ("uint16", 99)})
        declared = f'<?xml version="1.0"?><CIM CIMVERSION="2.0" DTDVERSION="2.0"><DECLARATION><DECLGROUP><VALUE.OBJECT>{instance}'
        declared += "</VALUE.OBJECT></DECLGROUP></DECLARATION></CIM>"
        for text in (instance, wire.cdata(instance), '<?xml version="1.0"?>' + instance, declared):
            parameters = [("ReplicationSettingData", text), ("ComputerSystem", vm)]
            value, _ = client.invoke(service, "CreateReplicationRelationship", parameters)
            equal(value, story.INVALID_PARAMETER, f"an impossible setting as {text}")

    def raw_calls(self):
        """What no client should send, and what some do."""
        client = self.client
        status, _, _ = client.post(b"<s:Envelope")
        expect(status in (400, 500), f"half an envelope gave {status}")
        bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'
        status, _, _ = client.post(bomb)
        expect(status in (400, 500), f"a document with entities gave {status}")
        status, _, _ = client.post(b" " * (1 << 20))
        expect(status in (400, 413, 500), f"a megabyte of nothing gave {status}")
        uri, get = client.uri("Msvm_ReplicationService"), wire.X + "/Get"
        self.refused("header", client.exchange, get, uri, "", client.selectors(),
                     headers='<q:Strange xmlns:q="urn:q" s:mustUnderstand="true"/>')  # fmt: skip
        for data in (self.without_content_type, self.with_slash, self.with_utf16):
            data(uri, get)
        client.max_envelope = 4096
        self.refused("envelope", client.exchange, get, uri, "", client.selectors())
        client.max_envelope = 512000

    def without_content_type(self, uri, get):
        message, data = self.client.envelope(get, uri, "", self.client.selectors())
        status, headers, answer = self.client.post(data, {"Content-Type": ""})
        self.client.checked(status, headers, answer, message, get + "Response")

    def with_slash(self, uri, get):
        self.client.path = "/wsman/"
        self.client.exchange(get, uri, "", self.client.selectors(), options=[("wmi:anything", "1")])
        self.client.path = "/wsman"

    def with_utf16(self, uri, get):
        message, data = self.client.envelope(get, uri, "", self.client.selectors())
        data = b"\xff\xfe" + data.decode().encode("utf-16-le")
        kind = {"Content-Type": "application/soap+xml;charset=UTF-16"}
        status, headers, answer = self.client.post(data, kind)
        self.client.checked(status, headers, answer, message, get + "Response")

    def identify(self):
        client = self.client
        status, _, told = client.identify()
        equal(status, 200, "Identify")
        equal(told["ProtocolVersion"], wire.W, "ProtocolVersion")
        expect("Microsoft" not in told["ProductVendor"], "the vendor is not Microsoft")
        status, headers, _ = client.identify(authorize=False)
        equal(status, 401, "Identify without credentials")
        expect("Basic realm=" in (headers.get("WWW-Authenticate") or ""), "the challenge")
        status, _, told = client.identify(authorize=False, headers={"WSMANIDENTIFY": "unauthenticated"})
        equal(status, 200, "Identify without credentials and with its header")

    def roles(self, told):
        viewer = WsMan(self.name, self.port, self.facts, self.family, "viewer")
        told.unserved(viewer, "RevertFailover", story.ACCESS_DENIED)
        operator = WsMan(self.name, self.port, self.facts, self.family, "operator")
        told.unserved(operator, "RevertFailover", story.INVALID_STATE)
        settings = operator.made("Msvm_ReplicationServiceSettingData", RecoveryServerEnabled=False)
        told.refused(
            operator, told.service(operator).ref, "ModifyServiceSettings", story.ACCESS_DENIED, SettingData=settings
        )
        shown = Wsman("127.0.0.1", self.port, "", "", self.facts["ca"])
        shown.show_certificate(*self.facts["certificate"])
        equal(shown.get("Msvm_ReplicationService")["Name"], "replicasvc", "what the owner of a certificate sees")
        wrong = Wsman("127.0.0.1", self.port, self.facts["users"]["administrator"][0], "wrong", self.facts["ca"])
        status, _, _ = wrong.identify()
        equal(status, 401, "a wrong password")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        facts = json.load(file)
    alpha = WsMan("alpha.test", facts["alpha"]["wsman"], facts, "dmtf")
    beta = WsMan("beta.test", facts["beta"]["wsman"], facts, "wmi")
    story.run(story.Story(alpha, beta, facts))
    for host in (alpha, beta):
        rule(host.client.largest <= 512000, f"{host.name} sent an envelope of {host.client.largest} bytes")


if __name__ == "__main__":
    main()
