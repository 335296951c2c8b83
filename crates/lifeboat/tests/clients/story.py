"""The life of a replicated VM as a client of the management API sees it, step by step, whatever the protocol.

A protocol's story gives two hosts that can `query`, `get`, `related`, `invoke` and so on (see `Host`), and says how its own
wire looks; what has to be true is said here. Each step prints a line; the first wrong answer ends everything.

Where something outside has to look at the guest or at the network, the story stops at a check: it prints `CHECK name` and
waits for a line on standard input.
"""

import os
import sys
import time
import traceback

COMPLETED = 0
STARTED = 4096
FAILED = 32768
ACCESS_DENIED = 32769
NOT_SUPPORTED = 32770
INVALID_PARAMETER = 32773
INVALID_STATE = 32775
INCORRECT_TYPE = 32776
FILE_NOT_FOUND = 32779

RUNNING, OFF = 2, 3
READY, WAITING, REPLICATING, PREPARED, RECOVERED, COMMITTED, SUSPENDED = 1, 2, 3, 4, 5, 6, 7
NONE, PRIMARY, REPLICA, TEST_REPLICA = 0, 1, 2, 3
OK, WARNING, CRITICAL = 1, 2, 3

PATIENCE = 150


class WrongAnswer(Exception):
    """What was answered is not what has to be."""


def expect(holds, words):
    if not holds:
        raise WrongAnswer(words)


def equal(found, wanted, what):
    expect(found == wanted, f"{what} is {found!r}, not {wanted!r}")


def wait_for(what, look, patience=PATIENCE):
    """Asks until there is an answer: the API can only be asked."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        expect(time.monotonic() < end, f"waited {patience} s in vain for: {what}")
        time.sleep(0.1)


class Refused(Exception):
    """The protocol's own error: a CIM error or a fault, in a protocol-neutral word."""

    def __init__(self, kind, words):
        super().__init__(f"{kind}: {words}")
        self.kind = kind
        self.words = words


class Host:
    """What a story needs of a host; each protocol fills it.

    A thing is an instance with `ref`, `cls`, `text(name)`, `number(name)`, `flag(name)` and `texts(name)`.

    query(wql), instances(cls), names(cls), get(ref), related(ref, association, result), links(ref, association)
        things, or references in the case of names
    invoke(ref, method, **arguments) -> (return value, {output: thing, reference or text})
    changed(thing, **changes)     the embedded instance that was read, with changes, as an argument
    made(cls, **properties)       a new embedded instance as an argument
    """


STEPS = []


def step(words):
    """Registers a step of the story."""

    def register(function):
        STEPS.append((words, function))
        return function

    return register


def run(story):
    begun = time.monotonic()
    only = os.environ.get("STORY_UNTIL")
    for words, function in STEPS:
        at = time.monotonic()
        try:
            function(story)
        except BrokenPipeError:
            raise
        except Exception as error:
            traceback.print_exc()
            print(f"WRONG {words}: {type(error).__name__}: {error}", flush=True)
            sys.exit(1)
        print(f"ok {time.monotonic() - begun:6.1f}s {time.monotonic() - at:5.1f}s  {words}", flush=True)
        if only == function.__name__:
            sys.exit(0)


