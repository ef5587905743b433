use std::net::{Ipv4Addr, SocketAddr};

use n0_mainline::MutableItem;
use tokio::time::timeout;

use super::node::Node;
use super::*;
use crate::identity::IdSecret;
use crate::membership::UnixTime;
use crate::mesh::event::PublishError;
use crate::wire::record::{Epoch, NetworkSecret, Record, RecordBody, RecordKey};

const LOCALHOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
const EPOCH: Epoch = Epoch(81915);

/// A network of `count` stand-alone nodes on distinct ports of loopback.
async fn network(count: usize) -> (Vec<Node>, DhtConfig) {
    let first = Node::start(LOCALHOST, &[]).await.unwrap();
    let bootstrap = vec![first.address().to_string()];
    let mut nodes = vec![first];
    for _ in 1..count {
        nodes.push(Node::start(LOCALHOST, &bootstrap).await.unwrap());
    }
    let end = Instant::now() + Duration::from_secs(20);
    for node in &nodes {
        while node.len().await < (count - 1).min(3) {
            assert!(Instant::now() < end, "the network does not form");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (nodes, DhtConfig { bootstrap, ..DhtConfig::default() })
}

/// A client that is ready.
async fn client(config: &DhtConfig) -> (Dht, mpsc::Receiver<DhtInput>) {
    let (dht, mut events) = Dht::start(config.clone());
    wait_for(&mut events, |event| matches!(event, DhtInput::State(DhtState::Ready, _))).await;
    (dht, events)
}

async fn wait_for(
    events: &mut mpsc::Receiver<DhtInput>,
    wanted: impl Fn(&DhtInput) -> bool,
) -> DhtInput {
    let wait = async {
        loop {
            let event = events.recv().await.expect("the DHT runs");
            if wanted(&event) {
                return event;
            }
        }
    };
    timeout(Duration::from_secs(40), wait).await.expect("the event comes in time")
}

async fn store(
    dht: &Dht,
    events: &mut mpsc::Receiver<DhtInput>,
    item: &SignedItem,
) -> Result<u32, PublishError> {
    dht.publish(item.clone());
    let event = wait_for(events, |event| matches!(event, DhtInput::Published(..))).await;
    let DhtInput::Published(key, result) = event else { unreachable!() };
    assert_eq!(key, item.key);
    result
}

/// Every value of a look-up, and how long the first and the whole took.
async fn find(dht: &Dht, events: &mut mpsc::Receiver<DhtInput>, key: DhtKey) -> Vec<SignedItem> {
    dht.lookup(key);
    let mut values = Vec::new();
    loop {
        let not_state = |event: &DhtInput| !matches!(event, DhtInput::State(..));
        match wait_for(events, not_state).await {
            DhtInput::Value(item) => values.push(item),
            DhtInput::LookupDone(done) => {
                assert_eq!(done, key);
                return values;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}

fn secret() -> NetworkSecret {
    NetworkSecret::new(1, [0x42; 32])
}

fn id() -> IdSecret {
    IdSecret::from_seed(std::array::from_fn(|i| i as u8))
}

fn record(seq: i64, port: u16) -> SignedItem {
    let endpoints = vec![SocketAddr::from(([203, 0, 113, 9], port))];
    let body = RecordBody { endpoints, ..RecordBody::default() };
    Record::seal(&id(), &secret(), EPOCH, (&body, seq), [seq as u8; 24])
}

#[test]
fn the_target_of_the_documented_vector_is_the_crates() {
    let key = RecordKey::new(&id().public(), &secret(), EPOCH).unwrap().dht();
    let target = MutableItem::target_from_key(&key.0, None);
    assert_eq!(target.to_string(), "2f45f3a91d608b6e1623b308aa8dcd84e5593b73");
}

#[tokio::test]
async fn a_blinded_record_is_stored_found_replaced_and_guarded() {
    let (_nodes, config) = network(10).await;
    let (writer, mut writes) = client(&config).await;
    let (reader, mut reads) = client(&config).await;
    let opens = RecordKey::new(&id().public(), &secret(), EPOCH).unwrap();
    let key = opens.dht();
    assert!(find(&reader, &mut reads, key).await.is_empty());

    let first = record(1_769_385_600, 1);
    assert!(store(&writer, &mut writes, &first).await.is_ok());
    let found = find(&reader, &mut reads, key).await;
    assert_eq!(found, std::slice::from_ref(&first));
    let now = UnixTime(1_769_385_600);
    let opened = Record::open(&found[0], &opens, now).unwrap();
    assert_eq!(opened.body().endpoints[0].port(), 1);

    let second = record(1_769_385_700, 2);
    let guarded = SignedItem { cas: Some(first.seq), ..second.clone() };
    assert!(store(&writer, &mut writes, &guarded).await.is_ok());
    assert_eq!(find(&reader, &mut reads, key).await, [second]);

    let third = SignedItem { cas: Some(first.seq), ..record(1_769_385_800, 3) };
    assert_eq!(store(&writer, &mut writes, &third).await, Err(PublishError::CasFailed));
    let stale = record(1_769_385_650, 4);
    assert_eq!(store(&writer, &mut writes, &stale).await, Err(PublishError::NotMostRecent));
    let long = SignedItem { value: vec![1; 901], ..first };
    assert_eq!(store(&writer, &mut writes, &long).await, Err(PublishError::NoNodes));
}

#[tokio::test]
async fn a_record_survives_the_death_of_a_third_of_the_nodes() {
    let (mut nodes, config) = network(12).await;
    let (writer, mut writes) = client(&config).await;
    let item = record(1_769_385_600, 1);
    assert!(store(&writer, &mut writes, &item).await.is_ok());
    // The first node stays: it is the bootstrap of what follows.
    nodes.truncate(8);
    let (reader, mut reads) = client(&config).await;
    assert_eq!(find(&reader, &mut reads, item.key).await, std::slice::from_ref(&item));
    let newer = record(1_769_385_601, 2);
    assert!(store(&reader, &mut reads, &newer).await.is_ok());
    let found = find(&writer, &mut writes, item.key).await;
    assert!(found.contains(&newer), "{found:?}");
}

#[tokio::test]
async fn a_restart_comes_back_from_remembered_nodes_alone() {
    let (_nodes, config) = network(5).await;
    let (dht, _events) = client(&config).await;
    let cached = dht.nodes().await;
    assert!(!cached.is_empty());
    drop(dht);
    let bootstrap = vec!["does-not-resolve.invalid:1".to_owned()];
    let (_again, _) = client(&DhtConfig { bootstrap, cached, ..config }).await;
}

#[tokio::test]
async fn without_any_node_everything_fails_at_once_and_heals_when_one_appears() {
    let port = std::net::UdpSocket::bind(LOCALHOST).unwrap().local_addr().unwrap().port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let config = DhtConfig { bootstrap: vec![address.to_string()], ..DhtConfig::default() };
    let (dht, mut events) = Dht::start(config);
    let item = record(1_769_385_600, 1);
    assert_eq!(store(&dht, &mut events, &item).await, Err(PublishError::NoNodes));
    assert!(find(&dht, &mut events, item.key).await.is_empty());
    let _node = Node::start(address, &[]).await.unwrap();
    wait_for(&mut events, |event| matches!(event, DhtInput::State(DhtState::Ready, _))).await;
    assert!(store(&dht, &mut events, &item).await.is_ok());
}

#[tokio::test]
async fn a_node_refuses_what_it_cannot_serve() {
    let foreign = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 0);
    assert!(Node::start(foreign, &[]).await.is_err());
    let unknown = ["does-not-resolve.invalid:1".to_owned()];
    assert!(Node::start(LOCALHOST, &unknown).await.is_err());
}
