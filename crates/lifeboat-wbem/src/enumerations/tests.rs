//! Enumerations over a simulated host in virtual time: how long they wait, how many there may be, and that no item is lost.

use lifeboat_sim::World;
use lifeboat_sim::harness::PRIMARY;

use super::*;
use crate::cim::{HostFacts, Machine, ObjectManager, Role, VIRTUALIZATION};

async fn manager() -> (World, Arc<ObjectManager>) {
    let world = World::new(7).await;
    let engine = world.engine(PRIMARY).unwrap();
    let facts = HostFacts {
        name: "a".into(),
        version: String::new(),
        certificates: crate::cim::Certificates::Fixed(Vec::new()),
        peer_port: 7000,
        job_retention: Duration::from_secs(300),
        machine: Machine::default(),
        media_directories: Vec::new(),
    };
    let clock = world.clock(0);
    (world, ObjectManager::new(engine, facts, clock))
}

fn caller(name: &str) -> Caller {
    Caller {
        name: name.to_owned(),
        role: Role::Monitor,
        from: None,
    }
}

/// Every item is ten octets.
struct TenOctets;

impl Encode for TenOctets {
    fn encode(&self, _: &Found) -> Result<String, CimError> {
        Ok("0123456789".to_owned())
    }
}

async fn begun(manager: &Arc<ObjectManager>) -> Enumeration<TenOctets> {
    let cursor = manager
        .enumerate(VIRTUALIZATION, "CIM_ManagedElement")
        .await
        .unwrap();
    Enumeration::new(TenOctets, Walk::new(cursor, None))
}

fn measure(items: usize, octets: usize) -> Measure {
    Measure {
        items,
        octets,
        until: Instant::now() + Duration::from_secs(10),
    }
}

#[tokio::test(start_paused = true)]
async fn an_enumeration_that_nobody_pulls_ends_after_a_minute() {
    let (_world, manager) = manager().await;
    let (table, viewer) = (Enumerations::new(), caller("viewer"));
    let sweeping = tokio::spawn({
        let table = table.clone();
        async move { table.expire().await }
    });
    let short = table.insert(&viewer, begun(&manager).await).unwrap();
    let long = begun(&manager).await.waiting(Duration::from_secs(200));
    let long = table.insert(&viewer, long).unwrap();
    assert!(
        table.find::<TenOctets>(&caller("other"), &short).is_none(),
        "it is somebody else's"
    );
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert!(
            table.find::<TenOctets>(&viewer, &short).is_some(),
            "each pull begins the minute anew"
        );
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(table.find::<TenOctets>(&viewer, &short).is_none());
    assert!(
        table.find::<TenOctets>(&viewer, &long).is_none(),
        "it has not been pulled from either"
    );
    let long = begun(&manager).await.waiting(Duration::from_secs(200));
    let long = table.insert(&viewer, long).unwrap();
    tokio::time::sleep(Duration::from_secs(199)).await;
    assert!(table.find::<TenOctets>(&viewer, &long).is_some());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(table.open.lock().unwrap().len(), 0, "and takes no room any more");
    sweeping.abort();
}

/// Items of another protocol.
struct Others;

impl Encode for Others {
    fn encode(&self, _: &Found) -> Result<String, CimError> {
        Ok(String::new())
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_another_protocol_is_unknown() {
    let (_world, manager) = manager().await;
    let (table, viewer) = (Enumerations::new(), caller("viewer"));
    let context = table.insert(&viewer, begun(&manager).await).unwrap();
    assert!(table.find::<Others>(&viewer, &context).is_none());
    assert!(table.find::<TenOctets>(&viewer, &context).is_some());
}

#[tokio::test(start_paused = true)]
async fn enumerations_are_limited_by_user_and_in_all() {
    let (_world, manager) = manager().await;
    let table = Enumerations::new();
    for n in 0..IN_ALL {
        let user = caller(&format!("user {}", n / PER_USER));
        table.insert(&user, begun(&manager).await).unwrap();
    }
    let full = table
        .insert(&caller("another"), begun(&manager).await)
        .unwrap_err();
    assert!(
        full.status == Status::ServerLimitsExceeded && full.message.contains("5000"),
        "{full}"
    );
    let first = table
        .open
        .lock()
        .unwrap()
        .iter()
        .find(|(_, o)| o.owner == "user 3")
        .unwrap()
        .0
        .clone();
    assert!(!table.remove(&caller("user 0"), &first) && table.remove(&caller("user 3"), &first));
    let own = table
        .insert(&caller("user 0"), begun(&manager).await)
        .unwrap_err();
    assert!(
        own.status == Status::ServerLimitsExceeded && own.message.contains("1500"),
        "{own}"
    );
    table.insert(&caller("another"), begun(&manager).await).unwrap();
}

#[tokio::test(start_paused = true)]
async fn items_that_do_not_fit_wait_and_none_is_lost() {
    let (_world, manager) = manager().await;
    let whole = begun(&manager)
        .await
        .batch(measure(32_000, usize::MAX))
        .await
        .unwrap();
    assert!(whole.last && whole.items.len() > 10);
    let enumeration = Arc::new(begun(&manager).await);
    let narrow = enumeration.batch(measure(100, 9)).await;
    assert!(matches!(narrow, Err(BatchError::TooLarge)));
    let none = enumeration.batch(measure(0, 0)).await.unwrap();
    assert!(none.items.is_empty() && !none.last);
    let fitting = enumeration.batch(measure(100, 39)).await.unwrap();
    assert_eq!((fitting.items.len(), fitting.last), (3, false));
    // A time limit that is over before the engine has answered, again and again.
    let mut taken = 3;
    loop {
        let hurry = Measure {
            until: Instant::now(),
            ..measure(4, usize::MAX)
        };
        if let Ok(batch) = enumeration.batch(hurry).await {
            taken += batch.items.len();
        }
        let batch = enumeration.batch(measure(4, usize::MAX)).await.unwrap();
        taken += batch.items.len();
        if batch.last {
            break;
        }
    }
    assert_eq!(taken, whole.items.len());
    // Two pulls at once share what there is.
    let enumeration = Arc::new(begun(&manager).await);
    let pulls: Vec<_> = (0..whole.items.len())
        .map(|_| {
            let enumeration = enumeration.clone();
            tokio::spawn(async move { enumeration.batch(measure(1, usize::MAX)).await })
        })
        .collect();
    let mut lasts = 0;
    for pull in pulls {
        let batch = pull.await.unwrap().unwrap();
        assert_eq!(batch.items.len(), 1);
        lasts += usize::from(batch.last);
    }
    assert_eq!(lasts, 1);
}