class Story:
    """The two hosts, and what the steps learnt."""

    def __init__(self, alpha, beta, facts):
        self.alpha, self.beta = alpha, beta
        self.facts = facts
        self.guid = facts["vm"].upper()
        self.to_beta, self.to_alpha = facts["to_beta"], facts["to_alpha"]

    def check(self, name):
        print(f"CHECK {name}", flush=True)
        if self.facts.get("checks"):
            expect(sys.stdin.readline().strip() == "go", f"nobody said go at {name}")

    # What every step needs.

    def vm(self, host):
        found = host.query(f"SELECT * FROM Msvm_ComputerSystem WHERE Name = '{self.guid.lower()}'")
        equal(len(found), 1, f"{host.name}: number of VMs with the GUID")
        return found[0]

    def service(self, host):
        found = host.instances("Msvm_ReplicationService")
        equal(len(found), 1, f"{host.name}: number of replication services")
        return found[0]

    def management(self, host):
        found = host.instances("Msvm_VirtualSystemManagementService")
        equal(len(found), 1, f"{host.name}: number of management services")
        return found[0]

    def relationship(self, host):
        found = host.related(self.vm(host).ref, "Msvm_SystemReplicationRelationship", "Msvm_ReplicationRelationship")
        equal([f.text("InstanceID") for f in found], [f"Microsoft:{self.guid}\\HVR\\0"], f"{host.name}: relationships")
        return found[0]

    def settings(self, host):
        found = host.related(self.vm(host).ref, None, "Msvm_ReplicationSettingData")
        equal([f.text("InstanceID") for f in found], [f"Microsoft:{self.guid}\\HVR\\0"], f"{host.name}: settings")
        return found[0]

    def points(self, host):
        """Recovery points, oldest first."""
        found = host.related(self.vm(host).ref, "Msvm_SnapshotOfVirtualSystem", "Msvm_VirtualSystemSettingData")
        found = [f for f in found if ":Snapshot:Replica:" in f.text("VirtualSystemType")]
        for point in found:
            equal(point.text("VirtualSystemIdentifier").upper(), self.guid, f"{host.name}: the VM of a point")
        return sorted(found, key=lambda p: p.text("CreationTime"))

    def state(self, host):
        return self.relationship(host).number("ReplicationState")

    def wait_state(self, host, state, mode=None):
        def look():
            vm = self.vm(host)
            if mode is not None and vm.number("ReplicationMode") != mode:
                return None
            return vm if vm.number("ReplicationState") == state else None

        try:
            found = wait_for(f"{host.name} in state {state}", look)
        except WrongAnswer as error:
            vm = self.vm(host)
            now = f"state {vm.number('ReplicationState')}, mode {vm.number('ReplicationMode')}"
            raise WrongAnswer(f"{error} ({now})") from None
        equal(self.state(host), state, f"{host.name}: state of the relationship, which is that of the VM")
        return found

    def finished(self, host, job, kind=None):
        """Polls a job to its end and gives it; it has to have gone well."""
        thing = wait_for(
            f"end of job {job}",
            lambda: (lambda j: j if j.number("JobState") not in (2, 3, 4, 5, 6) else None)(host.get(job)),
        )
        words = thing.text("ErrorDescription")
        equal(thing.number("JobState"), 7, f"{host.name}: state of job {thing.text('Caption')} ({words})")
        equal(thing.number("PercentComplete"), 100, f"{host.name}: percent of a job that is done")
        equal(thing.number("ErrorCode") or 0, 0, f"{host.name}: error of a job that went well")
        if kind:
            equal(thing.number("JobType"), kind, f"{host.name}: type of job {thing.text('Caption')}")
        return thing

    def done(self, host, ref, method, kind=None, **arguments):
        """Invokes a method and waits for its job; gives the output parameters."""
        value, out = host.invoke(ref, method, **arguments)
        expect(value in (COMPLETED, STARTED), f"{host.name}: {method} returned {value}")
        job = out.get("Job")
        expect((job is not None) == (value == STARTED), f"{host.name}: {method} returned {value} and the job {job}")
        if job is not None:
            self.finished(host, job, kind)
        return out

    def serve(self, host, method, kind=None, **arguments):
        """A method of the replication service about the VM."""
        return self.done(host, self.service(host).ref, method, kind, ComputerSystem=self.vm(host).ref, **arguments)

    def refused(self, host, ref, method, code, **arguments):
        """A method that must not work, with the code for it: at once, or as a failed job that says why."""
        value, out = host.invoke(ref, method, **arguments)
        equal(value, code, f"{host.name}: what {method} returned")
        expect(out.get("Job") is None, f"{host.name}: {method} was refused and has a job")

    def unserved(self, host, method, code, **arguments):
        vm = arguments.pop("ComputerSystem", None) or self.vm(host).ref
        self.refused(host, self.service(host).ref, method, code, ComputerSystem=vm, **arguments)

    def no_call(self, kind, host, ref, method, **arguments):
        """A call that is none: the protocol's own error, not a return value."""
        try:
            value, _ = host.invoke(ref, method, **arguments)
        except Refused as error:
            equal(error.kind, kind, f"{host.name}: the error of {method} ({error.words})")
            return
        raise WrongAnswer(f"{host.name}: {method} returned {value} where there is no such call")

    def change_state(self, host, state, kind=None):
        """RequestReplicationStateChange of the VM."""
        self.done(host, self.vm(host).ref, "RequestReplicationStateChange", kind, RequestedState=state)

    def power(self, host, state, vm=None):
        vm = vm or self.vm(host).ref
        self.done(host, vm, "RequestStateChange", RequestedState=state)
        wait_for(f"{host.name}: the VM in state {state}", lambda: host.get(vm).number("EnabledState") == state)

    def locked_off(self, host):
        self.refused(host, self.vm(host).ref, "RequestStateChange", INVALID_STATE, RequestedState=RUNNING)

    def new_settings(self, host, peer, **more):
        """The settings that are there, changed as a tool changes them."""
        return host.changed(
            self.settings(host),
            RecoveryConnectionPoint=peer[0],
            RecoveryServerPortNumber=peer[1],
            AuthenticationType=2,
            **more,
        )


