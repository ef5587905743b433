//! The queue from the packet threads to the control loop: bounded, with a share for each kind of
//! [`Upcall`], so that a flood of one kind keeps out no other. Threads never wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::forward::{Upcall, UpcallKind};
use crate::identity::NetworkId;

/// How many upcalls of each kind wait.
type Counts = Arc<[AtomicUsize; UpcallKind::COUNT]>;

/// The end of the packet threads.
#[derive(Debug, Clone)]
pub(super) struct UpcallSender {
    queue: mpsc::Sender<(NetworkId, Upcall)>,
    waiting: Counts,
}

/// The end of the control loop.
#[derive(Debug)]
pub(super) struct UpcallReceiver {
    queue: mpsc::Receiver<(NetworkId, Upcall)>,
    waiting: Counts,
}

/// A queue of `capacity` upcalls of all kinds together.
pub(super) fn upcall_queue(capacity: usize) -> (UpcallSender, UpcallReceiver) {
    // A queue too small to be divided has room for one of each.
    let (sender, receiver) = mpsc::channel(capacity.max(UpcallKind::COUNT));
    let waiting = Counts::default();
    let sender = UpcallSender { queue: sender, waiting: waiting.clone() };
    (sender, UpcallReceiver { queue: receiver, waiting })
}

impl UpcallSender {
    /// Queues `upcall`, or gives it back where its kind's share is full.
    pub(super) fn offer(&self, network: NetworkId, upcall: Upcall) -> Result<(), Upcall> {
        let waiting = &self.waiting[upcall.kind() as usize];
        let share = upcall.kind().share(self.queue.max_capacity());
        let taken = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < share).then_some(count + 1)
        });
        if taken.is_err() {
            return Err(upcall);
        }
        self.queue.try_send((network, upcall)).map_err(|refused| {
            waiting.fetch_sub(1, Ordering::Relaxed);
            refused.into_inner().1
        })
    }
}

impl UpcallReceiver {
    /// The next upcall; `None` once no thread can send any more.
    pub(super) async fn recv(&mut self) -> Option<(NetworkId, Upcall)> {
        let next = self.queue.recv().await?;
        self.took(&next.1);
        Some(next)
    }

    /// The next upcall, where one waits.
    pub(super) fn try_recv(&mut self) -> Option<(NetworkId, Upcall)> {
        let next = self.queue.try_recv().ok()?;
        self.took(&next.1);
        Some(next)
    }

    /// The next upcall, for a test without a runtime.
    #[cfg(test)]
    pub(super) fn blocking_recv(&mut self) -> Option<(NetworkId, Upcall)> {
        let next = self.queue.blocking_recv()?;
        self.took(&next.1);
        Some(next)
    }

    fn took(&self, upcall: &Upcall) {
        self.waiting[upcall.kind() as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn no_session() -> Upcall {
        Upcall::NoSession { destination: "10.0.0.1".parse().unwrap(), packet: vec![] }
    }

    fn path_check() -> Upcall {
        Upcall::Datagram { from: "192.0.2.1:9".parse().unwrap(), bytes: vec![] }
    }

    #[test]
    fn packets_without_a_session_keep_no_path_check_out() {
        let (sender, mut receiver) = upcall_queue(120);
        let queued = (0..1000).filter(|_| sender.offer(NETWORK, no_session()).is_ok()).count();
        assert_eq!(queued, 10);
        assert_eq!(sender.offer(NETWORK, path_check()), Ok(()));
        for _ in 0..10 {
            assert_eq!(receiver.try_recv(), Some((NETWORK, no_session())));
        }
        assert_eq!(sender.offer(NETWORK, no_session()), Ok(()), "what was taken makes room");
        assert_eq!(receiver.try_recv(), Some((NETWORK, path_check())));
    }

    #[test]
    fn nobody_listens_to_an_agent_that_stops() {
        let (sender, receiver) = upcall_queue(120);
        drop(receiver);
        for _ in 0..100 {
            assert_eq!(sender.offer(NETWORK, path_check()), Err(path_check()));
        }
    }
}
