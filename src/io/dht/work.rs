//! The operations on the DHT, each a future that reports its events and then what it showed.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use n0_mainline::errors::{ConcurrencyError, PutMutableError};
use n0_mainline::{Dht, Id, MutableItem};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::mesh::event::{DhtInput, PublishError};
use crate::wire::record::{DhtKey, SignedItem};

/// The longest value, in bytes: BEP 44 allows 1,000 with its bencoding, and nodes drop a longer one
/// without a word.
const MAX_VALUE_LEN: usize = 900;

/// The most different values that one look-up reports: nodes hold two or three versions at worst.
const MAX_VALUES: usize = 8;

/// The longest a look-up or a store may take: the slowest seen on the public DHT, doubled.
const WORK_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operation showed; `None` of it where the receiver of events is gone.
pub(super) enum Ended {
    /// A look-up ended, and whether any value came.
    Lookup(DhtKey, bool),
    /// A store ended, and whether any node answered.
    Publish(bool),
    /// A probe ended, and whether any node answered.
    Probe(bool),
    /// The bootstrap nodes' addresses.
    Resolved(Vec<SocketAddrV4>),
}

/// The IPv4 addresses behind the names of bootstrap nodes, asked for all at once; what does not
/// resolve is left out.
pub async fn resolve(names: &[String]) -> Vec<SocketAddrV4> {
    let found = join_all(names.iter().map(resolve_one)).await;
    let mut addresses = Vec::new();
    for address in found.into_iter().flatten() {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

async fn resolve_one(name: &String) -> Vec<SocketAddrV4> {
    match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(name)).await {
        Ok(Ok(found)) => found
            .filter_map(|address| match address {
                SocketAddr::V4(v4) => Some(v4),
                SocketAddr::V6(_) => None,
            })
            .collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "a bootstrap node does not resolve");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(name, "a bootstrap node does not resolve in time");
            Vec::new()
        }
    }
}

/// Looks a key up.
pub(super) async fn look_up(
    node: Option<Dht>,
    key: DhtKey,
    events: mpsc::Sender<DhtInput>,
) -> Option<Ended> {
    let mut seen: Vec<SignedItem> = Vec::new();
    let end = Instant::now() + WORK_TIMEOUT;
    if let Some(node) = node
        && let Ok(mut values) = node.get_mutable(&key.0, None, None).await
    {
        while let Ok(Some(item)) = timeout_at(end, values.next()).await {
            let item = from_crate(&item);
            let news = seen.len() < MAX_VALUES && !seen.contains(&item);
            if news && item.key == key && item.value.len() <= MAX_VALUE_LEN && item.verify() {
                seen.push(item.clone());
                events.send(DhtInput::Value(item)).await.ok()?;
            }
        }
    }
    events.send(DhtInput::LookupDone(key)).await.ok()?;
    Some(Ended::Lookup(key, !seen.is_empty()))
}

/// Stores an item.
pub(super) async fn publish(
    node: Option<Dht>,
    item: SignedItem,
    events: mpsc::Sender<DhtInput>,
) -> Option<Ended> {
    let result = match node {
        Some(_) if item.value.len() > MAX_VALUE_LEN => {
            tracing::error!(len = item.value.len(), "an item is too long for the DHT");
            Err(PublishError::NoNodes)
        }
        Some(node) => put(&node, &item).await,
        None => Err(PublishError::NoNodes),
    };
    events.send(DhtInput::Published(item.key, result)).await.ok()?;
    Some(Ended::Publish(result != Err(PublishError::NoNodes)))
}

async fn put(node: &Dht, item: &SignedItem) -> Result<u32, PublishError> {
    let signed =
        MutableItem::new_signed_unchecked(item.key.0, item.signature, &item.value, item.seq, None);
    match timeout(WORK_TIMEOUT, node.put_mutable(signed, item.cas)).await {
        // The crate does not say how many; it is at least one.
        Ok(Ok(_)) => Ok(1),
        Ok(Err(PutMutableError::Concurrency(ConcurrencyError::CasFailed))) => {
            Err(PublishError::CasFailed)
        }
        Ok(Err(PutMutableError::Concurrency(ConcurrencyError::NotMostRecent))) => {
            Err(PublishError::NotMostRecent)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a store failed");
            Err(PublishError::NoNodes)
        }
        Err(_) => Err(PublishError::NoNodes),
    }
}

/// Whether any node answers.
pub(super) async fn probe(node: Option<Dht>) -> Option<Ended> {
    let answered = match node {
        Some(node) => {
            let nodes = timeout(WORK_TIMEOUT, node.get_closest_nodes(Id::random())).await;
            nodes.is_ok_and(|nodes| nodes.is_ok_and(|nodes| !nodes.is_empty()))
        }
        None => false,
    };
    Some(Ended::Probe(answered))
}

fn from_crate(item: &MutableItem) -> SignedItem {
    SignedItem {
        key: DhtKey(*item.key()),
        seq: item.seq(),
        value: item.value().to_vec(),
        signature: *item.signature(),
        cas: None,
    }
}