# The steps. Each takes the story.


@step("find the VM by its name, and start it")
def find(story):
    alpha = story.alpha
    found = alpha.query("SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'story'")
    equal(len(found), 1, "number of VMs named story")
    vm = found[0]
    equal(vm.text("Name"), story.guid, "name of the VM")
    equal(vm.text("Description"), "Microsoft Virtual Machine", "what kind of system it is")
    equal(vm.number("EnabledState"), OFF, "state of the VM")
    equal(vm.number("ReplicationMode"), NONE, "mode of the VM")
    equal(vm.number("ReplicationState"), 0, "replication of the VM")
    equal(vm.number("ReplicationHealth"), 0, "health of the VM")
    same = alpha.query(f"select Name, ElementName from msvm_computersystem where name like '{story.guid[:8].lower()}%'")
    equal([s.text("ElementName") for s in same], ["story"], "the VM by a part of its GUID")
    equal(alpha.get(vm.ref).text("ElementName"), "story", "the VM by its reference")
    story.power(alpha, RUNNING)
    equal(alpha.get(vm.ref).number("OperationalStatus"), 2, "status of the running VM")
    story.check("running")


@step("walk from the host to its service, its VM, its disks and its settings")
def walk(story):
    alpha = story.alpha
    hosts = [s for s in alpha.instances("Msvm_ComputerSystem") if s.text("Name") == alpha.name]
    equal(len(hosts), 1, "number of hosts")
    expect(hosts[0].text("Description") != "Microsoft Virtual Machine", "the host is not a VM")
    services = alpha.related(hosts[0].ref, "Msvm_HostedService", None)
    kinds = {s.cls for s in services}
    for kind in ("Msvm_ReplicationService", "Msvm_VirtualSystemManagementService"):
        expect(kind in kinds, f"the host's services are {kinds}")
    service = [s for s in services if s.cls == "Msvm_ReplicationService"][0]
    equal(service.text("Name"), "replicasvc", "name of the service")
    vms = alpha.related(service.ref, "Msvm_ServiceAffectsElement", "Msvm_ComputerSystem")
    equal([v.text("Name") for v in vms], [story.guid], "VMs of the service")
    back = alpha.related(vms[0].ref, None, "Msvm_ReplicationService")
    equal(len(back), 1, "services of the VM")
    state = alpha.related(service.ref, None, "Msvm_ReplicationServiceSettingData")
    equal(len(state), 1, "settings of the service")
    active = alpha.related(vms[0].ref, "Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData")
    equal([a.text("InstanceID") for a in active], [f"Microsoft:{story.guid}"], "active settings of the VM")
    equal(active[0].text("VirtualSystemType"), "Microsoft:Hyper-V:System:Realized", "kind of the active settings")
    parts = alpha.related(active[0].ref, "Msvm_VirtualSystemSettingDataComponent", None)
    disks = sorted(p.text("InstanceID") for p in parts if p.cls == "Msvm_StorageAllocationSettingData")
    equal(disks, [f"Microsoft:{story.guid}\\{d}" for d in ("data", "sys")], "disks of the VM")
    cards = [p for p in parts if p.cls == "Msvm_SyntheticEthernetPortSettingData"]
    equal(len(cards), 1, "network cards of the VM")
    links = alpha.links(vms[0].ref, "Msvm_SettingsDefineState")
    equal(len(links), 1, "associations of the VM with its settings")
    settings = story.settings(alpha)
    equal(settings.text("VirtualSystemType"), "Microsoft:Hyper-V:Replica", "kind of the replication settings")
    equal(settings.text("VirtualSystemIdentifier").upper(), story.guid, "the VM of the replication settings")


