//! What is wrong, in words, from a [`Status`] alone.
//!
//! `status --check WHAT` holds where no problem of that level is left:
//! * `live`: the agent answered at all;
//! * `ready`: every network is up and can find its devices: its DHT is ready, or was switched off
//!   on purpose, or some device is connected anyway (two machines on one LAN need no DHT);
//! * `direct`: and every connected device is reached directly or on the LAN, none through another.
//!
//! An agent without networks has nothing that could be wrong.

use super::args::Check;
use super::render::{Tint, clean};
use crate::api::{DhtState, NetworkState, NetworkStatus, PathKind, PeerState, PeerStatus, Status};

/// Everything that keeps `check` from holding, a clause each.
pub fn check(status: &Status, check: Check) -> Vec<String> {
    let found = status.networks.iter().flat_map(problems);
    found.filter(|(level, _)| *level <= check).map(|(_, problem)| problem).collect()
}

/// The state of one network in a sentence, and how good it is.
pub fn sentence(network: &NetworkStatus) -> (Tint, String) {
    let problems = problems(network);
    let name = clean(&network.name);
    let connected = network.peers.iter().filter(|peer| is_connected(peer)).count();
    match problems.first() {
        Some((Check::Live | Check::Ready, problem)) => (Tint::Bad, format!("{problem}.")),
        Some((Check::Direct, _)) => {
            let problems: Vec<_> = problems.iter().map(|(_, problem)| problem.as_str()).collect();
            (Tint::Warning, format!("{name} is up, but {}.", problems.join(", ")))
        }
        None if network.peers.is_empty() => {
            let hint = format!("let one in with: sudo ginnel invite {name}");
            (Tint::Good, format!("{name} is up, with no other device yet; {hint}"))
        }
        None => {
            let all = network.peers.len();
            (Tint::Good, format!("{name} is up: {connected} of {all} other devices connected."))
        }
    }
}

/// What is wrong with a network, worst first, and the check that fails by it.
fn problems(network: &NetworkStatus) -> Vec<(Check, String)> {
    let name = clean(&network.name);
    let detail = network.detail.as_deref().map(|text| format!(" ({})", clean(text)));
    let detail = detail.unwrap_or_default();
    let ready = |problem: String| vec![(Check::Ready, problem + &detail)];
    match network.state {
        NetworkState::Revoked => return ready(format!("this device was removed from {name}")),
        NetworkState::Expired => {
            return ready(format!("this device's certificate in {name} ran out; join again"));
        }
        NetworkState::Joining => return ready(format!("{name} has not admitted this device yet")),
        NetworkState::Down => {
            let hint = format!(" (switch it on with: sudo ginnel up {name})");
            let detail = if detail.is_empty() { &hint } else { &detail };
            return vec![(Check::Ready, format!("{name} is down{detail}"))];
        }
        NetworkState::Up => {}
    }
    let findable = matches!(network.dht.state, DhtState::Ready | DhtState::Off);
    if !findable && !network.peers.iter().any(is_connected) {
        let dht = match network.dht.state {
            DhtState::Bootstrapping => "the DHT is not ready yet",
            DhtState::Unreachable | DhtState::Ready | DhtState::Off => "no node of the DHT answers",
        };
        return ready(format!("{name} is up but finds nobody: {dht}, and no device is connected"));
    }
    let relayed = network.peers.iter().filter(|peer| is_connected(peer) && !is_direct(peer));
    let told = relayed
        .map(|peer| (Check::Direct, format!("{} is not reached directly", clean(&peer.name))));
    told.collect()
}

fn is_connected(peer: &PeerStatus) -> bool {
    peer.state == PeerState::Connected
}

fn is_direct(peer: &PeerStatus) -> bool {
    let kind = peer.path.as_ref().map(|path| path.kind);
    matches!(kind, Some(PathKind::Direct | PathKind::Lan))
}

#[cfg(test)]
mod tests {
    use super::super::views::tests::{status, with_path};
    use super::*;

    fn found(status: &Status) -> [usize; 3] {
        [Check::Live, Check::Ready, Check::Direct].map(|level| check(status, level).len())
    }

    #[test]
    fn a_network_that_works_fails_no_check() {
        assert_eq!(found(&status()), [0, 0, 0]);
        let (tint, text) = sentence(&status().networks[0]);
        assert_eq!(tint, Tint::Good);
        assert_eq!(text, "home is up: 1 of 2 other devices connected.");
    }

    #[test]
    fn an_agent_without_networks_fails_no_check() {
        assert_eq!(found(&Status { networks: Vec::new(), ..status() }), [0, 0, 0]);
    }

    #[test]
    fn a_network_that_is_not_up_is_not_ready_and_says_why() {
        for state in [
            NetworkState::Down,
            NetworkState::Joining,
            NetworkState::Revoked,
            NetworkState::Expired,
        ] {
            let mut status = status();
            status.networks[0].state = state;
            status.networks[0].detail = Some("lost\x1b".into());
            assert_eq!(found(&status), [0, 1, 1], "{state:?}");
            let (tint, text) = sentence(&status.networks[0]);
            assert!(tint == Tint::Bad && text.contains("(lost\u{fffd})"), "{text}");
        }
    }

    #[test]
    fn a_dht_that_is_away_matters_only_where_nobody_is_connected() {
        let mut status = status();
        status.networks[0].dht.state = DhtState::Unreachable;
        assert_eq!(found(&status), [0, 0, 0]);
        status.networks[0].peers.clear();
        assert_eq!(found(&status), [0, 1, 1]);
        status.networks[0].dht.state = DhtState::Off;
        assert_eq!(found(&status), [0, 0, 0]);
    }

    #[test]
    fn a_relayed_device_fails_only_the_direct_check() {
        let mut status = status();
        with_path(&mut status.networks[0].peers[0], PathKind::Relay, Some("rpi"));
        assert_eq!(found(&status), [0, 0, 1]);
        let (tint, text) = sentence(&status.networks[0]);
        assert_eq!(
            (tint, text.as_str()),
            (Tint::Warning, "home is up, but nas is not reached directly.")
        );
    }
}
