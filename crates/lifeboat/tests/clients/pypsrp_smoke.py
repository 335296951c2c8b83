"""pypsrp's WS-Management client, a foreign one, looks around on alpha: `pypsrp_smoke.py FACTS.json`."""

import json
import sys
import xml.etree.ElementTree as ET

from pypsrp.exceptions import WSManFaultError
from pypsrp.wsman import NAMESPACES, SelectorSet, WSMan, WSManAction

import wsman_client as wire
from story import INVALID_STATE, equal, expect

BASE = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"


def selectors(**keys):
    chosen = SelectorSet()
    for name, value in keys.items():
        chosen.add_option(name, value)
    return chosen


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        facts = json.load(file)
    user, password = facts["users"]["administrator"]
    client = WSMan(
        "127.0.0.1",
        port=facts["alpha"]["wsman"],
        username=user,
        password=password,
        ssl=True,
        auth="basic",
        cert_validation=facts["ca"],
        encryption="never",
    )
    guid = facts["vm"].upper()
    vm = BASE + "Msvm_ComputerSystem"
    got = client.get(vm, selector_set=selectors(CreationClassName="Msvm_ComputerSystem", Name=guid))
    equal(got.findtext(f".//{{{vm}}}ElementName"), "story", "the VM that pypsrp gets")

    request = ET.Element(f"{{{wire.N}}}Enumerate")
    ET.SubElement(request, f"{{{wire.W}}}OptimizeEnumeration")
    ET.SubElement(request, f"{{{wire.W}}}MaxElements").text = "100"
    found = client.enumerate(BASE + "Msvm_StorageAllocationSettingData", request)
    disks = found.findall(f".//{{{wire.W}}}Items/*")
    expect(len(disks) >= 2, f"pypsrp finds {len(disks)} disks")
    expect(found.find(f".//{{{wire.W}}}EndOfSequence") is not None, "the end of the disks")

    service = BASE + "Msvm_ReplicationService"
    call = ET.fromstring(
        f'<p:CommitFailover_INPUT xmlns:p="{service}" xmlns:a="{wire.A}" xmlns:w="{wire.W}"><p:ComputerSystem>'
        + wire.Epr(vm, {"CreationClassName": "Msvm_ComputerSystem", "Name": guid}).xml()
        + "</p:ComputerSystem></p:CommitFailover_INPUT>"
    )
    answer = client.invoke(service + "/CommitFailover", service, call, selector_set=selectors(Name="replicasvc"))
    value = answer.findtext(f"s:Body/{{{service}}}CommitFailover_OUTPUT/{{{service}}}ReturnValue", namespaces=NAMESPACES)
    equal(value, str(INVALID_STATE), "CommitFailover of a primary")
    try:
        client.invoke(WSManAction.GET, BASE + "Msvm_Nothing", None)
    except WSManFaultError as fault:
        expect(fault.reason, "a fault that pypsrp reads has words")
    else:
        expect(False, "a class that does not exist was found")
    print("ok pypsrp")


if __name__ == "__main__":
    main()