@step("what cannot be done to a VM that is not replicated")
def before(story):
    alpha, vm = story.alpha, story.vm(story.alpha).ref
    for method in ("InitiateFailover", "TestReplicaSystem"):
        story.unserved(alpha, method, INVALID_STATE, SnapshotSettingData=None)
    for method in ("RevertFailover", "CommitFailover", "RemoveReplicationRelationship", "GetReplicationStatistics"):
        story.unserved(alpha, method, INVALID_STATE)
    story.unserved(alpha, "StartReplication", INVALID_STATE, InitialReplicationType=1)
    for state in (1, 3, 4, 7, 9):
        story.refused(alpha, vm, "RequestReplicationStateChange", INVALID_STATE, RequestedState=state)
    for state in (0, 5, 99):
        story.refused(alpha, vm, "RequestReplicationStateChange", INVALID_PARAMETER, RequestedState=state)
    story.unserved(alpha, "CreateReplicationRelationship", INVALID_PARAMETER, ReplicationSettingData=None)
    # References to what is no VM, or no recovery point.
    service = story.service(alpha).ref
    story.unserved(alpha, "CommitFailover", INCORRECT_TYPE, ComputerSystem=service)
    story.unserved(alpha, "InitiateFailover", INCORRECT_TYPE, SnapshotSettingData=service)
    wrong = alpha.made("Msvm_ReplicationServiceSettingData", RecoveryServerEnabled=True)
    story.no_call(
        "parameter", alpha, service, "CreateReplicationRelationship", ComputerSystem=vm, ReplicationSettingData=wrong
    )
    wrong = story.new_settings(alpha, story.to_beta, ReplicationInterval=0)
    story.unserved(alpha, "CreateReplicationRelationship", INVALID_PARAMETER, ReplicationSettingData=wrong)
    wrong = story.new_settings(alpha, story.to_beta, RecoveryHistory=25)
    story.unserved(alpha, "CreateReplicationRelationship", INVALID_PARAMETER, ReplicationSettingData=wrong)


@step("errors of the protocol itself")
def errors(story):
    story.alpha.wrong_calls(story)


@step("make both hosts replica servers, and say whom they take")
def servers(story):
    for host, other in ((story.beta, story.alpha), (story.alpha, story.beta)):
        service = story.service(host).ref
        settings = host.related(service, None, "Msvm_ReplicationServiceSettingData")[0]
        equal(settings.flag("RecoveryServerEnabled"), False, f"{host.name}: takes replicas")
        change = host.changed(settings, RecoveryServerEnabled=True, MonitoringInterval=86400)
        story.done(host, service, "ModifyServiceSettings", SettingData=change)
        settings = host.instances("Msvm_ReplicationServiceSettingData")[0]
        equal(settings.flag("RecoveryServerEnabled"), True, f"{host.name}: takes replicas")
        equal(settings.number("MonitoringInterval"), 86400, f"{host.name}: monitoring interval")
        wrong = host.made("Msvm_ReplicationServiceSettingData", MonitoringInterval=5)
        story.refused(host, service, "ModifyServiceSettings", INVALID_PARAMETER, SettingData=wrong)

        entry = "Msvm_ReplicationAuthorizationSettingData"
        place = story.facts[f"replicas_{host.name[:1]}"]
        for primary in (other.name, "*.example.org"):
            made = host.made(entry, AllowedPrimaryHostSystem=primary, TrustGroup="one", ReplicaStorageLocation=place)
            story.done(host, service, "AddAuthorizationEntry", AuthorizationEntry=made)
        wrong = host.made(entry, AllowedPrimaryHostSystem="a.*.org", TrustGroup="one", ReplicaStorageLocation=place)
        story.refused(host, service, "AddAuthorizationEntry", INVALID_PARAMETER, AuthorizationEntry=wrong)

        def entries():
            return {e.text("AllowedPrimaryHostSystem"): e for e in host.related(service, None, entry)}

        equal(sorted(entries()), sorted([other.name, "*.example.org"]), f"{host.name}: authorization entries")
        change = host.changed(entries()["*.example.org"], TrustGroup="two")
        story.done(host, service, "ModifyAuthorizationEntry", AuthorizationEntry=change)
        equal(entries()["*.example.org"].text("TrustGroup"), "two", f"{host.name}: trust group")
        equal(entries()[other.name].text("TrustGroup"), "one", f"{host.name}: trust group of the other entry")
        story.done(host, service, "RemoveAuthorizationEntry", AllowedPrimaryHostSystem="*.example.org")
        equal(list(entries()), [other.name], f"{host.name}: authorization entries")
        story.refused(
            host, service, "RemoveAuthorizationEntry", FILE_NOT_FOUND, AllowedPrimaryHostSystem="*.example.org"
        )
        equal(len(host.instances(entry)), 1, f"{host.name}: all authorization entries")


