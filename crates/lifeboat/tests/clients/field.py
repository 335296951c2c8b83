"""What clients of the management API found missing or wrong, read from a VM that runs on alpha and is replicated to beta:
`field.py FACTS.json`. Says everything that is wrong, and ends with 1 then."""

import json
import re
import sys

import pywbem

from wsman_client import Wsman

GUID = re.compile(r"^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$", re.IGNORECASE)

wrong = []


def holds(what, truth):
    print(("ok     " if truth else "WRONG  ") + what, flush=True)
    if not truth:
        wrong.append(what)


def connection(facts, host):
    return pywbem.WBEMConnection(
        f"https://127.0.0.1:{facts[host]['cimxml']}",
        tuple(facts["users"]["administrator"]),
        default_namespace="root/virtualization/v2",
        ca_certs=facts["ca"],
        timeout=60,
    )


def the_vm(host, facts):
    query = f"SELECT * FROM Msvm_ComputerSystem WHERE Name = '{facts['vm'].upper()}'"
    return host.ExecQuery("WQL", query)[0]


def of_this_vm(instances, facts):
    return [i for i in instances if facts["vm"].upper() in i["InstanceID"].upper()]


def arrays(facts):
    """An array without a value has no element: clients in C take one nil element for a value and read it."""
    host = Wsman("127.0.0.1", facts["alpha"]["wsman"], *facts["users"]["administrator"], ca=facts["ca"])
    bodies = []
    post = host.post

    def kept(*args, **kwargs):
        status, headers, body = post(*args, **kwargs)
        bodies.append(body.decode())
        return status, headers, body

    host.post = kept
    for cls in ("Msvm_StorageAllocationSettingData", "Msvm_ResourceAllocationSettingData"):
        holds(f"{cls} has instances", len(list(host.enumerate(cls))) > 0)
    everything = "".join(bodies)
    for name in ("HostResource", "Connection"):
        holds(f"no {name} is nil", not re.search(rf'<p:{name}\s[^>]*nil="true"', everything))


def times(alpha, facts):
    vm = the_vm(alpha, facts)
    holds("a running VM has been on for some time", (vm["OnTimeInMilliseconds"] or 0) > 0)
    holds("a running VM is a process", (vm["ProcessID"] or 0) > 0)
    holds("a VM says when it was made", vm["InstallDate"] is not None)
    holds("a VM says when its state changed", vm["TimeOfLastStateChange"] is not None)
    holds("a VM says when its configuration changed", vm["TimeOfLastConfigurationChange"] is not None)


def pending(alpha, facts):
    service = alpha.EnumerateInstances("Msvm_ReplicationService")[0]
    arguments = [("ComputerSystem", the_vm(alpha, facts).path)]
    value, out = alpha.InvokeMethod("GetReplicationStatistics", service.path, arguments)
    told = out.get("ReplicationStatistics") or []
    holds("statistics are there", value == 0 and len(told) > 0)
    sizes = [statistics["PendingReplicationSize"] for statistics in told]
    holds("what waits to be sent is a number", all(size is not None for size in sizes))


def files(beta, facts):
    disks = of_this_vm(beta.EnumerateInstances("Msvm_StorageAllocationSettingData"), facts)
    disks = [d for d in disks if "Disk" in (d["ResourceSubType"] or "") and "Virtual" in (d["ResourceSubType"] or "")]
    holds("the replica has disks", len(disks) > 0)
    holds("each disk of a replica says which file it is", all(d["HostResource"] for d in disks))


def points(beta, facts):
    settings = beta.EnumerateInstances("Msvm_VirtualSystemSettingData")
    replicas = [s for s in settings if "Replica" in (s["VirtualSystemType"] or "")]
    holds("recovery points are listed", len(replicas) > 0)
    names = [s["InstanceID"].split(":")[-1] for s in replicas]
    holds("each recovery point is named by a GUID", all(GUID.match(n) for n in names))
    # History 2, and the newest data.
    holds("the list is no longer than the history", len(replicas) <= 3)


def jobs(alpha):
    """The initial copy is over: how long it took is exact, and its status says how it ended and not what it was doing."""
    over = [j for j in alpha.EnumerateInstances("Msvm_ConcreteJob") if j["JobState"] == 7]
    holds("a finished job is there", len(over) > 0)
    times = [j["ElapsedTime"].timedelta for j in over]
    holds("the time of a job is exact", any(t.microseconds > 0 for t in times))
    holds("a finished job does not say what it was doing", all("copy" not in (j["JobStatus"] or "") for j in over))


def ends(alpha, facts):
    """Both ends of what ties a VM to its host, and the replication service to a profile in another namespace."""
    service = alpha.EnumerateInstances("Msvm_ReplicationService")[0]
    for thing, association in (
        (the_vm(alpha, facts), "Msvm_HostedDependency"),
        (service, "Msvm_ElementConformsToProfile"),
    ):
        links = alpha.References(thing.path, ResultClass=association)
        values = [(name, value.value) for link in links for name, value in link.properties.items()]
        refs = [(name, end) for name, end in values if isinstance(end, pywbem.CIMInstanceName)]
        holds(f"{association} has two ends", len(refs) >= 2)
        for name, end in refs:
            holds(f"{association}.{name} has keys and a namespace", bool(end.keybindings) and bool(end.namespace))
    profiles = alpha.Associators(service.path, AssocClass="Msvm_ElementConformsToProfile")
    holds("the service's profile is there", len(profiles) == 1)
    for profile in profiles:
        holds("a profile is named with its keys", bool(profile.path.keybindings))
        holds("a profile is in its own namespace", profile.path.namespace == "root/interop")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        facts = json.load(file)
    alpha, beta = connection(facts, "alpha"), connection(facts, "beta")
    arrays(facts)
    times(alpha, facts)
    pending(alpha, facts)
    files(beta, facts)
    points(beta, facts)
    jobs(alpha)
    ends(alpha, facts)
    sys.exit(1 if wrong else 0)


main()
