//! What a call on the wire costs: one call of a method of a VM is one call of the engine, by both protocols, from the connection to
//! the answer. What each method asks is in `cim_methods/calls.rs`.

use std::time::Duration;

use lifeboat_engine::action::{Action, Management, NotTold, PointSelector, Watch, What};
use lifeboat_model::JobState;
use lifeboat_sim::World;
use lifeboat_sim::harness::{REPLICA, SMALL_BYTES, TWO_HOSTS, completed, replicating};

use crate::remote_cimxml::{self as cimxml, V2};
use crate::remote_support::{Host, host_in};
use crate::remote_wsman::{self as wsman, Ask, VM, WMI};

/// A protocol, with a user who may do all of this.
enum Client {
    Wsman(wsman::Client),
    CimXml(cimxml::Client),
}

const SERVICE: &str = "Msvm_ReplicationService";
const SYSTEM: &str = "Msvm_ComputerSystem";

impl Client {
    async fn both(host: &Host) -> [Self; 2] {
        [
            Self::Wsman(wsman::client(host, "admin").await),
            Self::CimXml(cimxml::client(host, "admin").await),
        ]
    }

    /// Calls a method of the replication service for the VM; its return value.
    async fn for_vm(&mut self, method: &str) -> String {
        match self {
            Self::Wsman(c) => {
                let uri = format!("{WMI}{SERVICE}");
                let body = format!(
                    "<p:{method}_INPUT xmlns:p=\"{uri}\"><p:ComputerSystem><a:Address>http://localhost/wsman</a:Address>\
                     <a:ReferenceParameters><w:ResourceURI>{WMI}{SYSTEM}</w:ResourceURI><w:SelectorSet>\
                     <w:Selector Name=\"CreationClassName\">{SYSTEM}</w:Selector><w:Selector Name=\"Name\">{VM}\
                     </w:Selector></w:SelectorSet></a:ReferenceParameters></p:ComputerSystem></p:{method}_INPUT>"
                );
                let ask = Ask::new(&format!("{uri}/{method}"), &uri).body(&body);
                c.good(&ask).await.element("ReturnValue").unwrap().to_owned()
            }
            Self::CimXml(c) => {
                let target = format!("<INSTANCENAME CLASSNAME=\"{SERVICE}\"/>");
                let parameter = format!(
                    "<PARAMVALUE NAME=\"ComputerSystem\" PARAMTYPE=\"reference\"><VALUE.REFERENCE>{}</VALUE.REFERENCE>\
                     </PARAMVALUE>",
                    vm_name()
                );
                by_cimxml(c, method, &format!("{V2}:{SERVICE}"), &target, &parameter).await
            }
        }
    }

    /// Asks for another state of the VM's replication; the return value.
    async fn state(&mut self, state: &str) -> String {
        const METHOD: &str = "RequestReplicationStateChange";
        match self {
            Self::Wsman(c) => {
                let uri = format!("{WMI}{SYSTEM}");
                let body = format!(
                    "<p:{METHOD}_INPUT xmlns:p=\"{uri}\"><p:RequestedState>{state}</p:RequestedState></p:{METHOD}_INPUT>"
                );
                let keys = [("CreationClassName", SYSTEM), ("Name", VM)];
                let ask = Ask::new(&format!("{uri}/{METHOD}"), &uri)
                    .select(&keys)
                    .body(&body);
                c.good(&ask).await.element("ReturnValue").unwrap().to_owned()
            }
            Self::CimXml(c) => {
                let object = format!("{V2}:{SYSTEM}.CreationClassName=\"{SYSTEM}\",Name=\"{VM}\"");
                let parameter = format!(
                    "<PARAMVALUE NAME=\"RequestedState\" PARAMTYPE=\"uint16\"><VALUE>{state}</VALUE></PARAMVALUE>"
                );
                by_cimxml(c, METHOD, &object, &vm_name(), &parameter).await
            }
        }
    }
}

fn vm_name() -> String {
    let key = |n: &str, v: &str| {
        format!("<KEYBINDING NAME=\"{n}\"><KEYVALUE VALUETYPE=\"string\">{v}</KEYVALUE></KEYBINDING>")
    };
    let keys = key("CreationClassName", SYSTEM) + &key("Name", VM);
    format!("<INSTANCENAME CLASSNAME=\"{SYSTEM}\">{keys}</INSTANCENAME>")
}

async fn by_cimxml(
    c: &mut cimxml::Client,
    method: &str,
    object: &str,
    target: &str,
    parameter: &str,
) -> String {
    let path = cimxml::path(V2);
    let call = cimxml::message(&format!(
        "<SIMPLEREQ><METHODCALL NAME=\"{method}\"><LOCALINSTANCEPATH>{path}{target}</LOCALINSTANCEPATH>{parameter}\
         </METHODCALL></SIMPLEREQ>"
    ));
    let answer = c.send(method, object, &call).await;
    let value = answer
        .body
        .split_once("<RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>");
    let value = value.unwrap_or_else(|| panic!("{method}: {}", answer.body)).1;
    value.split('<').next().unwrap().to_owned()
}

/// A replica that has failed over, served by real ports in real time.
async fn failed_over() -> Host {
    tokio::time::pause();
    let mut world = World::with(9, TWO_HOSTS, SMALL_BYTES).await;
    replicating(&mut world).await;
    let failover = Action::InitiateFailover {
        vm: World::vm(),
        point: PointSelector::Latest,
        start: false,
        force: true,
    };
    completed(&world, REPLICA, failover).await;
    tokio::time::resume();
    host_in(world, REPLICA).await
}

/// Waits for the end of the job that was begun.
async fn ended(changes: &mut Watch) {
    let ends = async {
        loop {
            match changes.next().await.map(|change| change.what) {
                Ok(What::Job(job)) if job.state.is_final() => return job,
                Ok(_) | Err(NotTold::Missed) => {}
                Err(NotTold::Ended) => panic!("the engine ended"),
            }
        }
    };
    let job = tokio::time::timeout(Duration::from_secs(60), ends).await;
    assert_eq!(job.expect("the job does not end").state, JobState::Completed);
}

#[tokio::test]
async fn a_method_of_a_vm_is_one_call_of_the_engine() {
    let host = failed_over().await;
    for mut client in Client::both(&host).await {
        for method in ["RevertFailover", "InitiateFailover"] {
            let mut changes = host.counting.watch();
            host.counting.take();
            assert_eq!(client.for_vm(method).await, "4096", "{method}");
            assert_eq!(host.counting.take(), [(method.to_owned(), 1)]);
            ended(&mut changes).await;
        }
    }
    // The VM's own methods: it is not looked for first.
    let mut clients = Client::both(&host).await;
    let mut changes = host.counting.watch();
    assert_eq!(clients[0].for_vm("RevertFailover").await, "4096");
    ended(&mut changes).await;
    for client in &mut clients {
        for (state, action) in [("7", "SuspendReplication"), ("3", "ResumeReplication")] {
            host.counting.take();
            assert_eq!(client.state(state).await, "0", "{action}");
            assert_eq!(host.counting.take(), [(action.to_owned(), 1)]);
        }
    }
    host.stop().await;
}