@step("test the connection, and ask for certificates")
def connection(story):
    alpha = story.alpha
    service = story.service(alpha).ref
    point, port = story.to_beta
    common = {"CertificateThumbPrint": None, "BypassProxyServer": False, "RecoveryConnectionPoint": point}
    story.done(
        alpha, service, "TestReplicationConnection", 115, RecoveryServerPortNumber=port, AuthenticationType=2, **common
    )
    # No Kerberos here, and the answer does not pretend.
    story.refused(
        alpha, service, "TestReplicationConnection", NOT_SUPPORTED, RecoveryServerPortNumber=port, AuthenticationType=1, **common
    )
    # A port at which nobody is: at once, or as a job that failed and says so.
    value, out = alpha.invoke(
        service, "TestReplicationConnection", RecoveryServerPortNumber=1, AuthenticationType=2, **common
    )
    expect(value in (STARTED, FAILED, 32777, 32772), f"a connection to nobody returned {value}")
    if value == STARTED:
        job = wait_for(
            "end of the job", lambda: (lambda j: j if j.number("JobState") > 6 else None)(alpha.get(out["Job"]))
        )
        equal(job.number("JobState"), 10, "state of a job that failed")
        expect(job.number("ErrorCode"), "a failed job has an error code")
        expect(job.text("ErrorDescription"), "a failed job says why")
        value, out = alpha.invoke(job.ref, "GetErrorEx")
        equal(value, COMPLETED, "GetErrorEx")
        expect(out["Errors"] and out["Errors"][0].text("Message"), "GetErrorEx has the words")
    value, out = alpha.invoke(service, "GetSystemCertificates")
    equal(value, COMPLETED, "GetSystemCertificates")
    expect(out["EncodedCertificates"], "a certificate")


@step("create the relationship with an embedded instance, and copy")
def create(story):
    alpha, beta = story.alpha, story.beta
    rsd = story.new_settings(alpha, story.to_beta, ReplicationInterval=30, CompressionEnabled=True, RecoveryHistory=0)
    story.serve(alpha, "CreateReplicationRelationship", 91, ReplicationSettingData=rsd)
    vm = story.wait_state(alpha, READY, PRIMARY)
    expect(vm.number("ReplicationHealth") in (OK, WARNING), "health before the copy")
    story.wait_state(beta, WAITING, REPLICA)
    story.unserved(alpha, "CreateReplicationRelationship", INVALID_STATE, ReplicationSettingData=rsd)
    for method in ("InitiateFailover", "TestReplicaSystem"):
        story.unserved(beta, method, INVALID_STATE, SnapshotSettingData=None)
    story.locked_off(beta)
    settings = story.settings(alpha)
    equal(settings.number("ReplicationInterval"), 30, "interval")
    equal(settings.text("RecoveryConnectionPoint"), story.to_beta[0], "where the replica goes")
    equal(settings.number("RecoveryServerPortNumber"), story.to_beta[1], "port to which the replica goes")
    equal(settings.number("AuthenticationType"), 2, "authentication")
    # Nothing was exported, so there is nothing to import.
    story.unserved(beta, "ImportInitialReplica", INVALID_STATE, InitialReplicationImportLocation="/nowhere")
    story.unserved(alpha, "StartReplication", INVALID_PARAMETER, InitialReplicationType=7)
    story.serve(alpha, "StartReplication", 94, InitialReplicationType=1)
    story.wait_state(alpha, REPLICATING, PRIMARY)
    story.wait_state(beta, REPLICATING, REPLICA)


@step("find the job of the VM, and change the settings")
def modify(story):
    alpha = story.alpha
    jobs = [j for j in alpha.instances("Msvm_ConcreteJob") if j.number("JobType") == 94]
    expect(len(jobs) == 1, f"{len(jobs)} jobs of the initial copy")
    affected = alpha.related(jobs[0].ref, "Msvm_AffectedJobElement", "Msvm_ComputerSystem")
    equal([a.text("Name") for a in affected], [story.guid], "what the job affects")
    polled = alpha.query(f"select * from Msvm_ConcreteJob where InstanceID = \"{jobs[0].text('InstanceID')}\"")
    equal([p.number("JobState") for p in polled], [7], "the job, as it is polled with WQL")
    change = alpha.changed(story.settings(alpha), RecoveryHistory=5, ReplicationInterval=story.facts["interval"])
    story.serve(alpha, "ModifyReplicationSettings", 92, ReplicationSettingData=change)
    settings = story.settings(alpha)
    equal(settings.number("RecoveryHistory"), 5, "history")
    equal(settings.number("ReplicationInterval"), story.facts["interval"], "interval")
    # A part of an instance is enough: what is not there stays as it is.
    part = alpha.made("Msvm_ReplicationSettingData", InstanceID=settings.text("InstanceID"), RecoveryHistory=6)
    story.serve(alpha, "ModifyReplicationSettings", 92, ReplicationSettingData=part)
    settings = story.settings(alpha)
    equal(settings.number("RecoveryHistory"), 6, "history")
    equal(settings.number("ReplicationInterval"), story.facts["interval"], "interval")
    story.check("replicating")


