"""A client that wants to be told of jobs, with pywbem's own manager of subscriptions and its own listener.

Arguments: URL of the server, file of its authority, certificate and key of the listener. It says "ready" when it has
subscribed; whoever reads that causes a job. The end is silence and status 0.
"""

import os
import queue
import socket
import sys
import traceback

import pywbem

V2 = "root/virtualization/v2"
JOBS = 'SELECT * FROM CIM_InstIndication WHERE SourceInstance ISA "Msvm_ConcreteJob"'
url, authority, certificate, key = sys.argv[1:]


def connection(user):
    return pywbem.WBEMConnection(
        url, (user, f"secret of {user}"), default_namespace=V2, ca_certs=authority, timeout=30)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except pywbem.CIMError as error:
        assert error.status_code == code, error
        return
    raise AssertionError(f"{call} is not refused")


conn = connection("operator")
server = pywbem.WBEMServer(conn)
http, https = free_port(), free_port()
# Its threads would outlive an error.
sys.excepthook = lambda *e: (traceback.print_exception(*e), os._exit(1))
listener = pywbem.WBEMListener("127.0.0.1", http_port=http, https_port=https, certfile=certificate, keyfile=key)
told = {http: queue.Queue(), https: queue.Queue()}
contexts = {}
listener.add_callback(lambda indication, host: told[contexts[indication["IndicationFilterName"]]].put(indication))
listener.start()
manager = pywbem.WBEMSubscriptionManager("test")
manager.add_server(server)
id = server.url

service, = conn.EnumerateInstances("CIM_IndicationService", namespace=server.interop_ns)
assert service["FilterCreationEnabled"] is True and service["DeliveryRetryAttempts"] == 3

# What cannot be.
cql = dict(query_language="DMTF:CQL", filter_id="x")
refused(14, manager.add_filter, id, [V2], 'SELECT ANY FROM x', **cql)
refused(15, manager.add_filter, id, [V2], 'SELECT * FROM Msvm_ConcreteJob', query_language="WQL", filter_id="x")
refused(4, manager.add_filter, id, ["root/cimv2"], JOBS, query_language="WQL", filter_id="x")
refused(4, manager.add_destination, id, "http://192.0.2.1:5988", destination_id="x")
viewer = pywbem.WBEMSubscriptionManager("viewer")
viewer.add_server(pywbem.WBEMServer(connection("viewer")))
refused(2, viewer.add_destination, id, f"http://127.0.0.1:{http}", destination_id="x")
job = pywbem.CIMInstance("Msvm_ConcreteJob", {"InstanceID": "x"})
refused(7, conn.CreateInstance, job, namespace=V2)
refused(7, conn.DeleteInstance, pywbem.CIMInstanceName("Msvm_ConcreteJob", {"InstanceID": "x"}, namespace=V2))

# One owned, by TLS; one that is not, on this host.
owned = manager.add_filter(id, [V2], JOBS, query_language="WQL", filter_id="jobs")
contexts[owned["Name"]] = https
destination = manager.add_destination(id, f"https://localhost:{https}", destination_id="here")
assert destination["PersistenceType"] == 3 and destination["Protocol"] == 2
first, = manager.add_subscriptions(id, owned.path, destination.path)
trivial = manager.add_filter(
    id, [V2], JOBS.replace("CIM_InstIndication", "CIM_InstCreation"), query_language="DMTF:CQL", owned=False, name="mine")
contexts["mine"] = http
other = manager.add_destination(
    id, f"http://127.0.0.1:{http}", owned=False, name="my listener", persistence_type="permanent")
assert other["PersistenceType"] == 3, "nothing outlives the daemon, and it says so"
second, = manager.add_subscriptions(id, trivial.path, other.path, owned=False)
assert len(manager.get_all_subscriptions(id)) == 2 and len(manager.get_owned_subscriptions(id)) == 1
assert second["OnFatalErrorPolicy"] == 4 and second["SubscriptionTimeRemaining"] is None
names = conn.AssociatorNames(owned.path, AssocClass="CIM_IndicationSubscription")
assert [n["Name"] for n in names] == [destination["Name"]], names
assert conn.ReferenceNames(other.path)[0]["Filter"]["Name"] == "mine"
refused(11, conn.CreateInstance, pywbem.CIMInstance("CIM_IndicationSubscription", {
    "Filter": trivial.path, "Handler": other.path}), namespace=server.interop_ns)
refused(1, conn.DeleteInstance, trivial.path)
refused(2, connection("viewer").DeleteInstance, second.path)

print("ready", flush=True)

created = told[http].get(timeout=60)
assert created.classname == "CIM_InstCreation", created
assert created["SourceInstance"].classname == "Msvm_ConcreteJob"
job = created["SourceInstance"]["InstanceID"]
assert created["SequenceNumber"] == 0 and created["SequenceContext"]
assert conn.GetInstance(pywbem.CIMInstanceName("Msvm_ConcreteJob", {"InstanceID": job}, namespace=V2))

state, sequence = None, 0
while state != 7:
    indication = told[https].get(timeout=60)
    assert indication["SequenceNumber"] == sequence, "each once, in order"
    sequence += 1
    if indication["SourceInstance"]["InstanceID"] == job:
        assert (indication.classname == "CIM_InstCreation") == (state is None)
        state = indication["SourceInstance"]["JobState"]

# A manager that comes later finds what it owns, and its end removes it.
again = pywbem.WBEMSubscriptionManager("test")
again.add_server(pywbem.WBEMServer(connection("operator")))
assert len(again.get_owned_filters(id)) == 1 and len(again.get_owned_subscriptions(id)) == 1
again.remove_all_servers()
assert [s.path for s in manager.get_all_subscriptions(id)] == [second.path]
for path in (second.path, trivial.path, other.path):
    connection("admin").DeleteInstance(path)
refused(6, conn.DeleteInstance, second.path)
for name in ("CIM_IndicationSubscription", "CIM_IndicationFilter", "CIM_ListenerDestination"):
    assert conn.EnumerateInstances(name, namespace=server.interop_ns) == []
listener.stop()