def wait_points(story, host, number):
    wait_for(f"{number} recovery points on {host.name}", lambda: len(story.points(host)) >= number)


@step("recovery points appear on the replica")
def points(story):
    beta = story.beta
    wait_points(story, beta, 3)
    found = story.points(beta)
    ids = [p.text("InstanceID") for p in found]
    equal(len(set(ids)), len(ids), "a point has an InstanceID of its own")
    expect(all(i.startswith("Microsoft:") for i in ids), f"InstanceIDs of points: {ids}")
    times = [p.text("CreationTime") for p in found]
    equal(len(set(times)), len(times), "a point has a time of its own")
    equal(beta.get(found[0].ref).text("InstanceID"), ids[0], "a point by its reference")
    newest = beta.related(story.vm(beta).ref, "Msvm_MostCurrentSnapshotInBranch", None)
    equal(len(newest), 1, "newest points")
    expect(newest[0].text("CreationTime") >= times[-1], "the newest point is the newest")
    equal(story.points(story.alpha), [], "points on the primary")


@step("statistics and health")
def statistics(story):
    for host in (story.alpha, story.beta):
        out = story.serve(host, "GetReplicationStatistics", 111)
        equal(len(out["ReplicationStatistics"]), 1, f"{host.name}: statistics of one relationship")
        told = out["ReplicationStatistics"][0]
        equal(told.cls, "Msvm_ReplicationStatistics", f"{host.name}: class of the statistics")
        equal(told.number("ReplicationHealth"), OK, f"{host.name}: health")
        expect(told.text("StartStatisticTime") < told.text("EndStatisticTime"), f"{host.name}: times of the window")
    told = story.serve(story.alpha, "GetReplicationStatistics")["ReplicationStatistics"][0]
    expect(told.number("ReplicationSuccessCount") > 0, "cycles of the primary")
    expect(told.number("ReplicationSize") > 0, "bytes of the primary")
    expect(told.number("MaxReplicationSize") <= told.number("ReplicationSize"), "the biggest cycle is a part of all")
    relationship = story.alpha.changed(story.relationship(story.alpha))
    out = story.serve(story.alpha, "GetReplicationStatisticsEx", ReplicationRelationship=relationship)
    equal(len(out["ReplicationStatistics"]), 1, "statistics of the named relationship")
    count = told.number("ReplicationSuccessCount")
    story.serve(story.alpha, "ResetReplicationStatistics", 119)
    told = story.serve(story.alpha, "GetReplicationStatistics")["ReplicationStatistics"][0]
    expect(told.number("ReplicationSuccessCount") < count, "cycles after the reset")


@step("suspend and resume")
def suspend(story):
    alpha = story.alpha
    story.change_state(alpha, SUSPENDED, 96)
    story.wait_state(alpha, SUSPENDED)
    story.change_state(alpha, REPLICATING, 96)
    story.wait_state(alpha, REPLICATING)
    relationship = alpha.changed(story.relationship(alpha))
    vm = story.vm(alpha).ref
    for state in (SUSPENDED, REPLICATING):
        story.done(
            alpha, vm, "RequestReplicationStateChangeEx", 96, ReplicationRelationship=relationship, RequestedState=state
        )
        story.wait_state(alpha, state)
    for method in ("InitiateFailover", "TestReplicaSystem"):
        story.unserved(alpha, method, INVALID_STATE, SnapshotSettingData=None)
    story.unserved(alpha, "CommitFailover", INVALID_STATE)
    story.unserved(story.beta, "RevertFailover", INVALID_STATE)
    story.unserved(story.beta, "CommitFailover", INVALID_STATE)
    # A running VM is not moved by a planned failover: its client shuts it down first.
    story.refused(alpha, vm, "RequestReplicationStateChange", INVALID_STATE, RequestedState=PREPARED)


@step("addresses after a failover")
def addresses(story):
    beta = story.beta
    active = beta.related(story.vm(beta).ref, "Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData")[0]
    card = beta.related(active.ref, "Msvm_VirtualSystemSettingDataComponent", "Msvm_SyntheticEthernetPortSettingData")[0]
    link = "Msvm_EthernetPortFailoverSettingDataComponent"
    kind = "Msvm_FailoverNetworkAdapterSettingData"
    found = beta.related(card.ref, link, kind)
    equal(len(found), 1, "failover settings of the card")
    change = beta.changed(
        found[0],
        DHCPEnabled=False,
        ProtocolIFType=4096,
        IPAddresses=["192.0.2.10"],
        Subnets=["255.255.255.0"],
        DefaultGateways=["192.0.2.1"],
        DNSServers=["192.0.2.53"],
    )
    story.serve(beta, "SetFailoverNetworkAdapterSettings", NetworkSettings=[change])
    found = beta.related(card.ref, link, kind)[0]
    equal(found.texts("IPAddresses"), ["192.0.2.10"], "addresses")
    equal(found.texts("DefaultGateways"), ["192.0.2.1"], "gateways")
    equal(found.flag("DHCPEnabled"), False, "DHCP")


@step("a test replica runs beside the replication, and goes without a trace")
def test_replica(story):
    beta = story.beta
    before_test = story.points(beta)
    chosen = before_test[0]
    out = story.serve(beta, "TestReplicaSystem", 102, SnapshotSettingData=chosen.ref)
    equal(story.vm(beta).number("ReplicationState"), REPLICATING, "the replica beside a test")
    tests = beta.related(story.vm(beta).ref, "Msvm_ReplicaSystemDependency", "Msvm_ComputerSystem")
    equal(len(tests), 1, "test VMs of the replica")
    test = tests[0]
    equal(test.text("ElementName"), "story - Test", "name of the test VM")
    equal(test.number("ReplicationMode"), TEST_REPLICA, "mode of the test VM")
    if out.get("ResultingSystem") is not None:
        equal(beta.get(out["ResultingSystem"]).text("Name"), test.text("Name"), "ResultingSystem")
    story.unserved(beta, "TestReplicaSystem", INVALID_STATE, SnapshotSettingData=None)
    story.power(beta, RUNNING, test.ref)
    story.check("test-running " + test.text("Name").lower())
    # Only the test VM can be destroyed.
    service = story.management(beta).ref
    story.refused(beta, service, "DestroySystem", NOT_SUPPORTED, AffectedSystem=story.vm(beta).ref)
    story.power(beta, OFF, test.ref)
    story.done(beta, service, "DestroySystem", 103, AffectedSystem=test.ref)
    equal(beta.query(f"SELECT * FROM Msvm_ComputerSystem WHERE Name = '{test.text('Name')}'"), [], "test VMs")
    equal(beta.related(story.vm(beta).ref, "Msvm_ReplicaSystemDependency", None), [], "test VMs of the replica")
    # Some are no longer in the list, because newer ones are; each is found by its name.
    for point in before_test:
        equal(beta.get(point.ref).text("InstanceID"), point.text("InstanceID"), "a point from before the test")


@step("the primary is lost: failover to a chosen point")
def failover(story):
    beta = story.beta
    wait_points(story, beta, 4)
    story.check("disaster")
    kept = story.points(beta)
    story.points_before = [p.text("InstanceID") for p in kept]
    story.instants_before = [p.text("CreationTime") for p in kept]
    story.chosen = kept[1]
    story.serve(beta, "InitiateFailover", 97, SnapshotSettingData=story.chosen.ref)
    vm = story.wait_state(beta, RECOVERED, REPLICA)
    equal(vm.number("FailedOverReplicationType"), 1, "what kind of point it failed over to")
    equal(vm.number("EnabledState"), OFF, "the VM is not started by the failover")
    story.unserved(beta, "InitiateFailover", INVALID_STATE, SnapshotSettingData=None)
    story.power(beta, RUNNING)
    story.check("on-chosen-point")
    story.power(beta, OFF)


@step("RevertFailover: everything is as it was")
def revert(story):
    beta = story.beta
    story.serve(beta, "RevertFailover", 98)
    vm = story.wait_state(beta, REPLICATING, REPLICA)
    equal(vm.number("FailedOverReplicationType"), 0, "nothing is failed over")
    left = [p.text("InstanceID") for p in story.points(beta)]
    equal(left, story.points_before, "points after the revert")
    story.locked_off(beta)
    story.unserved(beta, "RevertFailover", INVALID_STATE)


@step("failover again, to the newest data, and revert while the VM runs")
def failover_newest(story):
    beta = story.beta
    story.serve(beta, "InitiateFailover", 97, SnapshotSettingData=None)
    story.wait_state(beta, RECOVERED, REPLICA)
    story.power(beta, RUNNING)
    story.check("on-newest")
    story.serve(beta, "RevertFailover", 98)
    story.wait_state(beta, REPLICATING, REPLICA)
    equal(story.vm(beta).number("EnabledState"), OFF, "the VM whose failover was thrown away")
    # The newest cycle has become a point by being used; its instant is the same.
    equal([p.text("CreationTime") for p in story.points(beta)], story.instants_before, "points after the second revert")


@step("failover to another point, and commit")
def commit(story):
    beta = story.beta
    story.serve(beta, "InitiateFailover", 97, SnapshotSettingData=story.points(beta)[-1].ref)
    story.wait_state(beta, RECOVERED, REPLICA)
    story.power(beta, RUNNING)
    story.check("on-last-point")
    story.serve(beta, "CommitFailover", 99)
    story.wait_state(beta, COMMITTED)
    equal(story.points(beta), [], "points after the commit")
    story.unserved(beta, "RevertFailover", INVALID_STATE)
    story.unserved(beta, "CommitFailover", INVALID_STATE)


@step("the old primary returns, gives way, and replication is reversed")
def reverse(story):
    alpha, beta = story.alpha, story.beta
    story.check("healed")
    story.change_state(alpha, WAITING, 96)
    story.wait_state(alpha, WAITING, REPLICA)
    rsd = story.new_settings(beta, story.to_alpha)
    story.serve(beta, "ReverseReplicationRelationship", 104, ReplicationSettingData=rsd)
    vm = wait_for("beta a primary", lambda: (lambda v: v if v.number("ReplicationMode") == PRIMARY else None)(story.vm(beta)))
    if vm.number("ReplicationState") == READY:
        story.serve(beta, "StartReplication", InitialReplicationType=3)
    story.wait_state(beta, REPLICATING, PRIMARY)
    story.wait_state(alpha, REPLICATING, REPLICA)
    story.locked_off(alpha)
    equal(story.vm(beta).number("EnabledState"), RUNNING, "the VM ran all the time")
    story.check("reversed")


def planned(story, source, target, back):
    """Moves the VM without loss; it is off on `source` already."""
    story.change_state(source, PREPARED, 100)
    story.wait_state(source, PREPARED, PRIMARY)
    story.locked_off(source)
    story.serve(target, "InitiateFailover", 97, SnapshotSettingData=None)
    vm = story.wait_state(target, RECOVERED, REPLICA)
    equal(vm.number("FailedOverReplicationType"), 3, "what kind of failover it is")
    rsd = story.new_settings(target, back)
    story.serve(target, "ReverseReplicationRelationship", 104, ReplicationSettingData=rsd)
    story.wait_state(target, REPLICATING, PRIMARY)
    story.wait_state(source, REPLICATING, REPLICA)
    story.power(target, RUNNING)


@step("planned failover: prepare, cancel, prepare again, and home")
def home(story):
    alpha, beta = story.alpha, story.beta
    story.check("quiet")
    story.power(beta, OFF)
    story.change_state(beta, PREPARED, 100)
    story.wait_state(beta, PREPARED)
    story.change_state(beta, REPLICATING, 101)
    story.wait_state(beta, REPLICATING)
    planned(story, beta, alpha, story.to_beta)
    story.check("home")


@step("resynchronize, and remove the replication on both sides")
def remove(story):
    alpha, beta = story.alpha, story.beta
    story.change_state(alpha, SUSPENDED)
    story.serve(alpha, "Resynchronize", 107, StartTime=None)
    story.wait_state(alpha, REPLICATING)
    story.serve(alpha, "RemoveReplicationRelationship", 93)
    vm = story.vm(alpha)
    equal((vm.number("ReplicationMode"), vm.number("ReplicationState")), (NONE, 0), "mode and state")
    equal(alpha.related(vm.ref, "Msvm_SystemReplicationRelationship", None), [], "relationships")
    equal(vm.number("EnabledState"), RUNNING, "the VM")
    # On the replica the VM was its relationship's: its disks stay, and there is no VM of them any more.
    equal(story.state(beta), REPLICATING, "the other side is not told")
    story.serve(beta, "RemoveReplicationRelationship", 93)
    equal(beta.query(f"SELECT * FROM Msvm_ComputerSystem WHERE Name = '{story.guid}'"), [], "VMs of the replica")
    equal(beta.instances("Msvm_ReplicationRelationship"), [], "relationships of the replica")
